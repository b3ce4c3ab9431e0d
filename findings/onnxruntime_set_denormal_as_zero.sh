#!/usr/bin/env bash
# onnxruntime 1.32.0 (CPU): session.set_denormal_as_zero is taken from the first session of a process alone, and holds
# only for the thread that makes that session and for threads that this thread starts later.
#
# One would expect that an option of a session holds for that session's runs. Seen instead:
#   a session with the option, made in a thread of its own   → subnormal results in the main thread, 1e-40
#   a session without it first, then one with it             → the second gives subnormal results too
#   a session with the option first, then one without it     → the second gives 0, and so does NumPy in that thread
# So a server has to make its first session in the thread from which all others that compute are started, and a process
# that may not lose subnormal numbers must not load such a session at all.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cat > "$folder/seen.py" << 'PYTHON'
import sys
import threading

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

halve = helper.make_graph(
    [helper.make_node("Mul", ["x", "w"], ["y"])],
    "g",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    [numpy_helper.from_array(np.float32([1e-3]), "w")],
)
model = helper.make_model(halve, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def session(flushed):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if flushed:
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def result(session):
    return float(session.run(None, {"x": np.float32([1e-37])})[0][0])  # 1e-40, or 0 where subnormals are flushed


match sys.argv[1]:
    case "in a thread":
        made = []
        thread = threading.Thread(target=lambda: made.append(session(True)))
        thread.start()
        thread.join()
        print(result(made[0]) != 0)
    case "second":
        session(False)
        print(result(session(True)) != 0)
    case "first":
        session(True)
        print(result(session(False)) != 0, float(np.float32(1e-37) * np.float32(1e-3)) != 0)
PYTHON
for order in "in a thread:True" "second:True" "first:False False"; do
  seen=$("$folder/venv/bin/python" "$folder/seen.py" "${order%%:*}")
  echo "${order%%:*}: subnormal results: $seen"
  [ "$seen" = "${order#*:}" ] || { echo "changed: expected ${order#*:}" >&2; exit 1; }
done
