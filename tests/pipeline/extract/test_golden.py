"""Features of a small golden set: caches are keyed by version constants, which have to be raised when features change.

Where a change of features is meant, raise the constant and write the file anew:
python -m tests.pipeline.extract.test_golden
"""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from models import FEATURES_VERSION, frontend
from pipeline import extract, task
from pipeline.extract import copies
from pipeline.sources import embedded
from pipeline.sources import notes as synthesis
from service import media
from service.media import Limits, audio, image
from service.media.picture import decode_picture

FILE = Path(__file__).with_name("golden.json")
TOLERANCE = 1e-3  # of a value in the thousands of decibels and less: rounding differs between processors


def picture() -> bytes:
    """A stroke in colour on uneven paper, turned by an EXIF tag."""
    rng = np.random.default_rng(0)
    page = np.full((90, 60, 3), 230.0) + rng.normal(0, 2, (90, 60, 3)) + np.linspace(0, 10, 60)[:, None]
    page[20:70, 28:34] = (40, 50, 120)
    page[20:26, 20:34] = (60, 50, 120)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(page.clip(0, 255).astype(np.uint8)).save(file, "PNG", exif=exif)
    return file.getvalue()


def photo() -> bytes:
    """A stroke on ruled paper, half of it in shadow."""
    page = np.full((200, 160), 220.0) + np.random.default_rng(0).normal(0, 3, (200, 160))
    page[5::20] -= 50
    page[40:150, 60:75] = page[40:55, 60:110] = 60
    page[:, 90:] *= 0.6
    file = io.BytesIO()
    Image.fromarray(page.clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def recording() -> bytes:
    """Half a second of a decaying chord with noise, stereo at 44,100 Hz."""
    rng = np.random.default_rng(0)
    t = np.arange(22_050) / 44_100
    chord = sum(np.sin(2 * np.pi * f * t) for f in (220.0, 277.2, 1320.0)) * np.exp(-4 * t)
    stereo = np.stack([0.2 * chord, 0.1 * chord], 1) + 1e-3 * rng.standard_normal((len(t), 2))
    file = io.BytesIO()
    soundfile.write(file, stereo, 44_100, format="WAV", subtype="PCM_16")
    return file.getvalue()


def summary(values: np.ndarray[Any, Any]) -> list[float]:
    """A few of the values and what all of them add up to."""
    flat = values.astype(np.float64).ravel()
    some = flat[:: max(1, len(flat) // 40)]
    return [round(float(v), 5) for v in (*some, flat.mean(), np.abs(flat).mean(), flat.std())]


def computed() -> dict[str, Any]:
    """The versions, and the golden set's features under them."""
    sound = task.load("instruments")
    features = sound.features.model_dump(mode="json")
    row = extract.row_of(frontend.build(features))
    rate = features["sample_rate"]
    clip = audio.decode_audio(recording(), rate, Limits())
    options = task.Variation(
        copies=1, filter=6.0, noise=20.0, rate=8_000.0, room=0.5, clip=0.05, low_cut=200.0, bits=6.0, share=1.0
    )
    varied = copies.vary(clip, rate, options, "0123456789abcdef", 0)
    note = embedded.notes(0, rate)[0].media.load()
    ink = image.decode_image(picture(), Limits())
    coloured = decode_picture(picture(), 32, Limits())
    front = frontend.build({"kind": "image", "atoms": 4})
    of_picture = extract.row_of(front)(coloured)[: front.groups()[-1][1]]  # without a dictionary, which is learned
    return {
        "versions": {
            "models.frontend": FEATURES_VERSION,
            "service.media": media.VERSION,
            "pipeline.extract.copies": task.Variation.VERSION,
            "pipeline.sources.notes": synthesis.VERSION,
        },
        "values": {
            "decoded picture": summary(ink),
            "decoded photo": summary(image.decode_image(photo(), Limits())),
            "decoded recording": summary(clip),
            "features of pixels": summary(extract.row_of(frontend.build({"kind": "pixels"}))(ink)),
            "picture in colour": summary(coloured),
            "copy of a picture": summary(copies.vary_picture(coloured, options, "0123456789abcdef", 0)),
            "features of a picture in colour": summary(of_picture),
            "features of sound": summary(row(clip)),
            "features of a copy": summary(row(varied)),
            "synthesised note": summary(note),
        },
    }


def test_features_of_the_golden_set_change_only_with_their_version() -> None:
    golden, now = json.loads(FILE.read_text("utf-8")), computed()
    assert now["versions"] == golden["versions"], "a version was raised: write golden.json anew"
    for name, values in golden["values"].items():
        np.testing.assert_allclose(now["values"][name], values, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)


if __name__ == "__main__":
    FILE.write_text(json.dumps(computed(), indent=1) + "\n", "utf-8")
