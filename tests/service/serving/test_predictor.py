"""What a model's graph is estimated to take, and in what chunks it is given."""

import numpy as np
import pytest

from service.http.scheduling import INLINE
from service.media import Limits
from service.serving.predictor import PIECE, Predictor
from tests.service.helpers import FLUTE, digit_file, sound_bytes, tone
from tests.serving import NEWEST

LIMITS = Limits()


@pytest.fixture
def predictors(home):
    return {
        name: Predictor(home / "models" / name / NEWEST / "model.onnx") for name in ("digits", "instruments", "sums")
    }


@pytest.fixture
def spectral(predictors):
    """A model that takes a Fourier transform of 2048 samples, or says so."""
    predictor = predictors["instruments"]
    predictor.card = predictor.card.model_copy(update={"features": {"n_fft": 2048}})
    return predictor


def test_short_waveforms_count_as_whole_frames(spectral):
    """32,768 of one sample are 130 KB, and would take a gigabyte at once."""
    many = spectral.work_of((2**15, 1))
    assert many.seconds > 1
    assert many.bytes < 2**26
    assert spectral.rows_at_once((2**15, 1)) * 2048 < 2**19
    assert spectral.rows_at_once((1, 60 * 22_050)) == 1
    assert spectral.work_of((1, 22_050)).seconds < INLINE
    assert spectral.work_of((1, 600 * 22_050)).bytes == spectral.work_of((1, PIECE * 22_050 - 2048)).bytes


def test_rows_count_by_the_size_of_the_network(predictors):
    digits = predictors["digits"]
    assert digits.work_of((64, 28, 28)).seconds < INLINE
    small = digits.rows_at_once((2**15, 28, 28))
    digits.card = digits.card.model_copy(update={"parameters": 10**7})
    assert digits.rows_at_once((2**15, 28, 28)) < small / 10
    assert digits.work_of((64, 28, 28)).seconds > INLINE


def test_files_are_answered_in_the_event_loop_if_they_are_little_work(predictors, spectral):
    assert predictors["digits"].work(digit_file(3), LIMITS).seconds < INLINE
    assert predictors["sums"].work(b"[1, 2]", LIMITS).seconds < INLINE
    note = sound_bytes(tone(22_050, seconds=2), 22_050)
    assert spectral.work(note, LIMITS).seconds < INLINE
    assert spectral.work(note, LIMITS, 0.1).seconds > INLINE  # twenty windows more
    assert spectral.work(sound_bytes(tone(8_000, seconds=60), 8_000, "FLAC"), LIMITS).seconds > 5 * INLINE


def test_answers_stay_the_same_once_memory_is_given_back(predictors):
    instruments = predictors["instruments"]
    before = instruments.answer(FLUTE, LIMITS)
    instruments.run(np.ones((100, 22_050), np.float32))
    instruments.give_back()
    assert instruments.answer(FLUTE, LIMITS) == before
