"""The exported graph: equal to torch and to librosa, any batch and length, with its card; the gate; the store."""

import json
from hashlib import sha256
from pathlib import Path

import bentoml
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from numpy.typing import NDArray

from models import views
from models.card import CARD_KEY, LOG_MEL, SECOND_READING, STORE_LABEL, WITH_FAMILIARITY, ModelCard, check_seal
from models.classifier import Classifier, Standardize
from models.frontend import FrontEnd, Pixels, Vector
from models.mfcc import Mfcc
from models.mlp import MLP
from models.targets import TARGETS
from pipeline import task, train, validate
from pipeline.export import check, graph
from pipeline.export import stage as export
from pipeline.extract.features import Features
from pipeline.run import Run
from pipeline.signing import Signer
from pipeline.task import UserError
from service.serving.drift import COUNTED, EVERY, MIN_SAMPLES, Drift
from service.serving.predictor import Predictor
from service.serving.trust import Trust, fingerprint
from tests.command import model_store
from tests.signing import files_of, key, private


def classifier(front: FrontEnd, labels: int, kind: str = "multiclass") -> Classifier:
    mlp = MLP(front.n_features, [16], TARGETS[kind].n_outputs(labels), "sigmoid")
    standardize = Standardize(front.n_features)
    standardize.deviation.fill_(3.0)
    return Classifier(front, standardize, mlp, kind).eval()


def run_graph(model: onnx.ModelProto, media: NDArray[np.generic]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    output = session.run(None, {session.get_inputs()[0].name: media})[0]
    return output


@pytest.fixture(scope="module")
def mfcc_graph() -> tuple[Classifier, onnx.ModelProto]:
    module = classifier(Mfcc(preemphasis=0.97, fmin=80), 12)
    return module, graph.to_onnx(graph.Graph(module))


@pytest.mark.parametrize(
    ("batch", "samples"), [(1, 1), (1, 511), (1, 512), (1, 1024), (2, 2048), (3, 30_001), (1, 1_323_000)]
)
def test_any_batch_and_clip_length(mfcc_graph: tuple[Classifier, onnx.ModelProto], batch: int, samples: int) -> None:
    module, graph = mfcc_graph
    audio = (0.1 * np.random.default_rng(samples).standard_normal((batch, samples))).astype(np.float32)
    with torch.inference_mode():
        expected = module(torch.from_numpy(audio)).numpy()
    found = run_graph(graph, audio)
    assert found.shape == (batch, 12)
    assert np.abs(found - expected).max() < check.MAX_OUTPUT_DIFFERENCE


def test_the_graphs_own_mfcc_equal_librosas(mfcc_graph: tuple[Classifier, onnx.ModelProto]) -> None:
    module, graph = mfcc_graph
    rng = np.random.default_rng(0)
    clips = [rng.uniform(-0.5, 0.5, n).astype(np.float32) for n in (2, 600, 22_050, 70_000)]
    differences = check.oracle_differences(graph, module.frontend, clips)
    assert 0 < differences.max() < check.MAX_ORACLE_DIFFERENCE / 10


def test_the_graph_returns_the_spectrogram_that_it_computes(mfcc_graph: tuple[Classifier, onnx.ModelProto]) -> None:
    module, model = mfcc_graph
    front = module.frontend
    assert isinstance(front, Mfcc)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for n in (600, 30_000):
        clip = np.random.default_rng(n).uniform(-0.5, 0.5, (1, n)).astype(np.float32)
        (found,) = session.run([LOG_MEL], {"audio": clip})
        with torch.inference_mode():
            expected = views.plain(front.mel_power(torch.from_numpy(clip))).numpy()
        np.testing.assert_allclose(found, expected, atol=check.MAX_ORACLE_DIFFERENCE)


def test_fading_noise_like_a_cymbals_can_be_exported(mfcc_graph: tuple[Classifier, onnx.ModelProto]) -> None:
    """High frequencies at full scale and low ones near the floor, down to the last bits of 16."""
    module, model = mfcc_graph
    rng, samples = np.random.default_rng(0), np.arange(66_150)
    for seconds in (0.15, 0.3):
        bright = np.diff(rng.standard_normal(len(samples) + 2), 2) * np.exp(-samples / (seconds * 22_050))
        clip = (np.round(bright / np.abs(bright).max() * 32_000) / 32_768).astype(np.float32)
        assert check.oracle_differences(model, module.frontend, [clip])[0] < check.MAX_ORACLE_DIFFERENCE / 2


def test_the_graph_is_one_clean_file(mfcc_graph: tuple[Classifier, onnx.ModelProto]) -> None:
    _, graph = mfcc_graph
    assert [i.name for i in graph.graph.input] == ["audio"]
    assert [o.name for o in graph.graph.output] == ["probabilities", "features", "log_mel"]
    assert not any(t.external_data for t in graph.graph.initializer)
    assert not {"DFT", "STFT"} & {node.op_type for node in graph.graph.node}  # which ONNX Runtime does slowly
    assert str(Path(__file__).parents[3]).encode() not in graph.SerializeToString()  # no path of this machine


def test_no_node_computes_a_shape_of_the_spectrum(mfcc_graph: tuple[Classifier, onnx.ModelProto]) -> None:
    _, model = mfcc_graph
    [loop] = [node for node in model.graph.node if node.op_type == "Loop"]
    body = [node for node in loop.attribute[0].g.node if "/spectrum/" in node.name]
    assert [node.op_type for node in body].count("Reshape") == 6
    assert not {"Shape", "Concat", "Cast"} & {node.op_type for node in body}
    used = {name for graph in (model.graph, loop.attribute[0].g) for node in graph.node for name in node.input}
    assert {"/frontend/spectrum/Reshape_output_0_shape"} <= used


@pytest.mark.parametrize("kind", ["multiclass", "binary"])
def test_pictures(kind: str) -> None:
    labels = 2 if kind == "binary" else 5
    module = classifier(Pixels(), labels, kind)
    images = np.random.default_rng(0).integers(256, size=(7, 28, 28), dtype=np.uint8)
    with torch.inference_mode():
        expected = module(torch.from_numpy(images)).numpy()
    found = run_graph(graph.to_onnx(graph.Graph(module)), images)
    assert found.shape == (7, labels)
    assert np.abs(found - expected).max() < check.MAX_OUTPUT_DIFFERENCE


@pytest.mark.parametrize(("kind", "labels", "name"), [("regression", 3, "value"), ("binary", 2, "probabilities")])
def test_vectors(kind: str, labels: int, name: str) -> None:
    module = classifier(Vector(4), labels, kind)
    vectors = np.random.default_rng(0).standard_normal((7, 4)).astype(np.float32)
    model = graph.to_onnx(graph.Graph(module))
    assert [o.name for o in model.graph.output] == [name, "features"]
    with torch.inference_mode():
        expected = module(torch.from_numpy(vectors)).numpy()
    found = run_graph(model, vectors)
    assert found.shape == (7, labels)
    assert np.abs(found - expected).max() < check.MAX_OUTPUT_DIFFERENCE


def test_subnormal_weights_are_exported_as_zeros() -> None:
    module = classifier(Vector(4), 2)
    module.mlp.layers[0].weight.data[:, :2] = torch.tensor([1e-40, -1e-40])
    weights = [onnx.numpy_helper.to_array(t) for t in graph.to_onnx(graph.Graph(module)).graph.initializer]
    assert any(w.size == 4 * 16 and (w == 0).sum() == 2 * 16 for w in weights)
    assert not any(((w != 0) & (np.abs(w) < np.finfo(np.float32).tiny)).any() for w in weights if w.dtype == np.float32)


def exported(run: Path, home: Path, *overrides: str, signer: Signer | None = None) -> bentoml.Model:
    """Validate, and export into a model store in `home`; what the store then has."""
    resolved = task.load("digits", "scans", ["validate.baselines=false", *overrides])
    validate.validate(resolved, Run(run))
    with model_store(home):
        export.export(resolved, Run(run), signer=signer)
        return bentoml.models.get("digits")


@pytest.fixture(scope="module")
def home(short_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BENTOML_HOME with the run's model in its store, signed."""
    home = tmp_path_factory.mktemp("home")
    exported(short_run, home, "validate.min_accuracy=0.5", signer=Signer(private(home, key("ours"))))
    return home


def test_export_checks_and_stores(short_run: Path, home: Path) -> None:
    with model_store(home):
        model_in_store = bentoml.models.get("digits")
    stored = Path(model_in_store.path)
    assert stored.is_relative_to(home)
    assert model_in_store.info.labels == {STORE_LABEL: "multiclass"}
    assert {f.name for f in stored.iterdir()} >= {"model.onnx", "card.json", "report.json"}
    card = ModelCard.model_validate_json((stored / "card.json").read_text())
    assert str(model_in_store.tag) == f"{card.name}:{card.version}"
    assert card.labels == tuple("0123456789")
    assert (card.input.kind, card.input.dtype, card.input.shape) == ("image", "uint8", (None, 28, 28))
    assert card.checks["probabilities"] <= 1e-5
    assert card.gate_passed
    assert not card.gate_forced
    assert card.metrics["accuracy"] == json.loads((short_run / "report.json").read_text())["test"]["accuracy"]
    model = onnx.load(stored / "model.onnx")
    inside = next(p.value for p in model.metadata_props if p.key == CARD_KEY)
    assert json.loads(inside) == json.loads((stored / "card.json").read_text())
    assert Predictor(short_run / "model.onnx").card == card  # the .onnx file alone is enough
    file, text = (stored / "model.onnx").read_bytes(), (stored / "card.json").read_bytes()
    check_seal(file, text)
    for other in (file + b"\0", file[1:], file.replace(b"probabilities", b"probabilitieS", 1), b""):
        with pytest.raises(ValueError, match="does not match the SHA-256 in the card beside it"):
            check_seal(other, text)
    for other in (text.replace(b'"0",', b'"O",', 1), text.replace(card.sha256.encode(), b"0" * 64)):
        with pytest.raises(ValueError, match="does not match the SHA-256 in the card beside it"):
            check_seal(file, other)


def test_the_bill_of_materials(home: Path, short_run: Path) -> None:
    """It fits CycloneDX's schema, as that project's library has it, and says what the card and the report say."""
    with model_store(home):
        text = Path(bentoml.models.get("digits").path_of("bom.json")).read_text()
    assert text == (short_run / "bom.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill, card = json.loads(text), ModelCard.model_validate_json((short_run / "card.json").read_text())
    model = bill["metadata"]["component"]
    assert (model["type"], model["name"], model["version"]) == ("machine-learning-model", card.name, card.version)
    assert model["hashes"][0]["content"] == sha256((short_run / "model.onnx").read_bytes()).hexdigest()
    data, *libraries = bill["components"]
    assert (data["type"], data["hashes"][0]["content"]) == ("data", card.data_digest)
    assert {one["name"]: one["version"] for one in libraries} == card.libraries
    licences = {one["name"]: one["licenses"] for one in libraries}
    assert licences["percept"] == [{"expression": "Apache-2.0"}]
    assert all(licences.values())
    found = {one["type"]: one for one in model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]}
    test = json.loads((short_run / "report.json").read_text())["test"]
    assert {name: float(one["value"]) for name, one in found.items()} == card.metrics
    interval = found["accuracy"]["confidenceInterval"]
    assert [float(interval["lowerBound"]), float(interval["upperBound"])] == test["accuracy_interval"]
    properties = {one["name"]: one["value"] for one in model["modelCard"]["properties"]}
    assert properties["percept:parameters"] == str(card.parameters)
    assert properties["percept:model.hidden"] == json.dumps(task.load("digits", "scans").model.hidden)


def test_what_is_signed_is_all_that_the_store_gets(home: Path) -> None:
    with model_store(home):
        files = files_of(Path(bentoml.models.get("digits").path))
    assert {*files} >= {"model.onnx", "card.json", "report.json", "samples.json", "bom.json", "model.sig"}
    ours = key("ours").public_key()
    assert Trust({fingerprint(ours): ours}).check(files) == fingerprint(ours)


@pytest.mark.usefixtures("home")
def test_familiarity_is_computed_only_where_that_is_wanted(short_run: Path) -> None:
    predictor = Predictor(short_run / "model.onnx")
    pictures = np.random.default_rng(0).integers(256, size=(5, 28, 28), dtype=np.uint8)
    whole, bare = predictor.run(pictures), predictor.run(pictures, familiarity=False)
    assert (whole.shape, bare.shape) == ((5, 11), (5, 10))
    assert (whole[:, :10] == bare).all()
    session = predictor.session
    assert [i.name for i in session.get_inputs()] == ["image"]
    [none] = session.run(["familiarity"], {"image": pictures, WITH_FAMILIARITY: np.array(False)})
    assert (none == bare.min(axis=1)).all()  # it was not computed


@pytest.mark.usefixtures("home")
def test_the_second_reading_has_the_same_label_as_often_as_the_card_says(short_run: Path) -> None:
    predictor, features = Predictor(short_run / "model.onnx"), Features.load(short_run / "features.npz")
    rows = features.rows("test")
    pictures = np.round(features.x[rows] * 255).astype(np.uint8).reshape(-1, 28, 28)
    answers, second = predictor.session.run(["probabilities", SECOND_READING], {"image": pictures})
    assert second.shape == answers.shape
    agreement = (second.argmax(axis=1) == answers.argmax(axis=1)).mean()
    assert predictor.card.usual is not None
    assert predictor.card.usual.agreement == pytest.approx(agreement, abs=0.005)
    assert 0.8 < agreement < 1  # it is another reading
    assert (second.argmax(axis=1) == features.y[rows]).mean() > 0.8
    for _ in range(EVERY * MIN_SAMPLES // COUNTED):
        predictor.run(pictures[:COUNTED])
    expected = (second.argmax(axis=1) == answers.argmax(axis=1))[:COUNTED].tolist()
    assert [sample.agrees for sample in predictor.drift.samples()[:COUNTED]] == expected
    predictor.drift = Drift(predictor.card.groups)
    for _ in range(EVERY * MIN_SAMPLES // COUNTED):
        predictor.run(pictures[:COUNTED], familiarity=False)
    assert np.isnan([sample.agrees for sample in predictor.drift.samples()]).all()


@pytest.mark.usefixtures("home")
def test_the_card_says_how_the_training_features_are_distributed(short_run: Path) -> None:
    features = Features.load(short_run / "features.npz")
    x = features.x[features.rows("train")].astype(np.float64) * 255
    groups = ModelCard.model_validate_json((short_run / "card.json").read_text()).groups
    assert [(group.start, group.stop) for group in groups] == [(i, i + 112) for i in range(0, 784, 112)]
    for group in groups:
        score = np.sqrt((x[:, group.start : group.stop] ** 2).mean(1))
        bins = np.searchsorted(group.edges, score, side="right")
        assert np.bincount(bins, minlength=len(group.shares)) / len(x) == pytest.approx(group.shares, abs=0.002)
        assert len(group.shares) == len(group.edges) + 1


@pytest.mark.parametrize(("front", "n"), [(Vector(3), 3), (Vector(32), 32), (Vector(1000), 32), (Mfcc(), 24)])
def test_groups_cover_every_feature_once(front: FrontEnd, n: int) -> None:
    groups = front.groups()
    assert len(groups) == len({name for name, _, _ in groups}) == n
    assert [i for _, start, stop in groups for i in range(start, stop)] == list(range(front.n_features))


def test_the_gate_stops_export_and_force_is_recorded(short_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not exported; --force overrides the gate"):
        exported(short_run, tmp_path, "validate.min_accuracy=1.0")
    with model_store(tmp_path):
        export.export(task.load("digits", "scans"), Run(short_run), force=True)
    card = ModelCard.model_validate_json((short_run / "card.json").read_text())
    assert card.gate_forced
    assert not card.gate_passed


@pytest.mark.usefixtures("few_outliers")
def test_a_report_of_other_weights_is_refused(short_run: Path, tmp_path: Path) -> None:
    for name in ("features.npz", "report.json"):
        (tmp_path / name).symlink_to(short_run / name)
    resolved = task.load("digits", "scans", ["train.epochs=1"])
    train.train(resolved, Run(tmp_path))
    with pytest.raises(UserError, match="not the report of these weights; run `percept validate` first"):
        export.export(resolved, Run(tmp_path))


def test_a_difference_above_its_limit_stops_export(short_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "MAX_OUTPUT_DIFFERENCE", 0.0)
    with pytest.raises(
        UserError, match=r": probabilities of the graph differ from .* more than 0e\+00; leave that file"
    ):
        export.export(task.load("digits", "scans"), Run(short_run), force=True)
