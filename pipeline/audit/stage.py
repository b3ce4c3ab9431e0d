"""The audit of a run's samples: suspects, ranked, as a file for programs and as a page to decide on."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.targets import TARGETS
from pipeline.audit import media, page, suspects, unlabelled
from pipeline.audit.suspects import Space, Suspect
from pipeline.extract import Features, load_media, load_samples
from pipeline.progress import Progress
from pipeline.run import Run, write_json
from pipeline.task import UserError

SHOWN = 5  # suspects on the console


def audit(run: Run, folder: Path | None = None) -> list[Suspect]:
    """Write `audit.json` and `audit.html` of a run's features; returns the suspects, the likeliest first.

    All samples are audited, those of the test split too: a wrong label there makes a good network look bad. Nothing is
    changed; the page writes a manifest with what was decided on it.

    Parameters
    ----------
    folder : of unlabelled files, which are ranked by how much a label of theirs is worth, to be labelled on the page

    Raises
    ------
    UserError : there are no features, the targets are numbers, or the folder has no files that fit them
    """
    features = Features.of(run)
    if not TARGETS[features.kind].has_classes:
        raise UserError("an audit looks for wrong labels of classes, and the targets are numbers")
    pool = None if folder is None else unlabelled.read(features, folder)
    samples = load_samples(run, features.file.tolist())
    x, y = np.asarray(features.x[:]), features.y
    space = Space.of(features, x)
    log_p = suspects.probabilities(features, x, y, space)
    damaged = _media(run, features)
    found = [
        *suspects.wrong_labels(features, y, log_p, space),
        *suspects.duplicates(features, y),
        *suspects.outliers(features, space),
        *suspects.damaged(features, damaged),
        *suspects.unused(features),
    ]
    found.sort(key=lambda suspect: -suspect["score"])  # stable: labels stay as they are ranked
    overlaps = suspects.overlaps(features, y, log_p)
    groups = _groups(features)
    content: dict[str, Any] = {"samples": len(y), "suspects": found, "overlaps": overlaps}
    if pool is not None:
        content |= {"unlabelled": unlabelled.ranked(features, pool), "unusable": pool.unusable}
        samples = {**samples, **{sample.file: sample for sample in pool.samples}}
        groups |= unlabelled.groups(features, pool, groups)
    write_json(run.audit, content)
    written = page.write(run, features, samples, found, overlaps, groups, content.get("unlabelled", ()))
    _print(run, features, found, overlaps)
    if pool is not None:
        print(*unlabelled.lines(pool, content["unlabelled"], SHOWN), sep="\n")
    print(f"→ {written}")
    return found


def find_labels(features: Features, y: NDArray[np.int64]) -> list[Suspect]:
    """The suspects that may have a wrong label, the likeliest first, if the labels were y, int64 (N,)."""
    x = np.asarray(features.x[:])
    space = Space.of(features, x)
    return list(suspects.wrong_labels(features, y, suspects.probabilities(features, x, y, space), space))


def _media(run: Run, features: Features) -> dict[int, media.Finding]:
    """Row → score and reason, of media that are silent, clipped, cut off or blank."""
    form = features.front_end().input
    if form.kind == "vector":
        return {}
    check = media.check(form.kind, form.sample_rate)
    files = features.file.tolist()
    decoded, found = load_media(run, files), {}
    with Progress("media", len(files), "sample") as progress:
        for i, file in enumerate(files):
            if finding := check(decoded[file]):
                found[i] = finding
            progress.update()
    return found


def _groups(features: Features) -> dict[str, str]:
    """File → name of its group; without those that are a group of their own. Near duplicates are in one, unless the
    data itself puts them into different splits."""
    names, counts = np.unique(features.group, return_counts=True)
    size = dict(zip(names.tolist(), counts.tolist(), strict=True))
    own = dict(zip(features.digest.tolist(), features.file.tolist(), strict=True))
    found = zip(features.file.tolist(), features.group.tolist(), strict=True)
    return {file: f"like {own[g]}" if g in own else g for file, g in found if g not in own or size[g] > 1}


def _print(run: Run, features: Features, found: list[Suspect], overlaps: list[Any]) -> None:
    print(f"{run.folder.name}: {len(features.x):,} samples; {page.summary(found)}")
    for suspect in found[:SHOWN]:
        print(f"  {suspect['score']:.3f}  {suspect['file']}: {suspect['reason']}")
    if overlaps:
        first = overlaps[0]
        print(f"  most often taken for each other: {' and '.join(first['labels'])}, {100 * first['share']:.1f} %")
