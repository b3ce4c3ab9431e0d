"""Headers that are missing, given twice, or no such thing: a proxy in front may have understood them otherwise."""

import httpx
import pytest
from starlette.exceptions import HTTPException

from service.http.request import Request
from tests.service.helpers import digit_file, refusal

Headers = list[tuple[bytes, bytes]]


def checked(headers: Headers, version: str = "1.1") -> str | None:
    """The reason for refusing a request with these headers; None if it is not refused."""
    request = Request({"method": "GET", "path": "/", "http_version": version, "headers": headers}, None)  # type: ignore[arg-type]
    try:
        request.check()
    except HTTPException as error:
        return error.detail
    return None


@pytest.mark.parametrize(
    "host",
    [
        "",
        "a",
        "localhost:3000",
        "example.com",
        "ex_ample-1.com.",
        "127.0.0.1:80",
        "[::1]",
        "[fe80::1]:3000",
        "a:",
        "a%20b",
    ],
)
def test_hosts(host: str) -> None:
    assert checked([(b"host", host.encode())]) is None


@pytest.mark.parametrize(
    "host",
    [
        "a b",
        "a/b",
        "a@b",
        "http://a",
        "a:b",
        "a:80:80",
        "[::1",
        "::1",
        "[]",
        "a\\b",
        "<a>",
        '"a"',
        "ä",
        "a, b",
        "a#",
        "a?",
    ],
)
def test_hosts_that_are_none(host: str) -> None:
    assert checked([(b"host", host.encode())]) == "the Host header holds no host"


def test_one_host() -> None:
    host = (b"host", b"a")
    assert checked([]) == "there is no Host header"
    assert checked([], "1.0") is None
    for version in ("1.0", "1.1"):
        assert checked([host], version) is None
        for second in (host, (b"host", b"b"), (b"host", b"")):
            assert checked([host, second], version) == "there are several Host headers"


@pytest.mark.parametrize(
    "name",
    ["content-length", "content-type", "authorization", "x-api-key", "inference-header-content-length"],
)
def test_headers_with_two_values(name: str) -> None:
    first, second = (name.encode(), b"1"), (name.encode(), b"2")
    host = (b"host", b"a")
    assert checked([host, first, first]) is None
    for headers in ([host, first, second], [second, host, first, first], [first, first, host, second]):
        assert checked(headers) == f"the header {name} is given twice, with different values"


def test_other_headers_may_be_repeated() -> None:
    assert (
        checked(
            [(b"host", b"a"), (b"accept", b"a"), (b"accept", b"b"), (b"x-request-id", b"1"), (b"x-request-id", b"2")]
        )
        is None
    )


@pytest.mark.parametrize("name", ["content-encoding", "transfer-encoding"])
@pytest.mark.parametrize(
    "values", [["identity", "gzip"], ["gzip", "identity"], ["identity, gzip"], ["GZIP"], ["", "br"]]
)
def test_every_encoding_counts(local: httpx.Client, name: str, values: list[str]) -> None:
    for path in ("/digits", "/v2/models/digits/infer"):
        answer = local.post(path, content=digit_file(3), headers=[(name, value) for value in values])
        assert answer.status_code == 415
        assert "compressed" in answer.text


def test_no_encoding_at_all(local: httpx.Client) -> None:
    for values in ([], ["identity"], ["Identity", "identity"], [""], ["identity, identity"]):
        headers = [("content-encoding", value) for value in values]
        assert local.post("/digits", content=digit_file(3), headers=headers).json()["label"] == "3"


@pytest.mark.parametrize("path", ["/livez", "/digits", "/v2/models/digits", "/nothing", "/docs"])
def test_every_path_checks(local: httpx.Client, path: str) -> None:
    answer = local.request("GET", path, headers=[("host", "a"), ("host", "b")])
    assert answer.status_code == 400
    assert path.startswith("/v2") or refusal(answer) == 400
    assert len(answer.headers["x-request-id"]) == 16
