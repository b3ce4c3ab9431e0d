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
        samples[[0, -1]] = 0  # soxr.resample takes what is beyond the ends for zero
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

    @pytest.mark.parametrize("channels", [2, 4, 6])
    @pytest.mark.parametrize("level", [-1, -0.98, -0.7])
    @pytest.mark.parametrize("offset", [0, 0.1])
    def test_channels_that_cancel_each_other(self, channels, level, offset):
        """One wire of a pair is swapped; the answer is that of the louder channel, over all blocks."""
        sound = 0.3 * np.random.default_rng(0).uniform(-1, 1, (100_000, 1)).astype(np.float32)
        samples = np.hstack([sound * level, sound] * (channels // 2)) + np.float32(offset)
        heard, loudest = hear(samples, RATE, subtype="FLOAT"), samples.T if level == -1 else samples.T[1::2]
        assert any(np.array_equal(heard, channel) for channel in loudest)

    def test_one_channel_is_chosen_for_the_whole_recording(self):
        """The left one is louder in the first half, the right one in the second."""
        sound = np.random.default_rng(0).uniform(-0.3, 0.3, 200_000).astype(np.float32)
        half = np.arange(len(sound)) < len(sound) // 2
        samples = np.stack([sound * np.where(half, 0.8, 1), -sound * np.where(half, 1, 0.8)], 1).astype(np.float32)
        heard = hear(samples, RATE, subtype="FLOAT")
        assert any(np.array_equal(heard, channel) for channel in samples.T)

    @pytest.mark.parametrize("right", [1, 0.5, 0, -0.3])
    def test_channels_that_do_not(self, right):
        rng = np.random.default_rng(0)
        sound, other = rng.uniform(-0.3, 0.3, (2, 70_000)).astype(np.float32)
        for second in (np.float32(right) * sound, other, np.roll(sound, 20)):
            samples = np.stack([sound, second], 1)
            assert np.array_equal(hear(samples, RATE, subtype="FLOAT"), samples.mean(axis=1))

    def test_louder_than_full_scale_is_scaled_down(self):
        assert np.abs(hear(tone(RATE, peak=7), RATE, subtype="FLOAT")).max() == pytest.approx(1)

    def test_two_samples(self):
        assert hear(np.float32([[0.5], [-0.5]]), RATE).shape == (2,)
        assert reason(hear, np.full((1, 1), 0.5), RATE) is Unusable  # a constant

    def test_empty(self):
        assert reason(hear, np.zeros((0, 1))) is Unusable

    @pytest.mark.parametrize("level", [0, 5e-5])
    def test_silent(self, level):
        assert reason(hear, np.full((9000, 1), level, np.float32), 44_100, "WAV", "FLOAT") is Unusable

    @pytest.mark.parametrize("format", ["WAV", "FLAC", "AIFF"])
    @pytest.mark.parametrize("rate", [8_000, RATE, 48_000])
    @pytest.mark.parametrize(("hertz", "offset"), [(0, 0.1), (0, -0.5), (5, 0.0), (15, 0.3)])
    def test_what_nobody_hears_is_silent(self, format, rate, hertz, offset):
        samples = offset + 0.1 * np.sin(2 * np.pi * hertz * np.arange(3 * rate // 2) / rate + 1)[:, np.newaxis]
        assert reason(hear, samples, rate, format) is Unusable
        cut = samples[: int(0.53 * rate)] / np.abs(samples).max()  # in mid-cycle, at full scale
        assert reason(hear, cut, rate, format) is Unusable
        tone = 0.01 * np.sin(2 * np.pi * 82 * np.arange(len(samples)) / rate)[:, np.newaxis]
        assert hear(samples + tone, rate, format).size  # the lowest string of a guitar, far quieter than the rest

    @pytest.mark.parametrize(
        ("container", "subtype"),
        [
            ("WAV", "ALAW"), ("WAV", "ULAW"), ("WAV", "PCM_U8"), ("FLAC", "PCM_S8"), ("AU", "ALAW"),
            ("WAV", "GSM610"), ("W64", "GSM610"), ("WAV", "NMS_ADPCM_16"),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("level", [0, 1e-6])
    def test_silence_in_every_coding(self, container, subtype, level):
        samples = level * np.random.default_rng(0).standard_normal((16_000, 1))
        assert reason(hear, samples, 8_000, container, subtype) is Unusable
        assert hear(tone(8_000, peak=0.05), 8_000, container, subtype).size

    def test_a_quiet_beginning_is_no_silence(self):
        t = np.arange(3 * RATE) / RATE
        knock = 1e-3 * np.sin(2 * np.pi * 100 * t) * (t < 0.1)
        assert hear(knock[:, np.newaxis], RATE, subtype="FLOAT").size == len(t)

    @pytest.mark.parametrize("rate", [8_000, 44_100, 48_000, 12_345])
    def test_a_constant_is_resampled_to_a_constant(self, rate):
        samples = np.append(np.full(rate, 0.25), np.full(rate // 10, 0.5))[:, np.newaxis]
        waveform = hear(samples, rate, subtype="FLOAT")
        assert len(waveform) == pytest.approx(1.1 * RATE, abs=3)
        assert np.ptp(waveform[: RATE // 2]) == 0

    @pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
    def test_samples_that_are_not_numbers(self, value):
        samples = tone()
        samples[100] = value
        for rate in (RATE, 44_100):
            assert reason(hear, samples, rate, "WAV", "DOUBLE") is Unusable

    def test_floats_far_above_full_scale(self):
        slow = np.sin(np.arange(RATE) * 2 * np.pi * 30 / RATE)
        with np.errstate(all="raise"):
            waveform = hear(1e37 * slow, RATE, subtype="FLOAT")
        np.testing.assert_allclose(waveform, slow / slow.max(), rtol=0, atol=1e-6)

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

    @pytest.mark.parametrize("subtype", ["GSM610", "MS_ADPCM", "IMA_ADPCM", "G721_32", "NMS_ADPCM_16"])
    @pytest.mark.parametrize("length", [960, 1290, 1600, 1700, 5000])
    def test_padding_of_the_last_block_is_not_heard(self, subtype, length):
        """GSM in an odd number of blocks ended in 40 ms of noise."""
        data = sound_bytes(tone(8_000, seconds=length / 8_000), 8_000, "WAV", subtype)
        told = int.from_bytes(data[(fact := data.index(b"fact") + 8) : fact + 4], "little")
        assert len(decode_audio(data, 8_000, LIMITS)) == told
        assert told == length or (subtype == "IMA_ADPCM" and told % 505 == 0)  # libsndfile writes the length in blocks

    @pytest.mark.parametrize("told", [0, 1, 2**32 - 1])
    def test_a_length_that_cannot_be_is_ignored(self, told):
        data = bytearray(sound_bytes(tone(8_000, seconds=0.2), 8_000, "WAV", "GSM610"))  # five blocks of 320 samples
        data[(fact := data.index(b"fact") + 8) : fact + 4] = told.to_bytes(4, "little")
        assert len(decode_audio(bytes(data), 8_000, LIMITS)) == 1600

    def test_mutated_sounds(self, capfd):
        rng = random.Random(1)
        for _ in range(600):
            reason(decode_audio, mutated(rng.choice(SOUND_FILES), rng), RATE, LIMITS)
        assert capfd.readouterr() == ("", "")  # mpg123 wrote to the terminal
