"""The front end of sound: mel-frequency cepstral coefficients (MFCC), pooled over a clip.

Caches of features are keyed by `models.FEATURES_VERSION`: raise it when the features of a clip change here or in
its steps: `padding`, `fourier`, `mel`, `views`, `pooling`.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models import views
from models.card import Input
from models.familiarity import Outliers
from models.feature_groups import Span
from models.fourier import PowerSpectrum
from models.mel import b_weighting, mel_filters, mel_frequencies
from models.padding import Ends
from models.pooling import FOLLOWED, FOLLOWED_WEIGHT, LEVELS, NAMES, ORDERS, STATISTICS, VIEW_STATISTICS, pool
from models.views import AVERAGES, TOP_DB, VALLEYS, VIEWS

AMIN = 1e-10  # lower bound of the mel power in the logarithm, as in librosa.power_to_db
BAND = 16  # mel filters applied together, to the bins that they cover
LOWEST = 30.0  # Hz: filters centred below it do not count in the level, since a constant offset leaks into the first
TINY = 1e-30  # amin for librosa: so small that only TOP_DB clips, at any level
SHOWN = 4  # seconds of a clip that a figure shows


class Mfcc(nn.Module):
    """Mel-frequency cepstral coefficients, pooled over the frames of a clip that are not silence.

    The coefficients are those of `librosa.feature.mfcc` (frames centred on a signal padded with zeros, periodic Hann
    window, power spectrum, Slaney's mel filters, 10 log10, orthonormal DCT-II). In training the discrete Fourier
    transform is torch's FFT; the exported graph has the matrix products of `PowerSpectrum` instead. A few neighbouring
    mel filters need only a small part of its bins, which are almost in order of frequency.

    With `fmin`, what nobody hears counts nowhere: constant offsets, and frequencies below it. Filters alone would not
    do, since zeros around such a signal make steps, which reach all filters: see `Ends`. And levels of frames are
    B-weighted (IEC 60651), as hearing is at a moderate loudness.

    The pooled values do not depend on the clip's level: decibels are relative to TOP_DB below the loudest point. Beside
    the coefficients of these decibels there are those of `views` that noise changes less, and of the long-term average
    spectrum.

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
    least_deviation = 0.0
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
        self.ends, self.spectrum = Ends(sample_rate, n_fft), PowerSpectrum(n_fft, hop_length)
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
            "of_band": of_band,
        }
        for name, constant in constants.items():  # computed in float64, used in float32; not saved with the weights
            self.register_buffer(name, constant.to(torch.float32), persistent=False)
        for name, indices in {"in_order": positions, "in_band": in_band}.items():
            self.register_buffer(name, indices, persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """float32 (N, T), T ≥ 1 → float32 (N, n_features); see `pool`.

        >>> Mfcc(sample_rate=8000, n_fft=256, hop_length=128, n_mels=20, n_mfcc=8)(torch.zeros(2, 8000)).shape
        torch.Size([2, 201])
        """
        mel, total = self.factorised_powers(audio) if torch.onnx.is_in_onnx_export() else self.powers(audio)
        level = self.level(mel)
        active = (level >= -self.silence_db).to(mel.dtype)
        others = views.envelope(mel, self.loudness), views.root(mel), views.subtracted(mel, active)
        of_others = [self.dct[: self.n_view] @ view for view in others]
        pooled = pool(self.dct @ views.plain(mel), level, active, of_others)
        average = views.averages(total, self.valley, self.in_band, self.of_band)
        return torch.cat([pooled, (average @ self.dct.T).flatten(1)], 1)

    def groups(self) -> list[Span]:
        """The coefficients by their statistics, the levels, the views, the cosines of the course in time, and the
        long-term average spectrum."""
        sizes = [(name, self.n_mfcc) for name in NAMES] + [("level", LEVELS)]
        sizes += [(name, VIEW_STATISTICS * self.n_view) for name in VIEWS]
        sizes += [(f"cosine {order}", min(FOLLOWED, self.n_mfcc)) for order in ORDERS]
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
            padded = self.ends.oracle(clip - clip[0])
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
            left, right = self.ends(audio)
            padded = torch.cat([left, audio, right[:, :after]], 1)
            return padded[:, 1:] - self.preemphasis * padded[:, :-1]
        if self.preemphasis:
            audio = audio - self.preemphasis * nn.functional.pad(audio, (1, -1))
        return nn.functional.pad(audio, (self.n_fft // 2, after))

    def coefficients(self, mel: Tensor) -> Tensor:
        """Mel power (N, n_mels, frames) → librosa's MFCC (N, n_mfcc, frames), which depend on the level.

        The DCT is taken of the decibels above the floor, and the floor is added to coefficient 0 afterwards: the sum of
        hundreds of equal negative decibels in float32 would have an error of 1e-3.
        """
        decibels = views.decibels(mel.clamp(min=AMIN))
        floor = decibels.amax((1, 2), keepdim=True) - TOP_DB
        return self.dct @ torch.relu(decibels - floor) + self.dct_of_one * floor

    def level(self, mel: Tensor) -> Tensor:
        """Mel power (N, n_mels, frames) → level of each frame before pre-emphasis, in decibels relative to the loudest,
        (N, 1, frames)."""
        power = (self.loudness @ mel).clamp(min=torch.finfo(torch.float32).tiny)
        relative = power / power.amax(2, keepdim=True)
        return views.decibels(relative.clamp(min=TINY))  # a subnormal quotient may count as 0


def _weights(n_mfcc: int, n_view: int, cepstral_decay: float) -> Tensor:
    of_coefficients = 1 / (1 + (torch.arange(n_mfcc) / (cepstral_decay or torch.inf)) ** 2)
    of_views = [weight * of_coefficients[:n_view].repeat(VIEW_STATISTICS) for weight in VIEWS.values()]
    of_cosines = FOLLOWED_WEIGHT * of_coefficients[:FOLLOWED].repeat(len(ORDERS))
    of_averages = of_coefficients.repeat(len(AVERAGES))
    return torch.cat([of_coefficients.repeat(STATISTICS), torch.ones(LEVELS), *of_views, of_cosines, of_averages])


def _loudness(sample_rate: int, n_mels: int, fmin: float, preemphasis: float) -> Tensor:
    """1 / |1 - α e^(-iω)|² at the centre of each filter, B-weighted; without fmin only 0 below LOWEST.
    (1, n_mels)"""
    hertz = mel_frequencies(n_mels + 2, fmin, sample_rate / 2)[1:-1]
    gain = 1 + preemphasis**2 - 2 * preemphasis * np.cos(2 * np.pi * hertz / sample_rate)
    weights = 10 ** (b_weighting(hertz) / 10) if fmin else hertz >= LOWEST
    return torch.from_numpy(weights / gain).view(1, -1)


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
