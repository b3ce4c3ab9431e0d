"""The BentoML service: a file's bytes in, probabilities out.

BentoML starts the workers, packs the Bento and describes the typed methods to its clients (/schema.json); what arrives
over HTTP is answered by `service.http.app`, in front of it.
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

from service import memory
from service.http import connections, log
from service.http.app import App
from service.http.request import ASGIApp
from service.media.limits import positive
from service.serving.store import newest_models

try:
    app = App()
    POLL = positive("PERCEPT_POLL_SECONDS", 2)  # between two looks at the model store
except ValueError as error:
    sys.exit(f"percept: {error}")


if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
    # The supervisor, before it starts workers: BentoML's own folder for what they count is that of all services with
    # one BENTOML_HOME, and whichever starts empties it.
    counted = tempfile.mkdtemp(prefix="percept-metrics-")
    BentoMLContainer.prometheus_multiproc_dir.set(counted)
    atexit.register(shutil.rmtree, counted, ignore_errors=True)


class Service(bentoml.Service[Any]):  # type: ignore[misc]
    """BentoML's service with our application in front."""

    __slots__ = ()

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """The application of a worker. It is traced where BentoML's configuration names an exporter."""
        app.bentoml = super().to_asgi(is_main)
        connections.watch()
        return _traced(app) if is_main else app.bentoml


def _traced(application: ASGIApp) -> ASGIApp:
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

    if BentoMLContainer.config.tracing.exporter_type.get() is None:
        return application
    provider = BentoMLContainer.tracer_provider.get()
    return OpenTelemetryMiddleware(application, tracer_provider=provider)  # type: ignore[return-value]


# The container's image. A distro that BentoML does not know spares it the compiler, git and gnupg of BentoML's own: all
# that is installed comes in wheels, libsndfile with soundfile. What pins their versions is there before they are.
IMAGE = bentoml.images.Image(
    base_image="python:3.11-slim", python_version="3.11", distro="slim", build_include_paths=["constraints.txt"]
)


# BentoML's own metrics have the path that was asked for as a label: whoever asks for random ones fills the memory. Its
# middleware is passed by but for what it answers itself.
@bentoml.service(
    name="percept",
    workers=1,
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
    image=IMAGE,
)
class Percept:
    """Classifiers of pixels and sound. Serves every model of the store that carries our label; in a built Bento, the
    models inside it."""

    def __init__(self) -> None:
        # Imported here, since BentoML's supervisor imports this module too and needs no ONNX Runtime.
        from service.metrics import Metrics
        from service.serving.repository import Repository

        memory.keep()
        if app.logs:
            log.set_up()
        bento = Percept.bento  # type: ignore[attr-defined]  # mypy ignores what decorators make of a class
        fixed = [bentoml.models.get(model.tag) for model in bento.info.all_models] if bento else None
        metrics = Metrics()
        self.repository = Repository(fixed, metrics.changed)
        app.open(self.repository, metrics)
        gc.freeze()  # a collection would walk all that was imported: 30 ms during which nobody is answered

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def start(self) -> None:
        """Begin what a worker does beside answering."""
        self.tasks = [asyncio.create_task(work) for work in (connections.close_late(), app.follow(POLL))]

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def stop(self) -> None:
        """End it."""
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
        return predictor.answer(file.read_bytes(), app.limits, window)


Percept.__class__ = Service  # type: ignore[method-assign]

# What `bentoml build` puts into a Bento.
Percept.models.extend(BentoModel(model.tag) for model in newest_models())  # type: ignore[attr-defined]
