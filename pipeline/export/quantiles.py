"""Quantiles over the frames of a long recording: selected, in the graph, where sorting would be a fifth of its time."""

import onnx
import onnx.parser

from pipeline.export.nodes import rename, replace

LONG = 256  # frames; fewer are sorted as fast

# The two values between which a quantile is interpolated are the last of the `rank` + 2 smallest. Of these, the ones up
# to the next lower quantile are selected, and so on; none is sorted.
SELECTION = """
<ir_version: 10, opset_import: ["": 20]>
quantiles (float[N, M, F] values, int64[N, M, 3] ranks) => (float[N, M, 3] low, float[N, M, 3] high)
<int64 quantiles_0 = {{0}}, int64 quantiles_1 = {{1}}, int64 quantiles_axis = {{2}}, int64[1] quantiles_2 = {{2}},
 int64 quantiles_most = {{{long}}}, int64[3] quantiles_low = {{1, 3, 5}}, int64[3] quantiles_high = {{0, 2, 4}}>
{{
  quantiles_shape = Shape (values)
  quantiles_clips = Gather (quantiles_shape, quantiles_0)
  quantiles_frames = Gather (quantiles_shape, quantiles_axis)
  quantiles_is_one = Equal (quantiles_clips, quantiles_1)
  quantiles_is_long = Greater (quantiles_frames, quantiles_most)
  quantiles_selects = And (quantiles_is_one, quantiles_is_long)
  low, high = If (quantiles_selects) <
    then_branch = selected () => (float[N, M, 3] below, float[N, M, 3] above) {{
      of_clip = Gather (ranks, quantiles_0)
      rank = Gather (of_clip, quantiles_0)
      counts = Add (rank, quantiles_2)
      first, second, third = Split <num_outputs = 3> (counts)
      to_third, i3 = TopK <largest = 0, sorted = 0> (values, third)
      to_second, i2 = TopK <largest = 0, sorted = 0> (to_third, second)
      to_first, i1 = TopK <largest = 0, sorted = 0> (to_second, first)
      last_third, j3 = TopK (to_third, quantiles_2)
      last_second, j2 = TopK (to_second, quantiles_2)
      last_first, j1 = TopK (to_first, quantiles_2)
      last = Concat <axis = 2> (last_first, last_second, last_third)
      below = Gather <axis = 2> (last, quantiles_low)
      above = Gather <axis = 2> (last, quantiles_high)
    }},
    else_branch = sorted () => (float[N, M, 3] sorted_low, float[N, M, 3] sorted_high) {{
    }}
  >
}}
"""


def select_quantiles(graph: onnx.GraphProto) -> None:
    """Put the sorting of values, and the choice of those below and above three quantiles, into a branch of an If: for
    several clips at once, and for short ones."""
    [sort] = [node for node in graph.node if node.op_type == "TopK"]
    low, high = (node for node in graph.node if sort.output[0] in node.input)  # gathered, in the order of `models.mfcc`
    selection = onnx.parser.parse_model(SELECTION.format(long=LONG)).graph
    [branches] = [node for node in selection.node if node.op_type == "If"]
    names = {"values": sort.input[0], "ranks": low.input[1], "low": low.output[0], "high": high.output[0]}
    for branch in branches.attribute:
        rename(branch.g.node, names)
        if branch.name == "else_branch":
            branch.g.node.extend([sort, low, high])
            for node, name in zip(branch.g.node[1:], ("sorted_low", "sorted_high"), strict=True):
                node.output[0] = name
    rename(selection.node, names)
    kept = [node for node in graph.node if node not in (sort, low)]
    at = kept.index(high)
    replace(graph, [*kept[:at], *selection.node, *kept[at + 1 :]])
    graph.initializer.extend(selection.initializer)
