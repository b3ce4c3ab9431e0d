#!/usr/bin/env bash
# PyAV 18.1.0 (FFmpeg 8.1.2): lossless ALAC in a Core Audio file loses its end. The same packets in MPEG-4
# (.m4a) are read whole.
#
# One would expect what is encoded without loss to have as many samples when it is decoded. Seen instead, of a second at
# 44,100 Hz, which is ten packets of 4,096 samples and one of 3,140:
#   ipod (.m4a)   → 44,100 samples
#   caf           → 43,144 samples: the 956 that fill the last packet up to 4,096 are taken off once more, although that
#                   packet already decodes to 3,140; no warning is logged
# With 50,000 samples, whose last packet is emptier (848), nothing is lost. libsndfile 1.2.2 does not open such a CAF file,
# and FFmpeg reads those that libsndfile writes whole.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6 soundfile==0.14.0
seen=$("$folder/venv/bin/python" -W error - << 'PYTHON'
import io

import av
import numpy as np
import soundfile

RATE = 44_100


def decoded(file):
    with av.open(file) as container:
        return np.concatenate([frame.to_ndarray().ravel() for frame in container.decode(audio=0)]) >> 16


def encoded(sound, form):
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream = container.add_stream("alac", rate=RATE, layout="mono")
        for start in range(0, len(sound), 4096):
            frame = av.AudioFrame.from_ndarray(sound[None, start : start + 4096], format="s16p", layout="mono")
            frame.sample_rate, frame.pts = RATE, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    file.seek(0)
    return file


for n in (44_100, 50_000):
    sound = (20_000 * np.sin(0.05 * np.arange(n))).astype(np.int16)
    for form in ("ipod", "caf"):
        found = decoded(encoded(sound, form))
        print(n, form, len(found), "as it was" if (found == sound[: len(found)]).all() else "otherwise")
try:
    soundfile.read(encoded(sound, "caf"))
except soundfile.LibsndfileError:
    print("libsndfile refuses it")
PYTHON
)
echo "$seen"
[ "$seen" = "44100 ipod 44100 as it was
44100 caf 43144 as it was
50000 ipod 50000 as it was
50000 caf 50000 as it was
libsndfile refuses it" ] || { echo "changed" >&2; exit 1; }
