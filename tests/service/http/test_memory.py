"""What a request has sent is let go of when it has been answered."""

import gc
from types import CellType
from typing import Any

import httpx

from tests.serving import until

LENGTH = 1_000_003  # bytes of a body that no other object has


def held() -> list[Any]:
    """Closures that refer to such a body."""
    cells = [one for one in gc.get_objects() if type(one) is CellType]  # isinstance would look behind proxies
    return [one for one in cells if isinstance(found := _content(one), bytes) and len(found) == LENGTH]


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return None


def test_a_body_that_was_refused_is_let_go_of(local: httpx.Client) -> None:
    """Without the garbage collector, which counts objects and not their bytes."""
    local.post("/instruments", content=b"\1" * 100)  # what is loaded or kept once
    gc.collect()
    gc.disable()
    try:
        assert local.post("/instruments", content=bytes(LENGTH)).status_code == 400
        assert local.post("/digits", content=bytes(LENGTH)).status_code == 400
        until(lambda: not held(), 2)  # a thread lets go of it soon
    finally:
        gc.enable()
