"""Forms and HTTP itself: many parts, headers, chunks, parameters of a query, and requests without a body."""

from benchmarks.costly.kind import MANY, Kind, closing, repeated
from tests.load import get

PATH = "/digits"
FORM = "Content-Type: multipart/form-data; boundary=b"


def _form(parts: bytes, boundary: str = "b") -> bytes:
    end = f"--{boundary}--\r\n".encode()
    return closing(PATH, parts + end, f"Content-Type: multipart/form-data; boundary={boundary}")


def parts(size: int, part: str) -> bytes:
    """Many small parts."""
    disposition = b"Content-Disposition: form-data; name="
    unit = {
        "nothing": b"--b\r\n\r\n\r\n",
        "named": b"--b\r\n" + disposition + b'"a"\r\n\r\n1\r\n',
        "options": b"--b\r\n" + disposition + b'"a"' + b'; x="y"' * 20 + b"\r\n\r\n1\r\n",
        "headers": b"--b\r\n" + b"a: b\r\n" * 20 + b"\r\n1\r\n",
    }[part]
    return _form(repeated(unit, size))


def part_headers(size: int, header: str) -> bytes:
    """One part with many, or long, headers."""
    headers = {
        "many": repeated(b"a: b\r\n", size),
        "different": b"".join(b"a%d: b\r\n" % i for i in range(size // 12)),
        "long": b"a: " + b"b" * size + b"\r\n",
        "long name": b"a" * size + b": b\r\n",
        "options": b"Content-Disposition: form-data" + repeated(b'; a="b"', size) + b"\r\n",
        "quotes": b'Content-Disposition: form-data; name="' + repeated(b'\\"', size) + b'"\r\n',
    }[header]
    return _form(b"--b\r\n" + headers + b"\r\n1\r\n")


def file_part(size: int, content: str, encoding: str) -> bytes:
    """A file that nearly holds the boundary again and again, or is coded."""
    boundary = "b" * 60 if "long" in content else "b"
    unit = {
        "almost": b"\r\n--",
        "lines": b"\r\n",
        "long almost": b"\r\n--" + b"b" * 59,
        "zeros": bytes(4),
        "escapes": b"=41",
    }
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n'
    coded = f"Content-Transfer-Encoding: {encoding}\r\n" if encoding else ""
    return _form((head + coded).encode() + b"\r\n" + repeated(unit[content], size) + b"\r\n", boundary)


def preamble(size: int, content: str) -> bytes:
    """Something before the first part."""
    return _form(repeated({"lines": b"\r\n", "almost": b"\r\n--", "zeros": b"\0"}[content], size) + b"\r\n")


def headers(size: int, header: str) -> bytes:
    """Many, or long, headers of the request."""
    lines = {
        "many": ["a: b"] * (size // 6),
        "different": [f"a{i}: b" for i in range(size // 12)],
        "long": ["a: " + "b" * size],
        "type": ["Content-Type: multipart/form-data; " + "a=b; " * (size // 5) + "boundary=b"],
        "key": ["Authorization: Bearer " + "b" * size],
        "id": ["X-Request-ID: " + "b" * size],
    }[header]
    return closing(PATH, b"x", *lines)


def query(size: int, content: str) -> bytes:
    """A long address."""
    text = {"parameters": "a=b&", "escapes": "%41", "path": "/a", "timeline": "timeline=1&"}[content] * (size // 4)
    return closing(f"{PATH}{'/' if content == 'path' else '?'}{text}", b"x")


def chunked(size: int, length: int) -> bytes:
    """A body in many small chunks."""
    body = repeated(f"{length:x}\r\n".encode() + b"a" * length + b"\r\n", size) + b"0\r\n\r\n"
    return f"POST {PATH} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + body


def pipelined(path: str, n: int) -> bytes:
    """Requests without a body, all sent at once."""
    return get(path) * (n - 1) + get(path).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


PATHS = (
    "/livez", "/readyz", "/metrics", "/models", "/docs.json", "/docs", "/", "/schema.json", "/v2/models/digits",
    "/v2/repository/index", "/v2/health/ready", "/predict/absent/versions/absent", "/digits", "/digits/versions/absent",
)  # fmt: skip
_FILE = {
    "content": ("almost", "lines", "long almost", "zeros", "escapes"),
    "encoding": ("", "base64", "quoted-printable"),
}
FORMS = [
    Kind("form of parts", parts, {"size": MANY, "part": ("nothing", "named", "options", "headers")}),
    Kind(
        "form with headers",
        part_headers,
        {"size": MANY, "header": ("many", "different", "long", "long name", "options", "quotes")},
    ),
    Kind("form with a file", file_part, {"size": MANY, **_FILE}),
    Kind("form with a preamble", preamble, {"size": MANY, "content": ("lines", "almost", "zeros")}),
    Kind("HTTP headers", headers, {"size": MANY, "header": ("many", "different", "long", "type", "key", "id")}),
    Kind("HTTP query", query, {"size": MANY[:3], "content": ("parameters", "escapes", "path", "timeline")}),
    Kind("HTTP chunks", chunked, {"size": MANY, "length": (1, 16, 1000)}),
    Kind("HTTP pipelined GET", pipelined, {"path": PATHS, "n": (1, 10, 100, 1000)}),
]
