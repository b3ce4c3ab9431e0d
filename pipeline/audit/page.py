"""audit.html: one page without a server, on which each suspect is heard, seen, and kept, relabelled or dropped.

Its text, style and program are beside this module. Pictures are inside the page. Sounds are links to the user's own
files, relative to the page; where a source has no files, to sounds written beside it.
"""

import base64
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import soundfile
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from pipeline.audit.suspects import Kind, Overlap, Suspect
from pipeline.audit.unlabelled import Unlabelled
from pipeline.errors import counted
from pipeline.extract import Features, load_media
from pipeline.report.templates import page_template
from pipeline.run import Run, replacing
from pipeline.sources import Sample
from pipeline.sources.files import readable

NOUNS: dict[Kind, str] = {
    "label": "label",
    "duplicate": "duplicate",
    "outlier": "outlier",
    "media": "damaged or unused file",
}
SHOWN = {"audio": 200, "image": 1000, "vector": 1000}  # suspects of each kind on the page, at most
PLAYED = (".mp3", ".wav", ".ogg", ".oga", ".opus", ".flac", ".m4a", ".aac", ".webm", ".mp4")  # by browsers
SECONDS = 10.0  # of a sound that is written beside the page, at most
PIXELS = 4  # of the page for one of a picture
BANDS, COLUMNS = 48, 240  # of the picture of a sound
DYNAMIC_RANGE = 80  # dB below the loudest point


def write(
    run: Run,
    features: Features,
    samples: Mapping[str, Sample],
    found: Sequence[Suspect],
    overlaps: Sequence[Overlap],
    groups: Mapping[str, str],
    unlabelled: Sequence[Unlabelled] = (),
) -> Path:
    """Write `run/audit.html`; returns its path.

    Parameters
    ----------
    samples : of the source, by file, and the unlabelled ones, whose labels are empty
    groups : file → name of the group that it belongs to, if it is in one
    unlabelled : files to be labelled, the one most worth it first
    """
    form = features.front_end().input
    shown = _shown(found, SHOWN[form.kind])
    offered = [_offer(one) for one in unlabelled[: SHOWN[form.kind]]]
    usable = {*features.file.tolist(), *(one["file"] for one in unlabelled)}
    named = dict.fromkeys(f for s in (*shown, *offered) for f in (s["file"], *s["resembles"]))
    files = [file for file in named if file in usable]
    rows = _manifest(features, samples, groups)
    label_of = dict(zip(features.file.tolist(), features.y.tolist(), strict=True))
    data = {
        "task": run.folder.name,
        "labels": list(features.labels),
        "suspects": [*shown, *offered],
        "media": _media(run, files, samples, form),
        "label_of": {file: features.labels[label_of[file]] for file in files if file in label_of},
        "rows": rows,
    }
    with replacing(run.audit_page) as temporary:
        temporary.write_text(_rendered(data, found, overlaps, len(unlabelled)), "utf-8", "backslashreplace")
    return run.audit_page


def _offer(one: Unlabelled) -> dict[str, Any]:
    """A file to be labelled in the form of a suspect."""
    return {**one, "kind": "unlabelled", "label": "", "suggested": one["likely"][0], "split": None}


def _shown(found: Sequence[Suspect], most: int) -> list[Suspect]:
    counts: dict[str, int] = {}
    shown = []
    for suspect in found:
        counts[suspect["kind"]] = counts.get(suspect["kind"], 0) + 1
        if counts[suspect["kind"]] <= most:
            shown.append(suspect)
    return shown


def _manifest(features: Features, samples: Mapping[str, Sample], groups: Mapping[str, str]) -> dict[str, Any]:
    """Header and rows of the manifest by file, as it is before any decision; paths are absolute, so that the manifest
    may lie anywhere. A source without files has names instead, which `--data` cannot read: `files` is then false.

    If there are unlabelled files, every other keeps the split that it has now: those that get a label go into training,
    or where their group is. Chosen because they are hard, they would make the test another one.
    """
    columns = ["path", "label"]
    grows = any(sample.label == "" for sample in samples.values())
    split_of = dict(zip(features.file.tolist(), features.split.tolist(), strict=True)) if grows else {}
    split_of_group = {groups[file]: split for file, split in split_of.items() if file in groups}
    named = grows or any(sample.split is not None for sample in samples.values())
    columns += (["split"] if named else []) + (["group"] if groups else [])
    rows, has_files = {}, True
    unused = {file for file, *_ in features.skipped}
    for file, sample in samples.items():
        path = getattr(sample.media, "path", None)
        has_files &= path is not None
        if file in unused:  # as without a manifest: neither learned from nor tested on
            continue
        group = groups.get(file, "")
        split = split_of.get(file) or sample.split or ("" if sample.label else split_of_group.get(group, "train"))
        row = [readable(Path(path).resolve()) if path is not None else file, str(sample.label)]
        rows[file] = row + ([split] if named else []) + ([group] if groups else [])
    return {"columns": columns, "files": has_files, "rows": rows}


def _media(run: Run, files: Sequence[str], samples: Mapping[str, Sample], form: Any) -> dict[str, dict[str, str]]:
    """File → `picture`, a data URI, and for sounds `sound`, a relative link."""
    decoded, found = load_media(run, [file for file in files if samples[file].label != ""]), {}
    for number, file in enumerate(files):
        media = decoded[file] if samples[file].label != "" else samples[file].media.load()
        if form.kind == "audio":
            waveform = np.asarray(media, np.float32)
            found[file] = {
                "picture": _png(_mel(waveform, form.sample_rate)),
                "sound": _sound(run, number, samples[file], waveform, form.sample_rate),
            }
        elif form.kind == "image":
            pixels = np.asarray(media, np.uint8)
            pixels = pixels if pixels.ndim == 3 else 255 - pixels  # of one without colours: 255 is ink
            found[file] = {"picture": _png(pixels.repeat(PIXELS, 0).repeat(PIXELS, 1))}
        else:
            found[file] = {"text": ", ".join(f"{value:.4g}" for value in np.asarray(media)[:12].tolist())}
    return found


def _sound(run: Run, number: int, sample: Sample, waveform: NDArray[np.float32], sample_rate: int) -> str:
    path = getattr(sample.media, "path", None)
    if path is not None and Path(path).suffix.lower() in PLAYED:
        relative = os.path.relpath(Path(path).resolve(), run.folder.resolve()).replace(os.sep, "/")
        return quote(os.fsencode(relative))  # bytes: a name need not be UTF-8
    run.audited.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    soundfile.write(stream, waveform[: int(SECONDS * sample_rate)], sample_rate, format="WAV", subtype="PCM_16")
    with replacing(run.audited / f"{number:04}.wav") as temporary:
        temporary.write_bytes(stream.getbuffer())
    return f"{run.audited.name}/{number:04}.wav"


def _mel(waveform: NDArray[np.float32], sample_rate: int) -> NDArray[np.uint8]:
    """Mel spectrogram as a picture, uint8 (BANDS, at most COLUMNS, 3), low frequencies at the bottom."""
    import librosa  # loads numba: only where a run has sound
    from matplotlib import colormaps

    hop = max(256, -(-len(waveform) // COLUMNS))
    padded = np.pad(waveform, (0, max(0, 2048 - len(waveform))))
    power = librosa.feature.melspectrogram(y=padded, sr=sample_rate, n_fft=2048, hop_length=hop, n_mels=BANDS)
    decibels = librosa.power_to_db(power, ref=np.max, top_db=DYNAMIC_RANGE)
    colours = colormaps["magma"](1 + decibels[::-1] / DYNAMIC_RANGE)
    return np.asarray(255 * colours[..., :3], np.uint8)


def _png(pixels: NDArray[np.uint8]) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).quantize(64, dither=Image.Dither.NONE).save(stream, "png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def summary(found: Sequence[Suspect]) -> str:
    """How many suspects there are of each kind."""
    counts = Counter(suspect["kind"] for suspect in found)
    listed = ", ".join(counted(counts[kind], noun) for kind, noun in NOUNS.items() if counts[kind])
    return listed or "nothing suspicious"


def _rendered(data: Mapping[str, Any], found: Sequence[Suspect], overlaps: Sequence[Overlap], n_unlabelled: int) -> str:
    folder = Path(__file__).parent
    program, style = ((folder / name).read_text("utf-8") for name in ("page.js", "page.css"))
    allowed = base64.b64encode(hashlib.sha256(program.encode()).digest()).decode()
    return page_template(folder).render(
        task=data["task"],
        n_samples=sum(row[1] != "" for row in data["rows"]["rows"].values()),
        counted=summary(found),
        n_shown=sum(suspect["kind"] != "unlabelled" for suspect in data["suspects"]),
        n_found=len(found),
        n_unlabelled=n_unlabelled,
        n_offered=sum(suspect["kind"] == "unlabelled" for suspect in data["suspects"]),
        overlaps=[pair for pair in overlaps if pair["count"] > 1][:8],
        has_files=data["rows"]["files"],
        has_sounds=any("sound" in media for media in data["media"].values()),
        program=Markup(program),
        style=Markup(style),
        allowed=allowed,
        data=Markup(json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")),
    )
