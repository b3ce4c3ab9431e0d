#!/usr/bin/env bash
# PyAV's wheel says that its FFmpeg is under the LGPL, and holds x264 and x265, which are under the GPL.
#
# FFmpeg's own configure refuses --enable-libx264 without --enable-gpl, and then reports "GPL version 2 or later". So one
# would expect avcodec_license() to tell which licence an image with the wheel falls under. Seen with av 18.1.0
# (FFmpeg 8.1.2) from PyPI, manylinux x86_64, whose metadata names BSD-3-Clause:
#
#   licence that libavcodec reports: LGPL version 3 or later
#   configured with: --enable-libx264 --enable-libx265, not --enable-gpl
#   encoders that run: libx264 libx265
#   bundled: libx264-….so libx265-….so
#
# Exits non-zero if that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check av==18.1.0 numpy
"$folder/venv/bin/python" - <<'PYTHON'
import ctypes
from fractions import Fraction
from pathlib import Path

import av
import av._core
import numpy as np

library = ctypes.CDLL(av._core.__file__)  # its symbols are also those of the libraries that it is linked with
library.avcodec_license.restype = library.avcodec_configuration.restype = ctypes.c_char_p
licence, options = library.avcodec_license().decode(), library.avcodec_configuration().decode().split()
print("licence that libavcodec reports:", licence)
gpl = [option for option in ("--enable-libx264", "--enable-libx265") if option in options]
print("configured with:", *gpl, *(["and --enable-gpl"] if "--enable-gpl" in options else ["not --enable-gpl"]))

ran = []
for name in ("libx264", "libx265"):
    encoder = av.CodecContext.create(name, "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 64, 64, "yuv420p", Fraction(1)
    encoder.options = {"x265-params": "log-level=none"} if name == "libx265" else {}
    frame = av.VideoFrame.from_ndarray(np.zeros((96, 64), np.uint8), "yuv420p")
    if [*encoder.encode(frame), *encoder.encode(None)]:
        ran.append(name)
print("encoders that run:", *ran)
bundled = sorted(path.name for path in (Path(av.__file__).parent.parent / "av.libs").glob("libx26[45]*"))
print("bundled:", *bundled)
assert licence == "LGPL version 3 or later" and len(gpl) == len(ran) == len(bundled) == 2 and "--enable-gpl" not in options
PYTHON
