"""The browser page: the files of `page/`, read once, so that no path of a client ever reaches the file system."""

import hashlib
from pathlib import Path

CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# What the page may do: run its own files, talk to its own service, and use the microphone.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
        "connect-src 'self'; worker-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self)",
    "Cache-Control": "no-cache",  # kept, but asked for anew each time, which the ETag makes a 304
}


def _read() -> dict[str, tuple[bytes, str, str]]:
    files = {}
    for file in sorted((Path(__file__).parent / "page").iterdir()):
        if file.suffix not in CONTENT_TYPES:  # an editor's backup
            continue
        content = file.read_bytes()
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        path = "/" if file.name == "index.html" else f"/page/{file.name}"
        files[path] = (content, CONTENT_TYPES[file.suffix], etag)
    return files


FILES = _read()  # path → (content, content type, ETag)


def page(path: str) -> tuple[bytes, str, str] | None:
    """Content, content type and ETag of the page's file at `path`, "/" or "/page/NAME"; None if there is none."""
    return FILES.get(path)
