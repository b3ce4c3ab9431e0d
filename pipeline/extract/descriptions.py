"""Descriptions: from the fingerprint of each sample the numbers by which its copies are looked for."""

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from pipeline.extract.fingerprints import RATE

RADIUS = 9  # of the Fourier coefficients of a picture, in cycles for its width
# Mean squared differences between copies on the rings of radius 1, 2, …, of 3,000 of MNIST's digits
DIFFERENCES = (0.001, 0.004, 0.009, 0.012, 0.023, 0.035, 0.062, 0.112, 0.185)
FADING = 0.25  # exponent of a Hann window: only the outermost pixels fade
TINY = 1e-6

FRAME = 512  # samples of a sound's fingerprint
BANDS = 32  # between LOW and HIGH, of equal ratio
LOW, HIGH = 100.0, 3_400.0  # Hz: what a telephone's bandwidth keeps
RANGE = 25.0  # dB below the strongest band, beneath which noise may differ


def spectrum(sounds: Tensor) -> Tensor:
    """Sounds (n, T) → dB of the power in BANDS, above a floor, float32 (n, BANDS); the level does not count.

    The loudest parts count the most, so that it does not matter much what was cut off.
    """
    frames = sounds.unfold(1, FRAME, FRAME // 2) * torch.hann_window(FRAME)
    power = torch.fft.rfft(frames).abs().square().sum(1)
    edges = np.unique(np.rint(np.geomspace(LOW, HIGH, BANDS + 1) * FRAME / RATE).astype(int))
    bands = torch.stack([power[:, a:b].sum(1) for a, b in pairwise(edges)], 1)
    decibels = 10 * torch.log10(bands.clamp(min=TINY))
    decibels = torch.maximum(decibels, decibels.amax(1, keepdim=True) - RANGE)
    level = decibels.mean(1, keepdim=True)
    return (decibels - level) / math.sqrt(decibels.shape[1])


def rings(symbols: Tensor, scale: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    """Symbols (n, H, W) → their Fourier coefficients up to RADIUS, as if their centres of mass were in one place, real
    and imaginary parts side by side, float32 (n, D).

    The coefficients on each ring are normalised, so that the squared distance is a weighted sum of one minus the
    Fourier ring correlation (Saxton & Baumeister 1982): blurring and other sizes do not change it. The rings' weights
    are the inverse of the deviations that copying makes.

    Parameters
    ----------
    scale : as if height and width were so many times larger
    """
    height, width = symbols.shape[1:]
    rows, columns = torch.arange(height).float(), torch.arange(width).float()
    mass = symbols.sum((1, 2)).clamp(min=TINY)
    centres = (symbols.sum(2) @ rows) / mass, (symbols.sum(1) @ columns) / mass
    down, across = torch.arange(RADIUS + 1.0), torch.arange(-RADIUS, RADIUS + 1.0)
    radius = torch.hypot(down[:, None], across[None]).round()
    down, across = down * scale[0], across * scale[1]
    left, right = _waves(rows / height, down), _waves(columns / width, across)
    shifts = (_waves(centres[0] / height, -down), _waves(centres[1] / width, -across))
    found = (left.T @ symbols.to(left.dtype) @ right) * shifts[0].unsqueeze(2) * shifts[1].unsqueeze(1)
    weights = torch.tensor(DIFFERENCES) ** -0.5
    parts = []
    for ring, weight in enumerate(weights / weights.sum(), 1):
        on = found[:, radius == ring]
        on = torch.cat([on.real, on.imag], 1)
        parts.append(on * weight.sqrt() / on.norm(dim=1, keepdim=True).clamp(min=TINY))
    return torch.cat(parts, 1)


def magnitudes(pictures: Tensor) -> Tensor:
    """Pictures (n, H, W) → the roots of the magnitudes of their Fourier coefficients up to RADIUS, of length 1, which a
    small shift hardly changes, float32 (n, D)."""
    height, width = pictures.shape[1:]
    window = torch.hann_window(height)[:, None] * torch.hann_window(width)
    around = pictures - (pictures * window).sum((1, 2), keepdim=True) / window.sum()
    down, across = torch.fft.fftfreq(height, 1 / height), torch.fft.rfftfreq(width, 1 / width)
    radius = torch.hypot(down[:, None], across[None])
    found: Tensor = torch.fft.rfft2(around * window).abs().sqrt()[:, (radius > 0) & (radius <= RADIUS)]
    unit: Tensor = found / found.norm(dim=1, keepdim=True).clamp(min=TINY)
    return unit


def framed(pictures: Tensor) -> Tensor:
    """Pictures (n, H, W) without their mean, faded out at the edges, which are in no copy of which some is cut off."""
    along = [torch.hann_window(n + 2, periodic=False)[1:-1] ** FADING for n in pictures.shape[1:]]
    faded: Tensor = (pictures - pictures.mean((1, 2), keepdim=True)) * torch.outer(*along)
    return faded


def _waves(places: Tensor, frequencies: Tensor) -> Tensor:
    """e^(-2πi p f), complex64 (places, frequencies)."""
    return torch.exp(-2j * torch.pi * torch.outer(places, frequencies))
