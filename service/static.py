"""The files of the browser page, read once: no path that a client sends is ever opened."""

PATHS: dict[str, tuple[bytes, bytes, tuple[tuple[bytes, bytes], ...]]] = {}
