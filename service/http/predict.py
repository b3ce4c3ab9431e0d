"""A file's bytes in, an answer out: POST /digits, /instruments and /predict."""

from collections.abc import Callable
from functools import partial
from typing import Any

import orjson

from service.errors import MediaError
from service.http.admission import Slots
from service.http.body import read_file
from service.http.errors import consider_content_type
from service.http.request import Request, Response
from service.http.scheduling import takes_thread
from service.http.shadow import of_answer
from service.http.state import State
from service.serving import Answer
from service.serving.predictor import Predictor

LOGGED = ("model", "version", "label", "confidence", "known")  # fields of an answer in the log


async def predict(state: State, request: Request, model: str | None = None, version: str | None = None) -> Response:
    """The answer of the model that the path, the form or the query names; for a recording with a timeline, if the query
    or the form gives the length of its windows; and with what the model sees, if either asks for that."""
    predictor = None if model is None else await state.find(request, model, version)
    max_bytes = state.limits.bytes_of(predictor.card.input.kind if predictor else "audio")
    with state.admission.slots(request.content_length(), max_bytes) as slots:
        data, content_type, fields = await read_file(request, max_bytes, slots)
        if predictor is None:
            predictor = await state.find(request, _text(fields.get("model")) or request.query("model") or "", None)

        options = _options(predictor, request, fields)
        return await _answered(state, request, slots, predictor, data, content_type, options)


async def _answered(
    state: State,
    request: Request,
    slots: Slots,
    predictor: Predictor,
    data: bytes,
    content_type: str,
    options: tuple[float | None, bool],
) -> Response:
    kind, work = predictor.card.input.kind, predictor.cost.of_file(data, state.limits, *options)
    slots.count_as_large(takes_thread(work))

    def compute() -> tuple[Answer, bytes]:
        answer = predictor.answer(data, state.limits, *options, map_parts=state.scheduler.map_for(work))
        return answer, answer.to_json()  # a long timeline takes a while, so it is done here too

    try:
        answer, body = await state.scheduler.run(compute, work)
    except MediaError as error:
        raise consider_content_type(error, kind, content_type) from error
    log = _log_fields(answer, len(data)) if state.logs else None
    after: Callable[[], None] = partial(state.metrics.answer, answer)
    if state.comparison is not None:
        after = state.comparison.after(request, after, data, lambda: [of_answer(answer)])
    return Response(body, after=after, log=log)


def _options(predictor: Predictor, request: Request, fields: dict[str, str]) -> tuple[float | None, bool]:
    """The length of a timeline's windows, and whether what the model sees is wanted. Raises Unusable."""
    if not (fields or request.scope["query_string"]):
        return None, False

    def asked(name: str) -> str | None:
        value = request.query(name)
        return _text(fields.get(name)) if value is None else value

    return predictor.parse_timeline(asked("timeline")), predictor.parse_seen(asked("seen"))


def _log_fields(answer: Answer, n_bytes: int) -> dict[str, Any]:
    return {name: value for name, value in answer.fields().items() if name in LOGGED} | {"bytes": n_bytes}


def _text(field: str | None) -> str | None:
    """A form field's text; BentoML's client writes it as JSON, others as it is."""
    if field is None:
        return None
    try:
        value = orjson.loads(field)
    except orjson.JSONDecodeError:
        return field
    return value if value is None or isinstance(value, str) else field
