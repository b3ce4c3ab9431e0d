"""Whether a recording holds anything that can be heard. Constant offsets and frequencies below hearing do not count."""

import numpy as np
from numpy.typing import NDArray

SILENCE = 1e-4  # amplitude: -80 dB relative to full scale
CODED_SILENCE = {  # amplitude up to which such a coding's own noise reaches in silence, resampled
    "PCM_S8": 1e-2, "PCM_U8": 1e-2, "ALAW": 6e-4, "ULAW": 4e-4, "GSM610": 9e-4,
    "NMS_ADPCM_16": 6e-4, "NMS_ADPCM_24": 6e-4, "NMS_ADPCM_32": 6e-4,
}  # fmt: skip
INAUDIBLE, HEARD = 20.0, 40.0  # Hz: nothing up to the one counts, all from the other on
STRIDE = 8  # samples between those that are compared
PIECE = 10  # seconds whose frequencies are looked at together
EDGE = 0.25  # seconds at either end in which the filter's own step is seen


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
    amplitude = float(swing(waveform))
    if not amplitude >= least:
        return True
    step = float(np.abs(np.diff(waveform[::STRIDE])).max(initial=0))
    if step >= 2 * max(least, 2 * np.pi * INAUDIBLE * STRIDE / sample_rate * amplitude):
        return False
    pieces = np.array_split(waveform, 1 + len(waveform) // (PIECE * sample_rate))
    return all(_hardly_heard(piece, sample_rate, least, 0.75 * amplitude) for piece in pieces)


def _hardly_heard(piece: NDArray[np.float32], sample_rate: int, least: float, at_edges: float) -> bool:
    heard = np.abs(_heard(piece, sample_rate))
    edge = min(round(EDGE * sample_rate), len(heard) // 3)
    return bool(heard[edge : len(heard) - edge].max() < least and heard.max() < max(least, at_edges))


def swing(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 (…, T) → (…), half of the range of the values: the amplitude around a constant offset.

    >>> float(swing(np.float32([0.25, 0.75])))
    0.25
    """
    half: NDArray[np.float32] = np.float32(0.5) * (waveform.max(axis=-1) - waveform.min(axis=-1))
    return half


def _heard(waveform: NDArray[np.float32], sample_rate: int) -> NDArray[np.float32]:
    """The waveform (T,) without what nobody hears; mirrored at its end, so that it does not step."""
    mirrored = np.concatenate([waveform, waveform[::-1]])
    hertz = np.fft.rfftfreq(len(mirrored), 1 / sample_rate)
    passed = ((hertz - INAUDIBLE) / (HEARD - INAUDIBLE)).clip(0, 1)
    spectrum = np.fft.rfft(mirrored) * (0.5 - 0.5 * np.cos(np.pi * passed))
    return np.fft.irfft(spectrum, len(mirrored))[: len(waveform)].astype(np.float32)
