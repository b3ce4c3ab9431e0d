"""The whole classifier, from decoded media to probabilities, as one ONNX graph."""

import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from models.card import FAMILIARITY, FEATURES, LOG_MEL, SECOND_READING, WITH_FAMILIARITY
from models.classifier import Classifier
from models.frontend import FrontEnd
from models.mfcc import Mfcc
from models.targets import TARGETS
from pipeline.export.nodes import ancestors, rename, replace
from pipeline.export.pieces import in_pieces
from pipeline.export.quantiles import select_quantiles
from pipeline.profile import step

OPSET = 20  # of ONNX, from 2023; ONNX Runtime reads it since 1.17


class Graph(nn.Module):
    """The module that is exported: a classifier, arranged for serving.

    Its outputs are the answers and, for the service to watch, a second reading of the classes and the standardised
    features. If features are the media divided by a scale (pixels), the service detects drift on the media instead, and
    the first layer's weights do the scaling and standardising, since (x / 255 - mean) / deviation would cost a tenth of
    the product that follows it.

    Attributes
    ----------
    reference : the classifier as it was trained
    answers : names of its answers: `probabilities` or `value`, and `familiarity` if it has one
    outputs : names of all outputs
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        scale = classifier.frontend.scale
        self.reference = classifier
        self.classifier = classifier if scale is None else _folded(classifier, scale)
        answer = "probabilities" if TARGETS[classifier.kind].has_classes else "value"
        self.answers = [answer] if classifier.familiarity is None else [answer, FAMILIARITY]
        second = [SECOND_READING] if classifier.has_second_reading else []
        self.outputs = [*self.answers, *second, *([FEATURES] if scale is None else [])]

    def forward(self, media: Tensor) -> tuple[Tensor, ...]:
        """Decoded media → the outputs."""
        front = self.classifier.frontend
        if front.scale is not None:
            return self.classifier.readings(media.flatten(1).to(torch.float32))
        x = self.classifier.standardize(front(media))
        return *self.classifier.readings(x), x


def _folded(classifier: Classifier, scale: float) -> Classifier:
    """A copy of a classifier that takes the flattened media instead of standardised features."""
    folded = deepcopy(classifier)
    factor = 1 / (scale * classifier.standardize.deviation.double())
    shift = -classifier.standardize.mean.double() / classifier.standardize.deviation.double()
    contrast = folded.familiarity.contrast if folded.familiarity is not None else None
    for mlp in (folded.mlp, *([] if contrast is None else [contrast])):
        first = mlp.linear()[0]
        weight = first.weight.data.double()
        first.bias.data.copy_(first.bias.data.double() + weight @ shift)
        first.weight.data.copy_(weight * factor)
    return folded


@step("graph")
def to_onnx(graph: Graph) -> onnx.ModelProto:
    """The whole classifier as one ONNX model: any batch size, any clip length ≥ 1, weights inside."""
    front = graph.classifier.frontend
    example = front.example()
    dynamic = {i: name for i, (name, size) in enumerate(zip("NT", front.input.shape, strict=False)) if size is None}
    with TemporaryDirectory() as folder, torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.onnx warns about its own internals
        file = Path(folder) / "model.onnx"
        # By tracing: `dynamo=True`, the newer exporter, takes ten times as long and 200 MB more for the same answers.
        torch.onnx.export(
            graph, (example,), file, dynamo=False, opset_version=OPSET,
            input_names=[front.input.name], output_names=graph.outputs, dynamic_axes={front.input.name: dynamic},
        )  # fmt: skip
        model = onnx.load(file)
        shapes = [("N", *answer.shape[1:]) for answer in graph(example)]
    del model.graph.output[:]
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in zip(graph.outputs, shapes, strict=True)
    )
    _constants_to_initializers(model.graph)
    _flush_subnormals(model.graph)
    if isinstance(front, Mfcc):
        _fix_shapes(model.graph)
    if FAMILIARITY in graph.outputs:
        optional = {FAMILIARITY: ["N"], SECOND_READING: ["N", "K"]}
        _make_optional(model.graph, {name: optional[name] for name in graph.outputs if name in optional})
    if isinstance(front, Mfcc):
        _return_log_mel(model.graph, front)
        _compute_mel_in_pieces(model.graph, front)
        select_quantiles(model.graph)
    onnx.checker.check_model(model, full_check=True)
    return model


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    """Store all constants in one way."""
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        graph.initializer.append(node.attribute[0].t)
        graph.initializer[-1].name = node.output[0]
        graph.node.remove(node)


def _flush_subnormals(graph: onnx.GraphProto) -> None:
    """Set subnormal weights to 0: the service would take tens of times as long for each product with one."""
    for weights in graph.initializer:
        if weights.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(weights)
            kept = np.where(np.abs(values) < np.finfo(np.float32).tiny, np.float32(0), values)
            weights.CopyFrom(onnx.numpy_helper.from_array(kept, weights.name))


def _fix_shapes(graph: onnx.GraphProto) -> None:
    """Give the power spectrum's reshapes constant shapes: they keep N, and infer the one other size that varies. Thirty
    nodes that computed shapes were a twentieth of the time of a short clip."""
    producers = {name: node for node in graph.node for name in node.output}
    constants = {constant.name: constant for constant in graph.initializer}
    for node in graph.node:
        if node.op_type == "Reshape" and "/spectrum/" in node.name and node.input[1] in producers:
            names = producers[node.input[1]].input[1:]  # the first is N
            sizes = [int(onnx.numpy_helper.to_array(constants[n]).item()) if n in constants else -1 for n in names]
            node.input[1] = f"{node.output[0]}_shape"
            graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, *sizes]), node.input[1]))
    needed = ancestors(graph, [output.name for output in graph.output])
    nodes = [node for i, node in enumerate(graph.node) if i in needed]
    used = {name for node in nodes for name in node.input}
    kept = [constant for constant in graph.initializer if constant.name in used]
    replace(graph, nodes)
    del graph.initializer[:]
    graph.initializer.extend(kept)


def oracle_product(graph: onnx.GraphProto, front: FrontEnd) -> onnx.NodeProto:
    """The matrix product with the front end's `oracle_constant` in its exported graph."""
    return _node_with(graph, getattr(front, front.oracle_constant or ""))


def _node_with(graph: onnx.GraphProto, constant: Tensor) -> onnx.NodeProto:
    """The node of the exported graph with that constant."""
    same = {t.name for t in graph.initializer if np.array_equal(onnx.numpy_helper.to_array(t), constant.numpy())}
    node: onnx.NodeProto
    [node] = [node for node in graph.node if same.intersection(node.input)]
    return node


def _return_log_mel(graph: onnx.GraphProto, front: Mfcc) -> None:
    """Make the decibels whose cosine transform is the MFCC an output. They are computed anyway, so nobody waits for
    them, asked for or not."""
    rename(graph.node, {oracle_product(graph, front).input[1]: LOG_MEL})
    shape = ("N", front.n_mels, "frames")
    graph.output.append(onnx.helper.make_tensor_value_info(LOG_MEL, onnx.TensorProto.FLOAT, shape))


def _compute_mel_in_pieces(graph: onnx.GraphProto, front: Mfcc) -> None:
    """Let no more than a piece of the spectrum of a long recording be in memory."""
    audio, mel = _node_with(graph, front.spectrum.row_dft).input[0], _node_with(graph, front.loudness).input[1]
    total = _node_with(graph, front.in_order).input[0]
    producers = {name: node for node in graph.node for name in node.output}
    while producers[audio].op_type not in ("Concat", "Pad"):  # with what goes before and after it
        audio = producers[audio].input[0]
    nodes = sorted(ancestors(graph, [mel, total]) - ancestors(graph, [audio]))
    more = front.n_fft - front.hop_length + (1 if front.fmin else 0)  # with fmin, pre-emphasis comes after padding
    in_pieces(graph, nodes, audio, mel, total, front.hop_length, more)


def _make_optional(graph: onnx.GraphProto, outputs: Mapping[str, Sequence[str]]) -> None:
    """Compute outputs, name → float32 of that shape, only if the input WITH_FAMILIARITY, bool (), is true, which is its
    default; else familiarity is the least of the answers, and the second reading the answers, which nobody reads.

    The nodes that only these outputs need move into a branch of an If. ONNX Runtime computes every output, asked for or
    not, and familiarity is half the work of an answer to an image.
    """
    others = [o.name for o in graph.output if o.name not in outputs]
    own = ancestors(graph, [*outputs]) - ancestors(graph, others)
    moved = [node for i, node in enumerate(graph.node) if i in own]
    rename(moved, {name: f"{name}_if_wanted" for name in outputs})  # the second reading is a step towards familiarity
    answer = graph.output[0].name
    instead = {
        FAMILIARITY: onnx.helper.make_node("ReduceMin", [answer, "columns"], [f"no_{FAMILIARITY}"], keepdims=0),
        SECOND_READING: onnx.helper.make_node("Identity", [answer], [f"no_{SECOND_READING}"]),
    }
    nothing = [instead[name] for name in outputs]
    branches = {
        f"{name}_branch": onnx.helper.make_graph(
            nodes, name, [],
            [onnx.helper.make_tensor_value_info(pattern.format(output), onnx.TensorProto.FLOAT, shape)
             for output, shape in outputs.items()],
        )
        for name, nodes, pattern in (("then", moved, "{}_if_wanted"), ("else", nothing, "no_{}"))
    }  # fmt: skip
    kept = [node for i, node in enumerate(graph.node) if i not in own]
    replace(graph, [*kept, onnx.helper.make_node("If", [WITH_FAMILIARITY], [*outputs], **branches)])
    graph.input.append(onnx.helper.make_tensor_value_info(WITH_FAMILIARITY, onnx.TensorProto.BOOL, []))
    graph.initializer.append(onnx.helper.make_tensor(WITH_FAMILIARITY, onnx.TensorProto.BOOL, [], [True]))
    graph.initializer.append(onnx.helper.make_tensor("columns", onnx.TensorProto.INT64, [1], [1]))
