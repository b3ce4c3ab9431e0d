"""Writes docs/licences.md, the packages that the image installs and the licence of each: `python -m docs.licences`, or
`make licences`."""

import tomllib
from pathlib import Path

from service.serving import bom

PAGE = Path(__file__).with_suffix(".md")
PROJECT = PAGE.parents[1] / "pyproject.toml"
INTRODUCTION = """\
# Licences of what the image holds

The packages that serving needs (`dependencies` of `pyproject.toml`, without typer), with those that they bring, and
the licence that each declares. `make licences` writes this page. Versions are those of `constraints.txt`;
`/models/bom` of a running Bento has both.

The base image adds Python (PSF-2.0) and Debian's own packages, whose licences are in `/usr/share/doc/*/copyright`.
Wheels also hold compiled libraries: libsndfile with its decoders, and libsoxr, are LGPL, and may be exchanged for
others with the same interface; NumPy's OpenBLAS is BSD.

| package | licence |
| --- | --- |
"""


def page() -> str:
    """The page, as the packages of this environment declare it."""
    needed = tomllib.loads(PROJECT.read_text("utf-8"))["project"]["dependencies"]
    names = bom.required(line for line in needed if not line.startswith("typer"))
    rows = [f"| {name} | {_words(name)} |\n" for name in names]
    return INTRODUCTION + "".join(rows)


def _words(name: str) -> str:
    """The licences of a package, for a table."""
    found = [one.get("expression") or " ".join(one["license"].values()) for one in bom.licences_of(name)]
    return ", ".join(found) or "declared only in its files"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
