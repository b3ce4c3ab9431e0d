"""How many requests are answered at once."""

import pytest
from starlette.exceptions import HTTPException

from service.http.admission import SLOT, Admission


def test_large_requests_hold_half_of_the_slots():
    admission = Admission(8)
    for _ in range(4):
        slots = admission.slots(100, 2**20)
        slots.acquire()
        slots.count_as_large()
    refused = admission.slots(100, 2**20)
    refused.acquire()
    with pytest.raises(HTTPException, match="too many large requests"):
        refused.count_as_large()
    refused.__exit__()
    small = [admission.slots(100, 2**20) for _ in range(4)]
    for slots in small:
        slots.acquire()
        slots.count_as_large(False)
    with pytest.raises(HTTPException, match="too many requests"):
        admission.slots(100, 2**20)


def test_what_turns_out_small_makes_room_for_large_ones():
    admission = Admission(4)
    with admission.slots(3 * SLOT, 4 * SLOT) as slots:
        slots.acquire(complete=False)
        assert (admission.in_flight, admission.large) == (3, 3)
        slots.acquire()
        slots.count_as_large()
        assert (admission.in_flight, admission.large) == (3, 3)
        slots.count_as_large(False)
        assert (admission.in_flight, admission.large) == (3, 0)
        slots.count_as_large()
    assert (admission.in_flight, admission.large) == (0, 0)
