"""The licences of what the image holds, and the audit of what constraints.txt pins."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from docs import licences
from service.serving.bom import licences_of

ROOT = Path(__file__).parent.parent


def test_the_page_is_what_make_licences_writes() -> None:
    """Packages may have been exchanged, or have changed their licence: then look at it, and run `make licences`."""
    assert licences.PAGE.read_text("utf-8") == licences.page()


def test_licences_are_named_as_spdx_names_them_where_that_is_clear() -> None:
    assert licences_of("numpy")[0]["expression"].startswith("BSD-3-Clause")
    assert licences_of("onnxruntime") == [{"license": {"id": "MIT"}}]  # from "MIT License"
    assert licences_of("jinja2") == [{"license": {"name": "BSD License"}}]  # of which there are several


VULNERABLE = {"name": "example", "version": "1.0", "vulns": [{"id": "CVE-2020-1", "fix_versions": ["1.1"]}]}
AUDITS = {
    "nothing": ({"name": "example", "version": "1.0", "vulns": []}, 0, ""),
    "something": (VULNERABLE, 1, "example 1.0: CVE-2020-1, fixed in 1.1\n"),
    "skipped": ({"name": "example", "skip_reason": "not on PyPI"}, 2, "not audited: not on PyPI\n"),
    "no network": (None, 2, "example==1.0\n"),
}


@pytest.mark.parametrize("how", AUDITS)
def test_the_audit_says_what_is_vulnerable_and_what_it_could_not_tell(tmp_path: Path, how: str) -> None:
    """From the report of pip-audit, in whose place a program stands: the real one would ask about every package."""
    (tmp_path / "pins.txt").write_text("example==1.0\n")
    dependency, code, printed = AUDITS[how]
    (tmp_path / "report.json").write_text(json.dumps({"dependencies": [dependency]}))
    program = tmp_path / "pip-audit"
    copy = "" if dependency is None else f'for last; do :; done; cp "{tmp_path}/report.json" "$last"'
    program.write_text(f"#!/bin/sh\n{copy}\nexit {min(code, 1)}\n")
    program.chmod(0o755)
    done = subprocess.run(
        [ROOT / "deploy" / "audit.sh", tmp_path / "pins.txt"],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (code, printed)
    assert ("cannot be reached" in done.stderr) == (dependency is None)
