"""The arguments that commands share, and the task and the run that they mean."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline import task as tasks
from pipeline.run import Run
from pipeline.signing import Signer
from pipeline.sources import REGISTRY
from pipeline.task import Task, UserError
from pipeline.versions import EXTRACTION
from pipeline.workflow import Workflow

TaskName = Annotated[str, typer.Argument(metavar="TASK", help="Built-in task, or path of a TOML file.")]
RunName = Annotated[str, typer.Argument(metavar="TASK", help="Task, or name of a run.")]
_FORMS = {  # of `Source.form`
    "name": "{0}", "copy": "{0}[:DIR]", "own": "{0}:DIR", "folder": "FOLDER", "csv": "FILE.csv", "table": "TABLE",
}  # fmt: skip
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="SOURCE",
        help="Replaces the source. "
        + "; ".join(f"{_FORMS[s.form].format(s.name)}: {s.help}" for s in REGISTRY.values())
        + ". DIR is a folder that holds the data set; without [:DIR], it is downloaded.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replaces a key of the task, as in train.epochs=5. Repeatable."),
]
RunsOption = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Folder of the run directories.")]
DeviceOption = Annotated[
    str | None,
    typer.Option("--device", metavar="auto|cpu|cuda", help="Where to train; auto takes a GPU if there is one."),
]
StrictOption = Annotated[bool, typer.Option("--strict", help="A file that cannot be used is an error, not skipped.")]
EngineOption = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="local|ray[:ADDRESS]",
        help="Where the work is done: on this machine; by Ray, started here; or by the cluster at HOST:PORT or auto.",
    ),
]
SignOption = Annotated[
    Path | None,
    typer.Option(
        "--sign", metavar="KEY", help="Sign the model with this private key, PEM on P-256, P-384 or P-521 (model.sig)."
    ),
]
CertificateOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--certificate",
        metavar="PEM",
        help="The certificate of KEY, to be trusted by who issued it; then, repeated, those between it and that one.",
    ),
]
RUNS = Path("runs")
EXTRACTED = ("data", "features", "augment")  # sections that features depend on
TRAINED = (*EXTRACTED, "model", "train")  # that weights depend on


@dataclass(frozen=True, slots=True)
class Arguments:
    """TASK, and the options that change it.

    task : a built-in one, the path of a TOML file, or where a command looks at what is saved, the name of a run
    data : of the option --data; or the whole section
    overrides : of the option --set
    """

    task: str
    data: str | Mapping[str, Any] | None
    overrides: Sequence[str] | None
    runs: Path
    device: str | None = None

    def load(self) -> tuple[Task, Run]:
        """The task, and its run."""
        if self.task not in tasks.builtin() and Run(self.runs / self.task).features.is_file():
            raise UserError(f"{self.runs / self.task} is a run; here name its task, and add --set name={self.task}")
        device = [f"train.device={self.device!r}"] if self.device else []
        task = tasks.load(self.task, self.data, [*(self.overrides or []), *device])
        return task, Run(self.runs / task.name)

    def made(self, sections: tuple[str, ...]) -> tuple[Task, Run]:
        """The task for a later stage, and its run: with the data that the run has, since settings depend on them,
        unless others are named. Refuses options that would change `sections`, which an earlier stage has made."""
        task, run = self.load()
        if run.features.exists():
            from pipeline.extract import Features

            features = Features.of(run)
            if features.version != EXTRACTION:
                raise UserError(f"{run.features}: by another version of percept; run `percept extract` again")
            if self.data is None:
                task, run = replace(self, data=features.task["data"]).load()
        self._check_made(task, run, sections)
        return task, run

    def extracted(self) -> tuple[Task, Run]:
        """The task, and its run, with what has been extracted into it, or is now."""
        task, run = self.load()
        if not run.features.exists():
            Workflow(task, run).extract()
        return self.made(EXTRACTED)

    def saved(self) -> Run:
        """The run of that name, or of the task of that name with these options."""
        return self.load()[1] if self.data or self.overrides else Run.named(self.runs, self.task)

    def _check_made(self, task: Task, run: Run, sections: tuple[str, ...]) -> None:
        """Refuse options that would change what an earlier stage has made, instead of ignoring them."""
        given = {override.split(".")[0] for override in self.overrides or []} | ({"data"} if self.data else set())
        if not given.intersection(sections):
            return
        from pipeline.extract import Features
        from pipeline.train import weights

        made = dict(Features.of(run).task)
        if "train" in sections:
            _, facts = weights.of(run)
            made |= {"model": facts.model, "train": facts.train}
        asked = {**task.resolved(), "data": task.origin()["data"]}
        for section in sections:
            if section in given and asked[section] != made[section]:
                verb = "extract" if section in EXTRACTED else "train"
                raise UserError(
                    f"{run.folder} was made with another [{section}]; run `percept {verb}` with these options first"
                )


def signer(key: Path | None, certificates: list[Path] | None) -> Signer | None:
    """What the options --sign and --certificate mean."""
    if key is None and certificates:
        raise UserError(f"--certificate {certificates[0]}: needs its private key: --sign KEY")
    return None if key is None else Signer(key, certificates or ())
