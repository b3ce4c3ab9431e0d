"""Files of another kind than expected."""

import gzip
import json

import pytest

from service.errors import Unreadable, WrongMedia
from service.media.audio import decode_audio
from service.media.image import decode_image
from service.media.signatures import announced
from tests.service.helpers import IMAGE_FILES, SOUND_FILES, seven, sound_bytes, to_bytes, tone
from tests.service.media.decoding import LIMITS, RATE, outcome, reason


def ogg(packet):
    return b"OggS\0\2" + bytes(20) + bytes([1, len(packet)]) + packet + bytes(50)


def wav(tag):
    data = sound_bytes(tone(seconds=0.05))
    return data[:20] + tag.to_bytes(2, "little") + data[22:]


def coded(format, at, code):
    """A file of libsndfile's, whose description names another code, found that many bytes behind `fmt ` or `COMM`."""
    data = sound_bytes(tone(seconds=0.05), format=format, subtype="FLOAT" if format == "AIFF" else "PCM_16")
    at += data.index(b"COMM" if format == "AIFF" else b"fmt ")
    return data[:at] + code + data[at + len(code) :]


def brands(*names):
    return (8 + 4 + 4 * len(names)).to_bytes(4, "big") + b"ftyp" + names[0] + bytes(4) + b"".join(names[1:]) + bytes(40)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (ogg(b"\x7fFLAC\1\0"), "FLAC in Ogg"), (ogg(b"Speex   1.2"), "Speex in Ogg"), (wav(0x161), "WMA in WAV"),
        (wav(0x2000), "AC-3 in WAV"), (b"0&\xb2u\x8ef\xcf\x11" + bytes(99), "WMA or other Windows Media"),
        (wav(0x50), "MP2 in WAV"), (wav(0x20), "Yamaha ADPCM in WAV"),
        (coded("W64", 24, b"\xff\0"), "AAC in Wave64"),
        (coded("W64", 24, b"\xac\xf1"), "FLAC in Wave64"), (coded("AIFF", 26, b"DWVW"), "DWVW in AIFF"),
        (b".snd" + bytes([0, 0, 0, 24, 0, 0, 9, 0, 0, 0, 0, 24, 0, 0, 62, 128, 0, 0, 0, 1]) + bytes(99), "G.722 in AU"),
        (b"wvpk" + bytes(99), "WavPack audio"),
        (b"MAC \x96\x0f" + bytes(99), "Monkey's Audio"),
        (b"\x0bw" + bytes(99), "AC-3 audio"), (b"\x7f\xfe\x80\1" + bytes(99), "DTS audio"),
        (bytes(4) + b"\xf8\x72\x6f\xba" + bytes(99), "Dolby TrueHD audio"), (b"DSD " + bytes(99), "DSD audio (DSF)"),
        (b".ra\xfd" + bytes(99), "RealAudio"), (b"RIFF\0\1\0\0AVI LIST" + bytes(99), "AVI video"),
        ((b"G" + bytes(187)) * 3, "an MPEG transport stream"), (b"V\xe0" + bytes(99), "AAC audio in LATM"),
    ],
)  # fmt: skip
def test_sound_of_a_kind_that_is_not_read(data, name):
    convert = f"this looks like {name}, which is not read; convert it: ffmpeg -i FILE out.wav"
    assert outcome(decode_audio, data, RATE, LIMITS) == (WrongMedia, convert)
    assert outcome(decode_image, data, LIMITS)[1].startswith(f"this looks like {name}; expected an image")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\xff\x0a" + bytes(99), "JPEG XL"), (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(99), "JPEG XL"),
        (to_bytes(seven(), "ICO"), "an icon (ICO)"), (to_bytes(seven(), "ICNS"), "an icon of macOS (ICNS)"),
        (b"gimp xcf v011\0" + bytes(99), "a GIMP image (XCF)"), (to_bytes(seven(), "EPS"), "a PostScript document"),
        (bytes(128) + b"DICM" + bytes(99), "a DICOM image"), (to_bytes(seven().convert("1"), "XBM"), "an XBM image"),
        (b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 1\nMAXVAL 255\nENDHDR\n\0", "a PAM image"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(99), "a raw photo (CR2)"),
        (brands(b"crx ", b"isom"), "a raw photo (CR3)"), (b"FUJIFILMCCD-RAW 0201" + bytes(99), "a raw photo (RAF)"),
    ],
)  # fmt: skip
def test_pictures_of_a_kind_that_is_not_read(data, name):
    convert = f"this looks like {name}, which is not read; convert it: magick FILE out.png"
    assert outcome(decode_image, data, LIMITS) == (WrongMedia, convert)
    assert outcome(decode_audio, data, RATE, LIMITS)[1].startswith(f"this looks like {name}; expected audio")


@pytest.mark.parametrize(
    ("data", "decode", "command"),
    [
        (b"MThd\0\0\0\6" + bytes(99), "audio", "timidity -Ow -o out.wav FILE"),
        (b'<?xml version="1.0"?>\n<svg width="9">', "image", "rsvg-convert -o out.png FILE"),
        (b"data:image/png;base64,iVBORw0KGgo=", "image", "base64 -d, of what follows its comma"),
        (b"%PDF-1.7\n", "image", "pdftoppm -png FILE out"), (b"7z\xbc\xaf\x27\x1c" + bytes(99), "audio", "7z x FILE"),
        (bytes(257) + b"ustar" + bytes(99), "image", "tar xf FILE"), (b"PK\3\4" + bytes(99), "audio", "unzip FILE"),
        (b"version https://git-lfs.github.com/spec/v1\n", "image", "git lfs pull"),
        (sound_bytes(tone(8_000), 8_000, "VOC", "PCM_16"), "audio", "ffmpeg -i FILE out.wav"),
    ],
)  # fmt: skip
def test_command_that_helps(data, decode, command):
    refused, message = outcome(*((decode_image, data) if decode == "image" else (decode_audio, data, RATE)), LIMITS)
    assert refused is WrongMedia
    assert message.endswith(f": {command}")


def test_a_coding_that_is_not_read_of_a_kind_that_is():
    jpeg = bytearray(to_bytes(seven(), "JPEG"))
    jpeg[jpeg.index(b"\xff\xc0") + 4] = 12  # bits
    halves = bytearray(sound_bytes(tone(8_000), 8_000, "WAV", "FLOAT"))
    halves[34] = 16  # bits of each float
    for decode, *arguments, command in (
        (decode_image, bytes(jpeg), LIMITS, "magick FILE out.png"),
        (decode_audio, bytes(halves), RATE, LIMITS, "ffmpeg -i FILE out.wav"),
    ):
        said = f"the file is damaged, or coded in a way that is not read; try to convert it: {command}"
        assert outcome(decode, *arguments) == (Unreadable, said)


def test_kinds_that_are_read_are_announced_as_such():
    for data in SOUND_FILES:
        assert announced(data)[:1] + announced(data)[2:] == ("audio", "", "")
    for data in IMAGE_FILES:
        assert announced(data) is None or announced(data)[:1] + announced(data)[2:] == ("image", "", "")
    assert announced(brands(b"mif1", b"avif", b"miaf")).name == "an AVIF image"
    assert announced(brands(b"mif1", b"heic", b"miaf")).name == "a HEIC photo"
    assert announced(b"ID3\4\0\0\0\0\0\4abcd\xff\xfb\x90").remedy == ""
    assert announced(b"\xff\xe3\x18\xc4" + bytes(99)).media == "audio"  # MPEG-2.5, at 8 kHz
    assert announced(b"ID3\4\0\0\0\0\0\4abcd\xff\xf1\x50").name == "AAC audio (ADTS)"


@pytest.mark.parametrize(
    "data",
    [
        b"%PDF-1.7\n",
        b"<!doctype html><p>hello",
        json.dumps({"image": "http://169.254.169.254/"}).encode(),
        gzip.compress(to_bytes(seven())),
        b"PK\x03\x04" + bytes(30),
        "zażółć gęślą jaźń ".encode() * 60,
    ],
)
def test_another_kind_of_file(data):
    assert reason(decode_image, data, LIMITS) is WrongMedia
    assert reason(decode_audio, data, RATE, LIMITS) is WrongMedia


def test_sound_is_no_image_and_the_reverse():
    for data in SOUND_FILES:
        assert reason(decode_image, data, LIMITS) is WrongMedia
    assert reason(decode_audio, to_bytes(seven()), RATE, LIMITS) is WrongMedia
    assert reason(decode_audio, to_bytes(seven(), "JPEG"), RATE, LIMITS) is WrongMedia


@pytest.mark.parametrize("data", [b"", b"\0", bytes(1000), b"\x80\x04\x95" + bytes(100), b"\xff"])
def test_unreadable(data):
    assert reason(decode_image, data, LIMITS) is Unreadable
    assert reason(decode_audio, data, RATE, LIMITS) is Unreadable
