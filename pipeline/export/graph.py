"""The whole classifier as one ONNX graph."""

import warnings
from collections.abc import Sequence
from copy import deepcopy

import onnx
import torch
from torch import Tensor, nn

from models.card import FAMILIARITY, FEATURES, WITH_FAMILIARITY
from models.classifier import Classifier
from models.frontend import Pixels
from models.mfcc import Mfcc


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
            return as_tuple(self.classifier.from_standardised(media.flatten(1).to(torch.float32)))
        x = self.classifier.standardize(front(media))
        return *as_tuple(self.classifier.from_standardised(x)), x


def as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
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
