#!/usr/bin/env bash
# What Triton's Python client takes for the datatype BF16 changed in a minor version, and neither rounds float32.
#
# NumPy has no bfloat16. Up to 2.69 an input of BF16 is given as float32, whose low 16 bits the client cuts off: 1.9999999
# is sent as 1.9921875, although 2 is the nearest. Since 2.70 the same call raises, and only an array of ml_dtypes'
# bfloat16 is taken, which rounds when it is made; the package needs ml_dtypes since then. So code for both must ask
# tritonclient.utils.triton_to_np_dtype("BF16"). Seen with tritonclient 2.69.0 and 2.73.0 from PyPI, no server running:
#
#   2.69.0 wants float32: float32 1.9999999 is sent as 1.9921875
#   2.73.0 wants bfloat16: float32 is refused, bfloat16 of 1.9999999 is sent as 2.0
#
# Exits non-zero if that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 2.69.0 2.73.0; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install --quiet --disable-pip-version-check "tritonclient[http]==$version"
  "$folder/$version/bin/python" - "$version" <<'PYTHON'
import sys

import numpy as np
from tritonclient.http import InferInput
from tritonclient.utils import InferenceServerException, triton_to_np_dtype


def sent(values):
    """What an input with this one number holds, as float32."""
    tensor = InferInput("x", [1], "BF16")
    tensor.set_data_from_numpy(values)
    return np.frombuffer(b"\0\0" + tensor._get_binary_data(), "<f4")[0]


version, wanted = sys.argv[1], triton_to_np_dtype("BF16")
single = np.array([1.9999999], np.float32)
if version == "2.69.0":
    print(f"{version} wants {wanted.__name__}: float32 1.9999999 is sent as {sent(single)}")
    assert wanted is np.float32 and sent(single) == 1.9921875
else:
    try:
        sent(single)
        sys.exit("float32 is taken")
    except InferenceServerException:
        print(f"{version} wants {wanted.__name__}: float32 is refused, bfloat16 of 1.9999999 is sent as {sent(single.astype(wanted))}")
    assert wanted.__name__ == "bfloat16" and sent(single.astype(wanted)) == 2
PYTHON
done
