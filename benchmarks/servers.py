"""The servers that benchmarks/serving.py measures: environments, commands, processes."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.serving import stop

PEERS = Path(__file__).parent / "peers"
PATIENCE = 60  # seconds for a server to give its first answer
SOUNDS = "sounds.onnx"  # file name of the MLP that the FastAPI peer uses for sound
FEATURES, HIDDEN, CLASSES = 80, 256, 13  # sizes of that MLP


class NotMeasured(Exception):
    """A server that could not be installed or started."""


def train(name: str, home: Path) -> None:
    """Train this task, with its run in `home/runs` and its model in the store of `home`, unless that has been done."""
    runs = home / "runs"
    if not (runs / name / "model.onnx").exists():
        options = {  # that take little time; without pens the model reads the scans that are sent
            "digits": ("--data", "scans"),
            "instruments": ("--set", "augment.copies=0", "--set", "validate.baselines=false"),
        }
        command = [Path(sys.executable).with_name("percept"), "run", name, "--runs", runs, *options.get(name, ())]
        subprocess.run(command, env=os.environ | {"BENTOML_HOME": str(home)}, check=True)


def mlp() -> onnx.ModelProto:
    """An MLP with random weights, float32 (N, 80) → probabilities (N, 13): only its time matters."""
    nodes = [
        helper.make_node("Gemm", ["features", "w1", "b1"], ["z"]),
        helper.make_node("Relu", ["z"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "w2", "b2"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    shapes = {"w1": (FEATURES, HIDDEN), "b1": (HIDDEN,), "w2": (HIDDEN, CLASSES), "b2": (CLASSES,)}
    rng = np.random.default_rng(0)
    constants = [numpy_helper.from_array(np.float32(rng.normal(size=size)), key) for key, size in shapes.items()]
    input_ = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", FEATURES])
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", CLASSES])
    graph = helper.make_graph(nodes, "sounds", [input_], [output], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def environment(peer: str, cache: Path) -> Path:
    """The Python of the peer's virtual environment in `cache`, which is created again when its pins change.

    Raises NotMeasured if it cannot be made.
    """
    pins, folder = PEERS / f"{peer}.txt", cache / peer
    python, installed = folder / "bin/python", folder / "installed.txt"
    if not installed.exists() or installed.read_text() != pins.read_text():
        print(f"installing {peer} into {folder}", flush=True)
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
            install = [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
            subprocess.run([*install, "--no-deps", "--requirement", pins], check=True)
        except subprocess.CalledProcessError as error:
            raise NotMeasured(f"its environment could not be made: {error}") from error
        shutil.copy(pins, installed)
    return python


def command(server: str, python: Path, port: int) -> list[str]:
    """The command by which its users start it, on `port`, with one worker."""
    match server:
        case "percept":
            return [str(python), "-m", "bentoml", "serve", ".", "--port", str(port), "--host", "127.0.0.1"]
        case "bentoml":
            return [str(python), "-m", "bentoml", "serve", "bentoml_app:Digits", "--port", str(port)]
        case "fastapi":
            return [str(python), "-m", "uvicorn", "fastapi_app:app", "--port", str(port)]
        case "litserve":
            return [str(python), "litserve_app.py", str(port)]
        case "mlserver":
            return [str(python.parent / "mlserver"), "start", "mlserver"]
    raise ValueError(server)


@contextmanager
def running(
    server: str, path: str, body: dict[str, Any], *, repository: Path, home: Path, cache: Path, cores: set[int]
) -> Iterator[tuple[str, float]]:
    """Run a server on `cores` until the block ends: its address, and the seconds from its start to its first answer to
    a POST of `body` to `path`.

    Raises NotMeasured if there is no answer.
    """
    python = Path(sys.executable) if server == "percept" else environment(server, cache)
    onnx.save(mlp(), home / SOUNDS)
    port, other, third = _free_ports(3)
    variables = {
        "BENTOML_HOME": str(home if server == "percept" else home / "peers"),
        "BENTOML_DO_NOT_TRACK": "True",
        "PYTHONPATH": str(repository) if server == "percept" else "",
        "DIGITS_ONNX": str(home / "runs/digits/model.onnx"),
        "SOUNDS_ONNX": str(home / SOUNDS),
        "MLSERVER_HTTP_PORT": str(port),
        "MLSERVER_GRPC_PORT": str(other),
        "MLSERVER_METRICS_PORT": str(third),
    }
    log = home / f"{server}.log"
    start = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(server, python, port),
            cwd=repository if server == "percept" else PEERS,
            env=os.environ | variables,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
    url = f"http://127.0.0.1:{port}"
    try:
        while not _answers(url + path, body):
            if process.poll() is not None or time.perf_counter() > start + PATIENCE:
                raise NotMeasured(f"no answer; {log} may say why")
            time.sleep(0.02)
        yield url, time.perf_counter() - start
    finally:
        stop(process)


def _answers(url: str, body: dict[str, Any]) -> bool:
    """Whether the server answers. Raises NotMeasured for an error that waiting does not cure."""
    try:
        answer = httpx.post(url, timeout=PATIENCE, **body)
    except httpx.TransportError:
        return False
    if not answer.is_success and answer.status_code not in (400, 404, 503):  # while MLServer loads its model
        raise NotMeasured(f"{answer.status_code} {answer.text[:200]}")
    return answer.is_success


def _free_ports(n: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [free.getsockname()[1] for free in sockets]
