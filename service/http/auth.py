"""Who may ask: API keys, if the operator has set any."""

import base64
import binascii
import hashlib
import hmac
import os

from service.errors import Refusal
from service.http.request import Request

VARIABLE = "PERCEPT_API_KEYS"
CHALLENGE = (b"www-authenticate", b'Basic realm="percept", charset="UTF-8"')  # a browser then asks for the key itself


class Guard:
    """Lets requests pass that carry one of the keys; all of them if there are none.

    A key comes as `Authorization: Bearer KEY`, as the password of HTTP Basic authentication (RFC 7617), whose user
    name is not looked at, or as `X-API-Key`.
    """

    def __init__(self, keys: list[str]) -> None:
        self._digests = [_digest(key.encode()) for key in keys]

    @classmethod
    def from_environment(cls) -> "Guard":
        """With the keys of PERCEPT_API_KEYS, parted by commas.

        Raises ValueError if the variable is set and holds none: who sets it means to close the service.
        """
        text = os.environ.get(VARIABLE)
        keys = [key.strip() for key in (text or "").split(",") if key.strip()]
        if text is not None and not keys:
            raise ValueError(f"{VARIABLE} is set, but holds no key")
        return cls(keys)

    @property
    def has_keys(self) -> bool:
        return bool(self._digests)

    def check(self, request: Request) -> None:
        """Raises Refusal 401 unless the request may pass."""
        if not self._digests:
            return
        given = _digest(_key(request))
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]  # all: the time tells nothing
        if not any(matches):
            raise Refusal(401, "this service asks for an API key: Authorization: Bearer KEY", CHALLENGE)


def _key(request: Request) -> bytes:
    scheme, _, value = request.header(b"authorization").partition(b" ")
    value = value.strip()
    match scheme.lower():
        case b"bearer":
            return value
        case b"basic":
            try:
                return base64.b64decode(value, validate=True).partition(b":")[2]
            except binascii.Error:
                return b""
    return request.header(b"x-api-key")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
