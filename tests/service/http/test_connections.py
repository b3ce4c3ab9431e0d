"""What percept relies on in uvicorn, and what it changes."""

import inspect

import uvicorn.protocols.http.auto
from packaging.version import Version
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.http.connections import AHEAD, KEEP_ALIVE, Connection, has_arrived, patch_uvicorn

CHECKED = Version("0.54"), Version("0.55")  # of uvicorn: this version and later, but below that one


def test_the_patches_were_checked_for_this_uvicorn():
    """Another may work too: compare service/http/connections.py with its httptools_impl.py, then update CHECKED."""
    assert CHECKED[0] <= Version(uvicorn.__version__) < CHECKED[1]


def test_attributes_of_uvicorn():
    for method in (
        "connection_made",
        "data_received",
        "on_headers_complete",
        "on_response_complete",
        "connection_lost",
    ):
        assert callable(getattr(HttpToolsProtocol, method))
    protocol, cycle = inspect.getsource(HttpToolsProtocol), inspect.getsource(RequestResponseCycle)
    for attribute in (
        "self.timeout_keep_alive = ",
        "self.cycle: ",
        "self.cycle.body += ",
        "self.transport",
    ):
        assert attribute in protocol
    for attribute in ("self.body", "self.more_body = ", "self.response_complete = ", "def receive("):
        assert attribute in cycle
    assert "HIGH_WATER_LIMIT" in protocol


def test_patches(monkeypatch):
    monkeypatch.setattr(uvicorn.protocols.http.auto, "AutoHTTPProtocol", uvicorn.protocols.http.auto.AutoHTTPProtocol)
    monkeypatch.setattr(httptools_impl, "HIGH_WATER_LIMIT", httptools_impl.HIGH_WATER_LIMIT)
    patch_uvicorn()
    assert uvicorn.protocols.http.auto.AutoHTTPProtocol is Connection
    assert httptools_impl.HIGH_WATER_LIMIT == AHEAD
    assert KEEP_ALIVE > 60


def test_whether_a_body_has_arrived():
    class Cycle:
        more_body = False

        async def receive(self):
            return {}

    cycle = Cycle()
    assert has_arrived(cycle.receive)
    cycle.more_body = True
    assert not has_arrived(cycle.receive)
    assert not has_arrived(test_patches)
