"""The mel scale and B-weighting equal librosa's, bit for bit."""

import librosa
import numpy as np
import pytest

from models import mel


@pytest.mark.parametrize("sample_rate", [8_000, 22_050, 44_100])
@pytest.mark.parametrize(("n_fft", "n_mels"), [(256, 20), (2048, 128)])
@pytest.mark.parametrize("fmin", [0.0, 80.0, 1200.0])
def test_filters_are_librosas(sample_rate: int, n_fft: int, n_mels: int, fmin: float) -> None:
    edges = mel.mel_frequencies(n_mels + 2, fmin, sample_rate / 2)
    assert np.array_equal(edges, librosa.mel_frequencies(n_mels + 2, fmin=fmin, fmax=sample_rate / 2))
    expected = librosa.filters.mel(sr=sample_rate, n_fft=n_fft, n_mels=n_mels, fmin=fmin, dtype="float64")
    assert np.array_equal(mel.mel_filters(sample_rate, n_fft, n_mels, fmin), expected)


def test_weighting_is_librosas() -> None:
    hertz = np.geomspace(1, 100_000, 200)
    assert np.array_equal(mel.b_weighting(hertz), librosa.B_weighting(hertz))


def test_filters_that_are_always_0_are_mentioned() -> None:
    with pytest.warns(UserWarning, match="some mel filters lie between two bins"):
        mel.mel_filters(22_050, 256, 128, 0.0)
