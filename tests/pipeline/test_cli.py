"""The `percept` command as users type it: help, all stages on a user's folder, predictions, mistakes."""

import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import soundfile
from PIL import Image

from pipeline import environment, inputs
from pipeline import task as tasks
from pipeline.errors import UserError
from pipeline.run import Run, write_npz
from pipeline.train import weights
from tests import command
from tests.pipeline.runs import few_outliers

PERCEPT = str(Path(sys.executable).with_name("percept"))


def percept(*arguments: str | Path, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command outside of the repository, as an installed one."""
    home.mkdir(exist_ok=True)
    return subprocess.run(
        [PERCEPT, *map(str, arguments)], cwd=home, text=True, capture_output=True,
        env=os.environ | {"BENTOML_HOME": str(home), "COLUMNS": "100"} | environment,
    )  # fmt: skip


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a user's clips in class folders, in three formats, and a finished run of it; tests/pipeline/
    test_workflow.py makes one in a process of its own."""
    root = tmp_path_factory.mktemp("shop")
    rng = np.random.default_rng(0)
    for label, low in (("buzz", 80), ("beep", 800), ("whistle", 3000)):
        (root / "clips" / label).mkdir(parents=True)
        for i in range(25):
            t = np.arange(int(rng.uniform(0.2, 0.8) * 44_100)) / 44_100
            wave = np.sin(2 * np.pi * rng.uniform(low, 1.5 * low) * t) + 0.05 * rng.standard_normal(t.size)
            stereo = 0.4 * np.stack([wave, 0.8 * wave], 1)
            soundfile.write(root / "clips" / label / f"{i}.{('wav', 'flac', 'mp3')[i % 3]}", stereo, 44_100)
    (root / "clips" / "buzz" / "broken.wav").write_bytes(b"RIFF")
    options = ("--data", root / "clips", "--set", "name=shop", "--set", "train.epochs=40", "--set", "augment.copies=3")
    with few_outliers():
        done = command.percept("run", "instruments", *options, home=root)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return root


def test_help_reads_as_a_manual(tmp_path: Path) -> None:
    text = percept("--help", home=tmp_path).stdout
    verbs = "tasks run extract train validate export predict rollback promote remove serve"
    assert all(f" {verb} " in text for verb in verbs.split())
    assert "runs/TASK" in text
    assert "--data" in percept("run", "--help", home=tmp_path).stdout


def test_tasks_are_listed(tmp_path: Path) -> None:
    assert percept("tasks", home=tmp_path).stdout.splitlines()[0].startswith("digits  ")


def test_the_whole_way_leaves_every_file(shop: Path) -> None:
    run = shop / "runs" / "shop"
    names = {p.name for p in run.iterdir()}
    assert names == {
        "features.npz", "figures.npz", "weights.pt", "history.json", "report.json", "report.html", "plots",
        "mistakes.npz", "samples",
        "model.onnx", "card.json", "bom.json", "provenance.json",
    }  # fmt: skip
    report = json.loads((run / "report.json").read_text())
    assert report["test"]["accuracy"] > 0.9
    assert [s["file"] for s in report["samples"]["skipped"]] == ["buzz/broken.wav"]
    assert json.loads((run / "card.json").read_text())["checks"]["mfcc"] <= 1e-3


def test_predictions_as_json_and_as_a_table(shop: Path) -> None:
    (shop / "no-sound.wav").write_text("hello")
    files = ["clips/beep/0.wav", "clips/whistle/1.flac", "no-sound.wav", "absent.wav"]
    done = percept("predict", "shop", *files, "--json", home=shop)
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["file"] for line in lines] == files
    assert [line.get("label") for line in lines] == ["beep", "whistle", None, None]
    for line in lines[:2]:
        assert line.keys() == {"file", "label", "confidence", "known", "probabilities"}
        assert line["confidence"] == max(line["probabilities"].values())
        assert sum(line["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    for line in lines[2:]:
        assert line.keys() == {"file", "error"}
    table = percept("predict", "shop", *files[:2], home=shop)
    assert table.returncode == 0
    assert [row.split()[1] for row in table.stdout.splitlines()] == ["beep", "whistle"]


def test_pipes_and_devices_are_read_no_further_than_allowed_and_not_waited_for_in_a_thread(shop: Path) -> None:
    (shop / "large.wav").write_bytes(bytes(200_000))
    pipe = shop / "pipe"
    os.mkfifo(pipe)
    sound = (shop / "clips/beep/0.wav").read_bytes()
    with ThreadPoolExecutor(1) as writer:
        writer.submit(pipe.write_bytes, sound)
        limit = str(len(sound))
        done = percept("predict", "shop", pipe, "/dev/zero", "large.wav", "--json", home=shop, PERCEPT_MAX_BYTES=limit)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[0]["label"] == "beep"
    assert [line["error"] for line in lines[1:]] == [
        f"the file has {n} bytes; at most {limit} are allowed" for n in (len(sound) + 1, 200_000)
    ]

    def stop(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):  # nobody writes
            next(inputs.parts([pipe], (), "audio"))
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii"])
def test_a_name_that_the_terminal_cannot_show_is_escaped(shop: Path, encoding: str) -> None:
    file = os.fsdecode(b"m\xc3\xb6we \xff.wav")
    done = percept("predict", "shop", file, "--json", home=shop, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (1, "")
    assert json.loads(done.stdout) == {"file": file, "error": "No such file or directory"}


def test_later_stages_keep_to_what_was_extracted_and_trained(shop: Path) -> None:
    done = command.percept("train", "instruments", "--set", "name=shop", "--set", "features.n_mfcc=13", home=shop)
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "percept: runs/shop was made with another [features]; run `percept extract` with these options first"
    )
    done = command.percept("export", "instruments", "--set", "name=shop", "--set", "model.hidden=[3]", home=shop)
    assert "run `percept train` with these options first" in done.stderr
    done = command.percept("validate", "instruments", "--set", "name=shop", "--data", shop / "clips", home=shop)
    assert done.returncode == 0
    for command_ in ("audit", "train"):
        done = command.percept(command_, "shop", "--set", "train.epochs=3", home=shop)
        assert done.stderr == "percept: runs/shop is a run; here name its task, and add --set name=shop\n"


@pytest.mark.parametrize("version", ["0.0.0.0", None])
def test_features_of_another_version_are_extracted_again_not_trained_on(tmp_path: Path, version: str | None) -> None:
    """The exported graph computes those of now."""
    assert command.percept("extract", "regions", home=tmp_path).returncode == 0
    file = tmp_path / "runs" / "regions" / "features.npz"
    with np.load(file) as arrays:
        found = {name: arrays[name] for name in arrays.files if name != "version"}
    write_npz(file, found | ({} if version is None else {"version": version}))
    for stage in ("train", "tune", "curves"):
        refused = command.percept(stage, "regions", home=tmp_path)
        line = "percept: runs/regions/features.npz: by another version of percept; run `percept extract` again\n"
        assert (refused.returncode, refused.stderr) == (1, line)
    assert command.percept("extract", "regions", home=tmp_path).returncode == 0
    assert command.percept("train", "regions", "--set", "train.epochs=1", home=tmp_path).returncode == 0


def test_later_stages_are_those_of_the_data_that_were_extracted(tmp_path: Path) -> None:
    """The embedded digits are trained on with settings of their own; one's own pictures are not, whichever command
    names them."""
    rng = np.random.default_rng(0)
    for label in "01":
        (tmp_path / "own" / label).mkdir(parents=True)
        for i in range(12):
            page = np.zeros((28, 28), np.uint8)
            page[6:22, 8 + 6 * int(label) :][: 10 + i % 3, :3] = rng.integers(150, 255)
            Image.fromarray(page).save(tmp_path / "own" / label / f"{i}.png")
    few = "--set", "train.epochs=1"
    assert not command.percept("extract", "digits", "--data", "own", home=tmp_path).returncode
    with few_outliers():
        assert not command.percept("train", "digits", *few, home=tmp_path).returncode
    _, facts = weights.of(Run(tmp_path / "runs/digits"))
    assert facts.train == tasks.load("digits", str(tmp_path / "own"), few[1:]).train.model_dump(mode="json")
    assert facts.train["augment"]["rotation"] == 0 < tasks.load("digits").train.augment.rotation
    done = command.percept("validate", "digits", "--data", "mnist", home=tmp_path)
    assert "was made with another [data]" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["run", "digit"], "no task 'digit'; did you mean 'digits'?"),
        (["run", "photso/"], "no task 'photso/', and no such file or folder; built in: digits"),
        (["extract", "."], ".: no task; if it holds data, give it as in `percept run TASK --data .`"),
        (["run", "digits", "--data", "nowhere"], "--data nowhere: no such folder"),
        (["run", "digits", "--set", "train.epochs=x"], "task digits: train.epochs: "),
        (["train", "digits"], "runs/digits/features.npz: not there yet; run `percept extract` first"),
        (["validate", "digits"], "runs/digits/features.npz: not there yet; run `percept extract` first"),
        (["export", "digits"], "runs/digits/weights.pt: not there yet; run `percept train` first"),
        (["predict", "digits", "x.png"], "runs/digits/model.onnx: not there yet; run `percept export` first"),
        (["run", "sine", "--device", "cuda"], "device cuda: PyTorch sees no CUDA device here"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, arguments: list[str], line: str) -> None:
    import torch

    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    done = command.percept(*arguments, home=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"percept: {line}")
    assert len(done.stderr.splitlines()) == 1


def test_libraries_of_a_stage_add_no_line_to_a_mistake(tmp_path: Path) -> None:
    done = percept("validate", "digits", home=tmp_path)
    line = "percept: runs/digits/features.npz: not there yet; run `percept extract` first\n"
    assert (done.returncode, done.stderr) == (1, line)


@pytest.mark.parametrize(("closed", "name", "status"), [("1>&-", "shop", 0), ("2>&-", "absent", 1)])
def test_a_closed_stream_is_silent(shop: Path, closed: str, name: str, status: int) -> None:
    """And print does not take the other one instead."""
    closing = ["sh", "-c", f'exec "$0" "$@" {closed}', PERCEPT, "predict", name, "clips/beep/0.wav"]
    done = subprocess.run(closing, cwd=shop, env=os.environ | {"BENTOML_HOME": str(shop)}, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (status, b"", b"")


def test_a_nonsense_limit_is_one_line(tmp_path: Path) -> None:
    done = percept("tasks", home=tmp_path, PERCEPT_MAX_SECONDS="long")
    assert done.stderr.strip() == "percept: PERCEPT_MAX_SECONDS=long: expected a whole number above 0"


def test_a_folder_that_cannot_be_written_is_one_line_before_any_work(tmp_path: Path) -> None:
    file, loop = tmp_path / "file", tmp_path / "loop"
    file.touch()
    loop.symlink_to(loop)
    store = "the model store cannot be written: {}: Not a directory; BENTOML_HOME names the folder to use instead"
    unknown = "~no-such-user/x: the home folder is not known; set BENTOML_HOME to a folder for the models"
    for arguments, home, line in (
        (["run", "sine", "--runs", str(file)], "store", f"{file}: Not a directory"),
        (["run", "sine", "--runs", str(loop)], "store", f"{loop}/sine"),
        (["run", "sine"], "file", store.format(file)),
        (["export", "sine"], "file", store.format(file)),
        (["serve"], "file", store.format(file)),
        (
            ["run", "sine"],
            "~no-such-user/x",
            unknown,
        ),
        (
            ["rollback", "sine"],
            "~no-such-user/x",
            unknown,
        ),
    ):
        named = home if home.startswith("~") else str(tmp_path / home)
        done = command.percept(*arguments, home=tmp_path, BENTOML_HOME=named)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"percept: {line}")
        assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_a_disk_that_is_full_is_told_before_any_work(tmp_path: Path) -> None:
    for stage in ("extract", "train"):
        assert command.percept(stage, "sine", home=tmp_path).returncode == 0
    for verb in ("extract", "train", "validate", "curves"):  # each of which may take minutes
        with command.full_disk(0):
            done = command.percept(verb, "sine", home=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "percept: runs/sine: File too large\n"


def contents(run: Path) -> dict[Path, bytes]:
    """The files of a run, without what an extraction that failed keeps for the next one."""
    return {path: path.read_bytes() for path in run.iterdir() if path.is_file()}


def test_a_full_disk_is_one_line_and_leaves_the_run_as_it_was(tmp_path: Path) -> None:
    """In the middle of the largest file of a stage, near its end, and full already."""
    for stage in ("extract", "train"):
        assert command.percept(stage, "sine", home=tmp_path).returncode == 0
    run = tmp_path / "runs" / "sine"
    before = contents(run)
    sizes = {stage: len(before[run / name]) for stage, name in (("extract", "features.npz"), ("train", "weights.pt"))}
    for stage, limit in (("extract", sizes["extract"] // 2), *(("train", n) for n in (0, 2000, sizes["train"] - 1))):
        seed = f"{'data' if stage == 'extract' else 'train'}.seed=1"
        with command.full_disk(limit):
            done = command.percept(stage, "sine", "--set", seed, home=tmp_path)
        lines = [line for line in done.stderr.splitlines() if line.startswith("percept: ")]
        assert done.returncode == 1
        assert [line.endswith(": File too large") for line in lines] == [True]
        assert "Traceback" not in done.stderr
        assert contents(run) == before


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"services: [", "cannot be read: .* line 1"),
        (b"- 1", "expected a mapping"),
        (b"", "expected a mapping"),
        (b"services: 5", "expected a mapping"),
        (b"services: {5: 3}", "expected a mapping"),
        (b"\xff", "cannot be read"),
        (None, "cannot be read: No such file"),
    ],
)
def test_options_that_bentoml_cannot_read_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes | None, reason: str
) -> None:
    file = tmp_path / "options.yaml"
    if text is not None:
        file.write_bytes(text)
    monkeypatch.setenv("BENTOML_CONFIG", str(file))
    with pytest.raises(UserError, match=f"^BENTOML_CONFIG={file}: .*{reason}"):
        environment.check()
    file.write_text("services: {percept: {workers: 1}}")
    environment.check()
    monkeypatch.setenv("BENTOML_CONFIG_OVERRIDES", "{services")
    with pytest.raises(UserError, match=r"^BENTOML_CONFIG_OVERRIDES: cannot be read: [^\n]*$"):
        environment.check()


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = command.percept("serve", "--port", str(port), home=tmp_path)
    assert (done.returncode, done.stderr) == (1, f"percept: port {port} is taken; --port chooses another\n")
    done = command.percept("serve", "--host", "no.such.host.invalid", home=tmp_path)
    assert done.stderr.startswith("percept: --host no.such.host.invalid: ")
