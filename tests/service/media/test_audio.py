"""Audio files to waveforms: every format, depth, rate and number of channels, limits, and a reason for bad files."""

import io
import random

import numpy as np
import pytest
import soundfile
import soxr

from service.errors import TooLarge, Unusable
from service.media import Limits, audio
from service.media.audio import decode_audio
from tests.service.helpers import SOUND_FILES, mutated, sound_bytes, tone
from tests.service.media.decoding import LIMITS, RATE, reason


def hear(samples, rate=44_100, format="WAV", subtype=None):
    return decode_audio(sound_bytes(samples, rate, format, subtype), RATE, LIMITS)


def pitch(waveform):
    """Hz of the strongest partial."""
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return spectrum.argmax() * RATE / len(waveform)


class TestAudio:
    @pytest.mark.parametrize("format", ["AIFF", "AU", "CAF", "FLAC", "RF64", "W64", "WAV", "WAVEX"])
    @pytest.mark.parametrize("channels", [1, 2, 3])
    def test_sixteen_bits_equal_the_floats_of_libsndfile(self, format, channels):
        samples = np.random.default_rng(0).integers(-(2**15), 2**15, (70_000, channels), np.int16)
        data = sound_bytes(samples, RATE, format, "PCM_16")
        expected, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
        np.testing.assert_allclose(decode_audio(data, RATE, LIMITS), expected.mean(axis=1), rtol=0, atol=1e-7)
        if channels == 1:
            assert np.array_equal(decode_audio(data, RATE, LIMITS), expected[:, 0])

    @pytest.mark.parametrize(
        ("format", "subtype"),
        [("WAV", depth) for depth in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")]
        + [("WAV", "IMA_ADPCM"), ("WAVEX", "PCM_24"), ("RF64", "PCM_16"), ("W64", "PCM_16"), ("AU", "PCM_16")]
        + [("FLAC", "PCM_S8"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("AIFF", "PCM_16"), ("AIFF", "PCM_24")]
        + [("AIFF", "FLOAT"), ("CAF", "ALAC_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")],
    )
    @pytest.mark.parametrize("channels", [1, 2])
    def test_any_format_and_depth(self, format, subtype, channels):
        rate = 48_000 if subtype == "OPUS" else 44_100
        waveform = hear(tone(rate, channels), rate, format, subtype)
        assert waveform.dtype == np.float32
        assert waveform.ndim == 1
        assert len(waveform) == pytest.approx(RATE / 2, abs=RATE * 0.08)  # lossy formats pad
        assert pitch(waveform) == pytest.approx(440, abs=3)
        assert np.sqrt((waveform**2).mean()) == pytest.approx(0.5 / np.sqrt(2), abs=0.03)

    @pytest.mark.parametrize("rate", [4_000, 8_000, 11_025, 16_000, 22_050, 32_000, 48_000, 96_000, 192_000, 384_000])
    def test_any_sample_rate(self, rate):
        waveform = hear(tone(rate), rate)
        assert len(waveform) == pytest.approx(RATE / 2, abs=2)
        assert pitch(waveform) == pytest.approx(440, abs=3)

    def test_the_rate_of_the_model_is_not_resampled(self):
        samples = tone(RATE).astype(np.float32)
        assert np.array_equal(hear(samples, RATE, subtype="FLOAT"), samples[:, 0])

    def test_blocks_are_resampled_as_one(self):
        samples = np.random.default_rng(0).uniform(-0.5, 0.5, (300_000, 2)).astype(np.float32)
        expected = soxr.resample(samples.mean(axis=1), 44_100, RATE, quality="HQ")
        assert np.allclose(hear(samples, subtype="FLOAT"), expected, atol=1e-6)

    def test_channels_are_averaged(self):
        left, right = tone(RATE), tone(RATE, frequency=1000)
        waveform = hear(np.hstack([left, right]), RATE, subtype="FLOAT")
        assert np.allclose(waveform, ((left + right) / 2)[:, 0], atol=1e-6)

    @pytest.mark.parametrize("channels", range(1, 10))
    def test_channels_are_averaged_as_numpy_does(self, channels):
        samples = np.random.default_rng(0).uniform(-0.5, 0.5, (70_000, channels)).astype(np.float32)
        assert np.array_equal(hear(samples, RATE, subtype="FLOAT"), samples.mean(axis=1))

    def test_louder_than_full_scale_is_scaled_down(self):
        assert np.abs(hear(tone(RATE, peak=7), RATE, subtype="FLOAT")).max() == pytest.approx(1)

    def test_one_sample(self):
        assert hear(np.full((1, 1), 0.5), RATE).shape == (1,)

    def test_empty(self):
        assert reason(hear, np.zeros((0, 1))) is Unusable

    @pytest.mark.parametrize("level", [0, 5e-5])
    def test_silent(self, level):
        assert reason(hear, np.full((9000, 1), level, np.float32), 44_100, "WAV", "FLOAT") is Unusable

    @pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
    def test_samples_that_are_not_numbers(self, value):
        samples = tone()
        samples[100] = value
        for rate in (RATE, 44_100):
            assert reason(hear, samples, rate, "WAV", "DOUBLE") is Unusable

    @pytest.mark.parametrize(("rate", "channels"), [(1, 1), (999, 1), (2**31 - 1, 1), (44_100, 33), (44_100, 1024)])
    def test_absurd_header(self, rate, channels):
        assert reason(hear, np.full((8, channels), 0.5), rate) is Unusable

    def test_too_long_by_its_header(self):
        limits = Limits(seconds=1)
        assert decode_audio(sound_bytes(tone(seconds=1)), RATE, limits).size == RATE
        for format in ("WAV", "FLAC", "OGG", "MP3"):
            assert reason(decode_audio, sound_bytes(tone(seconds=1.2), format=format), RATE, limits) is TooLarge

    def test_too_many_samples(self, monkeypatch):
        """Silence in many channels at a high rate compresses to a few bytes."""
        monkeypatch.setattr(audio, "MAX_SAMPLES", 80_000)
        for channels, refused in ((1, None), (2, TooLarge)):
            data = sound_bytes(tone(channels=channels, seconds=1), format="FLAC")
            assert reason(decode_audio, data, RATE, LIMITS) is refused

    def test_too_many_bytes(self):
        assert reason(decode_audio, sound_bytes(tone()), RATE, Limits(bytes=1000)) is TooLarge

    def test_wav_of_a_pipe(self):
        """A writer that cannot seek leaves the largest number as the length."""
        data = bytearray(sound_bytes(tone()))
        data[4:8] = data[40:44] = b"\xff" * 4
        assert decode_audio(bytes(data), RATE, LIMITS).size == RATE // 2

    def test_mutated_sounds(self):
        rng = random.Random(1)
        for _ in range(600):
            reason(decode_audio, mutated(rng.choice(SOUND_FILES), rng), RATE, LIMITS)
