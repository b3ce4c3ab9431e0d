"""How many threads PyTorch may use."""

import threading
import time

import pytest
import torch

from pipeline.threads import Pace, ordered_map


def test_the_number_of_threads_that_was_faster_recently_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)  # a clock that a busy machine cannot disturb
    pace = Pace()
    pace.seconds = {1: 0.0, 2: 0.0}
    seconds = {1: 0.001, 2: 0.005}
    used = []
    for i in range(400):
        if i == 200:  # the other core becomes idle
            seconds[2] = 0.0002
        with pace.piece() as n:
            assert torch.get_num_threads() <= n
            now += seconds[n]
        used.append(n)
    assert set(used[:2]) == {1, 2}
    assert 1 <= used[2:200].count(2) <= 10  # tried again, the more rarely the slower it was
    assert used[300:].count(2) > 80


def test_slow_items_move_to_a_pool() -> None:
    def where(seconds: float) -> tuple[float, int]:
        if seconds:
            time.sleep(seconds)
        return seconds, threading.get_ident()

    here = threading.get_ident()
    assert list(ordered_map(where, [0] * 1000)) == [(0, here)] * 1000
    seconds = [0.03 + i / 10_000 for i in range(40)]
    found = list(ordered_map(where, seconds))
    assert [s for s, _ in found] == seconds
    assert found[0][1] == here
    assert here not in {thread for _, thread in found[10:]}
    assert list(ordered_map(where, [])) == []
