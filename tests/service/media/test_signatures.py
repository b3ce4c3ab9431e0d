"""Files of another kind than expected."""

import gzip
import json

import pytest

from service.errors import Unreadable, WrongMedia
from service.media.audio import decode_audio
from service.media.image import decode_image
from tests.service.helpers import SOUND_FILES, seven, to_bytes
from tests.service.media.decoding import LIMITS, RATE, reason


@pytest.mark.parametrize(
    "data",
    [
        b"%PDF-1.7\n",
        b"<!doctype html><p>hello",
        json.dumps({"image": "http://169.254.169.254/"}).encode(),
        gzip.compress(to_bytes(seven())),
        b"PK\x03\x04" + bytes(30),
        b"\0\0\0\x18ftypmp42" + bytes(50),
        "zażółć gęślą jaźń ".encode() * 60,
    ],
)
def test_another_kind_of_file(data):
    assert reason(decode_image, data, LIMITS) is WrongMedia
    assert reason(decode_audio, data, RATE, LIMITS) is WrongMedia


def test_sound_is_no_image_and_the_reverse():
    for data in SOUND_FILES:
        assert reason(decode_image, data, LIMITS) is WrongMedia
    assert reason(decode_audio, to_bytes(seven()), RATE, LIMITS) is WrongMedia
    assert reason(decode_audio, to_bytes(seven(), "JPEG"), RATE, LIMITS) is WrongMedia


@pytest.mark.parametrize("data", [b"", b"\0", bytes(1000), b"\x80\x04\x95" + bytes(100), b"\xff"])
def test_unreadable(data):
    assert reason(decode_image, data, LIMITS) is Unreadable
    assert reason(decode_audio, data, RATE, LIMITS) is Unreadable
