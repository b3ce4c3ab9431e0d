"""A mixture of all kinds of requests, those that cost much for their bytes among them."""

import random
from typing import Any

import pytest

from benchmarks.costly import KINDS
from benchmarks.worst import CLIENTS, CLOSING, made
from tests.load import closed_loop
from tests.serving import Server, resident_mb, workers

SMALL = {"seconds": 1, "side": 100, "size": 2**14, "rows": 100, "n": 1}  # so that a request takes milliseconds


def mixture(variants: int) -> list[bytes]:
    """Small requests of all kinds, in any order: as the search for the worst starts, and some variants of each."""
    rng, requests = random.Random(0), []
    for kind in KINDS:
        any_ = ({name: rng.choice(choices) for name, choices in kind.parameters.items()} for _ in range(variants))
        for values in [kind.start(), *any_]:
            small = {name: SMALL[name] for name in values if name in SMALL}
            if (request := made(kind, values | small)) and len(request) < 2**20:
                requests.append(request.replace(CLOSING, b"", 1))
    rng.shuffle(requests)
    return requests


@pytest.mark.parametrize(("n", "variants"), [(200, 0), pytest.param(18_000, 5, marks=pytest.mark.soak)])
def test_memory_is_flat_over_a_mixture(server: Server, n: int, variants: int, record_property: Any) -> None:
    requests = mixture(variants)
    (worker,) = workers(server)
    warm_up = closed_loop(server.url, requests, CLIENTS, n=max(len(requests), n // 4))  # all decoders, all threads
    assert warm_up.statuses.keys() >= {200, 400, 415, 422}
    before = resident_mb(worker)
    outcome = closed_loop(server.url, requests, CLIENTS, n=n)
    after = resident_mb(worker)
    record_property("growth", f"{before:.1f} MB to {after:.1f} MB, {after / before - 1:.1%}")
    assert max(outcome.statuses) < 500
    assert after < before * 1.2
    assert workers(server) == [worker]
    assert "Traceback" not in server.log.read_text()
