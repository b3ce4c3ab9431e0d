"""The file in a form: multipart/form-data (RFC 7578), or any other multipart (RFC 2046) with one file in it.

Starlette's form parser uses the same MultipartParser, but spools each file to a temporary file in a thread.
"""

import binascii
import io
import logging
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser
from starlette.exceptions import HTTPException

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FIELDS = (b"model", b"timeline", b"seen")  # fields that a handler reads
FIELD = 256  # bytes that are kept of each
MEDIA = (b"image/", b"audio/", b"application/octet-stream")  # a part of these types is a file, even without a name
DECODERS: dict[bytes, Callable[[bytes], bytes]] = {b"base64": binascii.a2b_base64, b"quoted-printable": binascii.a2b_qp}
ENCODINGS = (b"", b"binary", b"8bit", b"7bit", *DECODERS)
ENCODED = 2**22  # bytes of a file to decode, which takes 15 ms in the event loop
PARTS = 1000  # of a form, which Django and Starlette allow too; each takes some microseconds, and may have 6 bytes
HEADERS = 2**13  # bytes of a part's headers
# name=value or name="value" after a semicolon, with quotes escaped in the latter. The parser's own function takes up to
# thirty times as long where there are many semicolons.
OPTION = re.compile(rb';[ \t]*([^\s;="]++)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*+)|([^;]*+))', re.DOTALL)

# It warns of each bad form what its sender is told: a flood of them would fill the log.
logging.getLogger("python_multipart").setLevel(logging.ERROR)


class Form:
    r"""Takes a body, chunk by chunk, and keeps its one file and the fields in FIELDS. All its methods raise
    HTTPException 400, and `write` 413 for a long file that is encoded.

    >>> form = Form(b"x")
    >>> form.write(b'--x\r\nContent-Disposition: form-data; name="f"; filename="7.png"\r\n')
    >>> form.write(b'Content-Type: image/png\r\n\r\nbytes\r\n--x--')
    >>> form.content()
    (b'bytes', 'image/png', {})
    """

    def __init__(self, boundary: bytes) -> None:
        if not boundary:
            raise HTTPException(400, "the form's Content-Type names no boundary; let the HTTP client set that header")
        self._delimiter = b"\r\n--" + boundary
        self._start = b"\r\n"  # the end of what came before the first part, to find the delimiter in
        self._begun = False
        self._delimiters, self._tail = 0, b""  # how many, and the last bytes, which may be the beginning of another
        self._file = io.BytesIO()
        self._files = 0
        self._complete = False
        self._type = self._encoding = b""  # of the file
        self._fields: dict[bytes, bytes] = {}
        # Of the current part:
        self._header = self._value = b""
        self._headers: dict[bytes, bytes] = {}
        self._header_bytes = 0
        self._is_file = self._counted = False
        self._field = b""
        try:
            self._parser = MultipartParser(boundary, self._callbacks())
        except FormParserError as error:
            raise HTTPException(400, f"the form cannot be read: {error}") from None

    def write(self, chunk: bytes) -> None:
        """Take the next bytes of the body."""
        if not self._begun:  # RFC 2046 allows a preamble, which the parser does not expect
            chunk = self._start + chunk
            at = chunk.find(self._delimiter)
            if at < 0:
                self._start = chunk[-len(self._delimiter) :]
                return
            self._begun, chunk = True, chunk[at + len(b"\r\n") :]
        self._count_delimiters(chunk)
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise HTTPException(400, f"the form cannot be read: {error}") from error

    def content(self) -> tuple[bytes, str, dict[str, str]]:
        """The file, its declared content type, and the fields, once the whole body has been written."""
        if not self._begun:
            raise HTTPException(400, "the form cannot be read: the boundary in its Content-Type is not in the body")
        if not self._complete:
            raise HTTPException(400, "the form is incomplete or holds no file; a URL or text in a field is not fetched")
        data = self._file.getvalue()
        if decode := DECODERS.get(self._encoding):
            try:
                data = decode(data)
            except binascii.Error as error:
                raise HTTPException(400, f"the file in the form is not {self._encoding.decode()}: {error}") from None
        fields = {name.decode(): value.decode("latin-1") for name, value in self._fields.items()}
        return data, self._type.decode("latin-1"), fields

    def _callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
        }

    def _count_delimiters(self, chunk: bytes) -> None:
        """Also those that turn out to be data, since something else follows: they take the parser as long as a part."""
        most = len(self._delimiter) - 1  # bytes of one that the chunk before has
        self._delimiters += chunk.count(self._delimiter) + (self._tail + chunk[:most]).count(self._delimiter)
        self._tail = (self._tail + chunk[-most:])[-most:]
        if self._delimiters > PARTS:
            raise HTTPException(400, f"the form has more than {PARTS} parts, or lines that begin with its boundary")

    def _part_begin(self) -> None:
        self._headers.clear()
        self._header_bytes = 0

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]
        self._count_header(end - start)

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._count_header(end - start)

    def _count_header(self, n_bytes: int) -> None:
        self._header_bytes += n_bytes
        if self._header_bytes > HEADERS:
            raise HTTPException(400, f"a part of the form has more than {HEADERS} bytes of headers")

    def _header_end(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header = self._value = b""

    def _headers_finished(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"")
        # The parser drops filename*= (RFC 8187), with which some clients send a name that is not ASCII. Only whether
        # there is a name matters here, so filename*= may as well be filename=.
        parameters = header_parameters(disposition.replace(b"*", b""))
        names = [value for name, value in parameters.items() if name.startswith(b"filename")]
        self._field = parameters.get(b"name", b"")
        media = self._field not in FIELDS and _media_type(self._headers).startswith(MEDIA)
        self._is_file, self._counted = bool(names) or media, False
        if any(names):
            self._count_file()
        elif not self._is_file and self._field in FIELDS:
            if self._field in self._fields:
                raise HTTPException(400, f"the form gives {self._field.decode()} more than once")
            self._fields[self._field] = b""

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._count_file()
            self._file.write(data[start:end])
            if self._encoding in DECODERS and self._file.tell() > ENCODED:
                raise HTTPException(
                    413, f"a file in {self._encoding.decode()} may have {ENCODED} bytes; send it as it is"
                )
        elif self._field in FIELDS:
            self._fields[self._field] = (self._fields[self._field] + data[start:end])[:FIELD]

    def _part_end(self) -> None:
        self._complete = self._complete or self._counted

    def _count_file(self) -> None:
        """Called at the first sign that a part holds a file: a name, or a byte. One with neither is a file input of a
        browser in which no file was chosen."""
        if self._counted:
            return
        self._counted = True
        self._files += 1
        if self._files > 1:
            raise HTTPException(400, "the form holds several files; send each in a request of its own")
        self._type = _media_type(self._headers)
        self._encoding = self._headers.get(b"content-transfer-encoding", b"").strip().lower()
        if self._encoding not in ENCODINGS:
            raise HTTPException(400, "the Content-Transfer-Encoding of the file is not read; send it as it is")


def _media_type(headers: dict[bytes, bytes]) -> bytes:
    return headers.get(b"content-type", b"").partition(b";")[0].strip().lower()


def header_parameters(header: bytes) -> dict[bytes, bytes]:
    """The parameters of a Content-Type or Content-Disposition, their names in lower case.

    >>> header_parameters(b'form-data; name="a;b"; FileName=7.png')
    {b'name': b'a;b', b'filename': b'7.png'}
    """
    return {
        name.lower(): _unescaped(quoted) if quoted else plain.rstrip() for name, quoted, plain in OPTION.findall(header)
    }


def _unescaped(quoted: bytes) -> bytes:
    return re.sub(rb"\\(.)", rb"\1", quoted) if b"\\" in quoted else quoted
