"""Inference requests of the Open Inference Protocol: from the bytes of a body to the model's input."""

from dataclasses import dataclass, field
from typing import Any

from starlette.exceptions import HTTPException

from models.card import FAMILIARITY, ModelCard
from service.http.json_document import LIST, MOST_BYTES, OBJECT, parameters, parse_object, quoted, typed_values
from service.http.json_lists import extract_integers, split
from service.http.tensors import DATATYPES, Array, read_tensor
from service.media import Limits

MAX_DIGITS = 18  # of a length: int() is slow for many digits, and refuses thousands


@dataclass
class Output:
    """How one output is to be returned."""

    name: str
    binary: bool
    classes: int = 0  # how many of the most probable classes to name; 0: all probabilities instead


@dataclass
class Inference:
    """A request, parsed and checked."""

    batch: Array  # (N, …), the model's input
    id: str | None
    outputs: list[Output] = field(default_factory=list)
    sets: bool = False  # whether to name the labels in each sample's set


def parse(data: bytes, header_length: bytes, card: ModelCard, limits: Limits) -> Inference:
    """A request's body as the model's one input, and the outputs that are asked for.

    Parameters
    ----------
    header_length : how many bytes are JSON, before binary data; empty: all of them

    Raises HTTPException 400, or 413 for more samples or seconds than the limits allow.
    """
    length = len(data)
    if header_length:
        if not header_length.isdigit() or len(header_length) > MAX_DIGITS or int(header_length) > length:
            raise HTTPException(400, "Inference-Header-Content-Length is not the length of a header in this body")
        length = int(header_length)
    text, binary = data[:length] if header_length else data, memoryview(data)[length:]
    body, tensor = _read(text, card)
    if tensor is None:
        raise HTTPException(400, f"expected inputs: a list of one tensor named {card.input.name!r}")
    if (name := tensor["name"]) != card.input.name:
        raise HTTPException(400, f"unknown input {quoted(name)}; {card.name} takes {card.input.name!r}")
    others = 2 + (body["outputs"] is not None)  # lists beside the data's: inputs and shape
    batch = read_tensor(tensor, binary, text, others, card, limits)
    sets = parameters(body, set=bool)["set"] is True
    if sets and card.set_threshold is None:
        raise HTTPException(400, f"set: {card.name} promises none")
    return Inference(batch, body["id"], _outputs(body, card), sets)


def _read(text: bytes, card: ModelCard) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """A request's keys and its one tensor, whose `data` is a list of simdjson's, a LongList, or an array if
    it is one of small integers. Raises HTTPException 400."""
    if (extracted := extract_integers(text)) and len(extracted[0]) <= MOST_BYTES:
        rest, numbers = extracted
        body, tensor = _parsed(rest)
        if tensor and tensor["data"] is not None and not len(tensor["data"]):  # else the list belongs to another key
            return body, tensor | {"data": numbers}
    if len(text) <= MOST_BYTES:
        return _parsed(text)
    if found := split(text):
        body, tensor = _parsed(found[0])
        if tensor and tensor["data"] is not None and list(tensor["data"]) == [None]:
            return body, tensor | {"data": found[1]}
    datatype = DATATYPES[card.input.dtype]
    raise HTTPException(
        400,
        f"expected in data only numbers of datatype {datatype}, and at most {MOST_BYTES} bytes of JSON beside it",
    )


def _parsed(text: bytes) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """A request's keys, and its one tensor; None if `inputs` is anything but a list of one object."""
    body = typed_values(parse_object(text), id=str, inputs=LIST, outputs=LIST, parameters=OBJECT)
    inputs = body["inputs"]
    if inputs is None or len(inputs) != 1 or type(inputs[0]) is not OBJECT:
        return body, None
    return body, typed_values(inputs[0], name=str, shape=LIST, datatype=str, parameters=OBJECT, data=LIST)


def _outputs(body: dict[str, Any], card: ModelCard) -> list[Output]:
    wanted = [card.output, *([] if card.known_threshold is None else [FAMILIARITY])]
    binary = bool(parameters(body, binary_data_output=bool)["binary_data_output"])
    if not body["outputs"]:
        return [Output(name, binary) for name in wanted]
    outputs: list[Output] = []
    for item in body["outputs"]:
        if type(item) is not OBJECT:
            raise HTTPException(400, "outputs: expected a list of objects")
        output = typed_values(item, name=str, parameters=OBJECT)
        name = output["name"]
        if name not in wanted:
            raise HTTPException(400, f"unknown output {quoted(name)}; {card.name} gives {', '.join(wanted)}")
        if any(name == other.name for other in outputs):  # else a small request could have a response of any size
            raise HTTPException(400, f"output {name!r} is asked for twice")
        asked = parameters(output, classification=int, binary_data=bool)
        classes = asked["classification"] or 0
        if classes < 0 or (classes and name != "probabilities"):
            raise HTTPException(400, "classification: expected a number of classes, of probabilities")
        as_binary = binary if asked["binary_data"] is None else asked["binary_data"]
        outputs.append(Output(name, as_binary, min(classes, len(card.labels))))
    return outputs
