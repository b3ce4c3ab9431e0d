"""Long recordings are mixed and resampled in parts, by one thread or two, as if they were one stream."""

import io
import random
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import soundfile

from service.errors import TooLarge, Unusable
from service.media import Limits, parts
from service.media.audio import decode_audio
from service.media.parallel import one_by_one, shared
from tests.service.helpers import mutated
from tests.service.media.decoding import LIMITS, RATE, outcome, reason

CODINGS = [("WAV", "PCM_16"), ("WAV", "PCM_24"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")]


@pytest.fixture
def two_threads():
    with ThreadPoolExecutor(1) as helper:
        yield partial(shared, helper)


@pytest.fixture
def short_parts(monkeypatch):
    """Parts of a second, of recordings of more than two."""
    monkeypatch.setattr(parts, "LONG", 2)
    monkeypatch.setattr(parts, "part_size", lambda margin, channels: 14 * margin)


def noise(samples, channels=2):
    """Noise around a constant offset."""
    return np.random.default_rng(0).uniform(-0.4, 0.6, (samples, channels))


def recording(samples, rate, format="WAV", subtype=None):
    """A file, written in blocks: with more at a time, libsndfile's Vorbis encoder overflows the stack."""
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", rate, samples.shape[1], subtype, format=format) as output:
        for start in range(0, len(samples), 1 << 15):
            output.write(samples[start : start + (1 << 15)])
    return file.getvalue()


def in_one_stream(data, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(parts, "LONG", 10**6)
        return decode_audio(data, RATE, LIMITS)


@pytest.mark.parametrize(
    ("format", "channels"),
    [(format, n) for format in CODINGS for n in (1, 2, 3) if n <= 2 or format != ("MP3", "MPEG_LAYER_III")],
)
def test_a_cd_is_the_same_bit_for_bit(format, channels, monkeypatch, short_parts, two_threads):
    data = recording(noise(4 * 44_100, channels), 44_100, *format)
    expected = in_one_stream(data, monkeypatch)
    assert np.array_equal(decode_audio(data, RATE, LIMITS), expected)
    assert np.array_equal(decode_audio(data, RATE, LIMITS, two_threads), expected)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 32_000, 44_099, 48_000, 96_000])
def test_other_rates_differ_by_rounding(rate, monkeypatch, two_threads):
    data = recording(noise(62 * rate), rate)
    found = decode_audio(data, RATE, LIMITS, two_threads)
    np.testing.assert_allclose(found, in_one_stream(data, monkeypatch), rtol=0, atol=2e-6)
    assert np.array_equal(decode_audio(data, RATE, LIMITS), found)


@pytest.mark.parametrize("beyond", [-3_321, -3_320, -1, 0, 1, 2, 3_319, 3_320, 3_321])
def test_wherever_the_last_part_ends(beyond, monkeypatch, short_parts, two_threads):
    data = recording(noise(3 * 14 * 3_320 + beyond), 44_100)
    assert np.array_equal(decode_audio(data, RATE, LIMITS, two_threads), in_one_stream(data, monkeypatch))


def test_channels_that_cancel_each_other(monkeypatch, short_parts, two_threads):
    left = noise(3 * 44_100, 1) - 0.1
    data = recording(np.hstack([left, -0.9 * left]), 44_100)
    found = decode_audio(data, RATE, LIMITS, two_threads)
    assert np.array_equal(found, in_one_stream(data, monkeypatch))
    assert np.abs(found).max() > 0.3


def test_damaged_recordings_are_taken_alike(monkeypatch, short_parts, two_threads):
    rng = random.Random(0)
    whole = [recording(noise(3 * 44_100), 44_100, format) for format in ("FLAC", "OGG", "MP3", "WAV")]
    files = [*(data[: len(data) // 2] for data in whole), *(mutated(rng.choice(whole), rng) for _ in range(40))]
    found = [outcome(decode_audio, data, RATE, LIMITS, two_threads) for data in files]
    monkeypatch.setattr(parts, "LONG", 10**6)
    expected = [outcome(decode_audio, data, RATE, LIMITS) for data in files]
    for one, other in zip(found, expected, strict=True):
        assert one[0] == other[0]
        assert np.array_equal(one[1], other[1])
    assert {refused is None for refused, _ in found} == {True, False}


def test_numbers_that_are_not_finite(short_parts, two_threads, recwarn):
    samples = noise(3 * 44_100)
    samples[0] = np.inf, -np.inf
    for data in (recording(samples, 44_100, subtype="FLOAT"), recording(samples[::-1], 44_100, subtype="FLOAT")):
        assert reason(decode_audio, data, RATE, LIMITS, two_threads) is Unusable
    assert not recwarn


def test_a_recording_that_is_too_long(short_parts, two_threads):
    data = recording(noise(5 * 44_100), 44_100)
    assert reason(decode_audio, data, RATE, Limits(seconds=4), two_threads) is TooLarge


def test_a_recording_without_samples():
    waveform, mix = parts.mix_in_parts([], 100, 44_100, RATE, 3_320, one_by_one)
    assert not len(waveform)
    assert not mix.may_be_cancelled()
