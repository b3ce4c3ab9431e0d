"""Routes for operators and load balancers (models, liveness, metrics), and those that BentoML answers."""

import orjson
from starlette.exceptions import HTTPException
from starlette.types import Message, Send

from service.http.request import Headers, Request, Response
from service.http.state import State
from service.media.limits import DEFAULT_BYTES
from service.metrics import CONTENT_TYPE


async def models(state: State, request: Request) -> Response:
    """The cards of the served models; which models could not be loaded; how large a file may be; where the bills of
    materials are; and, if only signed models are served, who has signed them."""
    cards = [predictor.card.model_dump(mode="json") for predictor in state.repository.served.values()]
    limits = {kind: state.limits.bytes_of(kind) for kind in DEFAULT_BYTES}
    boms = [f"/models/{name}/bom" for name, one in state.repository.served.items() if one.bom is not None]
    boms += ["/models/bom"] if state.bom is not None else []
    content = {"models": cards, "failed": state.repository.failures(), "limits": limits, "bom": boms}
    return Response(orjson.dumps(content | state.repository.signers()))


async def samples(state: State, request: Request, model: str) -> Response:
    """A file for each class of a model, to try it with: name → the file's name, and its bytes in Base64."""
    return Response((await state.repository.find(model, None)).samples)


async def bom(state: State, request: Request, model: str | None = None) -> Response:
    """The bill of materials of a model, or of the Bento."""
    found = state.bom if model is None else (await state.repository.find(model, None)).bom
    if found is None:
        what = "the service was not started from a Bento" if model is None else f"{model} was exported without one"
        raise HTTPException(404, f"there is no bill of materials: {what}")
    return Response(found, content_type=b"application/vnd.cyclonedx+json")


async def live(request: Request) -> Response:
    """200 while the process answers."""
    return Response(b"\n", content_type=b"text/plain; charset=utf-8")


async def metrics(state: State, request: Request) -> Response:
    """Prometheus' text format."""
    return Response(await state.render(), content_type=CONTENT_TYPE)


async def schema(state: State, request: Request) -> Response:
    """BentoML's own schema, which takes it 10 ms to write, and never changes."""
    if state.schema is None:
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)

        assert state.bentoml is not None
        await state.bentoml({**request.scope, "method": "GET"}, request.receive, keep)
        body = b"".join(message.get("body", b"") for message in messages[1:])
        if messages[0]["status"] != 200:
            return Response(body, messages[0]["status"])
        state.schema = body
    return Response(state.schema)


async def by_bentoml(state: State, request: Request) -> Response:
    """BentoML's own schema and static files."""
    return _Forwarded(state, request)


class _Forwarded(Response):
    """A response that BentoML's application sends; its status is known once it is sent."""

    __slots__ = ("_request", "_state")

    def __init__(self, state: State, request: Request) -> None:
        super().__init__(b"")
        self._state, self._request = state, request

    async def send(self, send: Send, headers: Headers, without_body: bool = False) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *headers]}
            await send(message)

        assert self._state.bentoml is not None
        await self._state.bentoml(self._request.scope, self._request.receive, with_headers)
