"""The front end of sound: mel-frequency cepstral coefficients (MFCC), pooled over a clip.

Caches of features are keyed by `models.FEATURES_VERSION`: raise it when the features of a clip change here.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.card import Input
from models.familiarity import Outliers
from models.fourier import PowerSpectrum
from models.mel import b_weighting, mel_filters, mel_frequencies
from models.spans import Span

AMIN = 1e-10  # lower bound of the mel power in the logarithm, as in librosa.power_to_db
TOP_DB = 80.0  # dB below the clip's maximum at which the log-mel spectrogram is clipped, as in librosa.power_to_db
BAND = 16  # mel filters applied together, to the bins that they cover
LOWEST = 30.0  # Hz: filters centred below it do not count in the level, since a constant offset leaks into the first
LOUD_DB = 20.0  # frames this far below the loudest hardly count in means and standard deviations
QUANTILES = (0.1, 0.5, 0.9)
LAGS = (1, 2, 4, 8, 16)  # distances in frames over which differences are features
SHARES_DB = (-10.0, -20.0, -40.0)  # levels above which the share of frames is a feature
NAMES = ("mean", "deviation", "loudest", *(f"quantile {q}" for q in QUANTILES), *(f"lag {n}" for n in LAGS), "course")
STATISTICS = len(NAMES)  # of each coefficient
LEVELS = 2 + len(SHARES_DB)  # features of the level
ENVELOPE_DB = 40.0  # dB below the loudest point, as it is heard: what is fainter is not in the envelope
ENVELOPE_BANDS = 7  # neighbouring mel bands, the loudest of which counts for the one in the middle
VIEWS = {"envelope": 1.0, "root": 0.5, "subtracted": 0.5}  # of the spectrum: how much their features count
VIEW_STATISTICS = 3  # of each of their coefficients, half as many as the others
ROOT = 0.25  # exponent of the power
ROOT_RANGE = 80.0  # the root of the clip's loudest point, so that it counts as much as decibels
ROOT_DB = 100.0  # below the loudest point: what is fainter may be rounding, which the root would lift
NOISE_FRAMES = 8  # over which the power of noise is averaged
NOISE_BANDS = 5  # neighbouring ones, the least power of which is that of noise: a steady partial is in fewer
NOISE_FACTOR = 2.0  # times the least of these averages is subtracted
SUBTRACTED_DB = 45.0  # below the loudest point: what is fainter after the subtraction does not count
AVERAGES = ("sums", "peaks")  # of the long-term average spectrum in each mel band
AVERAGE_DB = 60.0  # below the loudest band: what is fainter in that spectrum does not count
VALLEYS = 650.0  # Hz: the least power this near on either side, in a valley between partials, is that of noise
VALLEY_BINS = 3  # over which that power is averaged
VALLEY_FACTOR = 2.0  # times that power is subtracted
TINY = 1e-30  # amin for librosa: so small that only TOP_DB clips, at any level
END = 0.003  # seconds: the slope at an end of a clip is that between the means of its last two parts of this length
LEVELLING = 0.009  # seconds: time constant in which that slope levels off beyond the end
SHOWN = 4  # seconds of a clip that a figure shows


class Mfcc(nn.Module):
    """Mel-frequency cepstral coefficients, pooled over the frames of a clip that are not silence.

    The coefficients are those of `librosa.feature.mfcc` (frames centred on a signal padded with zeros, periodic Hann
    window, power spectrum, Slaney's mel filters, 10 log10, orthonormal DCT-II). In training the discrete Fourier
    transform is torch's FFT; the exported graph has the matrix products of `PowerSpectrum` instead. A few neighbouring
    mel filters need only a small part of its bins, which are almost in order of frequency.

    With `fmin`, what nobody hears counts nowhere: constant offsets, and frequencies below it. Filters alone would not
    do, since zeros around such a signal make steps, which reach all filters. So beyond its ends the clip goes on at
    its first and last value, with their slope, which levels off; and levels of frames are B-weighted (IEC 60651), as
    hearing is at a moderate loudness.

    The pooled values do not depend on the clip's level: decibels are relative to TOP_DB below the loudest point.

    Noise fills the valleys between partials, and the highest bands, and so changes all coefficients of the logarithm.
    So there are features of three other views of the spectrum too: of the upper envelope of its loudest bands, whose
    peaks noise does not reach; of its fourth root, where what is faint counts less (Lim 1979, "Spectral root
    homomorphic deconvolution system"); and of what is left without steady noise (Boll 1979, "Suppression of acoustic
    noise in speech using spectral subtraction"). In the average of all frames (Welch 1967), where noise is smooth, the
    partials of a tone stand out by far: so there are cepstra of this long-term average spectrum too, without the noise
    that is found in the valleys between partials.

    Parameters
    ----------
    sample_rate : Hz
    n_fft, hop_length : samples; n_fft a power of two that hop_length divides
    n_mels, n_mfcc : number of mel bands and of coefficients
    fmin : Hz, where the mel filters begin; 0 = librosa's own, and zeros around the clip
    silence_db : frames whose level is this far below the loudest frame's do not count
    preemphasis : α of the filter x[t] - α x[t - 1], which raises the faint high frequencies above the floor; 0 = off.
        Levels are measured before it, since it raises the noise around a sound more than the sound
    cepstral_decay : after standardisation, coefficient k is weighted by 1 / (1 + (k / cepstral_decay)²): a prior for
        smooth spectral envelopes, useful with few clips; 0 = equal weights. (librosa's `lifter` does the opposite: it
        raises high coefficients.)
    """

    one_unit = False
    scale: float | None = None
    outliers: Outliers | None = "noises"
    has_strengths = False
    exact_export = False  # the graph has products instead of the FFT
    oracle_constant: str | None = "dct"
    factorised_mel: Tensor  # (n_mels, bins of PowerSpectrum)
    window: Tensor  # (n_fft,)
    mel: Tensor  # (n_mels, n_fft/2 + 1)
    dct: Tensor
    dct_of_one: Tensor  # (n_mfcc, 1), the coefficients of a column of ones
    loudness: Tensor  # (1, n_mels), weight of each filter's power in the level
    end_fit: Tensor  # (K, 2)
    beyond: Tensor  # (2, 2, n_fft/2 + 1)
    in_order: Tensor  # int64 (n_fft/2 + 1,), where the factorised spectrum has the bins
    in_band: Tensor  # int64 (n_mels, W), the bins of each filter; W is the width of the widest
    of_band: Tensor  # (n_mels, W), the filter there

    def __init__(
        self,
        sample_rate: int = 22_050,
        n_fft: int = 2048,
        hop_length: int = 512,
        n_mels: int = 128,
        n_mfcc: int = 40,
        silence_db: float = 60.0,
        preemphasis: float = 0.0,
        cepstral_decay: float = 0.0,
        fmin: float = 0.0,
    ) -> None:
        super().__init__()
        self.input = Input(kind="audio", name="audio", dtype="float32", shape=(None, None), sample_rate=sample_rate)
        self.n_view = n_mfcc // 2  # coefficients of each view
        self.sample_rate, self.n_fft, self.hop_length = sample_rate, n_fft, hop_length
        self.n_mels, self.n_mfcc, self.silence_db = n_mels, n_mfcc, silence_db
        self.n_features = self.groups()[-1][2]
        self.preemphasis, self.fmin = preemphasis, fmin
        self.weights: Tensor | None = _weights(n_mfcc, self.n_view, cepstral_decay)
        self.spectrum = PowerSpectrum(n_fft, hop_length)
        mel = torch.from_numpy(mel_filters(sample_rate, n_fft, n_mels, fmin))
        positions = self.spectrum.positions()
        of_band, in_band = mel.topk(int((mel > 0).sum(1).max()))
        self.valley = min(round(VALLEYS * n_fft / sample_rate), n_fft // 2)
        factorised = mel.new_zeros(n_mels, self.spectrum.n_bins).index_copy(1, positions, mel)
        self.factorised_bands, self.bands = _bands(factorised), _bands(mel)
        constants = {
            "factorised_mel": factorised,
            "window": torch.hann_window(n_fft, periodic=True, dtype=torch.float64),
            "mel": mel,
            "dct": _dct(n_mfcc, n_mels),
            "dct_of_one": math.sqrt(n_mels) * (torch.arange(n_mfcc) == 0).to(torch.float64).view(-1, 1),
            "loudness": _loudness(sample_rate, n_mels, fmin, preemphasis),
            "end_fit": _end_fit(sample_rate),
            "beyond": _beyond(sample_rate, n_fft // 2 + 1),
            "of_band": of_band,
        }
        for name, constant in constants.items():  # computed in float64, used in float32; not saved with the weights
            self.register_buffer(name, constant.to(torch.float32), persistent=False)
        for name, indices in {"in_order": positions, "in_band": in_band}.items():
            self.register_buffer(name, indices, persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """float32 (N, T), T ≥ 1 → float32 (N, n_features); see `pool`.

        >>> Mfcc(sample_rate=8000, n_fft=256, hop_length=128, n_mels=20, n_mfcc=8)(torch.zeros(2, 8000)).shape
        torch.Size([2, 153])
        """
        mel, total = self.factorised_powers(audio) if torch.onnx.is_in_onnx_export() else self.powers(audio)
        level = self.level(mel)
        views = self.envelope(mel), self.root(mel), self.subtracted(mel, level)
        of_views = [self.dct[: self.n_view] @ view for view in views]
        pooled = pool(self.dct @ self.above_floor(mel), level, of_views, self.silence_db)
        return torch.cat([pooled, (self.averages(total) @ self.dct.T).flatten(1)], 1)

    def groups(self) -> list[Span]:
        """The coefficients by their statistics, the levels, the views, and the long-term average spectrum."""
        sizes = [(name, self.n_mfcc) for name in NAMES] + [("level", LEVELS)]
        sizes += [(name, VIEW_STATISTICS * self.n_view) for name in VIEWS]
        sizes += [(f"average {name}", self.n_mfcc) for name in AVERAGES]
        stops = np.cumsum([size for _, size in sizes]).tolist()
        return [(name, stop - size, stop) for (name, size), stop in zip(sizes, stops, strict=True)]

    def example(self) -> Tensor:
        return torch.zeros(2, 3 * self.n_fft)  # a clip only has to be longer than a frame

    def traced(self) -> Callable[[Tensor], Tensor]:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated; its successors run in Python or have to compile
            clip = torch.zeros(1, self.sample_rate)  # a second; clips may have any length
            traced: Callable[[Tensor], Tensor] = torch.jit.trace(self, clip, check_trace=False)  # type: ignore[no-untyped-call]
        return traced

    def oracle(self, media: NDArray[np.float32]) -> NDArray[np.float32]:
        """librosa's MFCC (n_mfcc, frames) of a clip float32 (T,), from its decibels above a floor TOP_DB below its
        maximum."""
        import librosa

        decibels = librosa.power_to_db(self.librosa_mel(media), ref=np.max, amin=TINY, top_db=TOP_DB) + TOP_DB
        coefficients: NDArray[np.float32] = librosa.feature.mfcc(S=decibels, n_mfcc=self.n_mfcc)
        return coefficients

    def librosa_mel(self, clip: NDArray[np.float32]) -> NDArray[np.float32]:
        """librosa's mel power spectrogram (n_mels, frames) of a clip float32 (T,), pre-emphasised and padded."""
        return self.librosa_bands(self.librosa_power(clip))

    def librosa_power(self, clip: NDArray[np.float32]) -> NDArray[np.float32]:
        """librosa's power spectrogram (n_fft/2 + 1, frames) of a clip float32 (T,), pre-emphasised and padded."""
        import librosa  # only here: it takes 150 MB, and a second

        half, alpha = self.n_fft // 2, np.float32(self.preemphasis)
        if self.fmin:
            padded = self._prolonged(clip - clip[0])
            emphasised = padded[1:] - alpha * padded[:-1]
        else:
            emphasised = np.pad(np.append(clip[:1], clip[1:] - alpha * clip[:-1]), half)
        spectrum = librosa.stft(emphasised, n_fft=self.n_fft, hop_length=self.hop_length, center=False)
        power: NDArray[np.float32] = np.abs(spectrum) ** 2
        return power

    def librosa_bands(self, power: NDArray[np.float32]) -> NDArray[np.float32]:
        """librosa's mel bands (n_mels, frames) of power spectra (n_fft/2 + 1, frames)."""
        import librosa

        mel: NDArray[np.float32] = librosa.feature.melspectrogram(
            S=power, sr=self.sample_rate, n_fft=self.n_fft, n_mels=self.n_mels, fmin=self.fmin
        )
        return mel

    def _prolonged(self, clip: NDArray[np.float32]) -> NDArray[np.float32]:
        """The clip (T,) with what `_ends` puts before and after it, in plain NumPy."""
        half, part = self.n_fft // 2, max(1, round(END * self.sample_rate))
        sides = []
        for inwards, samples in ((clip, half + 1), (clip[::-1], half)):
            near = np.pad(inwards[: 2 * part], (0, max(0, 2 * part - len(clip))), "edge").astype(np.float64)
            slope = (near[part:].mean() - near[:part].mean()) / part
            tau = LEVELLING * self.sample_rate
            sides.append(near[0] - slope * tau * (1 - np.exp(-np.arange(1, samples + 1) / tau)))
        return np.concatenate([sides[0][::-1], clip, sides[1]]).astype(np.float32)

    def inside(self, weights: Tensor, media: Sequence[NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """`mel_i`, dB below the loudest point (n_mels, frames), and `mfcc_i` (n_mfcc, frames), of the first seconds of
        the i-th clip float32 (T,)."""
        arrays: dict[str, NDArray[np.float32]] = {}
        for i, clip in enumerate(media):
            mel = self.mel_power(torch.from_numpy(clip[: SHOWN * self.sample_rate]).unsqueeze(0))
            decibels = 10 * torch.log10((mel / mel.max().clamp(min=1e-30)).clamp(min=10 ** (-TOP_DB / 10)))
            arrays |= {f"mel_{i}": decibels[0].numpy(), f"mfcc_{i}": self.coefficients(mel)[0].numpy()}
        return arrays

    def mfcc(self, audio: Tensor) -> Tensor:
        """float32 (N, T) → float32 (N, n_mfcc, frames), frames = 1 + T // hop_length."""
        return self.coefficients(self.mel_power(audio))

    def mel_power(self, audio: Tensor) -> Tensor:
        """float32 (N, T) → mel power spectrogram float32 (N, n_mels, frames)."""
        return self.powers(audio)[0]

    def powers(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """float32 (N, T) → mel power spectrogram float32 (N, n_mels, frames), and the power of each bin, the sum over
        all frames, float32 (N, n_fft/2 + 1)."""
        frames = self._padded(audio, self.n_fft // 2).unfold(1, self.n_fft, self.hop_length) * self.window
        spectrum = torch.fft.rfft(frames)
        power = spectrum.real.square() + spectrum.imag.square()
        bands = [power[..., bins] @ self.mel[filters, bins].T for filters, bins in self.bands]
        return torch.cat(bands, 2).transpose(1, 2), power.sum(1)

    def factorised_powers(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Like `powers` up to rounding, by a convolution and matrix products."""
        padded = self._padded(audio, self.n_fft // 2 - audio.shape[1] % self.hop_length)  # whole hops
        power = self.spectrum(padded)
        bands = [self.factorised_mel[filters, bins] @ power[:, bins] for filters, bins in self.factorised_bands]
        return torch.cat(bands, 1), power.sum(2)[:, self.in_order]

    def _padded(self, audio: Tensor, after: int) -> Tensor:
        """The signal, pre-emphasised and padded: half a frame before it, `after` samples after it."""
        if self.fmin:
            audio = audio - audio[:, :1]  # so that a constant is exactly silent
            left, right = self._ends(audio)
            padded = torch.cat([left, audio, right[:, :after]], 1)
            return padded[:, 1:] - self.preemphasis * padded[:, :-1]
        if self.preemphasis:
            audio = audio - self.preemphasis * nn.functional.pad(audio, (1, -1))
        return nn.functional.pad(audio, (self.n_fft // 2, after))

    def _ends(self, audio: Tensor) -> Tensor:
        """What goes before the signal (N, T), and what goes after it. (2, N, n_fft/2 + 1)"""
        inwards = torch.arange(len(self.end_fit)).clamp(max=audio.shape[1] - 1)
        ends = audio[:, torch.stack([inwards, audio.shape[1] - 1 - inwards])]  # (N, 2, K)
        return ends.transpose(0, 1) @ self.end_fit @ self.beyond

    def coefficients(self, mel: Tensor) -> Tensor:
        """Mel power (N, n_mels, frames) → librosa's MFCC (N, n_mfcc, frames), which depend on the level.

        The DCT is taken of the decibels above the floor, and the floor is added to coefficient 0 afterwards: the sum of
        hundreds of equal negative decibels in float32 would have an error of 1e-3.
        """
        decibels = _decibels(mel.clamp(min=AMIN))
        floor = decibels.amax((1, 2), keepdim=True) - TOP_DB
        return self.dct @ torch.relu(decibels - floor) + self.dct_of_one * floor

    def above_floor(self, mel: Tensor) -> Tensor:
        """Mel power (N, n_mels, frames) → decibels above a floor TOP_DB below the clip's maximum, at least 0."""
        return _above_floor(mel, TOP_DB)

    def envelope(self, mel: Tensor) -> Tensor:
        """Mel power (N, n_mels, frames) → upper envelope of the spectrum before pre-emphasis, (N, n_mels, frames): the
        loudest of ENVELOPE_BANDS neighbouring bands, in decibels above a floor ENVELOPE_DB below the clip's maximum."""
        decibels = _above_floor(mel * self.loudness.T, ENVELOPE_DB)
        reach = (ENVELOPE_BANDS // 2, 0)
        return nn.functional.max_pool2d(decibels.unsqueeze(1), (ENVELOPE_BANDS, 1), 1, reach).squeeze(1)

    def root(self, mel: Tensor) -> Tensor:
        """Mel power (N, n_mels, frames) → its fourth root, ROOT_RANGE at the clip's maximum, and that of
        ROOT_DB below it at least."""
        return ROOT_RANGE * (mel / _loudest(mel)).clamp(min=10 ** (-ROOT_DB / 10)) ** ROOT

    def subtracted(self, mel: Tensor, level: Tensor) -> Tensor:
        """Mel power (N, n_mels, frames), and level of each frame (N, 1, frames) → decibels of what is left without the
        steady noise, above a floor SUBTRACTED_DB below the maximum of it, (N, n_mels, frames).

        The noise is NOISE_FACTOR times the least power over NOISE_FRAMES frames that are not silence (minimum
        statistics; Martin 2001), in NOISE_BANDS neighbouring bands; none in a clip with fewer such frames.
        """
        active = (level >= -self.silence_db).to(mel.dtype)
        beyond = (0, NOISE_FRAMES - 1)
        power = nn.functional.avg_pool1d(nn.functional.pad(mel * active, beyond), NOISE_FRAMES, 1)
        whole = nn.functional.avg_pool1d(nn.functional.pad(active, beyond), NOISE_FRAMES, 1) == 1
        least = torch.where(whole.any(2), torch.where(whole, power, torch.inf).amin(2), 0.0).unsqueeze(1)
        noise = _least(least, NOISE_BANDS // 2).transpose(1, 2)
        return _above_floor(torch.relu(mel - NOISE_FACTOR * noise), SUBTRACTED_DB)

    def averages(self, total: Tensor) -> Tensor:
        """Power of each bin over all frames (N, n_fft/2 + 1) → of each mel band its sum, and its loudest bin, without
        the noise in the valleys between partials; in decibels above a floor AVERAGE_DB below the loudest band,
        (N, 2, n_mels)."""
        bins = total.unsqueeze(1)
        smooth = nn.functional.avg_pool1d(bins, VALLEY_BINS, 1, VALLEY_BINS // 2, count_include_pad=False)
        left = (
            torch.relu(bins - VALLEY_FACTOR * _least(smooth, self.valley))[:, :, self.in_band] * self.of_band
        )  # (N, 1, n_mels, W)
        return torch.cat([_above_floor(band, AVERAGE_DB) for band in (left.sum(3), left.amax(3))], 1)

    def level(self, mel: Tensor) -> Tensor:
        """Mel power (N, n_mels, frames) → level of each frame before pre-emphasis, in decibels relative to the loudest,
        (N, 1, frames)."""
        power = (self.loudness @ mel).clamp(min=torch.finfo(torch.float32).tiny)
        return _decibels((power / power.amax(2, keepdim=True)).clamp(min=TINY))  # a subnormal quotient may count as 0


def pool(values: Tensor, level: Tensor, views: Sequence[Tensor], silence_db: float) -> Tensor:
    """Statistics of each coefficient over the frames that are not silence, of their level, and of the views'
    coefficients.

    values float32 (N, M, frames); level (N, 1, frames), in decibels relative to the loudest frame; V views, each
    (N, E, frames); frames at -silence_db or above count. → float32 (N, STATISTICS · M + LEVELS + VIEW_STATISTICS · V ·
    E):

    - mean and standard deviation, weighted by how far a frame's level is above -LOUD_DB
    - value in the loudest frame
    - QUANTILES, with linear interpolation between neighbouring values
    - root mean square of the difference between frames LAGS apart (the structure function; Kolmogorov 1941)
    - mean of the first third of the frames minus that of the last third
    - of the level: mean, standard deviation, and the shares of frames above SHARES_DB
    - of each view: mean and standard deviation, weighted as above, and value in the loudest frame
    """
    active = (level >= -silence_db).to(values.dtype)
    n = active.sum(-1, keepdim=True)  # ≥ 1: the loudest frame counts
    weights, loudest = active * (torch.relu(level + LOUD_DB) / LOUD_DB + 1e-3), level.argmax(2, keepdim=True)
    rank, third = active.cumsum(-1), (n / 3).floor().clamp(min=1)
    course = active * ((rank <= third).to(values.dtype) - (rank > n - third).to(values.dtype))
    above = active * (level > torch.tensor(SHARES_DB).view(-1, 1))
    statistics = [
        *_moments(values, weights),
        values.gather(2, loudest.expand(-1, values.shape[1], -1)),
        _quantiles(values, active, n),
        _structure(values, active),
        values @ course.transpose(1, 2) / third,
        *_moments(level, active),
        above.sum(-1, keepdim=True) / n,
    ]
    for view in views:
        statistics += [*_moments(view, weights), view.gather(2, loudest.expand(-1, view.shape[1], -1))]
    return torch.cat(statistics, 1).squeeze(-1)


def _moments(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """(N, M, frames), (N, 1, frames) → mean and standard deviation, (N, M, 1)."""
    total = weights.sum(-1, keepdim=True)
    mean = values @ weights.transpose(1, 2) / total
    centred = values - mean
    return mean, torch.sqrt((centred * centred) @ weights.transpose(1, 2) / total)


def _quantiles(values: Tensor, active: Tensor, n: Tensor) -> Tensor:
    """The quantiles of all coefficients, quantile by quantile, (N, quantiles · M, 1)."""
    ordered = torch.where(active > 0, values, 1e9).sort(-1).values  # silence goes to the end
    position = (n - 1) * torch.tensor(QUANTILES)
    lower, upper = (p.expand(-1, values.shape[1], -1) for p in (position.floor(), position.ceil()))
    low, high = (ordered.gather(2, p.to(torch.int64)) for p in (lower, upper))
    return (low + (position - lower) * (high - low)).transpose(1, 2).flatten(1).unsqueeze(-1)


def _structure(values: Tensor, active: Tensor) -> Tensor:
    """The structure function of all coefficients, lag by lag, (N, lags · M, 1)."""
    frames = values.shape[-1]
    padded = (nn.functional.pad(x, (0, LAGS[-1])).unsqueeze(1) for x in (values, active))
    later, both = (torch.cat([x[..., lag : lag + frames] for lag in LAGS], 1) for x in padded)
    change, both = later - values.unsqueeze(1), both * active.unsqueeze(1)
    return torch.sqrt((change * change) @ both.transpose(2, 3) / both.sum(-1, keepdim=True).clamp(min=1)).flatten(1, 2)


def _least(power: Tensor, reach: int) -> Tensor:
    """The least power of the bands, or bins, up to `reach` away on either side. (N, 1, M) → (N, 1, M)"""
    return -nn.functional.max_pool1d(-power, 2 * reach + 1, 1, reach)


def _above_floor(power: Tensor, depth: float) -> Tensor:
    """Power (N, n_mels, frames) → decibels above a floor `depth` below the clip's maximum, at least 0."""
    return _decibels((power / _loudest(power)).clamp(min=10 ** (-depth / 10))) + depth


def _loudest(power: Tensor) -> Tensor:
    """The clip's maximum of the power (N, n_mels, frames), not 0. (N, 1, 1)"""
    return power.amax((1, 2), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)


def _decibels(power: Tensor) -> Tensor:
    return 10 / math.log(10) * torch.log(power)


def _weights(n_mfcc: int, n_view: int, cepstral_decay: float) -> Tensor:
    of_coefficients = 1 / (1 + (torch.arange(n_mfcc) / (cepstral_decay or torch.inf)) ** 2)
    of_views = [weight * of_coefficients[:n_view].repeat(VIEW_STATISTICS) for weight in VIEWS.values()]
    of_averages = of_coefficients.repeat(len(AVERAGES))
    return torch.cat([of_coefficients.repeat(STATISTICS), torch.ones(LEVELS), *of_views, of_averages])


def _loudness(sample_rate: int, n_mels: int, fmin: float, preemphasis: float) -> Tensor:
    """1 / |1 - α e^(-iω)|² at the centre of each filter, B-weighted; without fmin only 0 below LOWEST.
    (1, n_mels)"""
    hertz = mel_frequencies(n_mels + 2, fmin, sample_rate / 2)[1:-1]
    gain = 1 + preemphasis**2 - 2 * preemphasis * np.cos(2 * np.pi * hertz / sample_rate)
    weights = 10 ** (b_weighting(hertz) / 10) if fmin else hertz >= LOWEST
    return torch.from_numpy(weights / gain).view(1, -1)


def _end_fit(sample_rate: int) -> Tensor:
    """From the samples at an end of a clip, inwards, to its value and the slope. (K, 2)"""
    part = max(1, round(END * sample_rate))
    value = nn.functional.one_hot(torch.tensor(0), 2 * part).double()
    slope = torch.cat([torch.full((part,), -1.0), torch.full((part,), 1.0)]).double() / part**2
    return torch.stack([value, slope], 1)


def _beyond(sample_rate: int, samples: int) -> Tensor:
    """From value and slope to the samples beyond each of a clip's ends, those before it in the order of time.
    (2, 2, samples)"""
    tau = LEVELLING * sample_rate
    away = torch.arange(1, samples + 1).double()
    after = torch.stack([torch.ones_like(away), tau * torch.expm1(-away / tau)])
    return torch.stack([after.flip(1), after])


def _bands(mel: Tensor) -> list[tuple[slice, slice]]:
    """Groups of BAND neighbouring filters, each with the range of columns of `mel` that it covers."""
    bands = []
    for filters in torch.split(torch.arange(len(mel)), BAND):
        covered = mel[filters].any(0).nonzero()
        first, last = (int(covered.min()), int(covered.max())) if len(covered) else (0, 0)
        bands.append((slice(int(filters[0]), int(filters[-1]) + 1), slice(first, last + 1)))
    return bands


def _dct(n_mfcc: int, n_mels: int) -> Tensor:
    """Orthonormal DCT-II, its first n_mfcc rows. (n_mfcc, n_mels)"""
    k = torch.arange(n_mfcc, dtype=torch.float64).view(-1, 1)
    m = torch.arange(n_mels, dtype=torch.float64)
    matrix = torch.cos(torch.pi * k * (2 * m + 1) / (2 * n_mels)) * math.sqrt(2 / n_mels)
    matrix[0] /= math.sqrt(2)
    return matrix
