"""Why a file is refused: the limits, the error that carries an HTTP status, and what other kinds of media look like.

Imports nothing heavy, so that BentoML's supervisor process stays small.
"""

import os
from dataclasses import dataclass
from typing import Literal

CODES = {
    400: "unreadable", 401: "unauthorized", 403: "forbidden", 404: "not_found", 405: "method_not_allowed",
    408: "timeout", 413: "too_large", 415: "unsupported_media_type", 422: "unusable", 503: "busy",
}  # fmt: skip
EXPECTED = {
    "image": "an image (PNG, JPEG, GIF, WebP, TIFF, BMP, …)",
    "audio": "audio (WAV, FLAC, OGG, MP3, AIFF)",
    "vector": "a JSON array of numbers",
}
# (offset, bytes there, what they announce)
SIGNATURES = (
    (0, b"\x89PNG", "image"), (0, b"\xff\xd8\xff", "image"), (0, b"GIF8", "image"), (0, b"BM", "image"),
    (0, b"II*\0", "image"), (0, b"MM\0*", "image"), (8, b"WEBP", "image"), (4, b"ftypavif", "image"),
    (4, b"ftyphei", "HEIC image"), (8, b"WAVE", "audio"), (8, b"AIF", "audio"), (0, b"fLaC", "audio"),
    (0, b"OggS", "audio"), (0, b"ID3", "audio"), (0, b"\xff\xfb", "audio"), (0, b"\xff\xf3", "audio"),
    (0, b"\xff\xf2", "audio"), (0, b".snd", "audio"), (0, b"caff", "audio"), (4, b"ftyp", "MPEG-4 media"),
    (0, b"\x1aE\xdf\xa3", "WebM or Matroska media"), (0, b"%PDF", "PDF document"), (0, b"%!PS", "PostScript document"),
    (0, b"PK\3\4", "ZIP archive"), (0, b"\x1f\x8b", "gzip archive"),
)  # fmt: skip
NEUTRAL = ("", "application/octet-stream", "application/x-www-form-urlencoded")  # the last is curl's default
FAMILY = {"image": "image/", "audio": "audio/", "vector": "application/json"}  # how the right content types begin


Kind = Literal["image", "audio", "vector"]
BYTES: dict[Kind, int] = {"image": 32 * 2**20, "audio": 128 * 2**20, "vector": 32 * 2**20}  # 12 minutes of a CD


@dataclass(frozen=True)
class Limits:
    """What one file may at most be; a larger one is refused with 413."""

    bytes: int | None = None  # of the file, None: what BYTES allows its kind; PERCEPT_MAX_BYTES
    pixels: int = 16 * 2**20  # width × height of an image, 4096 × 4096; PERCEPT_MAX_PIXELS
    seconds: int = 600  # length of a recording; PERCEPT_MAX_SECONDS
    batch: int = 2**15  # samples of one request of the Open Inference Protocol; PERCEPT_MAX_BATCH

    @classmethod
    def from_environment(cls, seconds: int = seconds) -> "Limits":
        """The limits as the PERCEPT_MAX_… variables set them; `seconds` where they leave the length of a recording.

        Raises ValueError for one that is not a number > 0.
        """
        return cls(
            bytes=positive("PERCEPT_MAX_BYTES", 0) or None,
            pixels=positive("PERCEPT_MAX_PIXELS", cls.pixels),
            seconds=positive("PERCEPT_MAX_SECONDS", seconds),
            batch=positive("PERCEPT_MAX_BATCH", cls.batch),
        )

    def bytes_of(self, kind: Kind) -> int:
        """How many bytes a file of that kind may have."""
        return self.bytes or BYTES[kind]


def positive(variable: str, default: int) -> int:
    """The whole number that an environment variable holds, or `default`. Raises ValueError unless it is above 0."""
    text = os.environ.get(variable)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise ValueError(f"{variable}={text}: expected a whole number above 0")
    return int(text)


class Refusal(ValueError):
    """A request that is not answered; the message is one line for the person who sent it.

    `status` is the HTTP status, `code` its name in the error form, `headers` what goes with the answer.
    """

    def __init__(self, status: int, message: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(message)
        self.status = status
        self.code = CODES[status]
        self.headers = headers


class MediaError(Refusal):
    """Bytes that cannot become a model's input: 400 unreadable, 408 not sent in time, 413 too large or too long, 415
    another kind of media, 422 readable but unusable."""


def unreadable(data: bytes, wanted: str) -> MediaError:
    """The error for `data` that could not be decoded as `wanted` ("image", "audio" or "vector"): 415 where the first
    bytes show another kind of media, else 400."""
    if not data:
        return MediaError(400, f"the file is empty; expected {EXPECTED[wanted]}")
    found = _announced(data)
    if found is None or found == wanted or (found, wanted) == ("text", "vector"):
        return MediaError(400, f"the file is damaged, or not {EXPECTED[wanted]}")
    return MediaError(415, f"this looks like {found}; expected {EXPECTED[wanted]}")


def blame(error: MediaError, wanted: str, content_type: str) -> MediaError:
    """`error`, or 415 instead if the file was unreadable and had been sent as another kind of media. Content types
    are asked only now, because many clients send a wrong one with the right file."""
    if error.status != 400 or content_type in NEUTRAL or content_type.startswith(FAMILY[wanted]):
        return error
    return MediaError(415, f"this was sent as {content_type}; expected {EXPECTED[wanted]}")


def _announced(data: bytes) -> str | None:
    """The kind of media that the first bytes announce, None if they announce none."""
    for offset, signature, kind in SIGNATURES:
        if data.startswith(signature, offset):
            return kind
    head = data[:512]
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if len(data) == len(head) or error.start < len(head) - 3:  # not merely a character that was cut in two
            return None
        text = head[: error.start].decode()
    return "text" if all(character.isprintable() or character.isspace() for character in text) else None
