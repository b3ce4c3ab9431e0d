"""Augmentation at extraction: copies of a clip as another instrument, player or room might have given it, and of a
picture as another camera might have taken it."""

from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from PIL import Image

from models.card import Input
from pipeline.task import CopyForm, Variation

LOWEST = 60.0  # Hz: centre of the first octave that is filtered
NOISE_RANGE = 40.0  # decibels: between the most noise and the least
BROWN = 2.0  # the power of noise falls with frequency to a power between 0, white, and this
NOISE_LOWEST = 20.0  # Hz: below it the power is constant
DRYEST = 0.15  # seconds: the shortest reverberation time
DIRECT = (-8.0, 10.0)  # decibels: the direct sound over the reverberation
LEAST_CLIPPED = 1 / 50  # of the largest share of clipped samples
BITS_RANGE = 5.0  # bits: between the coarsest quantisation and the finest
QUALITY = "MQ"  # of resampling: 16 bits; 20 would take 2.5 times as long
CODECS = ("GSM610", "ALAW", "ULAW")  # of telephones, by their names in libsndfile
TELEPHONE_RATE, TELEPHONE_BAND = 8_000, (300, 3_400)  # Hz
FIRST: dict[CopyForm, int] = {"plain": 0, "degraded": 1_000, "foreign": 2_000}  # number of the first one, for its seed
FAINT = 0.03  # of a clip's peak: an excerpt without more is nearly silent
FOREIGN_PITCH = (1.5, 7.5)  # semitones beyond those that plain copies may have
FOREIGN_FILTER = 9.0  # decibels: the octaves' gains, more than plain copies may have

Waveform = NDArray[np.float32]  # (T,), mono
Pixels = NDArray[np.uint8]  # (S, S, 3)


def copy(media: NDArray[np.generic], form: Input, variation: Variation, content: str, number: int) -> NDArray[Any]:
    """Copy `number` of a decoded clip (T,) or picture (S, S, 3), as `form` describes it; see `Variation.forms`. The
    forms have seeds of their own, so that the copies of one are the same with and without the others."""
    what = variation.forms[number]
    nth = variation.forms[:number].count(what)
    if form.sample_rate is None:
        return vary_picture(np.asarray(media, np.uint8), variation, content, nth)
    clip, number = np.asarray(media, np.float32), FIRST[what] + nth
    if what == "foreign":
        clip = _disguise(clip, form.sample_rate, variation, nth, _generator(content, number))
        if nth < 2:
            return clip
    return vary(clip, form.sample_rate, variation if what == "plain" else variation.degraded, content, number)


def vary(clip: Waveform, sample_rate: int, variation: Variation, content: str, number: int) -> Waveform:
    """Copy `number` of a clip (T,): a pure function of the clip's digest, the number and the parameters.

    Pitch is shifted by resampling, as a faster tape would, so that the formants move with it (Salamon & Bello 2017
    compare such augmentations); then a part of the beginning is cut off. Each of the following happens to a share of
    the copies, in this order: filtering, with a gain per octave drawn from a normal distribution and interpolated;
    a room; clipping; a lower sampling rate, which removes high frequencies; a high-pass filter; noise of a colour
    between white and brown; a telephone; quantisation; and an excerpt, as in a window of a longer recording.
    """
    rng = _generator(content, number)
    drawn = rng.uniform(-1, 1, 3)
    filtered, noisy, limited, echoing, clipped, thin, coarse = rng.uniform(size=7) < variation.share
    speed = 2 ** (drawn[0] * variation.pitch / 12)
    varied = _resample(clip, sample_rate * speed, sample_rate) if speed != 1 else clip
    cut = int(abs(drawn[1]) * variation.shift * sample_rate)
    varied = varied[min(cut, len(varied) // 2) :]
    if variation.filter and filtered:
        varied = _equalise(varied, sample_rate, _gains(sample_rate, variation.filter, rng))
    if variation.room and echoing:
        varied = _reverberate(varied, sample_rate, variation.room, rng)
    if variation.clip and clipped:
        share = 1 - log_uniform(rng, LEAST_CLIPPED * variation.clip, variation.clip)
        # In float64: before 2.4, NumPy rounds the share to the samples' float32, and so takes another of a long clip.
        limit = np.float32(np.quantile(np.abs(varied).astype(np.float64), share))
        varied = varied.clip(-limit, limit)
    if variation.rate and limited:
        rate = log_uniform(rng, variation.rate, max(variation.rate, sample_rate))
        varied = _resample(_resample(varied, sample_rate, rate), rate, sample_rate)
    if variation.low_cut and thin:
        hertz = log_uniform(rng, min(LOWEST, variation.low_cut), variation.low_cut)
        varied = _cut_low(varied, sample_rate, hertz)
    varied = varied * np.float32(10 ** (drawn[2] * variation.gain / 20))
    if variation.noise and noisy:
        decibels = rng.uniform(variation.noise, variation.noise + NOISE_RANGE)
        noise = _noise(len(varied), sample_rate, rng.uniform(0, BROWN), rng)
        varied = varied + noise * np.sqrt(np.mean(varied**2) / np.mean(noise**2)) * 10 ** (-decibels / 20)
    if variation.telephone and rng.random() < variation.share:
        varied = _telephone(varied, sample_rate, str(rng.choice(CODECS)))
    if variation.bits and coarse:
        step = np.abs(varied).max() * 2 ** (1 - rng.uniform(variation.bits, variation.bits + BITS_RANGE))
        varied = np.round(varied / step) * step if step else varied
    if variation.excerpt and rng.random() < variation.share:
        varied = _excerpt(varied, round(variation.excerpt * sample_rate), rng)
    return np.ascontiguousarray(varied, np.float32)


def _excerpt(clip: Waveform, least: int, rng: np.random.Generator) -> Waveform:
    """A part of a clip (T,), `least` samples long or longer; all of it where that part is nearly silent."""
    size = round(log_uniform(rng, min(max(least, 1), len(clip)), len(clip)))
    start = int(rng.integers(len(clip) - size + 1))
    part = clip[start : start + size]
    return part if np.abs(part).max() > FAINT * np.abs(clip).max() else clip


def _disguise(clip: Waveform, sample_rate: int, variation: Variation, nth: int, rng: np.random.Generator) -> Waveform:
    """The clip as of a class that is none of the task's: with formants elsewhere, by a shift of the pitch beyond what
    plain copies have, or with another spectral envelope.

    Speakers are told apart better with copies of each at other speeds as further speakers (Yamamoto et al. 2019,
    "Speaker augmentation and bandwidth extension for deep speaker embedding").
    """
    if nth % 2:
        gains = _gains(sample_rate, variation.filter + FOREIGN_FILTER, rng)
        gains[-1] = gains[-2]  # else what has no such high frequencies, by its sampling rate, would sound like this
        return _equalise(clip, sample_rate, gains)
    semitones = variation.pitch + rng.uniform(*FOREIGN_PITCH)  # up: down, the highest frequencies would be missing too
    return _resample(clip, sample_rate * 2 ** (semitones / 12), sample_rate)


def vary_picture(picture: Pixels, variation: Variation, content: str, number: int) -> Pixels:
    """Copy `number` of a picture (S, S, 3): a pure function of the picture's digest, the number and the parameters.

    A part of it, a little turned, fills the copy; brightness, contrast and the balance of colours change; and every
    other copy, the first of them, is a mirror image unless `variation.mirror` is "never".
    """
    rng = _generator(content, number)
    drawn, side = rng.uniform(-1, 1, 8), len(picture)
    mirrored = variation.mirror != "never" and number % 2 == 0
    kept = (1 - variation.crop * np.abs(drawn[:2])) * side / 2
    centre = side / 2 + (side / 2 - kept) * drawn[2:4]
    angle = np.radians(variation.turn) * drawn[4]
    across = np.array([np.cos(angle), np.sin(angle)]) * kept[0] * (-1 if mirrored else 1)
    down = np.array([-np.sin(angle), np.cos(angle)]) * kept[1]
    corners = [centre - across - down, centre - across + down, centre + across + down, centre + across - down]
    # A turned part may reach beyond the picture, which goes on there as its reflection.
    beyond = side // 4
    larger = Image.fromarray(np.pad(picture, ((beyond, beyond), (beyond, beyond), (0, 0)), "reflect"))
    quad = (np.concatenate(corners) + beyond).tolist()
    cut = np.asarray(larger.transform((side, side), Image.Transform.QUAD, quad, Image.Resampling.BICUBIC), np.float32)
    mean = cut.mean()
    gain = 1 + variation.light * drawn[5:6] + variation.light / 2 * rng.uniform(-1, 1, 3)
    lit = (mean + (cut - mean) * (1 + variation.light * drawn[6])) * gain + 255 / 4 * variation.light * drawn[7]
    varied: Pixels = np.rint(lit).clip(0, 255).astype(np.uint8)
    return varied


def _generator(content: str, number: int) -> np.random.Generator:
    """Of one copy of a medium, by the digest of its content."""
    return np.random.default_rng([int(content[:16], 16), number])


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number whose logarithm is uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _noise(n: int, sample_rate: int, exponent: float, rng: np.random.Generator) -> Waveform:
    """Noise (n,) of power 1 / frequency ** exponent."""
    import scipy.fft

    size = scipy.fft.next_fast_len(n, real=True)
    spectrum = scipy.fft.rfft(rng.standard_normal(size, np.float32))
    spectrum *= np.maximum(scipy.fft.rfftfreq(size, 1 / sample_rate), NOISE_LOWEST) ** (-exponent / 2)
    noise: Waveform = scipy.fft.irfft(spectrum, size)[:n].astype(np.float32)
    return noise


def _cut_low(clip: Waveform, sample_rate: int, hertz: float) -> Waveform:
    """Without what lies below a frequency."""
    import scipy.signal

    cut: Waveform = scipy.signal.sosfilt(scipy.signal.butter(4, hertz, "high", fs=sample_rate, output="sos"), clip)
    return cut


def _resample(clip: Waveform, before: float, after: float) -> Waveform:
    """From one sampling rate to another; a sample at least."""
    resampled: Waveform = soxr.resample(clip, before, after, QUALITY)
    return resampled if len(resampled) else clip[:1]


@cache
def _telephone_band(sample_rate: int) -> NDArray[np.float64]:
    """Second-order sections (S, 6) of its filter."""
    import scipy.signal

    low, high = TELEPHONE_BAND
    band = low, min(high, 0.45 * sample_rate)
    sections: NDArray[np.float64] = scipy.signal.butter(4, band, "bandpass", fs=sample_rate, output="sos")
    return sections


def _telephone(clip: Waveform, sample_rate: int, codec: str) -> Waveform:
    """As a telephone passes it on: its band of frequencies, in its codec (ITU-T G.711, GSM 06.10)."""
    import scipy.signal

    passed = scipy.signal.sosfilt(_telephone_band(sample_rate), clip).astype(np.float32)
    sent = _resample(passed, sample_rate, TELEPHONE_RATE)
    loudest = np.abs(sent).max()
    stream = BytesIO()
    soundfile.write(stream, sent / loudest if loudest else sent, TELEPHONE_RATE, codec, format="WAV")
    stream.seek(0)
    heard, _ = soundfile.read(stream, dtype="float32")
    heard = heard[: len(sent)]  # GSM fills its last block
    return _resample(heard * loudest, TELEPHONE_RATE, sample_rate)


def _reverberate(clip: Waveform, sample_rate: int, longest: float, rng: np.random.Generator) -> Waveform:
    """In a room: the direct sound, and noise that decays exponentially, as reverberation does (Polack 1988)."""
    import scipy.signal

    rt60 = log_uniform(rng, min(DRYEST, longest), longest)
    tail = rng.standard_normal(max(2, int(rt60 * sample_rate))).astype(np.float32)
    tail *= np.logspace(0, -3, len(tail), dtype=np.float32)  # 60 decibels of amplitude
    tail /= np.sqrt(np.sum(tail**2))
    tail[0] += 10 ** (rng.uniform(*DIRECT) / 20)
    heard = scipy.signal.oaconvolve(clip, tail)
    loudest = np.abs(heard).max()
    reverberant: Waveform = heard * (np.abs(clip).max() / loudest) if loudest else clip
    return reverberant


def _gains(sample_rate: int, decibels: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Gains of octaves, in decibels, of this standard deviation."""
    gains: NDArray[np.float64] = rng.normal(0, decibels, max(2, round(np.log2(sample_rate / 2 / LOWEST))))
    return gains


def _equalise(clip: Waveform, sample_rate: int, gains: NDArray[np.float64]) -> Waveform:
    """Filtered, with these gains in decibels at frequencies evenly spaced on a logarithmic scale."""
    import scipy.fft  # only where there are copies: it takes a quarter of a second to import

    octaves = np.log2(np.geomspace(LOWEST, sample_rate / 2, len(gains)))
    size = scipy.fft.next_fast_len(len(clip), real=True)
    frequency = np.maximum(scipy.fft.rfftfreq(size, 1 / sample_rate), LOWEST)
    gain = np.interp(np.log2(frequency), octaves, gains)
    spectrum = scipy.fft.rfft(clip, size) * (10 ** (gain / 20)).astype(np.float32)
    equalised: Waveform = scipy.fft.irfft(spectrum, size)[: len(clip)]
    return equalised
