"""The container's image, as deploy/image.sh builds it and docs/deploying.md runs it: `make image-test`."""

import http.client
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.helpers import FLUTE, IMAGE_FILES, SOUND_FILES, digit_file, sound_bytes, tone
from tests.serving import NEWEST, ROOT, Server, digits_model, fill_store, put, resident_mb, serving, until, workers_of

pytestmark = pytest.mark.image

IMAGE, BASE = "percept:test", "python:3.11-slim"
PODMAN = ("podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs")  # Debian's crun wants one kind of cgroups
MOST = 230  # MB over the base
# As the Deployment and compose.yaml do.
CONFINED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
# This machine's network, and no higher limits than it may set.
HOST = ("--network", "host", "--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096")
STORE_SERVED = ("bentoml", "serve", "service.service:Percept", "--working-dir", "/home/bentoml/bento/src")
STORAGE = '[storage]\ndriver = "overlay"\ngraphroot = "{folder}/storage"\nrunroot = "{folder}/run"\n'


def podman(*arguments: str) -> str:
    """What podman prints; the test fails with its message."""
    done = subprocess.run([*PODMAN, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for podman's images, which goes with them; where CONTAINERS_STORAGE_CONF is set, they stay where it
    says, so that the base is built once."""
    missing = [name for name in ("podman", "buildah", "runc", "mmdebstrap") if not shutil.which(name)]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("containers")
    if "CONTAINERS_STORAGE_CONF" in os.environ:
        yield folder
        return
    (folder / "storage.conf").write_text(STORAGE.format(folder=folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTAINERS_STORAGE_CONF", str(folder / "storage.conf"))
        yield folder
        subprocess.run([*PODMAN, "image", "rm", "--all", "--force"], capture_output=True)
    subprocess.run(["umount", str(folder / "storage" / "overlay")], capture_output=True)


@pytest.fixture(scope="module")
def image(storage: Path) -> str:
    """The image of a Bento with the models of tests/serving.py."""
    fill_store(storage / "bentoml")
    settings = {"BENTOML_HOME": str(storage / "bentoml"), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for command in (["bentoml", "build", "--version", "test"], ["deploy/image.sh", "percept:test", IMAGE]):
        done = subprocess.run(command, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True)
        if done.returncode == 3:
            pytest.skip(f"this machine cannot build it: {done.stderr}")
        assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run([*PODMAN, "run", "--rm", *HOST, BASE, "true"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this machine runs no container: {done.stderr}")
    return IMAGE


@dataclass
class Container:
    name: str
    server: Server
    supervisor: int  # process ids on this machine
    worker: int
    processor: float  # seconds that both had computed when the service was ready

    @property
    def url(self) -> str:
        return self.server.url

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(podman("inspect", self.name))[0]["State"]
        return state


@contextmanager
def running(home: Path, *options: str, command: Sequence[str] = (), **environment: str) -> Iterator[Container]:
    """A container that serves on a port of this machine."""
    name = f"percept-{time.monotonic_ns()}"
    settings = {"BENTOML_HOME": "/tmp/bentoml", "BENTOML_DO_NOT_TRACK": "True"} | environment
    variables = [f"--env={key}={value}" for key, value in settings.items()]
    run = [*PODMAN, "run", "--name", name, "--env", "BENTOML_PORT", *HOST, *CONFINED]
    try:
        with serving(home, command=[*run, *variables, *options, IMAGE, *command]) as server:
            supervisor = json.loads(podman("inspect", name))[0]["State"]["Pid"]
            (worker,) = workers_of(supervisor)
            yield Container(name, server, supervisor, worker, processor(supervisor) + processor(worker))
    finally:
        subprocess.run([*PODMAN, "rm", "--force", name], capture_output=True)


def processor(pid: int) -> float:
    """Seconds that a process has computed."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def status(pid: int, key: str) -> str:
    """A line of /proc/PID/status."""
    (value,) = re.findall(rf"^{key}:\s+(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return str(value)


def ask(container: Container) -> None:
    """One picture and one sound."""
    answer = httpx.post(f"{container.url}/digits", content=digit_file(3)).json()
    assert (answer["label"], answer["version"]) == ("3", NEWEST)
    assert httpx.post(f"{container.url}/instruments", content=FLUTE).json()["label"] == "flute"


def test_size(image: str, capsys: pytest.CaptureFixture[str]) -> None:
    megabytes = {name: int(podman("image", "inspect", "--format", "{{.Size}}", name)) / 1e6 for name in (image, BASE)}
    over = megabytes[image] - megabytes[BASE]
    code = "\n".join(
        (
            "import importlib.metadata as m",
            "for d in m.distributions():",
            "  files = [f.locate() for f in d.files if f.locate().is_file()]",
            "  print(d.name, sum(f.stat().st_size for f in files), sum('.pyc' in f.name for f in files))",
        )
    )
    sizes = [line.split() for line in podman("run", "--rm", *HOST, image, "python", "-c", code).splitlines()]
    with capsys.disabled():
        print(f"\nImage: {megabytes[image]:.0f} MB, {over:.0f} MB over its base. Of the packages, in MB:")
        for name, size, _ in sorted(sizes, key=lambda line: -int(line[1]))[:15]:
            print(f"{int(size) / 1e6:6.1f} {name}")
    assert over < MOST


def test_confined(image: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Read-only, without capabilities, as user 1034; every kind of file, every protocol."""
    with running(tmp_path) as container, httpx.Client(base_url=container.url, timeout=30) as client:
        assert status(container.worker, "Uid").split() == ["1034"] * 4
        assert int(status(container.worker, "CapBnd"), 16) == 0
        assert status(container.worker, "NoNewPrivs") == "1"
        assert re.search(r" / / ro,", Path(f"/proc/{container.worker}/mountinfo").read_text())
        ask(container)
        for path, files in (("/digits", IMAGE_FILES), ("/instruments", SOUND_FILES)):
            assert {client.post(path, content=file).status_code for file in files} == {200}
        tensor = {"name": "vector", "shape": [1, 2], "datatype": "FP32", "data": [3, 4]}
        answer = client.post("/v2/models/sums/infer", json={"inputs": [tensor]}).json()
        assert answer["outputs"][0]["data"] == [7, -1]
        assert "<title>" in client.get("/").text
        assert 'percept_requests_total{code="200",route="/digits"}' in client.get("/metrics").text
        assert client.get("/docs.json").json()["paths"]
        sizes = [resident_mb(pid) for pid in (container.worker, container.supervisor)]
        with capsys.disabled():
            print(
                f"\nready after {container.server.seconds:.1f} s, {container.processor:.1f} of them computing;"
                f" worker {sizes[0]:.0f} MB, supervisor {sizes[1]:.0f} MB"
            )
        assert container.processor < 3  # and so in wall-clock seconds, where the machine does nothing else
        assert sizes[0] < 250


class Balancer:
    """Clients that ask replicas again and again, as through a load balancer: one that leaves gets no new requests."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.urls, self.over, self.outcomes = [*urls], threading.Event(), Counter[tuple[str, str]]()
        self.waiting = Counter[str]()  # requests that were sent and not answered
        self._lock = threading.Lock()

    def leave(self, url: str) -> int:
        """Send no more requests there; how many are being answered."""
        with self._lock:
            self.urls.remove(url)
            return self.waiting[url]

    def client(self, path: str, file: bytes) -> None:
        """Post a file over a new connection each time."""
        while not self.over.is_set():
            with self._lock:
                url = random.choice(self.urls)
                connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
                connection.request("POST", path, file)
                self.waiting[url] += 1
            try:
                outcome = str(connection.getresponse().status)
            except (OSError, http.client.HTTPException) as error:
                outcome = repr(error)
            connection.close()
            with self._lock:
                self.waiting[url] -= 1
                self.outcomes[url, outcome] += 1


def test_stops_under_load_without_losing_a_request(
    image: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of two replicas is stopped while it answers pictures and recordings."""
    recording = sound_bytes(tone(frequency=2000, seconds=60))
    with running(tmp_path / "a") as leaving, running(tmp_path / "b") as staying:
        balancer = Balancer([leaving.url, staying.url])
        sent = [("/digits", digit_file(3))] * 6 + [("/instruments", recording)] * 6
        clients = [threading.Thread(target=balancer.client, args=request) for request in sent]
        for client in clients:
            client.start()
        until(lambda: balancer.outcomes[leaving.url, "200"] > 100 and balancer.waiting[leaving.url] > 2)
        answering = balancer.leave(leaving.url)
        start, before = time.perf_counter(), balancer.outcomes[staying.url, "200"]
        podman("stop", "--time", "60", leaving.name)
        seconds = time.perf_counter() - start
        until(lambda: balancer.outcomes[staying.url, "200"] > before + 100)
        balancer.over.set()
        for client in clients:
            client.join()
        assert leaving.state()["ExitCode"] == 0
        assert "Traceback" not in leaving.server.log.read_text()
    with capsys.disabled():
        print(f"\nstopped in {seconds:.1f} s with {answering} requests in flight: {[*balancer.outcomes.values()]}")
    assert answering
    assert {outcome for _, outcome in balancer.outcomes} == {"200"}
    assert seconds < 30


def test_any_user_without_a_home(image: str, tmp_path: Path) -> None:
    with running(tmp_path, "--user", "54321:54321") as container:
        assert status(container.worker, "Uid").split() == ["54321"] * 4
        ask(container)


def test_replicas_share_a_store(image: str, tmp_path: Path) -> None:
    """Two containers follow one store on a volume."""
    store = tmp_path / "store"
    fill_store(store)
    subprocess.run(["chown", "-R", "1034:1034", str(store)], check=True)
    options = ("--volume", f"{store}:/store")
    settings = {"BENTOML_HOME": "/store", "PERCEPT_POLL_SECONDS": "1"}
    with (
        running(tmp_path / "a", *options, command=STORE_SERVED, **settings) as first,
        running(tmp_path / "b", *options, command=STORE_SERVED, **settings) as second,
    ):
        for container in (first, second):
            ask(container)
        put(store, digits_model("v3"))
        for container in (first, second):
            until(
                lambda url=container.url: httpx.post(f"{url}/digits", content=digit_file(3)).json()["version"] == "v3",
                10,
            )


def threads_under_load(container: Container) -> int:
    """How many threads more a worker has after eight long recordings were sent at once."""
    before = int(status(container.worker, "Threads"))
    recording = sound_bytes(tone(frequency=2000, seconds=60))
    found: list[str] = []

    def send() -> None:
        found.append(httpx.post(f"{container.url}/instruments", content=recording, timeout=60).json()["label"])

    clients = [threading.Thread(target=send) for _ in range(8)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert found == ["flute"] * 8
    return int(status(container.worker, "Threads")) - before


@pytest.mark.parametrize("cores", [0.5, 1])
def test_threads_follow_the_cpu_quota(image: str, tmp_path: Path, cores: float) -> None:
    with running(tmp_path, "--cpus", str(cores)) as container:
        ask(container)
        assert threads_under_load(container) == math.ceil(cores)


def test_memory_limit(image: str, tmp_path: Path) -> None:
    """The limit that docs/deploying.md gives for 16 slots holds for sixteen long recordings at once."""
    limits = ("--memory", "1g", "--memory-swap", "1g")
    recording = sound_bytes(tone(seconds=600))
    statuses: list[int] = []

    with running(tmp_path, *limits, PERCEPT_MAX_CONCURRENCY="16") as container:

        def send() -> None:
            statuses.append(httpx.post(f"{container.url}/instruments", content=recording, timeout=120).status_code)

        clients = [threading.Thread(target=send) for _ in range(16)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        ask(container)
        assert not container.state()["OOMKilled"]
        assert Path(f"/proc/{container.worker}").exists()
    assert {*statuses} <= {200, 503}
    assert 200 in statuses
