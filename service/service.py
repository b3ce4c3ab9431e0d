"""The BentoML service: a file's bytes in, probabilities out.

BentoML starts the workers, packs the Bento and describes the typed methods to its clients (/schema.json); requests over
HTTP are answered by `service.http.app`, which stands in front of it.
"""

import asyncio
import atexit
import contextlib
import ctypes
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
from starlette.types import ASGIApp

from service.http import connections, log
from service.http.app import App
from service.media import positive
from service.serving.store import newest_models

try:
    app = App()
    POLL = positive("PERCEPT_POLL_SECONDS", 2)  # seconds between two polls of the model store
except ValueError as error:
    sys.exit(f"percept: {error}")


if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
    # The supervisor, before it starts workers: BentoML's folder for their metrics is shared by all services with one
    # BENTOML_HOME, and each of them empties it when it starts.
    metrics_folder = tempfile.mkdtemp(prefix="percept-metrics-")
    BentoMLContainer.prometheus_multiproc_dir.set(metrics_folder)
    atexit.register(shutil.rmtree, metrics_folder, ignore_errors=True)

# Of glibc's mallopt(3). By default free memory returns to the system at once, and the next request faults in every
# page again, which takes longer than parsing the JSON of 64 pictures.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
KEPT = 64 * 2**20  # bytes at the end of the heap that a worker may keep free
LARGE = 4 * 2**20  # bytes of a block that is returned at once when it is freed


class Service(bentoml.Service[Any]):  # type: ignore[misc]
    """BentoML's service with our application in front."""

    __slots__ = ()

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """The application of a worker, traced if BentoML's configuration names an exporter."""
        app.bentoml = super().to_asgi(is_main)
        connections.patch_uvicorn()
        return _traced(app) if is_main else app.bentoml


def _traced(application: ASGIApp) -> ASGIApp:
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

    if BentoMLContainer.config.tracing.exporter_type.get() is None:
        return application
    provider = BentoMLContainer.tracer_provider.get()
    return OpenTelemetryMiddleware(application, tracer_provider=provider)


# The container's image. For a distro that it does not know, BentoML leaves out compiler, git and gnupg, unneeded here
# since everything is installed from wheels, libsndfile with soundfile. constraints.txt pins the versions.
IMAGE = bentoml.images.Image(
    base_image="python:3.11-slim", python_version="3.11", distro="slim", build_include_paths=["constraints.txt"]
)


# BentoML's own metrics have the requested path as a label, so that requests of random paths would fill the memory; its
# middleware only sees the requests that it answers itself.
@bentoml.service(
    name="percept",
    workers=1,
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
    image=IMAGE,
)
class Percept:
    """Classifiers of pixels and sound. Serves every model in the store that carries our label; in a built Bento, the
    models inside it."""

    def __init__(self) -> None:
        # Imported here because BentoML's supervisor imports this module too, and needs no ONNX Runtime.
        from service.metrics import Metrics
        from service.serving.repository import Repository

        _keep_free_memory()
        if app.logs:
            log.set_up()
        bento = Percept.bento  # type: ignore[attr-defined]  # mypy ignores what decorators make of a class
        fixed = [bentoml.models.get(model.tag) for model in bento.info.all_models] if bento else None
        metrics = Metrics()
        self.repository = Repository(fixed, metrics.changed)
        app.open(self.repository, metrics)
        gc.freeze()  # else each full collection walks everything imported: 30 ms without an answer

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def start(self) -> None:
        """Start the background tasks of a worker."""
        self.tasks = [asyncio.create_task(work) for work in (connections.close_late(), app.follow(POLL))]

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def stop(self) -> None:
        """Cancel them."""
        for task in self.tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    @bentoml.api(route="/digits")  # type: ignore[untyped-decorator]
    def digits(self, file: Annotated[Path, ContentType("image/*")]) -> dict[str, Any]:
        """What digit an image shows."""
        return self._answer("digits", file)

    @bentoml.api(route="/instruments")  # type: ignore[untyped-decorator]
    def instruments(
        self, file: Annotated[Path, ContentType("audio/*")], timeline: float | None = None
    ) -> dict[str, Any]:
        """What instrument a recording is of; with a timeline, what is heard in each window of so many seconds."""
        return self._answer("instruments", file, timeline)

    @bentoml.api(route="/predict")  # type: ignore[untyped-decorator]
    def predict(self, model: str, file: Path, timeline: float | None = None) -> dict[str, Any]:
        """What any model of the store answers to a file."""
        return self._answer(model, file, timeline)

    def _answer(self, name: str, file: Path, timeline: float | None = None) -> dict[str, Any]:
        predictor = self.repository.get(name)
        window = predictor.window(None if timeline is None else str(timeline))
        return predictor.answer(file.read_bytes(), app.limits, window).model_dump(exclude_unset=True)


def _keep_free_memory() -> None:
    """Keep up to KEPT bytes for the next requests, where there is glibc."""
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(TRIM_THRESHOLD, KEPT)
        mallopt(MMAP_THRESHOLD, LARGE)


Percept.__class__ = Service  # type: ignore[method-assign]

# What `bentoml build` puts into a Bento.
Percept.models.extend(BentoModel(model.tag) for model in newest_models())  # type: ignore[attr-defined]
