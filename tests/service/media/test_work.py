"""Work is estimated by what a file holds, not by its bytes."""

import struct
import zlib

import numpy as np
import pytest

from service.media import Limits
from service.media.containers import recordings
from service.media.work import of_audio, of_image, of_vector
from tests.service.helpers import seven, sound_bytes, to_bytes, tone

LIMITS = Limits()
INLINE = 0.002  # seconds that may be spent in the event loop
RATE = 22_050


def seconds_of_image(data):
    return of_image(data, LIMITS).seconds


def seconds_of_audio(data):
    return of_audio(data, RATE, LIMITS)[0].seconds


def chunk(name, body=b""):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_pictures_by_their_pixels(format):
    small, large = (to_bytes(seven((side, side)), format) for side in (28, 4000))
    assert seconds_of_image(small) < INLINE / 2
    assert seconds_of_image(to_bytes(seven((100, 100)), format)) < INLINE
    assert seconds_of_image(to_bytes(seven((200, 200)), format)) > INLINE  # 6 ms, if it is a photo of paper
    assert seconds_of_image(to_bytes(seven((300, 50)), format)) < INLINE
    assert seconds_of_image(large) > 50 * INLINE
    assert of_image(large, LIMITS).bytes >= 16_000_000


@pytest.mark.parametrize("format", ["TIFF", "AVIF", "TGA"])
def test_other_pictures_as_the_largest(format):
    assert seconds_of_image(to_bytes(seven(), format)) > 50 * INLINE


def test_a_gif_whose_frame_is_larger_than_its_screen():
    data = to_bytes(seven((28, 28)), "GIF")
    at = data.index(b",\0\0\0\0")
    assert seconds_of_image(data[: at + 5] + b"\xff\x0f\xff\x0f" + data[at + 9 :]) > 50 * INLINE
    assert seconds_of_image(data[:at] + b"!\xfe\1a\0" * 20 + data[at:]) > 50 * INLINE  # not looked through


def test_a_bmp_in_runs_and_a_webp_with_metadata():
    runs = bytearray(to_bytes(seven((60, 60)).convert("L"), "BMP"))
    assert seconds_of_image(runs) < INLINE
    runs[30] = 1
    assert seconds_of_image(bytes(runs)) > INLINE  # decoded in Python
    assert seconds_of_image(to_bytes(seven((28, 28)), "WEBP", lossless=True)) < INLINE
    assert seconds_of_image(to_bytes(seven((28, 28)), "WEBP", exif=exif(1))) > 50 * INLINE


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_tags_of_exif(format):
    assert seconds_of_image(to_bytes(seven((28, 28)), format, exif=exif(10))) < INLINE
    assert seconds_of_image(to_bytes(seven((28, 28)), format, exif=exif(5000))) > 4 * INLINE


def exif(n):
    """EXIF of n tags."""
    tags = b"".join(struct.pack("<HHII", 300 + i, 3, 1, 1) for i in range(n))
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", n) + tags + bytes(4)


@pytest.mark.parametrize(
    "more",
    [chunk(b"abCd") * 500, chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(bytes(10**6))), chunk(b"IHDR", bytes(13))],
    ids=["many", "inflated", "another header"],
)
def test_chunks_of_a_small_png(more):
    data = to_bytes(seven((28, 28)))
    assert seconds_of_image(data[:33] + more + data[33:]) > INLINE
    end = data.index(b"IEND") + 8
    assert seconds_of_image(data[:end] + more) < INLINE  # nobody reads what follows


def test_many_segments_and_a_second_frame_of_a_jpeg():
    data = to_bytes(seven((28, 28)), "JPEG")
    assert seconds_of_image(data[:2] + b"\xff\xe5\0\2" * 500 + data[2:]) > INLINE
    assert seconds_of_image(data[:2] + b"\xff\xc0\0\x0b\x08\x10\0\x10\0\1\0\0\0" + data[2:]) > INLINE


def test_recordings_by_their_length():
    note = sound_bytes(tone(RATE, seconds=2), RATE)
    assert seconds_of_audio(note) < INLINE / 2
    assert seconds_of_audio(note[:36] + b"LIST\0\0\0\0" * 2000 + note[36:]) > INLINE
    for rate, subtype in ((1_000, "PCM_U8"), (8_000, "MS_ADPCM"), (8_000, "GSM610")):
        assert seconds_of_audio(sound_bytes(np.zeros((100 * rate, 1)), rate, subtype=subtype)) > INLINE


@pytest.mark.parametrize("format", ["FLAC", "MP3", "OGG", "AIFF", "W64", "CAF"])
def test_coded_recordings(format):
    told = 60 if format in ("FLAC", "MP3") else 1  # by the header, or by the least bit rate there is
    work, seconds = of_audio(sound_bytes(np.full((told * 8_000, 1), 0.1), 8_000, format), RATE, LIMITS)
    assert 59.9 < seconds <= 600
    assert work.seconds > 5 * INLINE
    assert work.bytes > 60 * RATE * 4


def test_a_short_flac_is_less_work_than_a_long_one():
    assert seconds_of_audio(sound_bytes(tone(seconds=1), format="FLAC")) < 0.1


@pytest.mark.parametrize("first", ["WAV", "unknown length", "FLAC", "MP3", "ID3"])
@pytest.mark.parametrize("second", ["WAV", "FLAC", "OGG", "CAF"])
def test_a_short_recording_with_another_behind_it(first, second):
    """Of silence, ten minutes may take a kilobyte."""
    short = sound_bytes(
        tone(RATE, seconds=0.1), RATE, "WAV" if first == "unknown length" else first.replace("ID3", "MP3")
    )
    if first == "unknown length":
        short = short[:40] + b"\xff\xff\xff\xff" + short[44:]
    if first == "ID3":
        short = b"ID3\4\0\0\0\0\0\0" + short
    assert seconds_of_audio(short) < INLINE
    more = sound_bytes(tone(RATE, seconds=0.1), RATE, second)
    seen = first != "unknown length" or second == "WAV"  # what follows a WAV of unknown length is taken for its sound
    assert (seconds_of_audio(short + more) > 50 * INLINE) == seen
    assert len(recordings(short + more, 1.0)) == 1 + seen


def test_large_recordings_without_a_length_are_counted_as_the_longest():
    assert seconds_of_audio(sound_bytes(np.random.default_rng(0).uniform(-1, 1, (100_000, 1)), format="FLAC")) > INLINE
    streamed = sound_bytes(tone(RATE, seconds=2), RATE)
    assert seconds_of_audio(streamed[:40] + b"\xff\xff\xff\xff" + streamed[44:]) < INLINE


def test_headers_that_are_cut():
    pictures = [to_bytes(seven(), format) for format in ("PNG", "JPEG", "GIF", "BMP", "WEBP")]
    pictures.append(to_bytes(seven(), "WEBP", lossless=True))
    for data in (*pictures, sound_bytes(tone()), sound_bytes(tone(), format="FLAC")):
        for end in range(60):
            assert of_image(data[:end], LIMITS).seconds > 0
            assert of_audio(data[:end], RATE, LIMITS)[0].seconds > 0


def test_vectors_by_their_text():
    assert of_vector(bytes(10**6)).seconds > 10 * of_vector(bytes(10**4)).seconds
