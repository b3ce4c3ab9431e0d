#!/usr/bin/env bash
# onnxscript's optimizer, which torch.onnx.export(dynamo=True) runs on every model, removes `x + 1e-8` as if it were
# `x + 0`: its rule compares the constant with 0 by numpy.isclose, whose absolute tolerance is 1e-8. The epsilon that
# keeps x / sqrt(x² + 1e-8) away from 0 / 0 is gone, and the exported model answers NaN where PyTorch answers 0.
# An epsilon of 1e-6 stays.
#
# Seen with onnxscript 0.7.2, onnx 1.23.2, onnxruntime 1.32.0:
#   1e-06: Mul Add Sqrt Div, 0.0 → 0.0
#   1e-08: Mul Sqrt Div, 0.0 → nan
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxscript==0.7.2 onnx==1.23.2 onnxruntime==1.32.0
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxscript import optimizer

found = {}
for epsilon in (1e-6, 1e-8):
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["square"]),
        helper.make_node("Add", ["square", "epsilon"], ["sum"]),
        helper.make_node("Sqrt", ["sum"], ["root"]),
        helper.make_node("Div", ["x", "root"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    constant = numpy_helper.from_array(np.float32(epsilon), "epsilon")
    graph = helper.make_graph(nodes, "normalised", values[:1], values[1:], [constant])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    optimized = optimizer.optimize(model)
    session = onnxruntime.InferenceSession(optimized.SerializeToString())
    [answer] = session.run(None, {"x": np.zeros(1, np.float32)})
    found[epsilon] = [node.op_type for node in optimized.graph.node]
    print(f"{epsilon:.0e}: {' '.join(found[epsilon])}, 0.0 → {answer[0]}")
assert "Add" in found[1e-6], "the larger epsilon is removed too"
assert "Add" not in found[1e-8] and np.isnan(answer[0]), "the optimizer keeps the small epsilon now"
PYTHON
