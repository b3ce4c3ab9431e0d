"""What a model's graph is estimated to take, and in what chunks it is given."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from models.card import Input
from service.http import memory
from service.http.scheduling import INLINE, SHORT, Scheduler
from service.media import Limits
from service.media.parallel import AT_ONCE
from service.media.work import Work
from service.serving.cost import PIECE_SECONDS, Cost
from service.serving.predictor import Predictor
from tests.service.helpers import FLUTE, digit_file, sound_bytes, tone
from tests.serving import NEWEST, build, resident_mb

LIMITS = Limits()


@pytest.fixture
def predictors(home):
    return {
        name: Predictor(home / "models" / name / NEWEST / "model.onnx") for name in ("digits", "instruments", "sums")
    }


@pytest.fixture
def spectral(predictors):
    """What a model takes that takes a Fourier transform of 2048 samples, or says so."""
    return Cost(predictors["instruments"].card.model_copy(update={"features": {"n_fft": 2048}}))


def test_short_waveforms_count_as_whole_frames(spectral):
    """32,768 of one sample are 130 KB, and would take a gigabyte at once."""
    many = spectral.of_batch((2**15, 1))
    assert many.seconds > 1
    assert many.bytes < 2**26
    assert spectral.rows_at_once((2**15, 1)) * 2048 < 2**19
    assert spectral.rows_at_once((1, 60 * 22_050)) == 1
    assert spectral.of_batch((1, 22_050)).seconds < INLINE
    most = AT_ONCE * PIECE_SECONDS * 22_050  # samples of the pieces that are in the graph together
    assert spectral.of_batch((1, 600 * 22_050)).bytes == spectral.of_batch((1, most - 2048)).bytes


def test_rows_count_by_the_size_of_the_network(predictors):
    card = predictors["digits"].card
    digits, large = Cost(card), Cost(card.model_copy(update={"parameters": 10**7}))
    assert digits.of_batch((64, 28, 28)).seconds < INLINE < large.of_batch((64, 28, 28)).seconds
    assert large.rows_at_once((2**15, 28, 28)) < digits.rows_at_once((2**15, 28, 28)) / 10


def test_files_are_answered_in_the_event_loop_if_they_are_little_work(predictors, spectral):
    assert predictors["digits"].cost.of_file(digit_file(3), LIMITS).seconds < INLINE
    assert predictors["sums"].cost.of_file(b"[1, 2]", LIMITS).seconds < INLINE
    note = sound_bytes(tone(22_050, seconds=2), 22_050)
    assert spectral.of_file(note, LIMITS).seconds < INLINE
    assert spectral.of_file(note, LIMITS, 0.1).seconds > INLINE  # twenty windows more
    assert spectral.of_file(sound_bytes(tone(8_000, seconds=60), 8_000, "FLAC"), LIMITS).seconds > 5 * INLINE


def test_pieces_that_threads_share_have_the_same_answers(predictors):
    """Of three minutes, with silence in the second and a timeline."""
    tones = [tone(22_050, seconds=PIECE_SECONDS, frequency=f)[:, 0] for f in (220.0, 330.0, 440.0)]
    sound = np.concatenate(tones).astype(np.float32)
    sound[PIECE_SECONDS * 22_050 : PIECE_SECONDS * 22_050 + 99_000] = 0
    alone = predictors["instruments"].predict(sound, 0.5)
    map_parts = Scheduler().map_for(Work(2 * SHORT))
    assert predictors["instruments"].predict(sound, 0.5, map_parts=map_parts).to_json() == alone.to_json()


@pytest.mark.parametrize("rate", [8_000, 22_050, 32_000, 44_100, 48_000, 96_000])
def test_a_sound_that_is_cut_where_a_window_ends_is_not_heard_in_the_next(predictors, rate):
    """Resampling rings for some milliseconds beyond the cut."""
    instruments = predictors["instruments"]
    sound = np.pad(tone(rate, frequency=60.0, seconds=1), ((rate, rate), (0, 0)))
    windows = instruments.predict(instruments.decode(sound_bytes(sound, rate), LIMITS), 0.5).timeline
    assert [window.label is not None for window in windows] == [False, False, True, True, False, False]


def test_a_recording_of_one_window_is_heard_however_short(predictors):
    instruments = predictors["instruments"]
    for n in (2, 100, 440):
        [window] = instruments.predict(np.resize(np.float32([0.5, -0.5]), n), 0.5).timeline
        assert window.label is not None


def test_answers_stay_the_same_once_memory_is_given_back(predictors):
    instruments = predictors["instruments"]
    before = instruments.answer(FLUTE, LIMITS)
    instruments.run(np.ones((100, 22_050), np.float32))
    instruments.give_back()
    assert instruments.answer(FLUTE, LIMITS) == before


def test_memory_of_a_batch_of_vectors_is_given_back(tmp_path: Path) -> None:
    """A row of two numbers is small, not what a layer makes of 20,000 of them."""
    nodes = [
        helper.make_node("MatMul", ["vector", "w"], ["hidden"]),
        helper.make_node("Tanh", ["hidden"], ["activation"]),
        helper.make_node("MatMul", ["activation", "v"], ["value"]),
    ]
    constants = {"w": np.ones((2, 1000), np.float32), "v": np.ones((1000, 1), np.float32) / 1000}
    card_input = Input(kind="vector", name="vector", dtype="float32", shape=(None, 2))
    onnx.save(build("wide", NEWEST, card_input, ["mean"], nodes, constants), tmp_path / "model.onnx")
    wide = Predictor(tmp_path / "model.onnx")
    wide.run(np.ones((1, 2), np.float32))  # as when a version is opened; ONNX Runtime keeps what the first run took
    memory.give_back()
    before = resident_mb(os.getpid())
    wide.run(np.ones((20_000, 2), np.float32))
    assert resident_mb(os.getpid()) > before + 70
    wide.give_back()
    memory.give_back()
    assert resident_mb(os.getpid()) < before + 30
