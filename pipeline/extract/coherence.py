"""How far two signals, sounds or pictures, are one signal shifted: the peak of their weighted cross-correlation.

Two recordings of one note have like spectra, but the phases of their waves have nothing to do with each other; those of
a copy agree, whatever encoder, level, noise or shift lies between. Cross-correlation with flattened spectra is
Kuglin & Hines' phase correlation (1975) and Knapp & Carter's generalised cross-correlation (1976).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

FLATTENED = 0.25  # exponent: 0 keeps the spectra, 1 makes them flat, when noise counts as much as the signal


class Match(NamedTuple):
    """How pairs of signals match, where they match best.

    score : (N,), 0 … 1, of the parts that overlap
    overlap : (N,), share of the smaller signal
    """

    score: Tensor
    overlap: Tensor


def match(a: Tensor, b: Tensor, band: tuple[float, float]) -> Match:
    """Pairs of signals, float32 (N, T) or (N, H, W), zero beyond their ends.

    The shift that matches best is found first, then what the signals have in common there is compared: the beginning of
    a sound, or the edge of a picture, may have been cut off in one of them.

    Parameters
    ----------
    band : lowest and highest frequency that counts, in cycles for each sample

    Example
    -------
    >>> noise = torch.randn(1, 400, generator=torch.Generator().manual_seed(0))
    >>> found = match(noise, torch.nn.functional.pad(noise[:, 100:], (0, 100)), (0.01, 0.4))
    >>> round(float(found.score), 2), round(float(found.overlap), 2)
    (1.0, 1.0)
    """
    _, shift = _peak(a, b, band)
    overlap = torch.ones(len(a))
    for axis, by in enumerate(shift.T, 1):
        a, b, share = _common(a, b, axis, by)
        overlap *= share
    return Match(_peak(a, b, band)[0], overlap)


def repeated(a: Tensor, band: tuple[float, float]) -> Tensor:
    """How far signals, float32 (N, T), repeat themselves: the score (N,) of the first half against the second.

    Example
    -------
    >>> hum, click = torch.sin(torch.arange(400) / 3), torch.eye(400)[50]
    >>> repeated(torch.stack([hum, click]), (0.01, 0.4)).round().tolist()
    [1.0, 0.0]
    """
    half = a.shape[1] // 2
    return match(a[:, :half], a[:, half : 2 * half], band).score


def _peak(a: Tensor, b: Tensor, band: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Height (N,) of the peak of the weighted cross-correlation, and the shift (N, axes) of a against b in samples.

    The magnitude of the analytic signal has its peak within a sample of the true shift, whatever fraction that has. It
    is as high where one is the negative of the other: a sound is then the same, with a wire swapped, but a picture is
    not, and has a height of 0.
    """
    sizes = [2 * n for n in a.shape[1:]]
    axes = tuple(range(1, a.ndim))
    keep = _kept(sizes, band)
    of_a, of_b = (_flattened(torch.fft.rfftn(x, sizes, axes)) * keep for x in (a, b))
    cross = torch.nn.functional.pad(of_a * of_b.conj(), (0, sizes[-1] - keep.shape[-1]))  # only half: analytic
    found = torch.fft.ifftn(cross, dim=axes).flatten(1)
    highest, place = _power(found).max(1)
    if len(sizes) == 2:
        highest = highest * (found.real.gather(1, place[:, None])[:, 0] > 0)
    energy = _power(of_a).flatten(1).sum(1) * _power(of_b).flatten(1).sum(1)
    shift = torch.stack(torch.unravel_index(place, tuple(sizes)), 1)
    size = torch.tensor(sizes)
    height = highest.sqrt() * math.prod(sizes)
    return height / energy.sqrt().clamp(min=1e-9), torch.where(shift >= size // 2, shift - size, shift)


def _kept(sizes: list[int], band: tuple[float, float]) -> Tensor:
    """Which frequencies of a half spectrum count."""
    along = [torch.fft.fftfreq(n) for n in sizes[:-1]] + [torch.fft.rfftfreq(sizes[-1])]
    radius = torch.stack(torch.meshgrid(*along, indexing="ij")).square().sum(0).sqrt()
    return (radius >= band[0]) & (radius <= band[1])


def _flattened(spectrum: Tensor) -> Tensor:
    return spectrum * _power(spectrum).clamp(min=1e-12).pow(-FLATTENED / 2)


def _power(spectrum: Tensor) -> Tensor:
    """The squared magnitudes, in a quarter of the time that `abs` takes, which guards against overflow."""
    return spectrum.real.square() + spectrum.imag.square()


def _common(a: Tensor, b: Tensor, axis: int, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What both have in common along an axis, if a is shifted by so many samples (N,) against b; and its share of the
    shorter one."""
    (first_a, last_a), (first_b, last_b) = _extent(a, axis), _extent(b, axis)
    first, last = torch.maximum(first_a, first_b + shift), torch.minimum(last_a, last_b + shift)
    at = torch.arange(a.shape[axis])
    form = [len(a)] + [1] * (a.ndim - 1)
    form[axis] = -1
    kept_a, kept_b = ((at >= (first - by)[:, None]) & (at <= (last - by)[:, None]) for by in (0 * shift, shift))
    share = (last - first + 1).clamp(min=0) / (torch.minimum(last_a - first_a, last_b - first_b) + 1).clamp(min=1)
    return a * kept_a.view(form), b * kept_b.view(form), share


def _extent(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """First and last index (N,) along an axis at which anything is not 0."""
    others = [k for k in range(1, x.ndim) if k != axis]
    inside = (x != 0).any(others[0]) if others else x != 0
    return inside.int().argmax(1), x.shape[axis] - 1 - inside.flip(1).int().argmax(1)
