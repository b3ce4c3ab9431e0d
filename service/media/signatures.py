"""What the first bytes of a file say about its kind, what a model expects instead, and what converts it."""

import re
from typing import NamedTuple

from service.errors import MediaError, Unreadable, WrongMedia
from service.media.containers import after_tags

EXPECTED = {
    "image": "an image (PNG, JPEG, GIF, WebP, TIFF, BMP, …)",
    "audio": "audio (WAV, FLAC, OGG, MP3, AIFF)",
    "vector": "JSON: an array of numbers, or a row of a table",
}
EXTRA = "percept's extra 'phone'"


class Kind(NamedTuple):
    """A kind of file.

    media : "image", "audio", "text", "archive" or "" for anything else
    name : what people call it
    remedy : the command that turns it into something that is read; empty if percept reads the kind
    reader : what reads it where the extra `phone` is installed: a demuxer of FFmpeg, or "heif"
    """

    media: str
    name: str
    remedy: str = ""
    reader: str = ""


Signature = tuple[int, bytes, Kind]
TO_WAV, TO_PNG = "ffmpeg -i FILE out.wav", "magick FILE out.png"

# Kinds that are read.
IMAGE, AUDIO = Kind("image", "an image"), Kind("audio", "audio")
READ: tuple[Signature, ...] = (
    (8, b"WAVE", AUDIO), (8, b"CR\2", Kind("image", "a raw photo (CR2)", TO_PNG)),  # a CR2 begins as a TIFF does,
    (0, b"\xff\xd8\xff\xf7", Kind("image", "JPEG-LS", TO_PNG)),  # and JPEG-LS as a JPEG
    (0, b"\x89PNG", IMAGE), (0, b"GIF8", IMAGE), (8, b"WEBP", IMAGE), (8, b"AIF", AUDIO),
    (0, b"fLaC", AUDIO), (0, b".snd", AUDIO), (0, b"riff\x2e\x91\xcf\x11", AUDIO), (0, b"8BPS\0\1", IMAGE),
    (0, b"qoif", IMAGE), (0, b"\xff\xd8\xff", IMAGE),
    (0, b"II*\0", IMAGE), (0, b"MM\0*", IMAGE), (0, b"BM", IMAGE),
    *((0, b"\xff" + bytes([second]), AUDIO) for second in (0xFB, 0xFA, 0xF3, 0xF2, 0xE3, 0xE2, 0xFD, 0xFC, 0xF5, 0xF4)),
)  # fmt: skip


def _not_read(media: str, remedy: str, *rows: tuple[int, bytes, str], reader: str = "") -> tuple[Signature, ...]:
    return tuple((offset, signature, Kind(media, name, remedy, reader)) for offset, signature, name in rows)


# Kinds that are not, by what converts them.
NOT_READ: tuple[Signature, ...] = (
    *_not_read("audio", TO_WAV, (0, b"#!AMR", "AMR audio"), reader="amr"),
    *_not_read("audio", TO_WAV, (0, b"\x1aE\xdf\xa3", "WebM or Matroska media"), reader="matroska"),
    *_not_read(
        "audio", TO_WAV,
        (0, b"0&\xb2u\x8ef\xcf\x11", "WMA or other Windows Media"), (0, b"wvpk", "WavPack audio"),
        (0, b"MAC ", "Monkey's Audio"), (0, b"MPCK", "Musepack audio"), (0, b"MP+", "Musepack audio"),
        (0, b"TTA1", "True Audio (TTA)"), (0, b"tBaK", "TAK audio"), (0, b"ajkg", "Shorten audio"),
        (0, b"OFR ", "OptimFROG audio"), (0, b"qoaf", "QOA audio"), (0, b"#!SILK", "SILK audio"),
        (1, b"#!SILK", "SILK audio"), (0, b"#!iLBC", "iLBC audio"), (0, b"#!EVS", "EVS audio"),
        (0, b"DSD ", "DSD audio (DSF)"), (0, b"FRM8", "DSD audio (DSDIFF)"), (0, b".ra\xfd", "RealAudio"),
        (0, b".RMF", "RealMedia"), (4, b"\xf8\x72\x6f\xba", "Dolby TrueHD audio"),
        (4, b"\xf8\x72\x6f\xbb", "MLP audio"),
        (0, b"\x7f\xfe\x80\x01", "DTS audio"), (0, b"\xfe\x7f\x01\x80", "DTS audio"),
        (0, b"\x1f\xff\xe8\0", "DTS audio"), (0, b"\xff\x1f\0\xe8", "DTS audio"), (0, b"DTSHDHDR", "DTS audio"),
        (0, b"\x0bw", "AC-3 audio"), (0, b"V\xe0", "AAC audio in LATM"), (0, b"V\xe1", "AAC audio in LATM"),
        (0, b"ea3\3", "ATRAC audio"), (0, b"EA3", "ATRAC audio"),
        (0, b"Creative Voice", "Creative Voice audio"), (0, b"NIST_1A", "NIST SPHERE audio"),
        (0, b"Extended Module: ", "a tracker module (XM)"), (0, b"IMPM", "a tracker module (IT)"),
        (44, b"SCRM", "a tracker module (S3M)"), (1080, b"M.K.", "a tracker module (MOD)"),
        (8, b"8SVX", "8SVX audio"), (8, b"16SV", "16SV audio"), (8, b"AVI ", "AVI video"),
        (0, b"FLV\1", "Flash video"), (0, b"\0\0\1\xba", "MPEG video"),
        (0, b"\0\0\1\xb3", "MPEG video"),
    ),
    *_not_read(
        "audio", TO_WAV,
        (4, b"moov", "QuickTime media"), (4, b"mdat", "QuickTime media"), (4, b"wide", "QuickTime media"), reader="mov",
    ),
    *_not_read("audio", "timidity -Ow -o out.wav FILE", (0, b"MThd", "MIDI"), (8, b"RMID", "MIDI")),
    *_not_read(
        "image", TO_PNG,
        (0, b"\0\0\0\x0cjP  ", "JPEG 2000"), (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
        (0, b"\xff\x0a", "JPEG XL"), (0, b"\0\0\0\x0cJXL ", "JPEG XL"), (0, b"8BPS", "a Photoshop document (PSB)"),
        (0, b"icns", "an icon of macOS (ICNS)"),
        (0, b"gimp xcf", "a GIMP image (XCF)"), (0, b"%!PS", "a PostScript document"),
        (0, b"\xc5\xd0\xd3\xc6", "a PostScript document (EPS)"), (128, b"DICM", "a DICOM image"),
        (0, b"SIMPLE  =", "a FITS image"), (0, b"v/1\1", "an OpenEXR image"), (0, b"#?R", "a Radiance HDR image"),
        (0, b"II\xbc", "JPEG XR"), (0, b"BPG\xfb", "BPG"), (0, b"FLIF", "FLIF"),
        (0, b"P7\n", "a PAM image"), (0, b"\x59\xa6\x6a\x95", "a Sun raster image"),
        (0, b"farbfeld", "a farbfeld image"), (0, b"\x97JB2", "JBIG2"), (0, b"\xabKTX ", "a KTX texture"),
        (0, b"DanM", "a Microsoft Paint image (MSP)"),
        (0, b"LinS", "a Microsoft Paint image (MSP)"), (0, b"Image type:", "an IFUNC image (IM)"),
        (0, b"DDS ", "a DirectDraw surface (DDS)"), (0, b"AT&TFORM", "a DjVu document"), (0, b"/* XPM", "an XPM image"),
        (8, b"ILBM", "an ILBM image"), (0, b"\xd7\xcd\xc6\x9a", "a Windows metafile (WMF)"),
        (40, b" EMF", "a Windows metafile (EMF)"),
        (0, b"FUJIFILMCCD-RAW", "a raw photo (RAF)"), (0, b"IIU\0", "a raw photo (RW2)"),
        (0, b"IIRO", "a raw photo (ORF)"), (0, b"IIRS", "a raw photo (ORF)"), (0, b"MMOR", "a raw photo (ORF)"),
        (0, b"FOVb", "a raw photo (X3F)"), (0, b"\0MRM", "a raw photo (MRW)"),
    ),
    *_not_read("image", "pdftoppm -png FILE out", (0, b"%PDF", "a PDF document")),
    *_not_read(
        "", "",
        *((30, name, "an Office document, such as .xlsx") for name in (b"[Content_Types].xml", b"docProps/")),
        (30, b"mimetypeapplication/vnd.oasis", "an OpenDocument file, such as .ods"),
        (0, b"\xd0\xcf\x11\xe0", "an Office document, such as .xls"), (0, b"PAR1", "a Parquet file"),
    ),
    *_not_read("archive", "unzip FILE", (0, b"PK\3\4", "a ZIP archive"), (0, b"PK\5\6", "an empty ZIP archive")),
    *_not_read("archive", "gunzip FILE.gz", (0, b"\x1f\x8b", "a gzip archive")),
    *_not_read("archive", "bunzip2 FILE.bz2", (0, b"BZh", "a bzip2 archive")),
    *_not_read("archive", "unxz FILE.xz", (0, b"\xfd7zXZ", "an xz archive")),
    *_not_read("archive", "unzstd FILE.zst", (0, b"(\xb5/\xfd", "a Zstandard archive")),
    *_not_read("archive", "7z x FILE", (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"), (0, b"Rar!", "a RAR archive")),
    *_not_read("archive", "tar xf FILE", (257, b"ustar", "a tar archive")),
    *_not_read("", "", (0, b"\x93NUMPY", "a NumPy array"), (0, b"\x89HDF", "an HDF5 file")),
)  # fmt: skip
SIGNATURES = (*READ, *NOT_READ)

# Containers whose kind is that of what they hold.
OGG = {  # by the first bytes of the first packet
    b"\x01vorbis": AUDIO, b"OpusHead": AUDIO, b"\x7fFLAC": Kind("audio", "FLAC in Ogg", TO_WAV),
    b"Speex   ": Kind("audio", "Speex in Ogg", TO_WAV), b"CELT    ": Kind("audio", "CELT in Ogg", TO_WAV),
    b"PCM     ": Kind("audio", "PCM in Ogg", TO_WAV), b"\x80theora": Kind("audio", "video in Ogg", TO_WAV),
    b"fishead": Kind("audio", "Ogg with a skeleton", TO_WAV), b"\x01video": Kind("audio", "video in Ogg", TO_WAV),
}  # fmt: skip
CAF = {  # by the format of its description
    b"alac": "ALAC", b"ima4": "IMA4", b"aac ": "AAC", b"opus": "Opus", b".mp3": "MP3", b"flac": "FLAC", b"aach": "AAC",
    b"aacp": "AAC", b"MAC3": "MACE", b"MAC6": "MACE", b"ac-3": "AC-3", b"QDM2": "QDesign", b"ilbc": "iLBC",
    b".mp1": "MP1", b".mp2": "MP2", b"ms\0\x02": "MS ADPCM", b"ms\0\x11": "IMA ADPCM", b"ms\0\x31": "GSM",
}  # fmt: skip
WAV = {  # by the format tag; 0xFFFE gives the tag in its extension
    0x0A: "Windows Media voice", 0x160: "WMA", 0x161: "WMA", 0x162: "WMA", 0x163: "WMA", 0xFF: "AAC", 0x1610: "AAC",
    0x2000: "AC-3", 0x2001: "DTS", 0x75: "VoxWare", 0x22: "TrueSpeech", 0x42: "G.723", 0x64: "G.726", 0x45: "G.726",
    0x28F: "G.722", 0x65: "G.722", 0x83: "G.729", 0x270: "ATRAC3", 0xA109: "Speex", 0x566F: "Vorbis", 0x674F: "Vorbis",
    0xF1AC: "FLAC", 0x704F: "Opus", 0x08: "DTS", 0x92: "AC-3", 0x50: "MP2",
    0x10: "OKI ADPCM", 0x17: "OKI ADPCM", 0x20: "Yamaha ADPCM", 0x69: "Xbox ADPCM",
    0x200: "Creative ADPCM", 0x1600: "AAC", 0x1601: "AAC", 0x1602: "AAC", 0x706D: "AAC", 0x7A21: "AMR", 0x7A22: "AMR",
}  # fmt: skip
AIFC = {  # by the compression of its description
    b"DWVW": "DWVW", b"MAC3": "MACE", b"MAC6": "MACE", b"QDMC": "QDesign", b"QDM2": "QDesign", b"Qclp": "QCELP",
    b"alac": "ALAC", b".mp3": "MP3", b"ADP4": "ADPCM", b"G722": "G.722", b"G726": "G.726", b"G728": "G.728",
    b"rt24": "RT24", b"rt29": "RT29", b"ms\0\x02": "MS ADPCM", b"ms\0\x11": "IMA ADPCM",
}  # fmt: skip
AU = {24: "G.722"}  # by the encoding in its header
HEIC, AVIF = Kind("image", "a HEIC photo", TO_PNG, "heif"), Kind("image", "an AVIF image")
BRANDS = {  # of ISO base media files, by major brand; any other is MPEG-4
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), HEIC),
    **dict.fromkeys((b"avif", b"avis"), AVIF), b"crx ": Kind("image", "a raw photo (CR3)", TO_PNG),
    b"qt  ": Kind("audio", "QuickTime media (.mov)", TO_WAV, "mov"),
    b"M4A ": Kind("audio", "MPEG-4 audio (.m4a)", TO_WAV, "mov"), b"aax ": Kind("audio", "an Audible book", TO_WAV),
}  # fmt: skip
MPEG4 = Kind("audio", "MPEG-4 media (.mp4)", TO_WAV, "mov")
THREEGP = Kind("audio", "3GP media", TO_WAV, "mov")
HEIF = Kind("image", "a HEIF image", TO_PNG, "heif")
ADTS = Kind("audio", "AAC audio (ADTS)", TO_WAV, "aac")

ICONS = {
    b"\0\0\1\0": Kind("image", "an icon (ICO)", TO_PNG),
    b"\0\0\2\0": Kind("image", "a cursor (CUR)", TO_PNG),
}
TEXTS = (  # how they begin, in lower case
    ("<!doctype html", Kind("text", "a web page (HTML)")), ("<html", Kind("text", "a web page (HTML)")),
    ("version https://git-lfs", Kind("archive", "a pointer of Git LFS", "git lfs pull")),
    ("#extm3u", Kind("text", "a playlist, which holds no sound itself")),
)  # fmt: skip
TEXT = Kind("text", "text")
XBM = Kind("image", "an XBM image", TO_PNG)
DATA_URL = Kind("archive", "a data URL", "base64 -d, of what follows its comma")
SVG = Kind("image", "an SVG drawing", "rsvg-convert -o out.png FILE")
# Up to 64 of what a script may have sent in front of a file. An ISO base media file has zeros of its own in front of
# "ftyp", and the header of a TGA in runs is such characters too.
FRONT = re.compile(rb"(?!\0\0[\n\v]\0{5})(?:\xef\xbb\xbf|[\s\0]){1,64}?(?=.{4}ftyp|[^\s\0\xef])", re.DOTALL)
HEAD = 512  # bytes in which text is told from binary data
FARTHEST = 2048  # bytes in which every signature stands


def undecodable(data: bytes, expected: str) -> MediaError:
    """The error for `data` that could not be decoded as `expected` ("image", "audio" or "vector"): WrongMedia if the
    first bytes announce another kind of media, or a kind that is not read, else Unreadable: it is damaged, or coded in
    a way that its first bytes do not tell, such as a JPEG of 12 bits.

    >>> undecodable(b"wvpk....", "image")
    WrongMedia('this looks like WavPack audio; expected an image (PNG, JPEG, GIF, WebP, TIFF, BMP, …)')
    >>> undecodable(b"wvpk....", "audio")
    WrongMedia('this looks like WavPack audio, which is not read; convert it: ffmpeg -i FILE out.wav')
    """
    if not data:
        return Unreadable(f"the file is empty; expected {EXPECTED[expected]}")
    found = announced(data)
    if found and found.remedy and found.media in (expected, "archive"):
        return WrongMedia(f"this looks like {found.name}, {_needs(found)}: {found.remedy}")
    if found and found.media == expected:
        convert = TO_WAV if expected == "audio" else TO_PNG
        return Unreadable(f"the file is damaged, or coded in a way that is not read; try to convert it: {convert}")
    if found is None or (found.media, expected) == ("text", "vector"):
        return damaged(expected)
    return WrongMedia(f"this looks like {found.name}; expected {EXPECTED[expected]}")


def damaged(expected: str, kind: Kind | None = None) -> Unreadable:
    """The error for a file of a kind that is read, or of no kind that is known; `kind` is one that an extra reads.

    >>> damaged("audio", announced(b"#!AMR"))
    Unreadable('this looks like AMR audio, but it is damaged')
    """
    if kind and kind.reader:
        return Unreadable(f"this looks like {kind.name}, but it is damaged")
    return Unreadable(f"the file is damaged, or not {EXPECTED[expected]}")


def _needs(kind: Kind) -> str:
    if kind.media == "archive":
        return "not the file itself; get that with"
    if kind.reader:
        return f"which needs {EXTRA} (pip install '.[phone]'); or convert it"
    return "which is not read; convert it"


def without_front(data: bytes) -> bytes:
    """The file without line breaks, zeros and a mark of UTF-8 that a script has sent in front of it, where it is of a
    known kind then.

    >>> without_front(b"\\r\\n\\x89PNG")[:4], without_front(b"\\n[1, 2]")
    (b'\\x89PNG', b'\\n[1, 2]')
    """
    front = FRONT.match(data)
    if front is None:
        return data
    kind = announced(data[front.end() : front.end() + FARTHEST])
    return data[front.end() :] if kind and kind.media in ("image", "audio") else data


def announced(data: bytes) -> Kind | None:
    """The kind of file that the first bytes announce, or None.

    >>> announced(b"#!AMR")
    Kind(media='audio', name='AMR audio', remedy='ffmpeg -i FILE out.wav', reader='amr')
    """
    if data.startswith(b"ID3"):
        return _behind_id3(data)
    for offset, signature, kind in SIGNATURES:
        if data.startswith(signature, offset):
            return CODED[signature](data) if signature in CODED else kind
    if data.startswith(b"OggS"):
        packet = data[27 + data[26] :] if len(data) > 26 else b""
        return next((kind for start, kind in OGG.items() if packet.startswith(start)), AUDIO)
    if data.startswith(b"caff"):
        inside = CAF.get(data[28:32])
        return Kind("audio", f"{inside} in CAF", TO_WAV, "caf") if inside else AUDIO
    if data[4:8] == b"ftyp":
        return _by_brand(data)
    if data[:4] in ICONS and data[4:6] != b"\0\0":  # a TGA has zeros there
        return ICONS[data[:4]]
    if len(data) > 1 and data[0] == 0xFF and data[1] & 0xF6 == 0xF0:
        return ADTS
    if data[:1] == data[188:189] == data[376:377] == b"G":  # the sync byte of each packet
        return Kind("audio", "an MPEG transport stream", TO_WAV)
    return _as_text(data)


def _behind_id3(data: bytes) -> Kind:
    """The kind of what follows a tag, which is mostly MP3."""
    after = after_tags(data)
    follows = announced(data[after : after + FARTHEST]) if data[after : after + 1] == b"\xff" else None
    return follows if follows is ADTS else AUDIO


def _in_wav(data: bytes) -> Kind:
    """The kind of what is in WAV, or in Wave64, whose lengths and identifiers are longer."""
    name, header = ("Wave64", 24) if data.startswith(b"riff") else ("WAV", 8)
    found = data.find(b"fmt ", 12, 2**12)
    at = found + header
    tag = int.from_bytes(data[at : at + 2], "little")
    if tag == 0xFFFE:
        tag = int.from_bytes(data[at + 24 : at + 26], "little")
    return Kind("audio", f"{WAV[tag]} in {name}", TO_WAV) if found > 0 and tag in WAV else AUDIO


def _in_aiff(data: bytes) -> Kind:
    at = data.find(b"COMM", 12, 2**12) + 26
    inside = AIFC.get(data[at : at + 4]) if data[8:12] == b"AIFC" and at > 26 else None
    return Kind("audio", f"{inside} in AIFF", TO_WAV) if inside else AUDIO


def _in_au(data: bytes) -> Kind:
    inside = AU.get(int.from_bytes(data[12:16]))
    return Kind("audio", f"{inside} in AU", TO_WAV) if inside else AUDIO


CODED = {b"WAVE": _in_wav, b"riff\x2e\x91\xcf\x11": _in_wav, b"AIF": _in_aiff, b".snd": _in_au}


def _by_brand(data: bytes) -> Kind:
    """The kind of an ISO base media file (ISO/IEC 14496-12) by its brands."""
    major, end = data[8:12], min(int.from_bytes(data[:4], "big"), HEAD)
    if major in (b"mif1", b"msf1"):  # any HEIF; what codes it is among the compatible brands
        brands = (data[at : at + 4] for at in range(16, end, 4))
        return next((BRANDS[brand] for brand in brands if BRANDS.get(brand) in (HEIC, AVIF)), HEIF)
    return THREEGP if major.startswith(b"3g") else BRANDS.get(major, MPEG4)


def _as_text(data: bytes) -> Kind | None:
    head = data[:HEAD]
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        cut = len(data) > len(head) and error.start >= len(head) - 3  # the head may end inside a character
        if not cut:
            return None
        text = head[: error.start].decode()
    if not all(character.isprintable() or character.isspace() for character in text):
        return None
    start = text.lstrip("\ufeff \r\n\t").lower()
    if "<svg" in start:
        return SVG
    if start.startswith("#define") and "_width" in start:
        return XBM
    if start.startswith("data:") and ";base64," in start:
        return DATA_URL
    return next((kind for beginning, kind in TEXTS if start.startswith(beginning)), TEXT)
