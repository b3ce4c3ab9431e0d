"""Real server processes for the tests, and small real models for them to serve."""

import functools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bentoml
import httpx
import numpy as np
import onnx
from bentoml._internal.models import ModelStore
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

from models.card import CARD_KEY, FAMILIARITY, STORE_LABEL, Column, Input, ModelCard, seal
from service.media.image import to_mnist_form

ROOT = Path(__file__).parent.parent
FIRST, NEWEST = "v1", "v2"  # versions of the test models


@dataclass
class Server:
    url: str
    process: subprocess.Popen[bytes]
    log: Path
    seconds: float  # from start to ready


@contextmanager
def serving(
    home: Path,
    *,
    target: str = ".",
    directory: Path = ROOT,
    python: str | Path = sys.executable,
    wait_for: str = "/readyz",
    command: Sequence[str] = (),
    port: int = 0,
    **environment: str,
) -> Iterator[Server]:
    """`bentoml serve target` in `directory` on this port, or a free one, with `home` as BENTOML_HOME, until the block
    ends; or instead `command`, which finds the port in BENTOML_PORT."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    home.mkdir(parents=True, exist_ok=True)
    log = home / f"serve-{port}.log"
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PERCEPT_")}
    serve = [str(python), "-m", "bentoml", "serve", target, "--host", "127.0.0.1", "--port", str(port)]
    settings = {"BENTOML_HOME": str(home), "BENTOML_PORT": str(port), "BENTOML_DO_NOT_TRACK": "True"}
    start = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command or serve,
            cwd=directory,
            env=inherited | settings | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait(url + wait_for, process, log)
        yield Server(url, process, log, time.perf_counter() - start)
    finally:
        stop(process)


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def until(condition: Callable[[], Any], seconds: float = 60) -> None:
    """Wait until the condition holds; the test fails if it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"the condition does not hold after {seconds} seconds"
        time.sleep(0.02)


def workers(server: Server) -> list[int]:
    """The process ids of the server's workers."""
    return workers_of(server.process.pid)


def workers_of(supervisor: int) -> list[int]:
    """The process ids of the workers that this process started."""
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text()
    return [int(pid) for pid in children.split() if b"_bentoml_impl.worker" in _command(pid)]


def _command(pid: str) -> bytes:
    """The command line of a process; empty if it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def resident_mb(pid: int) -> float:
    """Resident memory of a process in MB."""
    return _memory_mb(pid, "VmRSS")


def peak_mb(pid: int) -> float:
    """Peak resident memory of a process in MB."""
    return _memory_mb(pid, "VmHWM")


def _memory_mb(pid: int, key: str) -> float:
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(f"{key}:")]
    return int(line.split()[1]) * 1024 / 1e6


def fill_store(home: Path) -> None:
    """Puts a digits model in two versions, an instruments model and a vector model into the store of `home`."""
    for version in (FIRST, NEWEST):
        put(home, digits_model(version))
    put(home, instruments_model(NEWEST))
    put(home, sums_model(NEWEST))


def put(home: Path, model: onnx.ModelProto) -> None:
    """Puts a model into BentoML's store as `percept export` does."""
    text = next(prop.value for prop in model.metadata_props if prop.key == CARD_KEY)
    card = ModelCard.model_validate_json(text)
    for folder in ("models", "bentos", "tmp"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    store = ModelStore(home / "models")
    with bentoml.models.create(
        f"{card.name}:{card.version}", labels={STORE_LABEL: card.kind}, _model_store=store
    ) as stored:
        bare = onnx.ModelProto()
        bare.CopyFrom(model)
        del bare.metadata_props[:]
        file, text = seal(bare.SerializeToString(), card)
        Path(stored.path_of("model.onnx")).write_bytes(file)
        Path(stored.path_of("card.json")).write_bytes(text)
        Path(stored.path_of("report.json")).write_text("{}")
        Path(stored.path).chmod(0o755)


def put_broken(home: Path) -> None:
    """Puts a model named broken into the store, whose file is no graph."""
    store = ModelStore(home / "models")
    with bentoml.models.create("broken:v1", labels={STORE_LABEL: "multiclass"}, _model_store=store) as stored:
        Path(stored.path_of("model.onnx")).write_bytes(b"not a graph")


def digits_model(version: str) -> onnx.ModelProto:
    """A linear classifier of MNIST-like pictures, fitted to scikit-learn's digits by least squares."""
    w = _digits_weights()
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["float", "flat_shape"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    constants = {"flat_shape": np.array([-1, 784]), "w": np.float32(w[:-1] / 255), "b": np.float32(w[-1])}
    card_input = Input(kind="image", name="image", dtype="uint8", shape=(None, 28, 28))
    return build("digits", version, card_input, [str(digit) for digit in range(10)], nodes, constants)


@functools.cache
def _digits_weights() -> NDArray[np.float64]:
    """Of 784 pixels and a constant, for each digit. (785, 10)"""
    digits = load_digits()
    pictures = np.stack([to_mnist_form(image) for image in digits.images])
    x = pictures.reshape(len(pictures), -1).astype(np.float64) / 255
    x = np.hstack([x, np.ones((len(x), 1))])
    targets = np.eye(10)[digits.target] * 10
    w: NDArray[np.float64] = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ targets)
    return w


CAREFUL = {"name": "careful", "known_threshold": 0.7, "set_threshold": 0.02, "coverage": 0.95}


def careful_model() -> onnx.ModelProto:
    """The digits model under another name, which judges a picture unknown if more than three tenths of it are ink, and
    names the labels of a probability of 0.02 or more."""
    model = digits_model(NEWEST)
    text = next(prop.value for prop in model.metadata_props if prop.key == CARD_KEY)
    card = ModelCard.model_validate_json(text).model_copy(update=CAREFUL)
    model.graph.node.extend(
        [
            helper.make_node("ReduceMean", ["flat", "axis"], ["ink"], keepdims=0),
            helper.make_node("Div", ["ink", "white"], ["share"]),
            helper.make_node("Sub", ["all", "share"], [FAMILIARITY]),
        ]
    )
    constants = {"axis": np.array([1]), "white": np.float32(255), "all": np.float32(1)}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items())
    model.graph.output.append(helper.make_tensor_value_info(FAMILIARITY, TensorProto.FLOAT, ["n0"]))
    helper.set_model_props(model, {CARD_KEY: card.model_dump_json()})
    return model


def instruments_model(version: str) -> onnx.ModelProto:
    """Tells high sounds from low ones by how often the waveform crosses zero: a flute is above 1000 Hz."""
    nodes = [
        helper.make_node("Sign", ["waveform"], ["sign"]),
        helper.make_node("Slice", ["sign", "one", "end", "one"], ["later"]),
        helper.make_node("Slice", ["sign", "zero", "last", "one"], ["earlier"]),
        helper.make_node("Sub", ["later", "earlier"], ["change"]),
        helper.make_node("Abs", ["change"], ["crossing"]),
        helper.make_node("ReduceMean", ["crossing", "one"], ["rate"], keepdims=1),
        helper.make_node("Gemm", ["rate", "w", "b"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    threshold = 4 * 1000 / 22_050  # two crossings a period, each a change of 2
    constants = {
        "zero": np.array([0]),
        "one": np.array([1]),
        "end": np.array([2**31]),
        "last": np.array([-1]),
        "w": np.float32([[-50, 50]]),
        "b": np.float32([50 * threshold, -50 * threshold]),
    }
    card_input = Input(kind="audio", name="waveform", dtype="float32", shape=(None, None), sample_rate=22_050)
    return build("instruments", version, card_input, ["bassoon", "flute"], nodes, constants)


def sums_model(version: str) -> onnx.ModelProto:
    """A regression: the sum and the difference of two numbers."""
    nodes = [helper.make_node("MatMul", ["vector", "w"], ["value"])]
    constants = {"w": np.float32([[1, 1], [1, -1]])}
    card_input = Input(kind="vector", name="vector", dtype="float32", shape=(None, 2))
    return build("sums", version, card_input, ["sum", "difference"], nodes, constants)


def sides_model(version: str) -> onnx.ModelProto:
    """A classifier of one number between -4 and 4: left or right of 0."""
    nodes = [
        helper.make_node("MatMul", ["vector", "w"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    card_input = Input(kind="vector", name="vector", dtype="float32", shape=(None, 1))
    constants = {"w": np.float32([[-1, 1]])}
    return build("sides", version, card_input, ["left", "right"], nodes, constants, ranges=((-4.0, 4.0),))


def flats_model(version: str) -> onnx.ModelProto:
    """A regression of a table's rows: the price of a flat by size and city."""
    nodes = [helper.make_node("MatMul", ["vector", "w"], ["value"])]
    columns = (Column(name="size", missing=True), Column(name="city", categories=("Bonn", "Rom"), missing=True))
    card_input = Input(kind="vector", name="vector", dtype="float32", shape=(None, 2), columns=columns)
    return build("flats", version, card_input, ["price"], nodes, {"w": np.float32([[2], [100]])})


def build(
    name: str,
    version: str,
    card_input: Input,
    labels: Sequence[str],
    nodes: list[onnx.NodeProto],
    constants: dict[str, Any],
    ranges: tuple[tuple[float, float], ...] = (),
) -> onnx.ModelProto:
    output = nodes[-1].output[0]
    card = ModelCard(
        name=name,
        version=version,
        kind="regression" if output == "value" else "multiclass",
        labels=tuple(labels),
        input=card_input,
        output=output,
        features={},
        ranges=ranges,
        parameters=0,
        metrics={"accuracy": 0.9},
        samples={"train": 1, "validation": 1, "test": 1},
        checks={},
        gate_passed=True,
        gate_forced=False,
        data_digest="0" * 64,
        task_digest="0" * 64,
        training_seconds=0,
        training_device="cpu",
        libraries={},
        created=datetime.now(UTC),
    )
    element = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}[card_input.dtype]
    graph = helper.make_graph(
        nodes,
        name,
        [
            helper.make_tensor_value_info(
                card_input.name, element, [size or f"n{i}" for i, size in enumerate(card_input.shape)]
            )
        ],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n0", len(labels)])],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {CARD_KEY: card.model_dump_json()})
    onnx.checker.check_model(model, full_check=True)
    return model


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    with httpx.Client(timeout=5, verify=False) as client:  # certificates, read by each get() else, take 20 ms
        while time.monotonic() < deadline and process.poll() is None:
            with suppress(httpx.TransportError):
                if client.get(url).is_success:
                    return
            time.sleep(0.02)
    raise AssertionError(f"the server did not become ready:\n{log.read_text()}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the process group that `serving` started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
