#!/usr/bin/env bash
# soundfile 0.14.0 with libsndfile 1.2.2 (its wheel): an MP3 that is read block by block has other samples than the same
# file read at once: thousands of them, at the beginning of each block, by more than half of the loudest.
#
# One would expect `SoundFile.blocks`, and `read` in a loop, to be what their documentation offers them for: the same
# samples in less memory. Seen instead, 8 s at 44,100 Hz, written by the library itself:
#   variable bit rate, blocks of 65,536   → more than 10,000 samples off, the first one at 65,536
#   constant bit rate, blocks of 65,536   → the same samples, within rounding
# `read` seeks to where it has stopped already, and libsndfile's decoder (mpg123) does so by decoding again from a frame
# nearby; a frame whose bits began many frames before that one is then decoded without them. No error is raised. Opened
# so that it cannot seek (`seekable` returns False), the file is read alike both ways.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check soundfile==0.14.0 numpy==2.4.6
seen=$("$folder/venv/bin/python" -W error - << 'PYTHON'
import io

import numpy as np
import soundfile

RATE, BLOCK = 44_100, 65_536


class Forward(soundfile.SoundFile):
    def seekable(self):
        return False


rng = np.random.default_rng(0)
sound = 0.1 * np.sin(2 * np.pi * 440 * np.arange(8 * RATE) / RATE)
for start in range(RATE // 2, len(sound), RATE):  # bursts of noise, which take more bits than a tone
    sound[start : start + 2_000] += 0.3 * rng.standard_normal(2_000)
for mode in ("VARIABLE", "CONSTANT"):
    file = io.BytesIO()
    soundfile.write(file, sound, RATE, format="MP3", bitrate_mode=mode, compression_level=0.7)
    file.seek(0)
    whole = soundfile.read(file, dtype="float32")[0]
    for kind in (soundfile.SoundFile, Forward):
        file.seek(0)
        blocks = np.concatenate(list(kind(file).blocks(BLOCK, frames=len(whole), dtype="float32")))
        off = np.flatnonzero(np.abs(blocks - whole) > 1e-3)
        far = len(off) > 1000 and off[0] == BLOCK and np.abs(blocks - whole).max() > 0.5 * np.abs(whole).max()
        print(mode, kind.__name__, "far off from the second block on" if far else f"{len(off)} samples off")
PYTHON
)
echo "$seen"
[ "$seen" = "VARIABLE SoundFile far off from the second block on
VARIABLE Forward 0 samples off
CONSTANT SoundFile 0 samples off
CONSTANT Forward 0 samples off" ] || { echo "changed" >&2; exit 1; }
