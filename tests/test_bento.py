"""The Bento: what `bentoml build` packs, and that it runs where nothing but its own requirements is installed."""

import json
import os
import re
import subprocess
import sys
import tarfile
import time
import tomllib
from datetime import UTC, datetime
from importlib.metadata import distribution, distributions, packages_distributions
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml
from bentoml._internal.bento import BentoStore
from bentoml.bentos import export_bento
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy import slim
from service.service import IMAGE
from service.serving.bom import bill
from service.serving.trust import Trust, fingerprint
from tests.command import model_store
from tests.service.helpers import digit_file, sound_bytes, tone
from tests.serving import FIRST, NEWEST, ROOT, digits_model, fill_store, put, resident_mb, serving, workers
from tests.signing import files_of, key, public, sign

PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where uv is

DEPLOYMENT = yaml.safe_load((ROOT / "deploy" / "kubernetes" / "deployment.yaml").read_text())["spec"]["template"][
    "spec"
]
# Mounts a new /tmp, in which only the Bento $1 and the environment $2 remain, and makes everything else read-only.
CONTAINED = """
mount --bind "$1" /mnt; mount --bind "$2" /media; mount -t tmpfs -o mode=1777 tmpfs /tmp
mkdir -p "$1" "$2"; mount --bind /mnt "$1"; mount --bind /media "$2"
mount -o remount,bind,ro "$1"; mount -o remount,bind,ro "$2"; mount -o remount,bind,ro /
cd "$1"; shift 2
exec setpriv --no-new-privs --inh-caps=-all --bounding-set=-all env -i "BENTOML_PORT=${BENTOML_PORT:-}" "$@"
"""


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
    digits = home / "models" / "digits" / NEWEST
    component = {"type": "machine-learning-model", "bom-ref": "model", "name": "digits", "version": NEWEST}
    (digits / "bom.json").write_text(json.dumps(bill(component, [], datetime.now(UTC))))
    sign(digits, home, key("ours"))
    bentoml(home, "build", "--version", "test")
    return home


@pytest.fixture(scope="module")
def unpacked(built, tmp_path_factory):
    """The exported Bento's folder, as another machine would get it."""
    folder = tmp_path_factory.mktemp("unpacked")
    with model_store(built):
        export_bento("percept:test", str(folder / "percept.bento"), _bento_store=BentoStore(built / "bentos"))
    with tarfile.open(folder / "percept.bento") as archive:
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11 has it since 3.11.4
        archive.extractall(folder / "bento", **safely)
    return folder / "bento"


class Dockerfile:
    """The Dockerfile of a Bento, with the paths of the unpacked Bento and of an environment in place of the image's."""

    def __init__(self, bento, environment):
        self.text = (bento / "env" / "docker" / "Dockerfile").read_text()
        self.here = (
            self.text.replace("/home/bentoml/bento", str(bento))
            .replace("/app/.venv", str(environment))
            .replace("${PATH}", os.defpath)
        )

    def variables(self):
        """The variables that ENV sets, with the values of ARG filled in."""
        arguments = dict(re.findall(r"^ARG (\w+)=(.*)$", self.here, re.MULTILINE))
        found = re.findall(r"^ENV (\w+)=(.*)$", self.here, re.MULTILINE)
        return {key: arguments[value[1:]] if value.startswith("$") else value for key, value in found}


FRESH = pytest.param("fresh", marks=pytest.mark.soak)
# A sitecustomize.py that hides modules: some by name, and those that deploy/slim.py takes out of the packages.
HIDE = """
import re, sys
from pathlib import Path
class Hidden:
    def find_spec(self, name, path=None, target=None):
        top, *inner = name.split(".")
        is_package = any(Path(folder, inner[-1]).is_dir() for folder in path or ())
        if top in {names!r} or (is_package and re.match({unused!r}, name.replace(".", "/") + "/")):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
"""


def modules_beside(requirements):
    """Modules of this environment that are neither in the Bento nor installed by its requirements."""
    brought, ahead = set(), [Requirement(line) for line in requirements if line]
    while ahead:
        wanted = ahead.pop()
        key = canonicalize_name(wanted.name), frozenset(wanted.extras)
        if key in brought or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        brought.add(key)
        for line in distribution(wanted.name).requires or []:
            further = Requirement(line)
            extras = [extra for extra in wanted.extras if further.marker and further.marker.evaluate({"extra": extra})]
            if extras:
                further.marker = None
            ahead.append(further)
    names = {name for name, _ in brought}
    return {
        module for module, found in packages_distributions().items() if not names & set(map(canonicalize_name, found))
    } - {"models", "service"}


@pytest.fixture(scope="module", params=["here", FRESH])
def environment(unpacked, tmp_path_factory, request):
    """A Python that can import only the Bento's requirements: this one, with everything else hidden, or that of a new
    virtual environment, in which they are installed as in the image."""
    if request.param == "here":
        return Path(sys.executable)
    folder = tmp_path_factory.mktemp("environment")
    venv = ["uv", "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)]
    subprocess.run(venv, env=os.environ | {"PATH": PATH}, check=True)
    requirements = str(unpacked / "env" / "python" / "requirements.txt")
    install = ["uv", "--directory", str(unpacked / "src"), "pip", "install", "--quiet", "-r", requirements]
    subprocess.run(install, env=os.environ | Dockerfile(unpacked, folder).variables() | {"PATH": PATH}, check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    slim.slim(packages)
    return folder / "bin" / "python"


def test_requirements_are_those_of_serving():
    packed = IMAGE.python_requirements.splitlines()
    base = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert packed == [requirement for requirement in base if not requirement.startswith("typer")]


def test_contents(unpacked):
    source = {str(path.relative_to(unpacked / "src")) for path in (unpacked / "src").rglob("*") if path.is_file()}
    service = {str(path.relative_to(ROOT)) for path in (ROOT / "service").rglob("*") if path.suffix != ".pyc"}
    files = {path for path in service if (ROOT / path).is_file()}
    assert source == files | {"models/__init__.py", "models/card.py", "bentofile.yaml", "bom.json", "constraints.txt"}
    models = {f"{path.parent.name}:{path.name}" for path in (unpacked / "models").glob("*/*") if path.is_dir()}
    assert models == {f"digits:{NEWEST}", f"instruments:{NEWEST}", f"sums:{NEWEST}"}


def test_the_bill_of_materials_lists_what_the_image_installs_and_the_models(unpacked):
    text = (unpacked / "src" / "bom.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    components = json.loads(text)["components"]
    pinned = (ROOT / "constraints.txt").read_text().lower().replace("_", "-").split()
    packages = {f"{one['name']}=={one['version']}" for one in components if one["type"] == "library"}
    assert packages <= set(pinned)
    names = {name.partition("==")[0] for name in packages}
    requirements = (unpacked / "env" / "python" / "requirements.txt").read_text().splitlines()
    assert {canonicalize_name(Requirement(line).name) for line in requirements} <= names
    assert {"starlette", "cffi", "cryptography"} <= names  # what others bring, and what signatures need
    models = [one["bom-ref"] for one in components if one["type"] == "machine-learning-model"]
    assert models == [f"digits:{NEWEST}"]  # the others were exported without one


def test_the_signature_of_a_model_is_verified_in_the_bento(unpacked):
    public = key("ours").public_key()
    model = files_of(unpacked / "models" / "digits" / NEWEST)
    assert Trust({fingerprint(public): public}).check(model) == fingerprint(public)


def test_holds_no_addresses_or_paths_of_this_machine(unpacked, built):
    for file in (unpacked / "bento.yaml", *(unpacked / "env").rglob("*.txt"), *(unpacked / "src").rglob("*")):
        if file.is_file():
            text = file.read_text()
            assert "index-url" not in text
            assert str(ROOT) not in text
            assert str(built) not in text


def test_models_of_the_bento_are_served_although_the_store_has_newer_ones(built):
    assert FIRST != NEWEST
    put(built, digits_model("v3"))
    with serving(built, target="percept:test", PERCEPT_TRUSTED_KEYS=str(public(built, key("ours")))) as server:
        assert httpx.post(f"{server.url}/digits", content=digit_file(3)).json()["version"] == NEWEST
        found = httpx.get(f"{server.url}/models").json()
        assert [*found["trust"]["signed_by"]] == ["digits"]
        assert found["failed"]["sums"] == f"sums:{NEWEST} is not trusted: it carries no signature"
        assert found["bom"] == ["/models/digits/bom", "/models/bom"]
        assert httpx.get(f"{server.url}/models/bom").json()["bomFormat"] == "CycloneDX"


def test_runs_with_its_requirements_alone(unpacked, environment, tmp_path, capsys):
    heavy = {"torch", "librosa", "sklearn", "scipy", "matplotlib", "onnx"}
    paths = ""
    if environment == Path(sys.executable):
        hidden = modules_beside((unpacked / "env" / "python" / "requirements.txt").read_text().splitlines())
        assert hidden > heavy
        (tmp_path / "sitecustomize.py").write_text(HIDE.format(names=hidden, unused=slim.UNUSED.pattern))
        paths, megabytes = str(tmp_path), 0
    else:
        (packages,) = environment.parent.parent.glob("lib/python*/site-packages")
        kilobytes = subprocess.run(["du", "-sk", str(packages)], capture_output=True, check=True, text=True).stdout
        megabytes = int(kilobytes.split()[0]) * 1024 / 1e6
        assert not {path.name for path in packages.iterdir()} & (heavy | {"percept"})

    program = [str(environment), "-c", "import scipy"]
    there = subprocess.run(program, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True)
    assert "No module named 'scipy'" in there.stderr

    with serving(tmp_path, directory=unpacked, python=environment, PYTHONPATH=paths) as server:
        clip = sound_bytes(tone(frequency=2000, seconds=2))
        seconds = []
        for _ in range(6):
            start = time.perf_counter()
            answer = httpx.post(f"{server.url}/instruments", content=clip)
            seconds.append(time.perf_counter() - start)
            assert answer.json()["label"] == "flute"
        first, *later = seconds
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
    assert megabytes < 230
    assert sizes[0] < 250
    assert first < 20 * np.median(later)  # no request pays for lazy initialisation


def test_the_image_is_slim_and_does_not_run_as_root(unpacked):
    dockerfile = Dockerfile(unpacked, "/app/.venv")
    instructions = re.findall(r"^(FROM|ARG|ENV|RUN|USER|EXPOSE|ENTRYPOINT|CMD) +(.*)$", dockerfile.text, re.MULTILINE)
    assert [rest for kind, rest in instructions if kind == "FROM"] == ["python:3.11-slim AS base-container"]
    assert instructions[-2:] == [
        ("USER", "bentoml"),
        ("ENTRYPOINT", '[ "/home/bentoml/bento/env/docker/entrypoint.sh" ]'),
    ]
    assert ("ARG", f"BENTO_USER_UID={DEPLOYMENT['securityContext']['runAsUser']}") in instructions
    assert ("EXPOSE", "3000") in instructions
    assert not re.search(r"apt|build-essential|--mount|secret", dockerfile.text)
    variables = dockerfile.variables()
    assert variables["UV_NO_CACHE"] == variables["PIP_NO_CACHE_DIR"] == "1"
    assert not [name for name in variables if re.search("KEY|TOKEN|SECRET|PASSWORD|INDEX", name)]


@pytest.mark.parametrize("environment", [FRESH], indirect=True)
def test_the_image_is_pinned(environment):
    (packages,) = environment.parent.parent.glob("lib/python*/site-packages")
    installed = {f"{found.name}=={found.version}".lower() for found in distributions(path=[str(packages)])}
    assert any(name.startswith("onnxruntime==") for name in installed)
    assert installed <= set((ROOT / "constraints.txt").read_text().lower().split())


def test_starts_as_the_deployment_starts_the_image(unpacked, environment, tmp_path):
    """ENTRYPOINT with the variables of the Dockerfile and of the Deployment, without any capability, on a file system
    where only /tmp is writable."""
    folder = environment.parent.parent
    dockerfile = Dockerfile(unpacked, folder)
    (entrypoint,) = re.findall(r'^ENTRYPOINT \[ "(.*)" \]$', dockerfile.here, re.MULTILINE)
    (container,) = DEPLOYMENT["containers"]
    variables = dockerfile.variables() | {item["name"]: item["value"] for item in container["env"] if "value" in item}
    contained = ["unshare", "--map-root-user", "--mount", "sh", "-euc", CONTAINED, "sh", str(unpacked), str(folder)]
    if subprocess.run([*contained, "true"], capture_output=True).returncode:
        pytest.skip("this machine allows no mount namespaces")
    command = [*contained, *(f"{name}={value}" for name, value in variables.items()), entrypoint]
    with serving(tmp_path, command=command) as server:
        answer = httpx.post(f"{server.url}/digits", content=digit_file(3)).json()
        assert (answer["label"], answer["version"]) == ("3", NEWEST)
        (worker,) = workers(server)
        status = Path(f"/proc/{worker}/status").read_text()
        assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
        mounts = Path(f"/proc/{worker}/mountinfo").read_text()
        assert re.search(r" / / ro,", mounts)
        assert "telemetry" not in server.log.read_text()
