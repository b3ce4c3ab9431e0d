"""Bills of materials, CycloneDX 1.6 as JSON: a Python package as a component, and what a Bento holds.

Licences are those that the packages declare (https://packaging.python.org/en/latest/specifications/core-metadata).
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any
from uuid import uuid4

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

Object = dict[str, Any]

CLASSIFIER = "License :: OSI Approved :: "
SPDX = {  # what packages declare without an expression → the identifier of that licence
    "Apache 2.0": "Apache-2.0", "Apache License 2.0": "Apache-2.0", "Apache Software License": "Apache-2.0",
    "Apache-2.0": "Apache-2.0", "BSD 3-Clause": "BSD-3-Clause", "BSD 3-Clause License": "BSD-3-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "BSD-2-Clause": "BSD-2-Clause", "BSD-3-Clause": "BSD-3-Clause", "ISC License (ISCL)": "ISC", "MIT": "MIT",
    "MIT License": "MIT", "MPL-2.0": "MPL-2.0", "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "GNU Lesser General Public License v2 or later (LGPLv2+)": "LGPL-2.1-or-later",
    "Python Software Foundation License": "PSF-2.0", "The Unlicense (Unlicense)": "Unlicense",
}  # fmt: skip


def bill(component: Object, components: list[Object], created: datetime) -> Object:
    """A bill of materials of `component`, which depends on the others. All of them need a `bom-ref`."""
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid4().urn,
        "version": 1,
        "metadata": {"timestamp": created.isoformat(), "component": component},
        "components": components,
        "dependencies": [{"ref": component["bom-ref"], "dependsOn": [one["bom-ref"] for one in components]}],
    }


def package(name: str) -> Object:
    """An installed package as a component. Raises PackageNotFoundError.

    >>> package("NumPy")["purl"].partition("@")[0]
    'pkg:pypi/numpy'
    """
    version = distribution(name).version
    purl = f"pkg:pypi/{canonicalize_name(name)}@{version}"
    component = {"type": "library", "bom-ref": purl, "name": canonicalize_name(name), "version": version, "purl": purl}
    licences = licences_of(name)
    return component | ({"licenses": licences} if licences else {})


def licences_of(name: str) -> list[Object]:
    """The licences that an installed package declares, as CycloneDX's `licenses`; none if it declares none."""
    metadata = distribution(name).metadata
    if "License-Expression" in metadata:
        return [{"expression": metadata["License-Expression"]}]
    text = metadata["License"].strip() if "License" in metadata else ""
    classified = [line.removeprefix(CLASSIFIER) for line in metadata.get_all("Classifier", ()) if CLASSIFIER in line]
    declared = [text] if text in SPDX else classified or ([text] if text and "\n" not in text else [])
    return [{"license": {"id": SPDX[one]} if one in SPDX else {"name": one}} for one in declared]


def required(requirements: Iterable[str]) -> list[str]:
    """The installed packages that requirements bring, directly or through others, sorted by name.

    >>> {"cffi", "numpy", "soundfile"} <= {*required(["soundfile>=0.13"])}
    True
    """
    ahead, seen, found = [Requirement(line) for line in requirements], set(), set()
    while ahead:
        wanted = ahead.pop()
        for extra in ("", *wanted.extras):
            key = canonicalize_name(wanted.name), extra
            if key in seen or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
                continue
            seen.add(key)
            try:
                lines = distribution(wanted.name).requires or []
            except PackageNotFoundError:  # of another platform
                continue
            found.add(key[0])
            for further in map(Requirement, lines):
                if further.marker is None or further.marker.evaluate({"extra": extra}):
                    further.marker = None
                    ahead.append(further)
    return sorted(found)


def of_bento(requirements: Iterable[str], models: Iterable[bytes]) -> bytes:
    """The bill of materials of a Bento: the packages that its image installs, and the models in it.

    Parameters
    ----------
    requirements : of its image
    models : the bills of the models that have one
    """
    components = [package(name) for name in required(requirements)]
    for model in map(json.loads, models):
        component = model["metadata"]["component"]
        components.append(component | {"bom-ref": f"{component['name']}:{component['version']}"})
        components[-1].pop("modelCard", None)  # its data sets are components of the model's own bill
    bento = {"type": "application", "bom-ref": "percept", "name": "percept"}
    return json.dumps(bill(bento, components, datetime.now(UTC)), indent=1).encode()
