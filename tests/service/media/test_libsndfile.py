"""Sound files in memory are read without Python in between, also where no descriptor is left, and none stays open."""

import io
import os
import random
import resource
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from service.media import libsndfile
from service.media.audio import decode_audio
from service.media.libsndfile import COPIED, open_sound
from tests.service.helpers import mutated, sound_bytes, tone
from tests.service.media.decoding import LIMITS, RATE, outcome

COMPRESSED = [("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24")]
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has files in memory")


def sound(format, subtype):
    return sound_bytes(tone(44_100, seconds=0.2), 44_100, format, subtype)


def descriptors():
    return {link.name for link in Path("/proc/self/fd").iterdir()}


@pytest.fixture
def no_descriptor_left():
    """As many files are open as this process may have."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(descriptors()) + 8, before[1]))
    taken = []
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@linux
@pytest.mark.parametrize(("format", "subtype"), COMPRESSED)
def test_compressed_sound_is_read_by_descriptor(format, subtype):
    with open_sound(sound(format, subtype)) as file:
        assert isinstance(file.name, int)


def test_samples_and_large_files_are_not_copied():
    for data in (sound("WAV", "PCM_16"), sound("FLAC", "PCM_16") + bytes(COPIED)):
        with open_sound(data) as file:
            assert not isinstance(file.name, int)


@linux
@pytest.mark.parametrize(("format", "subtype"), COMPRESSED)
def test_the_sound_is_the_same_where_no_descriptor_is_left(format, subtype, request):
    data = sound(format, subtype)
    expected = decode_audio(data, RATE, LIMITS)
    request.getfixturevalue("no_descriptor_left")
    with open_sound(data) as file:
        assert not isinstance(file.name, int)
    assert np.array_equal(decode_audio(data, RATE, LIMITS), expected)


def test_blocks_of_an_mp3_follow_one_another():
    """As the tone decays, its frames borrow more bits than libsndfile reads again after it has been told to seek."""
    t = np.arange(3 * 44_100)[:, None] / 44_100
    data = sound_bytes(np.exp(-4 * (t % 1)) * np.sin(2 * np.pi * 440 * t), 44_100, "MP3", "MPEG_LAYER_III")
    expected, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    with open_sound(data) as file:
        blocks = [file.read(10_000, dtype="float32") for _ in range(14)]
    assert np.array_equal(np.concatenate(blocks), expected)


@linux
def test_no_descriptor_stays_open_and_damaged_files_are_taken_alike(monkeypatch):
    before = descriptors()
    rng = random.Random(1)
    sounds = [sound(*kind) for kind in COMPRESSED[:3]]
    files = [mutated(data, rng) for data in sounds for _ in range(20)]
    by_descriptor = [outcome(decode_audio, data, RATE, LIMITS) for data in files]
    with pytest.raises(soundfile.LibsndfileError):
        open_sound(b"OggS" + bytes(100))
    assert descriptors() == before
    monkeypatch.setattr(libsndfile, "COPIED", 0)
    by_python = [outcome(decode_audio, data, RATE, LIMITS) for data in files]
    for found, expected in zip(by_descriptor, by_python, strict=True):
        assert found[0] == expected[0]
        assert np.array_equal(found[1], expected[1])
    assert {refused is None for refused, _ in by_descriptor} == {True, False}  # some are read, some are refused
