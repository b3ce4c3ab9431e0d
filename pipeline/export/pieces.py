"""The spectrogram of a long recording, computed piece by piece in the graph: what a piece takes stays in the cache."""

from collections.abc import Sequence

import onnx
import onnx.parser

from pipeline.export.nodes import rename, replace

MAX_FRAMES = 256  # of a piece, at most, over all clips: 6 s of most sounds, in 8 MB
MIN_FRAMES = 64  # of each of many clips

# The pieces have one size, but the last may have to be padded.
LOOP = """
<ir_version: 10, opset_import: ["": 20]>
pieces (float[N, T] audio) => (float[N, M, F] mel, float[N, B] total)
<int64[1] pieces_0 = {{0}}, int64[1] pieces_1 = {{1}}, int64[1] pieces_2 = {{2}}, int64[3] pieces_00 = {{0, 0, -1}},
 int64[5] pieces_zeros = {{0, 0, 0, 0, 0}}, int64[1] pieces_most = {{{most}}}, int64[1] pieces_least = {{{least}}},
 int64[1] pieces_hop = {{{hop}}}, int64[1] pieces_more = {{{more}}}, bool pieces_begin = {{1}}>
{{
  pieces_samples = Shape <start = 1, end = 2> (audio)
  pieces_firsts = Sub (pieces_samples, pieces_more)
  pieces_frames = Div (pieces_firsts, pieces_hop)
  pieces_but_one = Sub (pieces_frames, pieces_1)
  pieces_clips = Shape <start = 0, end = 1> (audio)
  pieces_some = Max (pieces_clips, pieces_1)
  pieces_each = Div (pieces_most, pieces_some)
  pieces_largest = Max (pieces_each, pieces_least)
  pieces_others = Div (pieces_but_one, pieces_largest)
  pieces_number = Add (pieces_others, pieces_1)
  pieces_size_less = Div (pieces_but_one, pieces_number)
  pieces_size = Add (pieces_size_less, pieces_1)
  pieces_step = Mul (pieces_size, pieces_hop)
  pieces_length = Add (pieces_step, pieces_more)
  pieces_mel, pieces_totals = Loop (pieces_number, pieces_begin) <
    body = piece (int64 i, bool go) => (bool goes_on, float[N, M, K] padded, float[N, B] total_of_piece) {{
      goes_on = Identity (go)
      start = Mul (i, pieces_step)
      end = Add (start, pieces_length)
      piece = Slice (audio, start, end, pieces_1)
      found = Shape <start = 2, end = 3> (of_piece)
      missing = Sub (pieces_size, found)
      padding = Concat <axis = 0> (pieces_zeros, missing)
      padded = Pad (of_piece, padding)
    }}
  >
  pieces_in_row = Transpose <perm = [1, 2, 0, 3]> (pieces_mel)
  pieces_joined = Reshape (pieces_in_row, pieces_00)
  mel = Slice (pieces_joined, pieces_0, pieces_frames, pieces_2)
  total = ReduceSum <keepdims = 0> (pieces_totals, pieces_0)
}}
"""


def in_pieces(
    graph: onnx.GraphProto, nodes: Sequence[int], audio: str, mel: str, total: str, hop: int, more: int
) -> None:
    """Move `nodes` of the graph into a Loop over pieces of the frames.

    They compute `mel`, float32 (N, M, frames), and `total`, float32 (N, B), a sum over frames, from `audio`, float32
    (N, frames · hop + more). Each frame depends on hop + more samples alone.
    """
    pieces = onnx.parser.parse_model(LOOP.format(most=MAX_FRAMES, least=MIN_FRAMES, hop=hop, more=more)).graph
    [loop] = [node for node in pieces.node if node.op_type == "Loop"]
    body = loop.attribute[0].g
    moved = [graph.node[i] for i in nodes]
    rename(moved, {audio: "piece", mel: "of_piece", total: "total_of_piece"})
    at = 1 + [node.output[0] for node in body.node].index("piece")
    rename(body.node[:at], {"audio": audio})
    replace(body, [*body.node[:at], *moved, *body.node[at:]])
    rename(pieces.node, {"audio": audio, "mel": mel, "total": total})
    kept = [node for i, node in enumerate(graph.node) if i not in nodes]
    at = 1 + [audio in node.output for node in kept].index(True)
    replace(graph, [*kept[:at], *pieces.node, *kept[at:]])
    graph.initializer.extend(pieces.initializer)
