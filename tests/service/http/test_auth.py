"""API keys: which paths need one, and the ways to send it."""

import base64
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.exceptions import HTTPException

from service.http import auth
from service.http.auth import OPEN, APIKeys
from service.http.request import Request
from tests.service.helpers import digit_file
from tests.service.in_process import application

KEYS = ("first-key", "zweiter Schlüssel")


@pytest.fixture(scope="module")
def closed(home: Path) -> Iterator[httpx.Client]:
    with application(home, PERCEPT_API_KEYS=f"{KEYS[0]}, {KEYS[1]}") as client:
        yield client


@pytest.mark.parametrize("path", sorted(OPEN))
def test_health_is_open(closed: httpx.Client, path: str) -> None:
    assert closed.get(path).is_success


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"), ("GET", "/docs"), ("GET", "/docs.json"), ("GET", "/schema.json"), ("GET", "/metrics"),
        ("GET", "/static_content/swagger-ui.css"), ("GET", "/models"), ("GET", "/nothing"), ("POST", "/digits"),
        ("POST", "/predict/sums"), ("POST", "/predict"), ("GET", "/v2"), ("GET", "/v2/models/digits"),
        ("POST", "/v2/models/digits/infer"), ("POST", "/v2/repository/index"),
        ("POST", "/v2/repository/models/digits/load"), ("POST", "/livez/"), ("GET", "//livez"),
    ],
)  # fmt: skip
def test_everything_else_is_closed(closed: httpx.Client, method: str, path: str) -> None:
    for headers in ({}, {"authorization": "Bearer wrong"}, {"x-api-key": "first-ke"}, {"authorization": "Basic !"}):
        answer = closed.request(method, path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Basic ")


@pytest.mark.parametrize("key", KEYS)
def test_a_key_opens(closed: httpx.Client, key: str) -> None:
    basic = base64.b64encode(b"anyone:" + key.encode()).decode()
    bearer = b"Bearer " + key.encode()
    for headers in (
        [(b"authorization", bearer)],
        {"authorization": f"Basic {basic}"},
        [(b"x-api-key", key.encode())],
    ):
        answer = closed.post("/digits", content=digit_file(3), headers=headers)
        assert answer.json()["label"] == "3"


def test_the_openapi_document_lists_the_schemes(closed: httpx.Client, local: httpx.Client) -> None:
    with_keys = closed.get("/docs.json", headers={"x-api-key": KEYS[0]}).json()
    assert set(with_keys["components"]["securitySchemes"]) == {"bearer", "basic", "header"}
    assert "401" in with_keys["paths"]["/digits"]["post"]["responses"]
    without = local.get("/docs.json").json()
    assert "securitySchemes" not in without["components"]
    for document in (with_keys, without):  # they are the same otherwise
        document.pop("security", None)
        document["components"].pop("securitySchemes", None)
        for operation in (operation for path in document["paths"].values() for operation in path.values()):
            operation.pop("security", None)
            operation["responses"].pop("401", None)
    assert with_keys == without


def test_a_variable_without_a_key_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(auth.VARIABLE, " , ")
    with pytest.raises(ValueError, match="PERCEPT_API_KEYS is set, but holds no key"):
        APIKeys.from_environment()


def test_without_keys_every_request_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(auth.VARIABLE, raising=False)
    request = Request({"method": "GET", "path": "/", "headers": []}, None)
    APIKeys.from_environment().check(request)
    with pytest.raises(HTTPException):
        APIKeys(["key"]).check(request)
