"""The Open Inference Protocol, version 2, over REST, with the binary tensor data, classification and model repository
extensions (https://github.com/kserve/open-inference-protocol; the extensions are described with Triton).
"""

import itertools
import math
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import numpy as np
import orjson
import simdjson
from numpy.typing import NDArray

from models.card import FAMILIARITY, ModelCard
from service.errors import MediaError, Refusal
from service.http import integers
from service.http.admission import Places
from service.http.body import read
from service.http.request import Request, Response
from service.http.scheduling import Turns
from service.media.limits import Limits
from service.serving.predictor import PIECE, Predictor
from service.serving.repository import Repository

HEADER_LENGTH = b"inference-header-content-length"
BINARY = b"application/octet-stream"
EXTENSIONS = ("binary_tensor_data", "classification", "model_repository")
INLINE_BYTES = 2**18  # of inputs that are answered sooner than a thread takes them up: 300 digits take a millisecond
CHUNK_BYTES = 2**20  # of inputs that go through a graph at once: more of them leave the cache
DTYPES: dict[str, Any] = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
    "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
}  # fmt: skip
DATATYPES = {"uint8": "UINT8", "float32": "FP32"}  # dtype of a card → datatype of the protocol
FEW = 16  # lists in a request that does not nest its numbers
MAX_RANK = 8  # sizes of a shape that a refusal repeats
MAX_DIGITS = 18  # of a length; int() takes time for more, and none for more than thousands

Array = NDArray[Any]
Parameters = dict[str, Any]


@dataclass
class _Output:
    """What a request wants to have of one output."""

    name: str
    binary: bool
    classes: int = 0  # that it wants to have named, most probable first; 0: the numbers


@dataclass
class _Inference:
    """A request, read and checked."""

    batch: Array  # as the model takes it
    id: str | None
    outputs: list[_Output] = field(default_factory=list)


class Protocol:
    """Answers what lies below /v2.

    Parameters
    ----------
    count : told the answers (N, …) of a model
    reload : looks for changes in the model store, and opens a model again if it had failed; None: nobody may ask for it
    """

    def __init__(
        self,
        repository: Repository,
        limits: Limits,
        places: Places,
        turns: Turns,
        count: Callable[[Predictor, Array], None],
        reload: Callable[[str], Awaitable[None]] | None,
    ) -> None:
        self.repository, self.limits, self.places, self.turns = repository, limits, places, turns
        self._count, self._reload = count, reload

    async def server(self, request: Request) -> Response:
        """Metadata of the server."""
        return _json({"name": "percept", "version": "2", "extensions": EXTENSIONS})

    async def live(self, request: Request) -> Response:
        """200 while the process answers."""
        return _json({"live": True})

    async def ready(self, request: Request) -> Response:
        """200 if any model can be asked, else 503; what failed is told."""
        ready = bool(self.repository.served)
        return _json({"ready": ready, **self.repository.state()}, 200 if ready else 503)

    async def model(self, request: Request, name: str, version: str | None = None) -> Response:
        """Metadata of a model."""
        card = (await self.repository.find(name, version)).card
        versions = await anyio.to_thread.run_sync(self.repository.versions, name)
        return _json(
            {
                "name": card.name,
                "versions": [model.tag.version for model in versions] or [card.version],
                "platform": "onnxruntime_onnx",
                "inputs": [_tensor(card.input.name, DATATYPES[card.input.dtype], card.input.shape)],
                "outputs": [_tensor(card.output, "FP32", (None, len(card.labels)))]
                + ([] if card.known_threshold is None else [_tensor(FAMILIARITY, "FP32", (None,))]),
                "parameters": {"labels": card.labels},
            }
        )

    async def model_ready(self, request: Request, name: str, version: str | None = None) -> Response:
        """200 if the model can be asked, 503 if it could not be opened, 404 if there is none."""
        if name not in self.repository.served and name in self.repository.failures:
            return _json({"name": name, "ready": False, "error": self.repository.failures[name]}, 503)
        await self.repository.find(name, version)
        return _json({"name": name, "ready": True})

    async def index(self, request: Request) -> Response:
        """Every model and version of the store, and whether it can be asked."""
        body = _document(await read(request, 2**16) or b"{}").as_dict()
        only_ready = body.get("ready", False)
        if not isinstance(only_ready, bool):
            raise Refusal(400, "ready: expected true or false")
        names = [*self.repository.served, *(set(self.repository.failures) - set(self.repository.served))]
        rows = await anyio.to_thread.run_sync(lambda: [row for name in sorted(names) for row in self._rows(name)])
        return _json([row for row in rows if row["state"] == "READY" or not only_ready])

    async def load(self, request: Request, name: str) -> Response:
        """Serve the model's present version of the store, now rather than when the store is looked at next."""
        if self._reload is None:
            raise Refusal(
                403, "loading takes an API key, and PERCEPT_API_KEYS sets none; new versions come by themselves"
            )
        if _parameters(_document(await read(request, 2**16) or b"{}").as_dict()):
            raise Refusal(400, "parameters: a model is served as the store holds it; none are read")
        await self._reload(name)
        self.repository.get(name)
        if name in self.repository.failures:
            raise Refusal(503, f"{self.repository.failures[name]}; the version before it is still served")
        return _json({})

    async def infer(self, request: Request, name: str, version: str | None = None) -> Response:
        """The model's answers to a batch."""
        predictor = await self.repository.find(name, version)
        most = self.limits.bytes_of(predictor.card.input.kind)
        try:
            with self.places.entry(request.content_length(), most) as entry:
                data = await read(request, most, entry)
                header_length = request.header(HEADER_LENGTH)

                def answer() -> Response:
                    inference = _parse(data, header_length, predictor.card, self.limits)
                    answers = self._answers(predictor, inference)
                    request.after = partial(self._count, predictor, answers)
                    return _response(predictor.card, inference, answers)

                return await self.turns.take(answer, in_thread=len(data) > INLINE_BYTES)
        except MediaError as error:
            raise Refusal({422: 400}.get(error.status, error.status), str(error), *error.headers) from error

    def _answers(self, predictor: Predictor, inference: _Inference) -> Array:
        """The graph's outputs for a batch, part by part, so that memory stays bounded; a long recording's are the mean
        over its pieces, as they are everywhere."""
        rate, batch = predictor.card.input.sample_rate, inference.batch
        if rate is not None and batch.shape[1] > PIECE * rate:
            return np.array([predictor.outputs_of(sample) for sample in batch], np.float32)
        familiarity = any(output.name == FAMILIARITY for output in inference.outputs)
        rows = max(1, CHUNK_BYTES // max(1, batch[:1].nbytes))
        parts = [predictor.run(batch[i : i + rows], True, familiarity) for i in range(0, len(batch), rows)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _rows(self, name: str) -> Iterator[dict[str, str]]:
        served, failed = self.repository.served.get(name), self.repository.failures.get(name)
        present = served.card.version if served else None
        broken = self.repository.failed.get(name)
        for model in self.repository.versions(name):
            version = str(model.tag.version)
            if version == present:
                yield {"name": name, "version": version, "state": "READY", "reason": ""}
            elif failed and version == broken:
                yield {"name": name, "version": version, "state": "UNAVAILABLE", "reason": failed}
            else:
                reason = f"opened when /v2/models/{name}/versions/{version} is asked"
                yield {"name": name, "version": version, "state": "UNAVAILABLE", "reason": reason}


def _parse(data: bytes, header_length: bytes, card: ModelCard, limits: Limits) -> _Inference:
    """The request's one input as the model takes it, and which outputs are wanted. Raises Refusal 400 or 413."""
    length = len(data)
    if header_length:
        if not header_length.isdigit() or len(header_length) > MAX_DIGITS or int(header_length) > length:
            raise Refusal(400, "Inference-Header-Content-Length is not the length of a header in this body")
        length = int(header_length)
    text, binary = data[:length] if header_length else data, memoryview(data)[length:]
    document, tensor = _read(text)
    if tensor is None:
        raise Refusal(400, f"expected inputs: a list of one tensor named {card.input.name!r}")
    if (name := tensor.get("name")) != card.input.name:
        raise Refusal(400, f"unknown input {str(name)[:80]!r}; {card.name} takes {card.input.name!r}")
    others = 2 + ("outputs" in document)  # lists beside the data's: inputs and shape
    batch = _array(tensor, binary, text, others, card, limits)
    body = _values(document, ("id", "parameters", "outputs"))
    id_ = body.get("id")
    if id_ is not None and not isinstance(id_, str):
        raise Refusal(400, "id: expected a string")
    return _Inference(batch, id_, _outputs(body, card))


def _array(tensor: Parameters, binary: memoryview, text: bytes, others: int, card: ModelCard, limits: Limits) -> Array:
    shape, datatype = tensor.get("shape"), tensor.get("datatype")
    wanted = card.input.shape
    if not isinstance(datatype, str) or datatype not in DTYPES:
        raise Refusal(400, f"datatype {str(datatype)[:20]!r} is not read; expected {DATATYPES[card.input.dtype]}")
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size < 2**40 for size in shape):
        raise Refusal(400, "shape: expected a list of sizes")
    if len(shape) != len(wanted) or any(w not in (None, s) for s, w in zip(shape, wanted, strict=True)):
        raise Refusal(400, f"shape {shape[:MAX_RANK]} does not fit {_sizes(wanted)}")
    if 0 in shape:
        raise Refusal(400, "the batch is empty")
    if shape[0] > limits.batch:
        raise Refusal(413, f"the batch has {shape[0]} samples; at most {limits.batch} are allowed")
    rate = card.input.sample_rate
    if rate is not None and shape[1] > limits.seconds * rate:
        raise Refusal(413, f"the audio is longer than the {limits.seconds:g} seconds allowed")
    n = math.prod(shape)
    size = _parameters(tensor).get("binary_data_size")
    if size is None:
        if binary:
            raise Refusal(400, "there are bytes after the header that no input's binary_data_size accounts for")
        values = _from_json(tensor.get("data"), datatype, shape, text, others)
    else:
        dtype = np.dtype(DTYPES[datatype]).newbyteorder("<")
        if "data" in tensor:
            raise Refusal(400, "the input has data and a binary_data_size; expected one of them")
        expected = n * dtype.itemsize
        if type(size) is not int or size != expected or len(binary) != expected:
            told = f"{len(binary)} bytes follow the header"
            raise Refusal(400, f"binary_data_size {str(size)[:20]}: expected {expected} for this shape, and {told}")
        values = np.frombuffer(binary, dtype)
    return _as(values, card.input.dtype).reshape(shape)


def _from_json(data: Any, datatype: str, shape: list[int], text: bytes, others: int) -> Array:
    """Numbers in row-major order, flat or nested as `shape` says, as an array of one dimension. They go there as the
    parser holds them, unless they are an array already: a Python object for each would take twice as long.

    text, others : where `data` stands, and how many lists there are outside of it, at least
    """
    n, dtype = math.prod(shape), np.dtype(DTYPES[datatype])
    if isinstance(data, np.ndarray):
        if dtype.kind == "b":
            raise Refusal(400, f"data: expected values of datatype {datatype}")
        return _as(_of_size(n, data), dtype)
    if not isinstance(data, simdjson.Array) or not len(data):
        raise Refusal(400, f"data: expected a list of {n} numbers, got none")
    levels = len(shape) if isinstance(data[0], simdjson.Array) else 1
    fits = levels == 1 or _is_nested(data, shape)
    lists = others + sum(math.prod(shape[:i]) for i in range(levels))
    if fits and _has_more_lists(text, lists):  # they may be further inside
        fits = not any(isinstance(value, simdjson.Array) for value in _inside(data, levels))
    if not fits:
        raise Refusal(400, f"data: the lists are not nested as shape {shape} says")
    kind = "i" if dtype.kind == "u" and dtype != np.uint64 else dtype.kind  # read a quarter faster than unsigned
    try:
        values = np.array(data.as_list()).reshape(-1) if kind == "b" else _numbers(data, kind)
    except TypeError:
        raise Refusal(400, f"data: expected numbers of datatype {datatype}") from None
    except ValueError:
        raise Refusal(400, f"data: there are values that {dtype.name} cannot hold") from None
    if dtype.kind == "b" and values.dtype != dtype:
        raise Refusal(400, f"data: expected values of datatype {datatype}")
    return _as(_of_size(n, values), dtype)


def _of_size(n: int, values: Array) -> Array:
    if len(values) != n:
        raise Refusal(400, f"data: expected a list of {n} numbers, got {len(values)} of them")
    return values


def _has_more_lists(text: bytes, n: int) -> bool:
    """Whether JSON may hold more than n lists."""
    if n > FEW:
        return text.count(b"[") > n
    at = -1
    for _ in range(n + 1):  # 30 times as fast as counting where there are few
        at = text.find(b"[", at + 1)
        if at < 0:
            return False
    return True


def _is_nested(data: Any, shape: list[int]) -> bool:
    size, *inner = shape
    rows = isinstance(data, simdjson.Array) and len(data) == size
    return rows and (not inner or all(_is_nested(row, inner) for row in data))


def _inside(data: Any, levels: int) -> Iterable[Any]:
    """What lies under so many levels of lists."""
    return data if levels == 1 else itertools.chain.from_iterable(_inside(row, levels - 1) for row in data)


def _numbers(data: Any, kind: str) -> Array:
    """Of a list, nested or not: int64, uint64 or float64, as `kind` says, "i", "u" or "f"; float64 if there are
    fractions. Raises TypeError if there is anything but numbers, ValueError if one is too large."""
    if kind != "f":
        try:
            return np.frombuffer(data.as_buffer(of_type=kind), f"{kind}8")
        except TypeError:
            pass
    return np.frombuffer(data.as_buffer(of_type="d"))


def _as(values: Array, dtype: Any) -> Array:
    """Numbers as another type; refused where it cannot hold them, or they are not finite."""
    dtype = np.dtype(dtype)
    if values.dtype == dtype and dtype.kind != "f":
        return values
    with np.errstate(all="ignore"):
        converted = values.astype(dtype, copy=False)
    if dtype.kind == "f":
        fits = np.isfinite(converted).all()
    elif values.dtype.kind in "iu":
        range_ = np.iinfo(dtype)
        fits = range_.min <= values.min() and values.max() <= range_.max
    else:
        fits = (converted == values).all()
    if not fits:
        raise Refusal(400, f"data: there are values that {dtype.name} cannot hold")
    return converted


def _outputs(body: Parameters, card: ModelCard) -> list[_Output]:
    known = [card.output, *([] if card.known_threshold is None else [FAMILIARITY])]
    binary = _parameters(body).get("binary_data_output", False)
    asked = body.get("outputs")
    if asked is None or asked == []:
        return [_Output(name, bool(binary)) for name in known]
    if not isinstance(asked, list):
        raise Refusal(400, "outputs: expected a list of outputs")
    outputs: list[_Output] = []
    for output in asked:
        name = output.get("name") if isinstance(output, dict) else None
        if name not in known:
            raise Refusal(400, f"unknown output {str(name)[:80]!r}; {card.name} gives {', '.join(known)}")
        if any(name == other.name for other in outputs):  # or a small request would have an answer of any size
            raise Refusal(400, f"output {name!r} is asked for twice")
        parameters = _parameters(output)
        classes = parameters.get("classification", 0)
        if type(classes) is not int or classes < 0 or (classes and name != "probabilities"):
            raise Refusal(400, "classification: expected a number of classes, of probabilities")
        outputs.append(_Output(name, bool(parameters.get("binary_data", binary)), min(classes, len(card.labels))))
    return outputs


def _response(card: ModelCard, inference: _Inference, answers: Array) -> Response:
    width, tensors, tail = len(card.labels), [], []
    data: Any
    for output in inference.outputs:
        values = answers[:, width] if output.name == FAMILIARITY else answers[:, :width]
        if output.classes:
            named = _classified(values, card.labels, output.classes)
            shape, datatype, data, raw = [len(values), output.classes], "BYTES", named, _length_prefixed(named)
        else:
            shape, datatype = list(values.shape), "FP32"
            contiguous = np.ascontiguousarray(values)
            data, raw = contiguous.reshape(-1), contiguous.tobytes() if output.binary else b""
        tensor: dict[str, Any] = {"name": output.name, "shape": shape, "datatype": datatype}
        if output.binary:
            tensor["parameters"] = {"binary_data_size": len(raw)}
            tail.append(raw)
        else:
            tensor["data"] = data
        tensors.append(tensor)
    body: dict[str, Any] = {"model_name": card.name, "model_version": card.version}
    if inference.id is not None:
        body["id"] = inference.id
    head = orjson.dumps(body | {"outputs": tensors}, option=orjson.OPT_SERIALIZE_NUMPY)
    if not tail:
        return Response(head)
    return Response(b"".join([head, *tail]), content_type=BINARY, headers=((HEADER_LENGTH, b"%d" % len(head)),))


def _classified(values: Array, labels: tuple[str, ...], n: int) -> list[str]:
    """For each sample its n most probable labels as "probability:index:label"."""
    order = np.argsort(-values, axis=1, kind="stable")[:, :n]
    return [f"{row[i]:f}:{i}:{labels[i]}" for row, best in zip(values, order, strict=True) for i in best]


def _length_prefixed(texts: list[str]) -> bytes:
    """BYTES elements in binary: each its length in four bytes, least significant first, and itself."""
    encoded = [text.encode() for text in texts]
    return b"".join(len(text).to_bytes(4, "little") + text for text in encoded)


def _parameters(holder: Parameters) -> Parameters:
    parameters = holder.get("parameters")
    if parameters is None:  # or null, as clients send it that have none
        return {}
    if not isinstance(parameters, dict):
        raise Refusal(400, "parameters: expected an object")
    return parameters


def _read(text: bytes) -> tuple[Any, Parameters | None]:
    """A request as simdjson holds it and its one tensor, whose `data` are an array where they could be taken out."""
    if taken := integers.taken_out(text):
        rest, numbers = taken
        document = _document(rest)
        tensor = _tensor_of(document.get("inputs"))
        data = tensor and tensor.get("data")
        if tensor and isinstance(data, simdjson.Array) and not len(data):  # else they were another key's
            return document, tensor | {"data": numbers}
    document = _document(text)
    return document, _tensor_of(document.get("inputs"))


def _document(text: bytes) -> Any:
    """A JSON object as simdjson holds it: what is not asked for does not become an object of Python's."""
    try:
        document = simdjson.Parser().parse(text)
    except (ValueError, RuntimeError) as error:  # RuntimeError: too deep, or a whole number beyond 64 bits
        raise Refusal(400, f"the body is not JSON: {error}") from None
    if not isinstance(document, simdjson.Object):
        raise Refusal(400, "expected a JSON object")
    return document


def _tensor_of(inputs: Any) -> Parameters | None:
    """The one tensor of a list, its `data` as simdjson holds it; None if it is no such list."""
    if not isinstance(inputs, simdjson.Array) or len(inputs) != 1 or not isinstance(inputs[0], simdjson.Object):
        return None
    tensor = _values(inputs[0], ("name", "shape", "datatype", "parameters"))
    return tensor | {"data": inputs[0]["data"]} if "data" in inputs[0] else tensor


def _values(holder: Any, keys: tuple[str, ...]) -> Parameters:
    """What an object of simdjson's holds under these keys, in Python's objects."""
    present = set(holder.keys())  # of a key that is missing, simdjson raises an exception inside, which takes 2 µs
    values = {key: holder[key] for key in keys if key in present}
    for key, value in values.items():
        if isinstance(value, simdjson.Object):
            values[key] = value.as_dict()
        elif isinstance(value, simdjson.Array):
            values[key] = value.as_list()
    return values


def _tensor(name: str, datatype: str, shape: tuple[int | None, ...]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": _sizes(shape)}


def _sizes(shape: tuple[int | None, ...]) -> list[int]:
    return [-1 if size is None else size for size in shape]


def _json(body: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status)
