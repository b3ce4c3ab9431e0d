"""WAV files that are read without libsndfile, and those that are not."""

import io

import numpy as np
import pytest
import soundfile

from service.media.audio import decode_audio
from service.media.wav import HEADER, plain
from tests.service.helpers import sound_bytes
from tests.service.media.decoding import LIMITS, RATE

SAMPLES = np.random.default_rng(0).integers(-(2**15), 2**15, (70_001, 2), np.int16)
SIZE = 2000  # bytes of samples
PLAIN = sound_bytes(SAMPLES[: SIZE // 2, :1], RATE, "WAV", "PCM_16")


def changed(at: int, new: bytes) -> bytes:
    return PLAIN[:at] + new + PLAIN[at + len(new) :]


class TestWav:
    @pytest.mark.parametrize("n", [1, 999, 70_001])
    @pytest.mark.parametrize("channels", [1, 2])
    def test_every_sample_is_that_of_libsndfile(self, n: int, channels: int) -> None:
        data = sound_bytes(SAMPLES[:n, :channels], 44_100, "WAV", "PCM_16")
        file = plain(data)
        assert file is not None
        expected, rate = soundfile.read(io.BytesIO(data), dtype="int16", always_2d=True)
        assert (file.samplerate, file.channels, file.frames) == (rate, channels, n)
        assert np.array_equal(np.concatenate([file.read(20_000) for _ in range(5)]), expected)

    @pytest.mark.parametrize(
        "data",
        [
            changed(0, b"RIFX"),
            changed(4, bytes(4)),  # the length of the file
            changed(4, b"\xff\xff\xff\xff"),
            changed(8, b"AVI "),
            changed(16, b"\x12"),  # the length of the format
            changed(20, b"\3"),  # the format
            changed(22, b"\3"),  # channels
            changed(24, bytes(4)),  # Hz
            changed(28, bytes(4)),  # bytes a second
            changed(32, b"\4"),  # bytes of a frame
            changed(34, b"\x08"),  # bits of a sample
            changed(36, b"LIST"),
            changed(40, bytes(4)),  # the length of the samples
            changed(40, b"\xff\xff\xff\xff"),
            PLAIN[:-1],
            PLAIN + b"LIST\4\0\0\0INFO",
            PLAIN + PLAIN,
            PLAIN[: HEADER.size],
            sound_bytes(SAMPLES[:999], RATE, "WAV", "PCM_24"),
            sound_bytes(SAMPLES[:999], RATE, "WAVEX", "PCM_16"),
        ],
    )
    def test_anything_unusual_is_left_to_libsndfile(self, data: bytes) -> None:
        assert plain(PLAIN) is not None
        assert plain(data) is None

    def test_a_length_that_no_header_tells_is_left_to_libsndfile(self) -> None:
        class Long(bytes):
            def __len__(self) -> int:
                return 2**32 + 8

        assert plain(Long(PLAIN)) is None

    def test_what_follows_is_not_lost(self) -> None:
        once = decode_audio(PLAIN, RATE, LIMITS)
        assert np.array_equal(decode_audio(PLAIN + PLAIN, RATE, LIMITS), np.concatenate([once, once]))
        assert np.array_equal(decode_audio(PLAIN + b"LIST\4\0\0\0INFO", RATE, LIMITS), once)
