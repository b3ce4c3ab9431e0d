"""A version is served only if requests get what its card says: sealed files whose graph and card do not fit."""

import resource
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.card import CARD_KEY, FEATURES, SECOND_READING, FeatureGroup, Input, ModelCard, Usual
from service.serving import opening
from service.serving.opening import in_one_line, open_version
from service.serving.store import Stored
from tests.service.helpers import digit_file
from tests.service.in_process import application
from tests.serving import FIRST, NEWEST, build, careful_model, digits_model, instruments_model, put, sums_model

Change = Callable[[onnx.ModelProto], None]
PIXELS = tuple(
    FeatureGroup(name=f"rows {i}", start=392 * i, stop=392 * i + 392, edges=(1.0,), shares=(0.5, 0.5)) for i in (0, 1)
)
ONE = FeatureGroup(name="one", start=0, stop=2, edges=(0.5,), shares=(0.5, 0.5))


def careful(version: str) -> onnx.ModelProto:
    """A model with familiarity."""
    return careful_model()


def card(**fields: Any) -> Change:
    """Changes the card alone."""

    def change(model: onnx.ModelProto) -> None:
        before = ModelCard.model_validate_json(model.metadata_props[0].value)
        helper.set_model_props(model, {CARD_KEY: before.model_copy(update=fields).model_dump_json()})

    return change


def input_(**fields: Any) -> Change:
    def change(model: onnx.ModelProto) -> None:
        before = ModelCard.model_validate_json(model.metadata_props[0].value)
        card(input=before.input.model_copy(update=fields))(model)

    return change


def groups(**fields: Any) -> Change:
    """Two groups of the pixels, the second changed."""
    return card(groups=(PIXELS[0], PIXELS[1].model_copy(update=fields)))


def node(operator: str, *inputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, ["before", *inputs], ["after"], **attributes)


def then(*nodes: onnx.NodeProto, dtype: int = TensorProto.FLOAT, **constants: Any) -> Change:
    """Renames the graph's output to `before`, from which `nodes` compute the one that is given."""

    def change(model: onnx.ModelProto) -> None:
        output = model.graph.output[0].name
        model.graph.node[-1].output[0] = "before"
        for node in nodes:
            added = model.graph.node.add()
            added.CopyFrom(node)
            added.output[:] = [output if name == "after" else name for name in added.output]
        model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
        model.graph.output[0].CopyFrom(helper.make_tensor_value_info(output, dtype, None))

    return change


def plus(constant: Any) -> Change:
    return then(node("Add", "constant"), constant=np.float32(constant))


def renamed_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = model.graph.node[-1].output[0] = "other"


def renamed_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = model.graph.node[0].input[0] = "other"


def another_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["n"]))


def one_at_a_time(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def one_row(model: onnx.ModelProto) -> None:
    shape = next(i for i in model.graph.initializer if i.name == "flat_shape")
    shape.CopyFrom(numpy_helper.from_array(np.array([1, -1]), "flat_shape"))


def weights(value: float) -> Change:
    """One weight of a pixel at the edge, which pictures of digits leave empty."""

    def change(model: onnx.ModelProto) -> None:
        w = next(i for i in model.graph.initializer if i.name == "w")
        values = numpy_helper.to_array(w).copy()
        values[0, 0] = value
        w.CopyFrom(numpy_helper.from_array(values, "w"))

    return change


def outside(model: onnx.ModelProto) -> None:
    """Weights in another file, which is there in the folder where the service runs."""
    w = next(i for i in model.graph.initializer if i.name == "b")
    w.ClearField("raw_data")
    w.data_location = TensorProto.EXTERNAL
    w.external_data.add(key="location", value="pyproject.toml")
    w.external_data.add(key="length", value="40")


def custom(model: onnx.ModelProto) -> None:
    model.graph.node[-1].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def sparse(model: onnx.ModelProto) -> None:
    """Weights that are 40 GB once they are read, in a file of a few bytes."""
    value = helper.make_tensor("huge", TensorProto.FLOAT, [1], [1.0])
    at = helper.make_tensor("at", TensorProto.INT64, [1, 2], [0, 0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(value, at, [100_000, 100_000]))


def huge(*shape: int) -> Change:
    """Computes an array of that shape, and a number from it."""
    return then(
        helper.make_node("ReduceMean", ["before"], ["mean"], keepdims=0),
        helper.make_node("Expand", ["mean", "shape"], ["huge"]),
        helper.make_node("ReduceMax", ["huge"], ["max"], keepdims=0),
        helper.make_node("Mul", ["max", "zero"], ["nothing"]),
        helper.make_node("Add", ["before", "nothing"], ["after"]),
        shape=np.array(shape), zero=np.float32(0),
    )  # fmt: skip


def folded(model: onnx.ModelProto) -> None:
    """The same from constants alone, which ONNX Runtime computes when it opens the graph."""
    huge(2**33)(model)
    next(node for node in model.graph.node if node.output[0] == "huge").input[0] = "zero"


def loop(collects: bool) -> Change:
    """Ten billion rounds; each of them may also keep a megabyte."""

    def value(name: str, type_: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, type_, None if type_ == TensorProto.FLOAT else [])

    nodes = [helper.make_node("Identity", ["go"], ["goes"]), helper.make_node("Sin", ["x"], ["y"])]
    outputs = [value("goes", TensorProto.BOOL), value("y")]
    if collects:
        nodes.append(helper.make_node("ConstantOfShape", ["million"], ["kept"]))
        outputs.append(value("kept"))
    inputs = [value("i", TensorProto.INT64), value("go", TensorProto.BOOL), value("x")]
    body = helper.make_graph(nodes, "body", inputs, outputs)
    return then(
        helper.make_node("Loop", ["n", "true", "before"], ["after", "all"][: 1 + collects], body=body),
        n=np.int64(10**10), true=np.array(True), million=np.array([2**18]),
    )  # fmt: skip


def with_features(width: int, groups: tuple[FeatureGroup, ...] = (ONE,)) -> Change:
    """A regression with an output of features."""

    def change(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node("Concat", ["vector"] * (width // 2), [FEATURES], axis=1))
        model.graph.output.append(helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, None))
        card(groups=groups)(model)

    return change


def with_second_reading(model: onnx.ModelProto) -> None:
    """Of one class."""
    model.graph.node.append(helper.make_node("ReduceMax", ["probabilities", "axis"], [SECOND_READING]))
    model.graph.output.append(helper.make_tensor_value_info(SECOND_READING, TensorProto.FLOAT, None))
    card(usual=USUAL)(model)


LABELS = tuple("0123456789")
USUAL = Usual(confidence=0.9, familiarity=(0.05, 0.1), agreement=0.9)
# Name → what the reason says, or in older versions of ONNX Runtime, the model, its change.
BROKEN: dict[str, tuple[str, Callable[[str], onnx.ModelProto], Change]] = {
    "fewer labels": ("for 9 labels", digits_model, card(labels=LABELS[:9])),
    "more labels": ("for 11 labels", digits_model, card(labels=(*LABELS, "ten"))),
    "equal labels": ("not different", digits_model, card(labels=(*LABELS[:9], "0"))),
    "no labels": ("its 0 labels", digits_model, card(labels=())),
    "binary": ("with 10 labels", digits_model, card(kind="binary")),
    "regression": ("expected 'value'", digits_model, card(kind="regression")),
    "output named otherwise": ("'logits'", digits_model, card(output="logits")),
    "a threshold without familiarity": ("no output 'familiarity'", digits_model, card(known_threshold=0.5)),
    "familiarity without a threshold": ("familiarity without", careful, card(known_threshold=None)),
    "a usual confidence above 1": ("usual = ", careful, card(usual=Usual(confidence=2, familiarity=(0.05, 0.1)))),
    "a usual familiarity below 0": ("usual = ", careful, card(usual=Usual(confidence=0.9, familiarity=(-0.1, 0.1)))),
    "a usual agreement above 1": ("usual = ", careful, card(usual=USUAL.model_copy(update={"agreement": 1.5}))),
    "an agreement without a second reading": ("no output 'second_reading'", careful, card(usual=USUAL)),
    "a second reading of another width": ("second_reading of shape (1, 1)", careful, with_second_reading),
    "an accuracy above 1": ("accuracy = 2.0", careful, card(metrics={"accuracy": 2.0})),
    "a share of known samples below 0": ("known = -0.5", careful, card(metrics={"known": -0.5})),
    "threshold above 1": ("known_threshold", careful, card(known_threshold=1.5)),
    "temperature 0": ("temperature", digits_model, card(temperature=0)),
    "input of floats": ("image input", digits_model, input_(dtype="float32")),
    "larger pictures": ("image input", digits_model, input_(shape=(None, 32, 32))),
    "another input's name": ("the graph takes", digits_model, input_(name="picture")),
    "picture with a rate": ("sample_rate", digits_model, input_(sample_rate=8000)),
    "no sample rate": ("sample_rate", instruments_model, input_(sample_rate=None)),
    "sample rate 0": ("sample_rate", instruments_model, input_(sample_rate=0)),
    "a rate that is not the features'": ("sample_rate", instruments_model, card(features={"sample_rate": 44_100})),
    "features of another kind": ("'pixels'", instruments_model, card(features={"kind": "pixels"})),
    "recording as a vector": ("vector input", instruments_model, input_(kind="vector", sample_rate=None)),
    "wider vector": ("the graph takes", sums_model, input_(shape=(None, 3))),
    "vector of any width": ("vector input", sums_model, input_(shape=(None, None))),
    "vector without a shape": ("vector input", sums_model, input_(shape=())),
    "group's gap": ("'rows 1'", digits_model, groups(start=400)),
    "group too wide": ("(1, 784)", digits_model, groups(stop=790)),
    "group's name": ("same name", digits_model, groups(name="rows 0")),
    "group's shares": ("'rows 1'", digits_model, groups(shares=(0.5, 0.2))),
    "group's bins": ("'rows 1'", digits_model, groups(edges=(1.0, 2.0))),
    "group's edges": ("'rows 1'", digits_model, groups(edges=(2.0, 1.0), shares=(0.5, 0.25, 0.25))),
    "groups without features": ("no output 'features'", sums_model, card(groups=(ONE,))),
    "features too wide": ("(1, 4)", sums_model, with_features(4)),
    "output renamed": ("no output 'probabilities'", digits_model, renamed_output),
    "input renamed": ("the graph takes", digits_model, renamed_input),
    "another input": ("the graph takes", digits_model, another_input),
    "one picture at a time": ("the graph takes", digits_model, one_at_a_time),
    "one row, whatever the batch": ("Gemm", digits_model, one_row),
    "output of rank 1": ("for 10 labels", digits_model, then(node("ReduceMax", keepdims=0))),
    "output of rank 3": ("for 10 labels", digits_model, then(node("Unsqueeze", "two"), two=np.array([2]))),
    "output of doubles": (
        "tensor(double)", digits_model,
        then(node("Cast", to=TensorProto.DOUBLE), dtype=TensorProto.DOUBLE),
    ),
    "NaN": ("overflows", digits_model, plus(np.nan)),
    "NaN from a regression": ("overflows", sums_model, plus(np.inf)),
    "probabilities above 1": ("expected 0 to 1", digits_model, plus(1)),
    "negative probabilities": ("expected 0 to 1", digits_model, plus([1, -1] + [0] * 8)),
    "probabilities that do not sum to 1": ("expected 1", digits_model, then(node("Mul", "half"), half=np.float32(0.5))),
    "a weight that is NaN": ("overflows", digits_model, weights(np.nan)),
    "a weight that is infinite": ("overflows", digits_model, weights(np.inf)),
    "weights in another file": ("External data path", digits_model, outside),
    "an operator of their own": ("com.example", digits_model, custom),
    "40 GB of zeros": ("Graph|std::bad_alloc", digits_model, sparse),
    "32 GB for an answer": ("Failed to allocate memory", digits_model, huge(2**33)),
    "32 GB to open": ("Failed to allocate memory|std::bad_alloc", digits_model, folded),
    "an endless answer": ("take more than 0.3 seconds", digits_model, loop(False)),
    "an endless answer that grows": ("take more than 0.3 seconds", digits_model, loop(True)),
}  # fmt: skip


def changed(name: str, version: str) -> onnx.ModelProto:
    _, make, change = BROKEN[name]
    model = whole(make, version)
    change(model)
    return model


def whole(make: Callable[[str], onnx.ModelProto], version: str) -> onnx.ModelProto:
    model = onnx.ModelProto.FromString(made(make))
    card(version=version)(model)
    return model


@cache  # fitting the digits takes most of a test's time
def made(make: Callable[[str], onnx.ModelProto]) -> bytes:
    return make(NEWEST).SerializeToString()


@pytest.mark.parametrize("how", BROKEN)
def test_what_does_not_fit_its_card_is_refused(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "CHECK_SECONDS", 0.3)
    limit = resource.getrlimit(resource.RLIMIT_DATA)
    model = changed(how, NEWEST)
    name = ModelCard.model_validate_json(model.metadata_props[0].value).name
    put(tmp_path, model)
    with pytest.raises(Exception) as caught:  # noqa: PT011  # ONNX Runtime's have no common base
        open_version(Stored(name, NEWEST, tmp_path / "models" / name / NEWEST))
    assert any(said in in_one_line(caught.value) for said in BROKEN[how][0].split("|"))
    assert resource.getrlimit(resource.RLIMIT_DATA) == limit


@pytest.mark.parametrize("make", [digits_model, instruments_model, sums_model, careful])
def test_what_fits_is_opened_as_new(make: Callable[[str], onnx.ModelProto], tmp_path: Path) -> None:
    """Also after another version with features and groups; what the check asks does not count towards drift."""
    model = whole(make, NEWEST)
    card_ = ModelCard.model_validate_json(model.metadata_props[0].value)
    if card_.name == "sums":
        with_features(2)(model)
    if card_.name == "digits":
        card(groups=PIXELS)(model)
    put(tmp_path, model)
    predictor = open_version(Stored(card_.name, NEWEST, tmp_path / "models" / card_.name / NEWEST))
    assert predictor.run_options is None
    assert not predictor.drift._samples


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    put(tmp_path, sums_model(NEWEST))
    folder = tmp_path / "models" / "sums" / NEWEST
    with (folder / "model.onnx").open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match="at most"):
        open_version(Stored("sums", NEWEST, folder))


def test_the_version_before_a_refused_one_answers(tmp_path: Path) -> None:
    put(tmp_path, whole(digits_model, FIRST))
    key = {"x-api-key": "key"}
    with application(tmp_path, PERCEPT_API_KEYS="key") as client:
        client.headers.update(key)
        for n, how in enumerate(("fewer labels", "more labels", "NaN", "32 GB for an answer"), 2):
            version = f"v{n}"
            put(tmp_path, changed(how, version))
            assert client.post("/v2/repository/models/digits/load").status_code == 503
            answer = client.post("/digits", content=digit_file(3))
            assert (answer.status_code, answer.json()["version"]) == (200, FIRST)
            ready = client.get("/readyz").json()
            assert ready["models"] == {"digits": FIRST}
            assert version in ready["failed"]["digits"]
            assert client.post(f"/digits/versions/{version}", content=digit_file(3)).status_code == 404
            lines = client.get("/metrics").text.splitlines()
            assert f'percept_model_failed{{model="digits",version="{version}"}} 1.0' in lines
        put(tmp_path, whole(digits_model, "v9"))
        assert client.post("/v2/repository/models/digits/load").status_code == 200
        assert client.post("/digits", content=digit_file(3)).json()["version"] == "v9"
        failed = [line for line in client.get("/metrics").text.splitlines() if line.startswith("percept_model_failed{")]
        assert failed
        assert all(line.endswith(" 0.0") for line in failed)


def test_a_graph_that_fails_for_some_inputs_is_no_failure_of_the_service(tmp_path: Path) -> None:
    """It looks a number up in a table of two rows."""
    table = np.float32([[1, 2], [3, 4]])
    nodes = [
        helper.make_node("ReduceMax", ["vector", "axis"], ["row"], keepdims=0),
        helper.make_node("Cast", ["row"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["value"]),
    ]
    card_input = Input(kind="vector", name="vector", dtype="float32", shape=(None, 2))
    put(tmp_path, build("table", NEWEST, card_input, ["a", "b"], nodes, {"table": table, "axis": np.array([1])}))
    with application(tmp_path) as client:
        assert client.post("/predict/table", content=b"[1, 0]").json()["value"] == {"a": 3, "b": 4}
        assert client.post("/predict/table", content=b"[7, 0]").status_code == 422
        tensor = {"name": "vector", "shape": [1, 2], "datatype": "FP32", "data": [7, 0]}
        assert client.post("/v2/models/table/infer", json={"inputs": [tensor]}).status_code == 400
