"""Stage 4: weights → one self-contained ONNX graph with its card, checked against torch and librosa, into the store."""

import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bentoml
import librosa
import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from models.card import CARD_KEY, FAMILIARITY, STORE_LABEL, ModelCard
from models.classifier import Classifier
from models.frontend import TOP_DB, Mfcc
from pipeline import extract, validate, weights
from pipeline.artifacts import read_json, replacing
from pipeline.extract import Features
from pipeline.libraries import versions
from pipeline.task import Task, UserError, digest

FILE = "model.onnx"
MAX_OUTPUT_DIFFERENCE = 1e-5  # ONNX Runtime against torch, probabilities or values
MAX_FAMILIARITY_DIFFERENCE = 2e-3  # a rank: a tenth of the share of known samples that the threshold gives up
MAX_MFCC_DIFFERENCE = 1e-3  # the graph against librosa.feature.mfcc, whose values reach some hundreds
AMIN = 1e-30  # mel power so small that only the floor cuts it, at any level
MFCC_CLIPS = 50  # clips of the test split that the latter is held on


def export(task: Task, run: Path, force: bool = False) -> ModelCard:
    """Export `run/weights.pt` to `run/model.onnx` and `run/card.json`, and put them into BentoML's model store.

    Parameters
    ----------
    force : export although the gate has not passed; the card records it

    Raises
    ------
    UserError : no valid report of these weights, the gate has not passed, or a check of the graph fails
    """
    classifier, facts = weights.load(run / weights.FILE)
    report = read_json(run / validate.FILE, "validate")
    if report["weights"] != weights.file_digest(run):
        raise UserError(f"{run / validate.FILE}: not the report of these weights; run `percept validate` first")
    passed = report["gate"]["passed"]
    if not passed and not force:
        lines = [
            f"gate: {c['name']} = {c['threshold']:g}, but the test split gives {c['value']:.4f}"
            for c in report["gate"]["checks"]
            if not c["passed"]
        ]
        raise UserError("\n".join([*lines, "not exported; --force overrides the gate"]))
    features = Features.load(run / extract.FILE)
    model = to_onnx(classifier)
    tag = bentoml.Tag(task.name, None).make_new_version()
    assert tag.version is not None
    card = ModelCard(
        name=tag.name,
        version=tag.version,
        kind=facts.kind,
        labels=facts.labels,
        input=classifier.frontend.input,
        output=output_names(classifier)[0],
        features=facts.features,
        temperature=classifier.temperature.item(),
        known_threshold=facts.known,
        parameters=classifier.mlp.n_parameters(),
        metrics={name: value for name, value in report["test"].items() if isinstance(value, float)},
        samples={split: report["samples"][split] for split in ("train", "validation", "test")},
        checks=check(model, classifier, features),
        gate_passed=passed,
        gate_forced=not passed,
        data_digest=facts.data_digest,
        task_digest=digest(report["task"]),
        training_seconds=facts.seconds,
        training_device=facts.device,
        libraries=versions(),
        created=datetime.now(UTC),
    )
    text = card.model_dump_json(indent=1)
    onnx.helper.set_model_props(model, {CARD_KEY: text})
    with replacing(run / FILE) as temporary:
        onnx.save(model, temporary)
    with replacing(run / "card.json") as temporary:
        temporary.write_text(text + "\n", "utf-8")
    with bentoml.models.create(tag, labels={STORE_LABEL: facts.kind}) as stored:
        for name in (FILE, "card.json", validate.FILE):
            Path(stored.path_of(name)).write_bytes((run / name).read_bytes())
    checks = ", ".join(f"{name} {value:.1e}" for name, value in card.checks.items())
    print(f"{task.name}: {tag} → {run / FILE} and the model store; largest differences: {checks}")
    return card


def output_names(classifier: Classifier) -> list[str]:
    """Names of the graph's outputs."""
    answer = "value" if classifier.kind == "regression" else "probabilities"
    return [answer] if classifier.familiarity is None else [answer, FAMILIARITY]


def to_onnx(classifier: Classifier) -> onnx.ModelProto:
    """The whole classifier as one graph: any batch size, any clip length ≥ 1, weights inside."""
    front = classifier.frontend
    sizes = [2 if size is None else size for size in front.input.shape]
    if isinstance(front, Mfcc):
        sizes[1] = 3 * front.n_fft  # samples; the example only has to be longer than a frame
    example = torch.zeros(sizes, dtype=getattr(torch, front.input.dtype))
    dynamic = {i: torch.export.Dim("NT"[i], min=1) for i, size in enumerate(front.input.shape) if size is None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.onnx warns of its own internals
        program = torch.onnx.export(
            classifier, (example,), dynamo=True, verbose=False,
            input_names=[front.input.name], output_names=output_names(classifier), dynamic_shapes=(dynamic,),
        )  # fmt: skip
    assert program is not None
    model = program.model_proto
    for part in [*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info]:
        del part.metadata_props[:]  # the exporter's notes, with source lines and paths of this machine
    onnx.checker.check_model(model, full_check=True)
    return model


def check(model: onnx.ModelProto, classifier: Classifier, features: Features) -> dict[str, float]:
    """Largest differences between the graph and its judges on the test split.

    Probabilities and familiarity, from decoded media, against torch's from the extracted features; MFCC against
    librosa's.

    Raises
    ------
    UserError : a difference is above its limit
    """
    rows = features.rows("test")
    files = features.file[rows].tolist()
    media = validate.load_media(features, files)
    with torch.inference_mode():
        judged = classifier.from_features(torch.from_numpy(features.x[rows]))
    session = _session(model)
    names = output_names(classifier)
    expected = judged if isinstance(judged, tuple) else (judged,)
    found = [
        np.concatenate(outputs) for outputs in zip(*(_run(session, media[file], names) for file in files), strict=True)
    ]
    limits = (MAX_OUTPUT_DIFFERENCE, MAX_FAMILIARITY_DIFFERENCE)[: len(names)]
    differences = {
        name: (float(np.abs(f - e.numpy()).max()), limit)
        for name, limit, f, e in zip(names, limits, found, expected, strict=True)
    }
    if isinstance(classifier.frontend, Mfcc):
        clips = [media[file] for file in files[:: max(1, len(files) // MFCC_CLIPS)]]
        differences["mfcc"] = (mfcc_difference(model, classifier.frontend, clips), MAX_MFCC_DIFFERENCE)
    for name, (difference, limit) in differences.items():
        if not difference <= limit:
            raise UserError(f"export: {name} of the graph differ by {difference:.1e}, more than {limit:.0e}")
    return {name: difference for name, (difference, _) in differences.items()}


def mfcc_difference(model: onnx.ModelProto, front: Mfcc, clips: Sequence[NDArray[Any]]) -> float:
    """Largest |graph - librosa.feature.mfcc| over clips float32 (T,), read inside the exported graph itself, whose
    decibels are counted from TOP_DB below the clip's maximum."""
    [product] = [n for n in model.graph.node if "frontend.dct" in n.input]
    mfcc = product.output[0]
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    opened.graph.output.append(onnx.helper.make_tensor_value_info(mfcc, onnx.TensorProto.FLOAT, None))
    session = _session(opened)
    worst = 0.0
    for clip in clips:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # librosa warns of clips shorter than a frame
            _, expected = by_librosa(front, clip)
        worst = max(worst, float(np.abs(_run(session, clip, [mfcc])[0][0] - expected).max()))
    return worst


def by_librosa(front: Mfcc, clip: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What librosa makes of a clip float32 (T,): mel power (n_mels, frames) of the pre-emphasised waveform, and MFCC
    (n_mfcc, frames) of its decibels above a floor TOP_DB below the clip's maximum."""
    emphasised = np.append(clip[:1], clip[1:] - np.float32(front.preemphasis) * clip[:-1])
    mel = librosa.feature.melspectrogram(
        y=emphasised, sr=front.sample_rate, n_fft=front.n_fft, hop_length=front.hop_length, n_mels=front.n_mels
    )
    decibels = librosa.power_to_db(mel, ref=np.max, amin=AMIN, top_db=TOP_DB) + TOP_DB
    return mel, librosa.feature.mfcc(S=decibels, n_mfcc=front.n_mfcc)


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, media: NDArray[Any], outputs: list[str]) -> list[NDArray[np.float32]]:
    results: list[NDArray[np.float32]] = session.run(outputs, {session.get_inputs()[0].name: media[None]})
    return results
