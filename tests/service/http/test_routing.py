"""Paths to handlers."""

import pytest
from starlette.exceptions import HTTPException

from service.http.request import Request, Response
from service.http.routing import ANY, Route, Router, handler, nothing


async def first(request: Request) -> Response:
    return Response(b"1")


async def second(request: Request, model: str = "", version: str = "") -> Response:
    return Response(b"2")


ROUTER = Router(
    [
        Route("/digits", "POST", first),
        Route("/digits", "GET", second),
        Route("/digits/versions/{version}", "POST", second),
        Route("/predict/{model}", "POST", second),
        Route("/predict/{model}/versions/{version}", "POST", second),
        Route("/v2", "GET", first),
        Route("/v2/…", ANY, nothing),
        Route("/static/…", ANY, nothing),
        Route("/v2/models/{model}", "GET", second),
    ]
)


@pytest.mark.parametrize(
    ("path", "label", "arguments"),
    [
        ("/digits", "/digits", {}),
        ("/digits/versions/v1", "/digits/versions/{version}", {"version": "v1"}),
        ("/predict/sums", "/predict/{model}", {"model": "sums"}),
        ("/predict/", "/predict/{model}", {"model": ""}),
        (
            "/predict/a/versions/v1",
            "/predict/{model}/versions/{version}",
            {"model": "a", "version": "v1"},
        ),
        ("/v2/models/…", "/v2/models/{model}", {"model": "…"}),
        ("/v2/models/{model}", "/v2/models/{model}", {"model": "{model}"}),
        ("/v2/models", "/v2/…", {}),
        ("/v2/", "/v2/…", {}),
        ("/v2/models/a/b", "/v2/…", {}),
        ("/v2/…", "/v2/…", {}),
        ("/static", "/static/…", {}),
        ("/digits/", "other", {}),
        ("/predict/a/b", "other", {}),
        ("/predict", "other", {}),
        ("//digits", "other", {}),
        ("/", "other", {}),
        ("*", "other", {}),
        ("", "other", {}),
    ],
)
def test_paths(path: str, label: str, arguments: dict[str, str]) -> None:
    found, _, values = ROUTER.match(path)
    assert (found, values) == (label, arguments)


def test_methods() -> None:
    _, handlers, _ = ROUTER.match("/digits")
    assert handler(handlers, "POST") is first
    assert handler(handlers, "GET") is handler(handlers, "HEAD") is second
    assert handler(ROUTER.match("/v2/x")[1], "PATCH") is nothing
    with pytest.raises(HTTPException) as raised:
        handler(handlers, "DELETE")
    assert (raised.value.status_code, raised.value.headers) == (405, {"allow": "POST, GET"})
