"""Pictures in colour from files to answers: extraction with copies, training, export, and the ways to ask."""

import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from models import image
from pipeline import extract, task, train, validate
from pipeline.export import export
from pipeline.extract.features import Features
from pipeline.run import Run
from pipeline.train import weights
from service.media import Limits
from service.serving.predictor import Predictor
from tests.command import model_store
from tests.service.in_process import application

KEYS = ("features.size=16", "features.atoms=8", "augment.copies=1", "train.epochs=12", "model.hidden=[16]")
N = 40  # of each class
LABELS = ("across", "down", "red")


def picture(label: str, rng: np.random.Generator) -> Image.Image:
    """Stripes of any phase and colour, or grain with a tint."""
    at = np.arange(24) + rng.uniform(0, 8)
    stripes = 60 * np.sign(np.sin(at * 2 * np.pi / 8))
    gray = {"across": stripes[:, None], "down": stripes[None], "red": 60 * rng.standard_normal((24, 24))}[label]
    tint = (200, 60, 60) if label == "red" else rng.integers(80, 180, 3)
    pixels = np.broadcast_to(gray, (24, 24))[..., None] + tint + 10 * rng.standard_normal((24, 24, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the task, and a model store with its model."""
    home, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(N):
        for label in LABELS:
            file = home / "data" / label / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            picture(label, rng).save(file)
    (home / "data" / "red" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    resolved, run = task.load("pictures", str(home / "data"), KEYS), Run(home / "run")
    with pytest.MonkeyPatch.context() as patch, model_store(home):
        patch.setattr(image, "PATCHES", 3000)
        extract.extract(resolved, run)
        train.train(resolved, run)
        report = validate.validate(resolved, run)
        assert report["test"]["accuracy"] > 0.8
        export(resolved, run)
    return home


@pytest.fixture(scope="module")
def client(home: Path) -> Iterator[httpx.Client]:
    with application(home) as client:
        yield client


def test_the_dictionary_is_learned_once_and_travels_along(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(home / "run")
    features, (classifier, _) = Features.of(run), weights.of(run)
    assert features.state.keys() == {"kernel", "bias", "squares", "share"}
    for name, tensor in classifier.frontend.state_dict().items():  # type: ignore[attr-defined]
        np.testing.assert_array_equal(tensor, features.state[name])
    assert not features.rows("test")[features.copy_of].any()
    assert len(features.copy_of) == (~features.rows("test")).sum()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image, "PATCHES", 3000)
        extract.extract(task.load("pictures", str(home / "data"), KEYS), Run(home / "run"))
    assert " 0 newly extracted" in capsys.readouterr().out


def test_every_way_to_ask_gives_the_same_answer(home: Path, client: httpx.Client) -> None:
    predictor = Predictor(home / "run" / "model.onnx")
    for label in LABELS:
        data = (home / "run" / "samples" / f"{label}.png").read_bytes()
        pixels = predictor.decode(data, Limits())
        assert (pixels.shape, pixels.dtype) == ((16, 16, 3), np.uint8)
        expected = predictor.predict(pixels)
        answers = [
            client.post("/predict/pictures", content=data),
            client.post("/predict/pictures", files={"file": ("a.png", data)}),
        ]
        for answer in answers:
            assert answer.status_code == 200, answer.text
            assert answer.json()["label"] == expected.label
            assert answer.json()["confidence"] == pytest.approx(expected.confidence, abs=1e-6)
        tensor = {"name": "image", "shape": [1, 16, 16, 3], "datatype": "UINT8", "data": pixels.ravel().tolist()}
        inferred = client.post("/v2/models/pictures/infer", json={"inputs": [tensor]}).json()
        assert max(inferred["outputs"][0]["data"]) == pytest.approx(expected.confidence, abs=1e-5)


def test_what_does_not_fit_has_a_status_and_a_reason(client: httpx.Client) -> None:
    tensor = {"name": "image", "shape": [1, 16, 16], "datatype": "UINT8", "data": [0] * 256}
    refused = client.post("/v2/models/pictures/infer", json={"inputs": [tensor]})
    assert refused.status_code == 400
    assert "does not fit [-1, 16, 16, 3]" in refused.json()["error"]
    assert client.post("/predict/pictures", content=b"RIFF").status_code in (400, 415)
    clear = io.BytesIO()
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(clear, "PNG")
    assert client.post("/predict/pictures", content=clear.getvalue()).status_code == 422


def test_the_refitted_network_knows_pictures_like_its_own(home: Path) -> None:
    """The refit takes over all of the calibration: the units of density and strengths, and the scale of both."""
    predictor, rng = Predictor(home / "run" / "model.onnx"), np.random.default_rng(1)
    known = []
    for label in LABELS * 10:
        file = io.BytesIO()
        picture(label, rng).save(file, "PNG")
        known.append(predictor.predict(predictor.decode(file.getvalue(), Limits())).known)
    assert np.mean(known) >= 0.8


def test_work_is_counted_with_the_dictionary(home: Path) -> None:
    predictor = Predictor(home / "run" / "model.onnx")
    small, large = (predictor.cost.of_batch((n, 16, 16, 3)) for n in (1, 1000))
    assert large.seconds > 100 * (small.seconds - 5e-5)
    assert large.bytes > small.bytes > 0
    assert [group.name for group in predictor.card.groups][-1] == "patches"
