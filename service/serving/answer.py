"""What a model answers to one file. The JSON of HTTP and of `percept predict`, the metrics, the log and the OpenAPI
schema all come from `Answer` and `Window`."""

from typing import Annotated, Any, ClassVar, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

Probability = Annotated[float, Field(ge=0, le=1)]
Values = dict[str, float]


class _Fields(BaseModel):
    """A frozen model whose JSON holds the fields that were set, and no others: null is an answer too."""

    model_config = ConfigDict(frozen=True)
    defaults: ClassVar[dict[str, Any]]

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        cls.defaults = {name: field.default for name, field in cls.model_fields.items()}

    @classmethod
    def trusted(cls, **fields: Any) -> Self:
        """What `model_construct(**fields)` returns, unchecked like that, but in 1 µs instead of 4."""
        model, assign = cls.__new__(cls), object.__setattr__
        assign(model, "__dict__", cls.defaults | fields)
        assign(model, "__pydantic_fields_set__", set(fields))
        assign(model, "__pydantic_extra__", None)
        assign(model, "__pydantic_private__", None)
        return model

    def to_json(self) -> bytes:
        """What `model_dump_json(exclude_unset=True)` writes, which takes twice as long."""
        return orjson.dumps(self.fields(), default=_Fields.fields)

    def fields(self) -> dict[str, Any]:
        """Name → value of the fields that were set."""
        names = self.__pydantic_fields_set__
        return {name: value for name, value in self.__dict__.items() if name in names}


class Window(_Fields):
    """What is heard in one window of a recording; label, confidence and known, or value, are None in silence."""

    start: float  # seconds
    end: float  # seconds
    label: str | None = None
    confidence: Probability | None = None
    known: bool | None = None
    value: Values | None = None


class Answer(_Fields):
    """A classifier sets label, confidence, known and probabilities, a regression sets value.

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
    value: Values | SkipJsonSchema[None] = Field(
        None, description="of a regression, instead of label and probabilities"
    )
    timeline: list[Window] | SkipJsonSchema[None] = None
