"""API keys, if the operator has set any."""

import base64
import binascii
import hashlib
import hmac
import os

from starlette.exceptions import HTTPException

from service.http.request import Request

VARIABLE = "PERCEPT_API_KEYS"
OPEN = frozenset(("/livez", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"))  # paths that need no key
CHALLENGE = {"www-authenticate": 'Basic realm="percept", charset="UTF-8"'}  # makes a browser ask for the key


class APIKeys:
    """The keys that open the service; with none, it is open to everyone.

    A key comes as `Authorization: Bearer KEY`, as the password of HTTP Basic authentication (RFC 7617), whose user
    name is ignored, or as `X-API-Key`.
    """

    def __init__(self, keys: list[str]) -> None:
        self._digests = [_digest(key.encode()) for key in keys]

    @classmethod
    def from_environment(cls) -> "APIKeys":
        """The comma-separated keys of PERCEPT_API_KEYS.

        Raises ValueError if the variable is set but holds none, which would leave the service open by mistake.
        """
        text = os.environ.get(VARIABLE)
        keys = [key.strip() for key in (text or "").split(",") if key.strip()]
        if text is not None and not keys:
            raise ValueError(f"{VARIABLE} is set, but holds no key")
        return cls(keys)

    @property
    def required(self) -> bool:
        """Whether requests need a key."""
        return bool(self._digests)

    def check(self, request: Request) -> None:
        """Raises HTTPException 401 if the request needs a key and has none of these."""
        if not self._digests or request.path in OPEN:
            return
        given = _digest(_key(request))
        # Compared with every key, so that the time taken does not tell which one matches.
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        if not any(matches):
            raise HTTPException(401, "this service asks for an API key: Authorization: Bearer KEY", CHALLENGE)


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
