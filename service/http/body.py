"""The body of a request, read no further than the limits allow, and the file in a form.

Starlette's form parser uses the same MultipartParser, but spools each file to a temporary file in a thread.
"""

import asyncio
import io
from collections.abc import Callable
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException

from service.errors import TooLarge
from service.http.admission import Slots
from service.http.connections import AHEAD, has_arrived
from service.http.request import Request

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

SECONDS = 30  # for a body to arrive, plus one for each SLOWEST bytes received; slower clients are refused
SLOWEST = 256 * 2**10  # bytes a second
FIELDS = 8  # form fields that are kept, besides the file
FIELD = 256  # bytes that are kept of each: the name of a model, or the seconds of a window


async def read_file(request: Request, max_bytes: int, slots: Slots | None = None) -> tuple[bytes, str, dict[str, str]]:
    """The file that is the request's body, or in a form; its declared content type; and the other fields of the form.

    The bytes are in memory only once: BytesIO collects them and returns them without a copy.

    Parameters
    ----------
    slots : acquired when the body has arrived, or `AHEAD` bytes of it

    Raises
    ------
    TooLarge : as soon as the body turns out to be larger than `max_bytes`
    HTTPException : 400 if the form holds no file, 408 if the body takes too long, 415 if it is compressed, 503 if there
        is no free slot
    ClientDisconnect : if the client goes away
    """
    declared = request.header(b"content-type")
    if declared.startswith(b"multipart/form-data"):
        return await _first_file(request, max_bytes, slots, parse_options_header(declared)[1].get(b"boundary", b""))
    return await read(request, max_bytes, slots), declared.partition(b";")[0].strip().lower().decode("latin-1"), {}


async def read(request: Request, max_bytes: int, slots: Slots | None = None) -> bytes:
    """The whole body. Raises what `read_file` does."""
    body = io.BytesIO()

    def write(chunk: bytes) -> None:
        nonlocal body
        if body.tell():
            body.write(chunk)
        else:
            body = io.BytesIO(chunk)  # no copy: most bodies are one chunk
            body.seek(0, io.SEEK_END)

    await _read(request, max_bytes, slots, write)
    return body.getvalue()


async def _read(request: Request, max_bytes: int, slots: Slots | None, write: Callable[[bytes], object]) -> None:
    """Pass the body to `write`, chunk by chunk."""
    too_large = f"the body is larger than the {max_bytes} bytes allowed"
    length = request.content_length()
    if (length or 0) > max_bytes:
        raise TooLarge(too_large)
    if request.header(b"content-encoding") not in (b"", b"identity"):
        raise HTTPException(415, "a compressed body is not read; send it as it is")
    size, more, start = 0, True, asyncio.get_running_loop().time()
    try:
        # Most bodies arrive together with the header and need no timer.
        async with asyncio.timeout(None if has_arrived(request.receive) else SECONDS) as deadline:
            while more:
                chunk, more = await request.chunk()
                size += len(chunk)
                if size > max_bytes:
                    raise TooLarge(too_large)
                if slots and size > AHEAD:
                    slots.acquire(complete=False)
                write(chunk)
                if more:
                    deadline.reschedule(start + SECONDS + size / SLOWEST)
    except TimeoutError as error:
        raise HTTPException(408, "the body arrives too slowly", {"connection": "close"}) from error
    if slots:
        slots.acquire()


async def _first_file(
    request: Request, max_bytes: int, slots: Slots | None, boundary: bytes
) -> tuple[bytes, str, dict[str, str]]:
    """The first file in a multipart/form-data body, whatever its field's name; its content type; and the fields that
    are not files."""
    form = _Form()
    try:
        parser = MultipartParser(boundary, form.callbacks())
        await _read(request, max_bytes, slots, parser.write)
        parser.finalize()
    except FormParserError as error:
        raise HTTPException(400, f"the form cannot be read: {error}") from error
    if not form.complete:
        raise HTTPException(400, "the form is incomplete or holds no file; a URL or text in a field is not fetched")
    return form.data.getvalue(), form.content_type, form.fields


class _Form:
    """Collects the first file and a few short fields from a MultipartParser's callbacks."""

    def __init__(self) -> None:
        self.data = io.BytesIO()
        self.content_type = ""
        self.complete = False
        self.fields: dict[str, str] = {}
        self._field = ""
        self._name = self._value = b""
        self._headers: dict[bytes, bytes] = {}
        self._is_file = False

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._headers.clear,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
        }

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        self._field = "" if b"filename" in options else options.get(b"name", b"").decode("latin-1")
        self._is_file = b"filename" in options and not self.complete
        if self._is_file:
            self.content_type = self._headers.get(b"content-type", b"").decode("latin-1")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self.data.write(data[start:end])
        elif self._field and len(self.fields) < FIELDS:
            text = self.fields.get(self._field, "") + data[start:end].decode("latin-1")
            self.fields[self._field] = text[:FIELD]

    def _part_end(self) -> None:
        self.complete = self.complete or self._is_file
