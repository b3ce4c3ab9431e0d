"""Near duplicates: samples of which one was made from the other, re-encoded, resampled, trimmed, resized, shifted.

Candidates are the nearest neighbours of descriptions that hardly change in a copy. Sounds and pictures in colour are
then compared by the phases of their fingerprints (`coherence.py`). Symbols, of which two may be nearly alike and yet no
copies, must be much nearer to each other than to the rest.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.card import Input
from pipeline.extract import fingerprints
from pipeline.extract.coherence import match
from pipeline.extract.fingerprints import RATE
from pipeline.extract.neighbours import nearest, principal

NEIGHBOURS = 5  # of each sample that may be copies of it
BLOCK = 1_024  # fingerprints that are described at a time
COMPARED = 64  # pairs whose fingerprints are compared at a time

RADIUS = 9  # of the Fourier coefficients of a symbol, in cycles for its width
# Mean squared differences between copies on the rings of radius 1, 2, …, of 3,000 of MNIST's digits
DIFFERENCES = (0.001, 0.004, 0.009, 0.012, 0.023, 0.035, 0.062, 0.112, 0.185)
TINY = 1e-6

FRAME = 512  # samples of a sound's fingerprint
BANDS = 32  # between LOW and HIGH, of equal ratio
LOW, HIGH = 100.0, 3_400.0  # Hz: what a telephone's bandwidth keeps
RANGE = 25.0  # dB below the strongest band, beneath which noise may differ

Pairs = NDArray[np.int64]  # (M, 2), the smaller index first, in order
Read = Callable[[NDArray[np.int64]], NDArray[np.int8]]  # indices (n,) → fingerprints (n, P)


@dataclass(frozen=True, slots=True)
class Medium:
    """How copies are recognised among the fingerprints of one kind of media.

    describe : fingerprints as signals, float32 (n, *shape) → float32 (n, D), which hardly changes in a copy
    reach : the largest distance of a copy
    ratio : of the distance to the farthest of NEIGHBOURS, the most that a copy may have; 1 = whatever the others
    band : frequencies, in cycles for each sample, whose phases are compared; None: distances are enough
    alike : the least coherence of a copy
    overlap : the least share of the smaller signal that both have in common
    """

    describe: Callable[[Tensor], Tensor]
    reach: float
    ratio: float = 1.0
    band: tuple[float, float] | None = None
    alike: float = 0.0
    overlap: float = 0.0


def find(form: Input, n: int, read: Read) -> Pairs:
    """The pairs of near duplicates among n samples, whose fingerprints `read` gives.

    The result does not depend on the number of threads, and is found in time that grows with n² only in one product of
    matrices: a minute for 100,000 samples.
    """
    shape = fingerprints.shape(form)
    if n < 2 or not shape[0]:
        return np.empty((0, 2), np.int64)
    medium = _medium(form)

    def signals(rows: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(read(rows)).float().view(-1, *shape)

    blocks = np.split(np.arange(n), range(BLOCK, n, BLOCK))
    points = torch.cat([medium.describe(signals(rows)) for rows in blocks])
    found = _near(points, medium)
    if medium.band is None or not len(found):
        return found
    return np.concatenate(list(_coherent(found, signals, medium)))


def _near(points: Tensor, medium: Medium) -> Pairs:
    """Pairs of points of which one is among the nearest neighbours of the other, within reach."""
    k = min(NEIGHBOURS, len(points) - 1)
    index, _ = nearest(principal(points.numpy()), k)
    first = np.repeat(np.arange(len(points)), k)
    distance = torch.cat(
        [
            (points[rows].unsqueeze(1) - points[torch.from_numpy(index[rows])]).square().sum(2).sqrt()
            for rows in torch.arange(len(points)).split(BLOCK)
        ]
    ).numpy()  # in all dimensions
    widest = distance.max(1) if k == NEIGHBOURS else np.full(len(points), np.inf)
    near = distance.reshape(-1)
    most = np.minimum(medium.reach, medium.ratio * np.minimum(widest[first], widest[index.reshape(-1)]))
    pairs = np.sort(np.stack([first, index.reshape(-1)], 1)[near <= most], 1)
    return np.unique(pairs, axis=0)


@torch.inference_mode()
def _coherent(pairs: Pairs, signals: Callable[[NDArray[np.int64]], Tensor], medium: Medium) -> Iterator[Pairs]:
    """The pairs whose fingerprints are one signal, perhaps shifted."""
    assert medium.band is not None
    for part in np.split(pairs, range(COMPARED, len(pairs), COMPARED)):
        found = match(signals(part[:, 0]), signals(part[:, 1]), medium.band)
        yield part[((found.score >= medium.alike) & (found.overlap >= medium.overlap)).numpy()]


def _medium(form: Input) -> Medium:
    if form.sample_rate is not None:
        return SOUND
    return PICTURE if len(form.shape) == 4 else SYMBOL


@torch.inference_mode()
def spectrum(sounds: Tensor) -> Tensor:
    """Sounds (n, T) → dB of the power in BANDS, above a floor, float32 (n, BANDS); the level does not count.

    The loudest parts count the most, so that it does not matter much what was cut off.
    """
    frames = sounds.unfold(1, FRAME, FRAME // 2) * torch.hann_window(FRAME)
    power = torch.fft.rfft(frames).abs().square().sum(1)
    edges = np.unique(np.rint(np.geomspace(LOW, HIGH, BANDS + 1) * FRAME / RATE).astype(int))
    bands = torch.stack([power[:, a:b].sum(1) for a, b in itertools.pairwise(edges)], 1)
    decibels = 10 * torch.log10(bands.clamp(min=TINY))
    decibels = torch.maximum(decibels, decibels.amax(1, keepdim=True) - RANGE)
    return (decibels - decibels.mean(1, keepdim=True)) / decibels.shape[1] ** 0.5


@torch.inference_mode()
def rings(symbols: Tensor) -> Tensor:
    """Symbols (n, H, W) → their Fourier coefficients up to RADIUS, as if their centres of mass were in one place, real
    and imaginary parts side by side, float32 (n, D).

    The coefficients on each ring are normalised, so that the squared distance is a weighted sum of one minus the
    Fourier ring correlation (Saxton & Baumeister 1982): blurring and other sizes do not change it. The rings' weights
    are the inverse of the deviations that copying makes.
    """
    height, width = symbols.shape[1:]
    rows, columns = torch.arange(height).float(), torch.arange(width).float()
    mass = symbols.sum((1, 2)).clamp(min=TINY)
    centres = (symbols.sum(2) @ rows) / mass, (symbols.sum(1) @ columns) / mass
    down, across = torch.arange(RADIUS + 1.0), torch.arange(-RADIUS, RADIUS + 1.0)
    left, right = _waves(rows / height, down), _waves(columns / width, across)
    shifts = (_waves(centres[0] / height, -down), _waves(centres[1] / width, -across))
    found = (left.T @ symbols.to(left.dtype) @ right) * shifts[0].unsqueeze(2) * shifts[1].unsqueeze(1)
    radius = torch.hypot(down[:, None], across[None]).round()
    weights = torch.tensor(DIFFERENCES) ** -0.5
    parts = []
    for ring, weight in enumerate(weights / weights.sum(), 1):
        on = found[:, radius == ring]
        on = torch.cat([on.real, on.imag], 1)
        parts.append(on * weight.sqrt() / on.norm(dim=1, keepdim=True).clamp(min=TINY))
    return torch.cat(parts, 1)


@torch.inference_mode()
def magnitudes(pictures: Tensor) -> Tensor:
    """Pictures (n, H, W) → the roots of the magnitudes of their Fourier coefficients up to RADIUS, of length 1, which a
    small shift hardly changes, float32 (n, D)."""
    height, width = pictures.shape[1:]
    window = torch.hann_window(height)[:, None] * torch.hann_window(width)
    around = pictures - (pictures * window).sum((1, 2), keepdim=True) / window.sum()
    down, across = torch.fft.fftfreq(height, 1 / height), torch.fft.rfftfreq(width, 1 / width)
    radius = torch.hypot(down[:, None], across[None])
    found = torch.fft.rfft2(around * window).abs().sqrt()[:, (radius > 0) & (radius <= RADIUS)]
    return found / found.norm(dim=1, keepdim=True).clamp(min=TINY)


def _waves(places: Tensor, frequencies: Tensor) -> Tensor:
    """e^(-2πi p f), complex64 (places, frequencies)."""
    return torch.exp(-2j * torch.pi * torch.outer(places, frequencies))


SOUND = Medium(spectrum, reach=1.5, band=(60 / RATE, 3_500 / RATE), alike=0.85, overlap=0.4)
SYMBOL = Medium(rings, reach=0.3, ratio=0.45)
PICTURE = Medium(magnitudes, reach=0.3, band=(0.03, 0.3), alike=0.85, overlap=0.6)
