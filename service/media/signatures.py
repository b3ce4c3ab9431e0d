"""What the first bytes of a file say about its kind, and what a model expects instead."""

from service.errors import MediaError, Unreadable, WrongMedia

EXPECTED = {
    "image": "an image (PNG, JPEG, GIF, WebP, TIFF, BMP, …)",
    "audio": "audio (WAV, FLAC, OGG, MP3, AIFF)",
    "vector": "a JSON array of numbers",
}
# (offset, bytes at that offset, the kind of media that they announce)
SIGNATURES = (
    (0, b"\x89PNG", "image"), (0, b"\xff\xd8\xff", "image"), (0, b"GIF8", "image"), (0, b"BM", "image"),
    (0, b"II*\0", "image"), (0, b"MM\0*", "image"), (8, b"WEBP", "image"), (4, b"ftypavif", "image"),
    (4, b"ftyphei", "HEIC image"), (8, b"WAVE", "audio"), (8, b"AIF", "audio"), (0, b"fLaC", "audio"),
    (0, b"OggS", "audio"), (0, b"ID3", "audio"), (0, b"\xff\xfb", "audio"), (0, b"\xff\xf3", "audio"),
    (0, b"\xff\xf2", "audio"), (0, b".snd", "audio"), (0, b"caff", "audio"), (4, b"ftyp", "MPEG-4 media"),
    (0, b"\x1aE\xdf\xa3", "WebM or Matroska media"), (0, b"%PDF", "PDF document"), (0, b"%!PS", "PostScript document"),
    (0, b"PK\3\4", "ZIP archive"), (0, b"\x1f\x8b", "gzip archive"),
)  # fmt: skip
HEAD = 512  # bytes in which text is told from binary data


def undecodable(data: bytes, expected: str) -> MediaError:
    """The error for `data` that could not be decoded as `expected` ("image", "audio" or "vector"): WrongMedia if the
    first bytes announce another kind of media, else Unreadable.

    >>> undecodable(b"%PDF-1.7", "image")
    WrongMedia('this looks like PDF document; expected an image (PNG, JPEG, GIF, WebP, TIFF, BMP, …)')
    """
    if not data:
        return Unreadable(f"the file is empty; expected {EXPECTED[expected]}")
    found = _announced(data)
    if found is None or found == expected or (found, expected) == ("text", "vector"):
        return Unreadable(f"the file is damaged, or not {EXPECTED[expected]}")
    return WrongMedia(f"this looks like {found}; expected {EXPECTED[expected]}")


def _announced(data: bytes) -> str | None:
    """The kind of media that the first bytes announce, or None."""
    for offset, signature, kind in SIGNATURES:
        if data.startswith(signature, offset):
            return kind
    head = data[:HEAD]
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        cut = len(data) > len(head) and error.start >= len(head) - 3  # the head may end inside a character
        if not cut:
            return None
        text = head[: error.start].decode()
    return "text" if all(character.isprintable() or character.isspace() for character in text) else None
