"""Refusals as HTTP responses: the status of each reason, and the code of each status."""

import orjson
from starlette.exceptions import HTTPException

from service.errors import MediaError, StoreBlocked, TooLarge, UnknownModel, Unreadable, Unusable, WrongMedia
from service.http.admission import RETRY
from service.http.request import Headers, Response
from service.media import EXPECTED

STATUSES: dict[type[Exception], int] = {
    Unreadable: 400,
    UnknownModel: 404,
    TooLarge: 413,
    WrongMedia: 415,
    Unusable: 422,
    StoreBlocked: 503,
}
CODES = {
    400: "unreadable", 401: "unauthorized", 403: "forbidden", 404: "not_found", 405: "method_not_allowed",
    408: "timeout", 413: "too_large", 414: "url_too_long", 415: "unsupported_media_type", 422: "unusable",
    431: "header_too_large", 500: "failed", 503: "busy",
}  # fmt: skip
REFUSALS = (MediaError, UnknownModel, StoreBlocked, HTTPException)  # what a handler may raise; anything else is a bug

GENERIC = ("", "application/octet-stream", "application/x-www-form-urlencoded")  # the last is curl's default
CONTENT_TYPES = {"image": "image/", "audio": "audio/", "vector": "application/json"}  # prefix of each kind's


def refusal(error: Exception, route: str) -> Response:
    """The response for one of REFUSALS."""
    if isinstance(error, StoreBlocked):
        error = HTTPException(STATUSES[StoreBlocked], str(error), RETRY)
    if isinstance(error, HTTPException):
        headers = tuple((name.encode(), value.encode()) for name, value in (error.headers or {}).items())
        return response(error.status_code, error.detail, route, headers)
    return response(STATUSES[type(error)], str(error), route)


def response(status: int, message: str, route: str, headers: Headers = ()) -> Response:
    """An error's response; below /v2 in the form of the Open Inference Protocol."""
    error = message if route.startswith("/v2") else {"code": CODES[status], "message": message}
    return Response(orjson.dumps({"error": error}), status, headers=headers)


def consider_content_type(error: MediaError, kind: str, content_type: str) -> MediaError:
    """`error`, or WrongMedia in place of Unreadable if the file was declared as another kind of media.

    The content type is considered only now because many clients send a wrong one with the right file.
    """
    is_expected = content_type in GENERIC or content_type.startswith(CONTENT_TYPES[kind])
    if is_expected or not isinstance(error, Unreadable):
        return error
    return WrongMedia(f"this was sent as {content_type}; expected {EXPECTED[kind]}")
