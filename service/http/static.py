"""The browser pages: the files of `page/`, read once, so that no path of a client ever reaches the file system.

Starlette's StaticFiles asks the file system at each request, in a thread.
"""

import hashlib
from pathlib import Path

from service.http.request import Headers, Request, Response

CONTENT_TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}
PATHS = {"index.html": "/", "docs.html": "/docs"}
# The page may run its own files, and talk only to its own service.
CLOSED = b"form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
PAGE = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    b"connect-src 'self'; worker-src 'self'; " + CLOSED
)
# Swagger UI, which comes with BentoML, styles its elements inline.
DOCS = (
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    b"connect-src 'self'; " + CLOSED
)
HEADERS: Headers = (
    (b"referrer-policy", b"no-referrer"),
    (b"permissions-policy", b"camera=(self), microphone=(self)"),
    (b"cache-control", b"no-cache"),  # cached, but revalidated each time, which the ETag makes a 304
)


def _read() -> dict[str, Response]:
    files = {}
    for file in sorted((Path(__file__).parents[1] / "page").iterdir()):
        if file.suffix not in CONTENT_TYPES:  # an editor's backup
            continue
        content = file.read_bytes()
        headers = (
            (b"etag", b'"%s"' % hashlib.sha256(content).hexdigest()[:16].encode()),
            (b"content-security-policy", DOCS if file.name == "docs.html" else PAGE),
            *HEADERS,
        )
        path = PATHS.get(file.name, f"/page/{file.name}")
        files[path] = Response(content, 200, CONTENT_TYPES[file.suffix], headers)
    return files


FILES = _read()  # by URL path


async def page(request: Request) -> Response:
    """The file at a path in FILES; 304 if the client has it already."""
    file = FILES[request.path]
    if request.header(b"if-none-match") == file.headers[0][1]:
        return Response(b"", 304, file.content_type, file.headers)
    return file
