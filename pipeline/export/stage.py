"""Stage 4: weights → one self-contained ONNX graph with its card, checked against torch and librosa, into the store."""

import warnings
from collections.abc import Sequence
from copy import deepcopy
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
from torch import Tensor, nn

from models.card import CARD_FILE, FAMILIARITY, FEATURES, STORE_LABEL, WITH_FAMILIARITY, FeatureGroup, ModelCard, seal
from models.classifier import Classifier
from models.frontend import TOP_DB, Mfcc, Pixels
from pipeline import extract, validate
from pipeline.extract import Features
from pipeline.libraries import versions
from pipeline.run import read_json, replacing
from pipeline.task import Task, UserError, digest
from pipeline.train import weights
from service.serving.drift import Scores

FILE = "model.onnx"
MAX_OUTPUT_DIFFERENCE = 1e-5  # ONNX Runtime against torch, probabilities or values
MAX_HEARD_DIFFERENCE = 1e-4  # the same of sound, whose features are extracted by FFT, and in the graph by products
MAX_FAMILIARITY_DIFFERENCE = 2e-3  # a rank: a tenth of the share of known samples that the threshold gives up
MAX_MFCC_DIFFERENCE = 1e-3  # the graph against librosa.feature.mfcc, whose values reach some hundreds
AMIN = 1e-30  # mel power so small that only the floor cuts it, at any level
BINS = 10  # of a feature group's scores, in the card
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
    graph = Graph(classifier)
    model = to_onnx(graph)
    tag = bentoml.Tag(task.name, None).make_new_version()
    assert tag.version is not None
    card = ModelCard(
        name=tag.name,
        version=tag.version,
        kind=facts.kind,
        labels=facts.labels,
        input=classifier.frontend.input,
        output=graph.outputs[0],
        features=facts.features,
        temperature=classifier.temperature.item(),
        known_threshold=facts.known,
        groups=feature_groups(classifier, features),
        parameters=classifier.mlp.n_parameters(),
        metrics={name: value for name, value in report["test"].items() if isinstance(value, float)},
        samples={split: report["samples"][split] for split in ("train", "validation", "test")},
        checks=check(model, graph, features),
        gate_passed=passed,
        gate_forced=not passed,
        data_digest=facts.data_digest,
        task_digest=digest(report["task"]),
        training_seconds=facts.seconds,
        training_device=facts.device,
        libraries=versions(),
        created=datetime.now(UTC),
    )
    file, text = seal(model.SerializeToString(), card)
    with replacing(run / FILE) as temporary:
        temporary.write_bytes(file)
    with replacing(run / CARD_FILE) as temporary:
        temporary.write_bytes(text + b"\n")
    with bentoml.models.create(tag, labels={STORE_LABEL: facts.kind}) as stored:
        for name in (FILE, CARD_FILE, validate.FILE):
            Path(stored.path_of(name)).write_bytes((run / name).read_bytes())
    checks = ", ".join(f"{name} {value:.1e}" for name, value in card.checks.items())
    print(f"{task.name}: {tag} → {run / FILE} and the model store; largest differences: {checks}")
    return ModelCard.model_validate_json(text)


class Graph(nn.Module):
    """What is exported of a classifier: it, and for a service to watch the standardised features, which for images are
    the pixels that came in.

    Pixels are standardised by the weights of the first layers: (x / 255 - mean) / deviation before a product is as much
    work again as a tenth of it.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.judge = classifier
        self.classifier = _folded(classifier) if isinstance(classifier.frontend, Pixels) else classifier
        answer = "value" if classifier.kind == "regression" else "probabilities"
        watched = [] if isinstance(classifier.frontend, Pixels) else [FEATURES]
        self.answers = [answer] if classifier.familiarity is None else [answer, FAMILIARITY]
        self.outputs = [*self.answers, *watched]  # names of the graph's outputs

    def forward(self, media: Tensor) -> tuple[Tensor, ...]:
        """Media as the front end takes it → the outputs."""
        front = self.classifier.frontend
        if isinstance(front, Pixels):
            return _tuple(self.classifier.from_standardised(media.flatten(1).to(torch.float32)))
        x = self.classifier.standardize(front(media))
        return *_tuple(self.classifier.from_standardised(x)), x


def _tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _folded(classifier: Classifier) -> Classifier:
    """A classifier of pixels that takes them as they are, 0 … 255, for standardised features."""
    folded = deepcopy(classifier)
    scale = 1 / (255 * classifier.standardize.deviation.double())
    shift = -classifier.standardize.mean.double() / classifier.standardize.deviation.double()
    contrast = folded.familiarity.contrast if folded.familiarity is not None else None
    for mlp in (folded.mlp, *([] if contrast is None else [contrast])):
        first = mlp.linear()[0]
        weight = first.weight.data.double()
        first.bias.data.copy_(first.bias.data.double() + weight @ shift)
        first.weight.data.copy_(weight * scale)
    return folded


def feature_groups(classifier: Classifier, features: Features) -> tuple[FeatureGroup, ...]:
    """The training split's features in groups, as the card describes them; none of fewer than ten samples."""
    x = torch.from_numpy(features.x[features.rows("train")])
    if len(x) < BINS:
        return ()
    pixels = isinstance(classifier.frontend, Pixels)
    watched = (x * 255 if pixels else classifier.standardize(x)).numpy()
    spans = classifier.frontend.groups()
    groups = []
    for (name, start, stop), score in zip(spans, Scores([span[1:] for span in spans])(watched).T, strict=True):
        edges = np.unique(np.quantile(score, np.linspace(0, 1, BINS + 1)[1:-1]))
        counts = np.bincount(np.searchsorted(edges, score, side="right"), minlength=len(edges) + 1)
        shares = tuple((counts / len(score)).tolist())
        groups.append(FeatureGroup(name=name, start=start, stop=stop, edges=tuple(edges.tolist()), shares=shares))
    return tuple(groups)


def to_onnx(graph: Graph) -> onnx.ModelProto:
    """The whole classifier as one graph: any batch size, any clip length ≥ 1, weights inside."""
    classifier = graph.classifier
    front = classifier.frontend
    sizes = [2 if size is None else size for size in front.input.shape]
    if isinstance(front, Mfcc):
        sizes[1] = 3 * front.n_fft  # samples; the example only has to be longer than a frame
    example = torch.zeros(sizes, dtype=getattr(torch, front.input.dtype))
    dynamic = {i: torch.export.Dim("NT"[i], min=1) for i, size in enumerate(front.input.shape) if size is None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.onnx warns of its own internals
        program = torch.onnx.export(
            graph, (example,), dynamo=True, verbose=False,
            input_names=[front.input.name], output_names=graph.outputs, dynamic_shapes=(dynamic,),
        )  # fmt: skip
    assert program is not None
    model = program.model_proto
    for part in [*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info]:
        del part.metadata_props[:]  # the exporter's notes, with source lines and paths of this machine
    if FAMILIARITY in graph.outputs:
        _make_optional(model.graph, FAMILIARITY, WITH_FAMILIARITY)
    onnx.checker.check_model(model, full_check=True)
    return model


def _make_optional(graph: onnx.GraphProto, output: str, condition: str) -> None:
    """Move what computes nothing but one output, float32 (N,), into a branch of an If, whose condition is an input that
    is true unless it is given: ONNX Runtime computes every output, whether it is asked for or not, and of a picture's
    answer familiarity is half the work."""
    others = [o.name for o in graph.output if o.name != output]
    own = _ancestors(graph, [output]) - _ancestors(graph, others)
    inside = f"{output}_if_wanted"
    moved = [onnx.NodeProto.FromString(node.SerializeToString()) for i, node in enumerate(graph.node) if i in own]
    for node in moved:
        node.output[:] = [inside if name == output else name for name in node.output]
    nothing = onnx.helper.make_node("ReduceMin", [graph.output[0].name, "columns"], ["nothing"], keepdims=0)
    branches = {
        f"{name}_branch": onnx.helper.make_graph(
            nodes, name, [], [onnx.helper.make_tensor_value_info(nodes[-1].output[0], onnx.TensorProto.FLOAT, ["N"])]
        )
        for name, nodes in (("then", moved), ("else", [nothing]))
    }
    kept = [node for i, node in enumerate(graph.node) if i not in own]
    del graph.node[:]
    graph.node.extend([*kept, onnx.helper.make_node("If", [condition], [output], **branches)])
    graph.input.append(onnx.helper.make_tensor_value_info(condition, onnx.TensorProto.BOOL, []))
    graph.initializer.append(onnx.helper.make_tensor(condition, onnx.TensorProto.BOOL, [], [True]))
    graph.initializer.append(onnx.helper.make_tensor("columns", onnx.TensorProto.INT64, [1], [1]))


def _ancestors(graph: onnx.GraphProto, outputs: Sequence[str]) -> set[int]:
    """The indices of the nodes that outputs are made of."""
    producers = {name: i for i, node in enumerate(graph.node) for name in node.output}
    found: set[int] = set()
    names = list(outputs)
    while names:
        i = producers.get(names.pop())
        if i is not None and i not in found:
            found.add(i)
            names += graph.node[i].input
    return found


def check(model: onnx.ModelProto, graph: Graph, features: Features) -> dict[str, float]:
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
        expected = _tuple(graph.judge.from_features(torch.from_numpy(features.x[rows])))
    session = _session(model)
    names = graph.answers
    found = [
        np.concatenate(outputs) for outputs in zip(*(_run(session, media[file], names) for file in files), strict=True)
    ]
    front = graph.judge.frontend
    of_answers = MAX_HEARD_DIFFERENCE if isinstance(front, Mfcc) else MAX_OUTPUT_DIFFERENCE
    limits = (of_answers, MAX_FAMILIARITY_DIFFERENCE)[: len(names)]
    differences = {
        name: (float(np.abs(f - e.numpy()).max()), limit)
        for name, limit, f, e in zip(names, limits, found, expected, strict=True)
    }
    if isinstance(front, Mfcc):
        clips = [media[file] for file in files[:: max(1, len(files) // MFCC_CLIPS)]]
        differences["mfcc"] = (mfcc_difference(model, front, clips), MAX_MFCC_DIFFERENCE)
    for name, (difference, limit) in differences.items():
        if not difference <= limit:
            raise UserError(f"export: {name} of the graph differ by {difference:.1e}, more than {limit:.0e}")
    return {name: difference for name, (difference, _) in differences.items()}


def mfcc_difference(model: onnx.ModelProto, front: Mfcc, clips: Sequence[NDArray[Any]]) -> float:
    """Largest |graph - librosa.feature.mfcc| over clips float32 (T,), read inside the exported graph itself, whose
    decibels are counted from TOP_DB below the clip's maximum."""
    [product] = [n for n in model.graph.node if any(name.endswith("frontend.dct") for name in n.input)]
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
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: it warns of the optional input
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, media: NDArray[Any], outputs: list[str]) -> list[NDArray[np.float32]]:
    results: list[NDArray[np.float32]] = session.run(outputs, {session.get_inputs()[0].name: media[None]})
    return results
