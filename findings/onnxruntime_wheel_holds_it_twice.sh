#!/usr/bin/env bash
# The Linux wheel of onnxruntime holds the whole runtime twice. Python's module onnxruntime_pybind11_state is linked with
# it; libonnxruntime.so.VERSION beside it, as large again, is for programs in C, and `import onnxruntime` and inference
# never open it. Without that file the package is half as large, and answers the same.
#
# Seen with onnxruntime 1.32.0 (x86-64, Python 3.11):
#   libonnxruntime.so.1.32.0 34.8 MB, onnxruntime_pybind11_state.….so 36.6 MB
#   [0. 4.]
#   without the library: [0. 4.]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxruntime==1.32.0 onnx==1.23.2
cat > "$folder/run.py" <<'PYTHON'
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", values[:1], values[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
session = onnxruntime.InferenceSession(model.SerializeToString())
[answer] = session.run(None, {"x": np.float32([-3, 4])})
assert "libonnxruntime.so" not in Path("/proc/self/maps").read_text(), "the library is loaded now"
print(answer)
PYTHON
capi=$("$folder/venv/bin/python" -c 'import onnxruntime.capi as capi; print(capi.__path__[0])')
library=$(find "$capi" -name 'libonnxruntime.so.*' -size +20M)
module=$(find "$capi" -name 'onnxruntime_pybind11_state*.so' -size +20M)
[ -n "$library" ] && [ -n "$module" ]
ls -l "$library" "$module"
if grep --quiet "$(basename "$library")" "$module"; then
  echo "the module names the library now"
  exit 1
fi
"$folder/venv/bin/python" "$folder/run.py"
rm "$library"
echo "without the library: $("$folder/venv/bin/python" "$folder/run.py")"
