"""Whether a recording holds anything that can be heard. Constant offsets and frequencies below hearing do not count."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SILENCE = 1e-4  # amplitude: -80 dB relative to full scale
CODED_SILENCE = {  # amplitude up to which such a coding's own noise reaches in silence, resampled
    "PCM_S8": 1e-2, "PCM_U8": 1e-2, "ALAW": 6e-4, "ULAW": 4e-4, "GSM610": 9e-4,
    "NMS_ADPCM_16": 6e-4, "NMS_ADPCM_24": 6e-4, "NMS_ADPCM_32": 6e-4,
}  # fmt: skip
INAUDIBLE = 20.0  # Hz: nothing up to it counts
STRIDE = 8  # samples between those that are compared
LOOKED_AT = 2**16  # samples that are compared at once
PIECE = 2  # seconds whose frequencies are looked at together
EDGE = 0.03  # seconds at either end in which resampling rings where a tone was cut
RINGING = 0.01  # seconds at either end of a part that say nothing: resampling rings so far beyond a loud sound's cut
EXTENSION = 1.5  # period of what is fitted to them, as a multiple of their length
FITTED = 400  # samples a second that it is fitted to


def is_silent(waveform: NDArray[np.float32], sample_rate: int, coding: str = "") -> bool:
    """Whether nothing in a recording (T,) at `sample_rate` Hz can be heard, in a file of libsndfile's subtype `coding`.

    Nearly every recording is decided by its amplitude and by how much samples differ that are STRIDE apart: at most
    2π · 20 a · STRIDE / sample_rate at an amplitude a and up to 20 Hz (Bernstein's inequality). Only where they hardly
    differ by more are the frequencies looked at.

    >>> t = np.arange(22_050, dtype=np.float32) / 22_050
    >>> is_silent(0.1 + 0.1 * np.sin(2 * np.pi * 15 * t), 22_050), is_silent(0.001 * np.sin(2 * np.pi * 60 * t), 22_050)
    (True, False)
    """
    least = max(SILENCE, CODED_SILENCE.get(coding, 0))
    amplitude = float(_swing(waveform))
    if not amplitude >= least:
        return True
    enough = 2 * max(least, 2 * np.pi * INAUDIBLE * STRIDE / sample_rate * amplitude)
    parts = range(0, len(waveform), LOOKED_AT)  # of a long recording, the beginning mostly decides
    if any(_step(waveform[i : i + LOOKED_AT + 1]) >= enough for i in parts):
        return False
    edge = min(round(EDGE * sample_rate), len(waveform) // 3)
    waveform = waveform[edge : len(waveform) - edge]
    size = min(len(waveform), PIECE * sample_rate)
    matrix, fit = _inaudible(size, sample_rate)
    starts = [*range(0, len(waveform) - size, size), len(waveform) - size]
    pieces = (waveform[start : start + size].astype(np.float64) for start in starts)
    return all(np.abs(piece - matrix @ (fit @ piece[:: _stride(sample_rate)])).max() < least for piece in pieces)


def is_part_silent(part: NDArray[np.float32], sample_rate: int) -> bool:
    """Whether a part of a longer recording is silent but for RINGING at either end."""
    ringing = round(RINGING * sample_rate)
    return is_silent(part[ringing:-ringing], sample_rate)


@lru_cache(2)  # the windows of a timeline have one length, but for the last
def _inaudible(size: int, sample_rate: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Matrices that find what comes closest to a piece (size,) among all that nobody hears: (size, F), oscillations
    up to INAUDIBLE Hz, and (F, n), their least-squares amplitudes by some of the samples. They are harmonics of
    a longer period, so that the piece may begin and end anywhere in a cycle (Huybrechs 2010, Fourier extensions)."""
    seconds = np.arange(size)[:, None] / sample_rate
    period = EXTENSION * size / sample_rate
    phases = 2 * np.pi * seconds * (np.arange(4 + int(INAUDIBLE * period)) / period)
    matrix = np.concatenate([np.cos(phases), np.sin(phases)], axis=1)
    return matrix, np.linalg.pinv(matrix[:: _stride(sample_rate)], rcond=1e-8)


def give_back() -> None:
    """Free what is kept for further recordings, up to 100 MB."""
    _inaudible.cache_clear()


def _stride(sample_rate: int) -> int:
    return max(1, sample_rate // FITTED)


def _step(waveform: NDArray[np.float32]) -> float:
    """How much samples differ, at most, that are STRIDE apart."""
    return float(np.abs(np.diff(waveform[::STRIDE])).max(initial=0))


def _swing(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 (…, T) → (…), half of the range of the values: the amplitude around a constant offset.

    >>> float(_swing(np.float32([0.25, 0.75])))
    0.25
    """
    half: NDArray[np.float32] = np.float32(0.5) * (waveform.max(axis=-1) - waveform.min(axis=-1))
    return half
