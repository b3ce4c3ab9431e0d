"""The Bento: what `bentoml build` packs, and that it runs where nothing but its own requirements is installed."""

import os
import subprocess
import sys
import tarfile
import time
import tomllib
from pathlib import Path

import httpx
import pytest
import yaml

from tests.serving import FIRST, NEWEST, ROOT, digits_model, fill_store, put, resident_mb, serving, workers
from tests.test_media import sound_bytes, tone
from tests.test_service import digit_file


def bentoml(home, *arguments):
    """Runs BentoML's command line in the repository with `home` as BENTOML_HOME."""
    environment = os.environ | {"BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}
    command = [sys.executable, "-m", "bentoml", *arguments]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A BENTOML_HOME in which a Bento was built."""
    home = tmp_path_factory.mktemp("built")
    fill_store(home)
    bentoml(home, "build", "--version", "test")
    return home


@pytest.fixture(scope="module")
def unpacked(built, tmp_path_factory):
    """The exported Bento's folder, as another machine would get it."""
    folder = tmp_path_factory.mktemp("unpacked")
    bentoml(built, "export", "percept:test", str(folder / "percept.bento"))
    with tarfile.open(folder / "percept.bento") as archive:
        archive.extractall(folder / "bento", filter="data")
    return folder / "bento"


@pytest.fixture(scope="module")
def environment(unpacked, tmp_path_factory):
    """The Python of a new virtual environment with nothing but the Bento's requirements."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    requirements = unpacked / "env" / "python" / "requirements.txt"
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", str(requirements)]
    subprocess.run([str(python), *install, "--constraint", str(ROOT / "constraints.txt")], check=True)
    return python


def test_requirements_are_those_of_serving():
    packed = yaml.safe_load((ROOT / "bentofile.yaml").read_text())["python"]["packages"]
    base = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert packed == [requirement for requirement in base if not requirement.startswith("typer")]


def test_contents(unpacked):
    source = {str(path.relative_to(unpacked / "src")) for path in (unpacked / "src").rglob("*") if path.is_file()}
    service = {str(path.relative_to(ROOT)) for path in (ROOT / "service").rglob("*") if path.suffix != ".pyc"}
    files = {path for path in service if (ROOT / path).is_file()}
    assert source == files | {"models/__init__.py", "models/card.py", "bentofile.yaml"}
    models = {f"{path.parent.name}:{path.name}" for path in (unpacked / "models").glob("*/*") if path.is_dir()}
    assert models == {f"digits:{NEWEST}", f"instruments:{NEWEST}", f"sums:{NEWEST}"}


def test_no_addresses_or_paths_of_this_machine(unpacked, built):
    for file in (unpacked / "bento.yaml", *(unpacked / "env").rglob("*.txt"), *(unpacked / "src").rglob("*")):
        if file.is_file():
            text = file.read_text()
            assert "index-url" not in text
            assert str(ROOT) not in text
            assert str(built) not in text


def test_models_of_the_bento_are_served_although_the_store_has_newer_ones(built):
    assert FIRST != NEWEST
    put(built, digits_model("v3"))
    with serving(built, target="percept:test") as server:
        assert httpx.post(f"{server.url}/digits", content=digit_file(3)).json()["version"] == NEWEST


def test_runs_with_its_requirements_alone(unpacked, environment, tmp_path, capsys):
    (packages,) = environment.parent.parent.glob("lib/python*/site-packages")
    kilobytes = subprocess.run(["du", "-sk", str(packages)], capture_output=True, check=True, text=True).stdout
    megabytes = int(kilobytes.split()[0]) * 1024 / 1e6
    installed = {path.name for path in packages.iterdir()}
    assert not installed & {"torch", "librosa", "sklearn", "scipy", "matplotlib", "onnx", "percept"}

    with serving(tmp_path, directory=unpacked, python=environment) as server:
        clip = sound_bytes(tone(frequency=2000, seconds=2))
        start = time.perf_counter()
        answer = httpx.post(f"{server.url}/instruments", content=clip)
        first = time.perf_counter() - start
        assert answer.json()["label"] == "flute"
        for index in range(5):
            answer = httpx.post(f"{server.url}/digits", content=digit_file(index)).json()
            assert (answer["label"], answer["version"]) == (str(index), NEWEST)
        (worker,) = workers(server)
        sizes = resident_mb(worker), resident_mb(server.process.pid)
        with capsys.disabled():
            print(
                f"\nBento: environment {megabytes:.0f} MB, worker {sizes[0]:.0f} MB and supervisor {sizes[1]:.0f} MB"
                f" resident, ready in {server.seconds:.1f} s, first /instruments answer in {first * 1000:.0f} ms"
            )
    assert not any(Path(tmp_path, "models").iterdir())
    assert megabytes < 320
    assert sizes[0] < 250
    assert server.seconds < 4
    assert first < 0.15
