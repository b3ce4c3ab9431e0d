"""Changes to the nodes of an ONNX graph."""

from collections.abc import Iterable, Mapping, Sequence

import onnx


def ancestors(graph: onnx.GraphProto, outputs: Sequence[str]) -> set[int]:
    """Indices of the nodes that outputs depend on."""
    producers = {name: i for i, node in enumerate(graph.node) for name in node.output}
    found: set[int] = set()
    names = list(outputs)
    while names:
        i = producers.get(names.pop())
        if i is not None and i not in found:
            found.add(i)
            names += graph.node[i].input
    return found


def rename(nodes: Iterable[onnx.NodeProto], names: Mapping[str, str]) -> None:
    """Give inputs and outputs of the nodes other names: old → new."""
    for node in nodes:
        for used in (node.input, node.output):
            used[:] = [names.get(name, name) for name in used]


def replace(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Let the graph have these nodes alone; some may have been its own."""
    nodes = list(nodes)
    del graph.node[:]
    graph.node.extend(nodes)
