"""Files that tests send to the service, and the check of an error's form."""

import io
from functools import cache

import numpy as np
import soundfile
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits

from service.http.errors import CODES
from service.media.raster import IMAGE_FORMATS


def seven(size=(60, 80), ink=0, paper=255, mode="L"):
    """A drawn 7, off centre, on a page with a margin."""
    page = Image.new(mode, size, paper)
    width, height = size
    draw = ImageDraw.Draw(page)
    points = [(0.3 * width, 0.2 * height), (0.7 * width, 0.2 * height), (0.45 * width, 0.7 * height)]
    draw.line(points, fill=ink, width=max(1, width // 10))
    return page


def to_bytes(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def tone(rate=44_100, channels=1, seconds=0.5, frequency=440.0, peak=0.5):
    """float64 (T, channels)"""
    t = np.arange(round(rate * seconds)) / rate
    return np.repeat(peak * np.sin(2 * np.pi * frequency * t)[:, None], channels, axis=1)


def sound_bytes(samples, rate=44_100, format="WAV", subtype=None):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format, subtype=subtype)
    return file.getvalue()


@cache
def _digits():
    return load_digits().images


def digit_file(index, format="PNG"):
    """A digit of scikit-learn, dark on light, as a file of 80 × 80 pixels."""
    page = Image.fromarray((255 - _digits()[index] * 255 / 16).astype(np.uint8))
    return to_bytes(page.resize((80, 80), Image.Resampling.BICUBIC).convert("RGB"), format)


def mutated(data, rng):
    """`data` with a few bytes changed, removed or doubled, or cut short."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 3, 20])):
        at = rng.randrange(len(changed))
        match rng.randrange(4):
            case 0 | 1:
                changed[at] = rng.randrange(256)
            case 2:
                del changed[at : at + rng.randrange(8)]
            case 3:
                changed[at:at] = changed[at : at + rng.randrange(8)]
        changed = changed or bytearray(b"\0")
    return bytes(changed[: rng.randrange(len(changed))] if rng.randrange(8) == 0 else changed)


def refusal(response):
    """The status of an error; the test fails if the response does not have the form of one."""
    error = response.json()
    assert set(error) == {"error"}
    assert set(error["error"]) == {"code", "message"}
    assert error["error"]["code"] == CODES[response.status_code]
    assert error["error"]["message"]
    assert "\n" not in error["error"]["message"]
    return response.status_code


IMAGE_FILES = [to_bytes(seven().convert("RGB"), format) for format in sorted({*IMAGE_FORMATS} - {"PSD"})]
SOUND_FILES = [sound_bytes(tone(seconds=0.1), format=f) for f in ("WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF")]
FLUTE = sound_bytes(tone(frequency=2000))
BASSOON = sound_bytes(tone(frequency=100))
