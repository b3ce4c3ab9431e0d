"""Why a file or a request is refused."""

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
