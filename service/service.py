"""The BentoML service: a file's bytes in, probabilities out.

BentoML starts the workers, packs the Bento and describes the typed methods to its clients (/schema.json); requests over
HTTP are answered by `service.http.app`, which stands in front of it.
"""

import asyncio
import atexit
import contextlib
import gc
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import bentoml
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml.models import BentoModel
from bentoml.validators import ContentType
from opentelemetry.util.http import ExcludeList
from starlette.types import ASGIApp

from models.card import BOM_FILE, SIGNATURE_FILE
from service import options
from service.http import connections, log, memory
from service.http.app import App
from service.media import positive
from service.serving.store import chosen

try:
    app = App()
    POLL = positive("PERCEPT_POLL_SECONDS", 2)  # seconds between two polls of the model store
except ValueError as error:
    sys.exit(f"percept: {error}")


is_supervisor = "PROMETHEUS_MULTIPROC_DIR" not in os.environ  # before it starts workers
if is_supervisor:
    # By default all services with one BENTOML_HOME share a folder for their workers' metrics, and each service empties
    # it when it starts.
    metrics_folder = tempfile.mkdtemp(prefix="percept-metrics-")
    BentoMLContainer.prometheus_multiproc_dir.set(metrics_folder)
    atexit.register(shutil.rmtree, metrics_folder, ignore_errors=True)
    # glibc reads it when a worker starts. With a heap for each thread instead, what is free at the end of each, up to
    # memory.KEPT, would never go back to the system.
    os.environ.setdefault("MALLOC_ARENA_MAX", "1")
    # OpenBLAS reads it when a worker imports NumPy. By default it starts a thread for each core of the machine,
    # whatever the container's CPU quota; a request is computed in one thread.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if app.logs:  # what it says itself, too; a worker does the same, later
        log.set_up()

# Seconds after which a thread lets another one go on. With Python's default, ten times as long, the event loop would
# wait 5 ms beside a thread in Python after each input and output, of which a picture needs ten.
SWITCH = 0.0005


class Service(bentoml.Service[Any]):  # type: ignore[misc]
    """BentoML's service with our application in front."""

    __slots__ = ()

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """The application of a worker, with BentoML's application behind it and BentoML's options around it."""
        from _bentoml_impl.server.app import ServiceAppFactory  # type: ignore[import-untyped]

        connections.patch_uvicorn()
        self.inject_config()
        whole = options.around(app)
        BentoMLContainer.tracing_excluded_urls.set(ExcludeList([".*"]))  # not a second time
        app.bentoml = ServiceAppFactory(self, is_main=is_main, enable_access_control=False)()
        return whole if is_main else app.bentoml


VERIFYING = "cryptography>=45"  # what an image needs besides, if models in it are signed


class Image(bentoml.images.Image):  # type: ignore[misc]
    """The container's image; what `bentoml build` installs in it is listed in the Bento, with the licences."""

    __slots__ = ()

    def freeze(self, bento_fs: Path, envs: Any, platform_: str | None = None) -> Any:
        """Called by `bentoml build` for the folder of the Bento."""
        from service.serving import bom

        packed = [Path(bentoml.models.get(model.tag).path) / BOM_FILE for model in Percept.models]  # type: ignore[attr-defined]
        bills = [file.read_bytes() for file in packed if file.is_file()]
        (bento_fs / "src" / BOM_FILE).write_bytes(bom.of_bento(self.python_requirements.splitlines(), bills))
        return super().freeze(bento_fs, envs, platform_)


# The container's image. BentoML knows no distro "slim", so it leaves out the compiler, git and gnupg. None is needed:
# everything is installed from wheels, and soundfile's holds libsndfile. constraints.txt pins the versions. The packages
# stand here because the setup_script of bentofile.yaml, deploy/slim.py, would run after the installation of its own.
IMAGE = Image(
    base_image="python:3.11-slim",
    python_version="3.11",
    distro="slim",
    python_requirements="""\
bentoml>=1.4.36
httptools>=0.6.3
numpy>=2.0
onnxruntime>=1.25
orjson>=3.10
pillow>=13.0
prometheus-client>=0.20
pydantic>=2.9
pysimdjson>=7.0
python-multipart>=0.0.32
pyyaml>=6.0
soundfile>=0.13
soxr>=0.5
uvloop>=0.23; sys_platform != 'win32'
""",  # [project].dependencies of pyproject.toml, without typer: only the command line needs it
    build_include_paths=["constraints.txt"],
)


# BentoML's own metrics are off: the requested path is one of their labels, so requests for random paths would fill the
# memory, and its middleware sees only the few requests that BentoML answers itself.
@bentoml.service(
    name="percept",
    workers=1,
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    image=IMAGE,
)
class Percept:
    """Classifiers of pixels and sound. Serves every model in the store that carries our label; in a built Bento, the
    models inside it."""

    def __init__(self) -> None:
        # Imported here because BentoML's supervisor imports this module too, and needs no ONNX Runtime.
        from service.metrics import Metrics
        from service.serving.repository import Repository

        memory.keep_free()
        sys.setswitchinterval(SWITCH)
        if app.logs:
            log.set_up()
        bento = Percept.bento  # type: ignore[attr-defined]  # mypy ignores what decorators make of a class
        fixed = [bentoml.models.get(model.tag) for model in bento.info.all_models] if bento else None
        metrics = Metrics()
        self.repository = Repository(fixed, metrics.changed, app.trust, app.rollout)
        app.open(self.repository, metrics)
        gc.freeze()  # else every full collection walks all imported objects: 30 ms without an answer

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def start(self) -> None:
        """Start the background tasks of a worker."""
        self.tasks = [asyncio.create_task(work) for work in (connections.close_late(), app.follow(POLL))]

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def stop(self) -> None:
        """Cancel the background tasks."""
        for task in self.tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    @bentoml.api(route="/digits")  # type: ignore[untyped-decorator]
    def digits(self, file: Annotated[Path, ContentType("image/*")], seen: bool = False) -> dict[str, Any]:
        """Which digit an image shows; with `seen`, also what the model sees of it."""
        return self._answer("digits", file, seen=seen)

    @bentoml.api(route="/instruments")  # type: ignore[untyped-decorator]
    def instruments(
        self, file: Annotated[Path, ContentType("audio/*")], timeline: float | None = None, seen: bool = False
    ) -> dict[str, Any]:
        """Which instrument is heard in a recording; with `timeline`, also in each window of that many seconds; with
        `seen`, also what the model sees of it."""
        return self._answer("instruments", file, timeline, seen)

    @bentoml.api(route="/predict")  # type: ignore[untyped-decorator]
    def predict(self, model: str, file: Path, timeline: float | None = None, seen: bool = False) -> dict[str, Any]:
        """The answer of any model in the store to a file."""
        return self._answer(model, file, timeline, seen)

    def _answer(self, name: str, file: Path, timeline: float | None = None, seen: bool = False) -> dict[str, Any]:
        predictor = self.repository.get(name)
        window = predictor.parse_timeline(None if timeline is None else str(timeline))
        return predictor.answer(file.read_bytes(), app.limits, window, seen).model_dump(exclude_unset=True)


Percept.__class__ = Service  # type: ignore[method-assign]
try:
    options.check(Percept, is_supervisor)
except ValueError as error:
    sys.exit(f"percept: {error}")

if is_supervisor:  # or `bentoml build`; a worker has no use for them, and 200 take it 0.4 s
    try:  # The models that `bentoml build` puts into a Bento: those that `make bento` names, or all of the store.
        packed = chosen(os.environ.get("PERCEPT_BENTO", "").split())
        Percept.models.extend(BentoModel(model.tag) for model in packed)  # type: ignore[attr-defined]
        if any(Path(model.path_of(SIGNATURE_FILE)).is_file() for model in packed):
            IMAGE.python_packages(VERIFYING)
    except ValueError as error:
        sys.exit(f"percept: {error}")
