"""Folders for the caches of libraries where the user's home folder cannot be written."""

import os
import tempfile
from pathlib import Path

import pytest

from pipeline import caches


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in caches.CACHES:
        monkeypatch.setenv(variable, "")  # so that it is restored afterwards
        monkeypatch.delenv(variable)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def provided() -> dict[str, str]:
    caches.provide()
    return {variable: os.environ[variable] for variable in caches.CACHES if variable in os.environ}


def test_a_home_that_can_be_written_is_used(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(temporary))
    assert provided() == {}


def test_without_a_home_each_library_gets_a_private_folder(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (temporary / "file").touch()
    monkeypatch.setenv("HOME", str(temporary / "file"))
    monkeypatch.setenv("MPLCONFIGDIR", "mine")
    folder = temporary / f"percept-{os.getuid()}"
    assert provided() == {"MPLCONFIGDIR": "mine", "NUMBA_CACHE_DIR": str(folder), "TRITON_CACHE_DIR": str(folder)}
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_may_write_is_not_trusted(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/proc/1/no-such-home")
    folder = temporary / f"percept-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    given = {*provided().values()}
    assert given
    assert str(folder) not in given
    assert all(Path(name).stat().st_mode & 0o777 == 0o700 for name in given)
