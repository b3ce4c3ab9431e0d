"""Each kind of model: what its decoder makes of the decoder's own example."""

import numpy as np
import pytest

from models.card import Column
from service.errors import TooLarge
from service.media import Limits
from service.media.decoders import Picture, Row, Sound, Symbol, Vector
from service.media.table import TableRow

ROW = Row(TableRow((Column(name="size"), Column(name="colour", categories=("blue", "red"))), tells_unknown=True))


@pytest.mark.parametrize(
    ("decoder", "dtype", "shape"),
    [
        (Symbol(), np.uint8, (28, 28)),
        (Picture(32), np.uint8, (32, 32, 3)),
        (Sound(22_050), np.float32, (22_050,)),
        (Vector(3), np.float32, (3,)),
        (Vector(None), np.float32, (1,)),
        (ROW, np.float32, (2,)),
    ],
)
def test_its_example_is_what_the_model_takes(decoder, dtype, shape):
    sample = decoder.decode(decoder.example(), Limits())
    assert (sample.dtype, sample.shape) == (dtype, shape)
    with pytest.raises(TooLarge):
        decoder.decode(decoder.example(), Limits(bytes=1))
