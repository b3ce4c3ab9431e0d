"""A model's answer to one file. The JSON of HTTP and of `percept predict`, the metrics, the log and the OpenAPI
schema all come from `Answer` and `Window`."""

from typing import Annotated, Any, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

Probability = Annotated[float, Field(ge=0, le=1)]
Values = dict[str, float]


class _Fields(BaseModel):
    """A frozen model whose JSON holds only the fields that were set; null is a value too."""

    model_config = ConfigDict(frozen=True)

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        for name, field in cls.model_fields.items():
            if not field.is_required():
                setattr(cls, name, field.default)  # which `trusted` leaves out of its instances

    @classmethod
    def trusted(cls, fields: dict[str, Any]) -> Self:
        """What `model_construct(**fields)` returns, unchecked like that, but in less than 1 µs instead of 4: the
        instance holds nothing but `fields`, and finds its defaults in the class."""
        model, assign = cls.__new__(cls), object.__setattr__
        assign(model, "__dict__", fields)
        assign(model, "__pydantic_fields_set__", set(fields))
        assign(model, "__pydantic_extra__", None)
        assign(model, "__pydantic_private__", None)
        return model

    def to_json(self) -> bytes:
        """What `model_dump_json(exclude_unset=True)` writes, in half of its time."""
        return orjson.dumps(self.fields(), default=_Fields.fields)

    def fields(self) -> dict[str, Any]:
        """Name → value of the fields that were set; do not change it."""
        values, names = self.__dict__, self.__pydantic_fields_set__
        return values if len(values) == len(names) else {name: values[name] for name in values if name in names}


class Window(_Fields):
    """What is heard in one window of a recording; label, confidence and known, or value, are None in silence."""

    start: float  # seconds
    end: float  # seconds
    label: str | None = None
    confidence: Probability | None = None
    known: bool | None = None
    value: Values | None = None


class Answer(_Fields):
    """A classifier sets label, confidence, known and probabilities; a regression sets value, and of a table known.

    `set` is there where the card promises how often it holds the true label (see models/conformal.py), likeliest first.
    `known` is the verdict on familiarity (see models/familiarity.py): false where the file is out-of-distribution, that
    is, unlike the training data; None where the model has no such output.

    >>> Answer(model="sums", version="v2", value={"sum": 3.5}).to_json()
    b'{"model":"sums","version":"v2","value":{"sum":3.5}}'
    """

    model: str
    version: str
    label: str | SkipJsonSchema[None] = None
    confidence: Probability | SkipJsonSchema[None] = None
    known: bool | None = Field(None, description="false: unlike what it was trained on; null: cannot tell")
    probabilities: dict[str, Probability] | SkipJsonSchema[None] = None
    set: list[str] | SkipJsonSchema[None] = Field(
        None, description="the labels of which one is the true one as often as the card's coverage promises"
    )
    value: Values | SkipJsonSchema[None] = Field(
        None, description="of a regression, instead of label and probabilities"
    )
    timeline: list[Window] | SkipJsonSchema[None] = None
    seen: str | None = Field(
        None,
        description="a PNG in Base64 of what the model sees: a picture as it is decoded, the log-mel spectrogram of a "
        "sound; null: its graph, of an older version, does not return that",
    )
