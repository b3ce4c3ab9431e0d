"""The body of a request, read no further than the limits allow."""

import asyncio
import io
from collections.abc import Callable

from starlette.exceptions import HTTPException

from service.errors import TooLarge
from service.http.admission import Slots
from service.http.connection_limits import SLOWEST
from service.http.connections import AHEAD, has_arrived
from service.http.form import Form, header_parameters
from service.http.request import Request

ARRIVAL_SECONDS = 30  # for a body to arrive, plus one for each SLOWEST bytes received; slower clients are refused
TOO_LARGE = "the body is larger than the {} bytes allowed"
UNCOMPRESSED = frozenset((b"", b"identity", b"chunked"))


async def read_file(request: Request, max_bytes: int, slots: Slots | None = None) -> tuple[bytes, str, dict[str, str]]:
    """The file that is the request's body, or in a form; its declared content type; and the form's fields.

    The bytes are in memory only once: BytesIO collects them and returns them without a copy.

    Parameters
    ----------
    slots : acquired when the body has arrived, or `AHEAD` bytes of it

    Raises
    ------
    TooLarge : as soon as the body turns out to be larger than `max_bytes`
    HTTPException : 400 if the form holds no file or several, 408 if the body takes too long, 415 if it is compressed,
        503 if there is no free slot
    ClientDisconnect : if the client goes away
    """
    declared = request.header(b"content-type")
    media_type = declared.partition(b";")[0].strip().lower()
    if media_type.startswith(b"multipart/"):
        form = Form(header_parameters(declared).get(b"boundary", b""))
        await _read(request, max_bytes, slots, form.write)
        return form.content()
    return await read(request, max_bytes, slots), media_type.decode("latin-1"), {}


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
    if (request.content_length() or 0) > max_bytes:
        raise TooLarge(TOO_LARGE.format(max_bytes))
    codings = request.listed(b"content-encoding") + request.listed(b"transfer-encoding")
    if not UNCOMPRESSED.issuperset(codings):
        raise HTTPException(415, "a compressed body is not read; send it as it is")
    if has_arrived(request.receive):  # as most do together with the header, and need no timer
        await _receive(request, max_bytes, slots, write)
    else:
        try:
            async with asyncio.timeout(ARRIVAL_SECONDS) as deadline:
                await _receive(request, max_bytes, slots, write, deadline)
        except TimeoutError as error:
            raise HTTPException(408, "the body arrives too slowly") from error
    if slots:
        slots.acquire()


async def _receive(
    request: Request,
    max_bytes: int,
    slots: Slots | None,
    write: Callable[[bytes], object],
    deadline: asyncio.Timeout | None = None,
) -> None:
    """Pass what arrives to `write`, and put off the deadline by it."""
    size, more, start = 0, True, asyncio.get_running_loop().time()
    while more:
        chunk, more = await request.chunk()
        size += len(chunk)
        if size > max_bytes:
            raise TooLarge(TOO_LARGE.format(max_bytes))
        if slots and size > AHEAD:
            slots.acquire(complete=False)
        write(chunk)
        if more and deadline:
            deadline.reschedule(start + ARRIVAL_SECONDS + size / SLOWEST)
