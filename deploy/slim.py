#!/usr/bin/env python3
"""Keeps the container's image small: takes the place of `uv` in the Dockerfile that BentoML generates.

The Dockerfile runs this script once, before its first call of uv. From then on, each call is done by a uv that is gone
at the end of the same step, so that no layer of the image holds it; and what the service never loads is taken out of
the packages in the step that installs them, since a later step would only hide it.
"""

import fnmatch
import re
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

UV = Path("/usr/local/bin/uv")
PACKAGES = "app/.venv/lib/python3*/site-packages"  # in the image, where bentoml's entry point looks for them

# What the service never loads, by its path among the packages. A pattern that matches nothing does no harm.
PATTERNS = (
    "*/tests/*", "*/test/*",
    "*.a", "*.c", "*.cpp", "*.h", "*.pxd", "*.pyx",  # what compiled modules were made from
    "onnxruntime/capi/libonnxruntime.so.*",  # for programs in C; the module of Python has a copy of its own
    "onnxruntime/quantization/*", "onnxruntime/tools/*", "onnxruntime/transformers/*",
    "numpy/distutils/*", "numpy/f2py/*",
)  # fmt: skip
UNUSED = re.compile("|".join(map(fnmatch.translate, PATTERNS)))


def main() -> None:
    """Become `uv`, or be it."""
    if Path(sys.argv[0]).name != UV.name:
        _, _, program = Path(sys.argv[0]).read_text().partition("\n")
        UV.write_text(f"#!{sys.executable}\n{program}")  # the virtual environment, which comes first later, has no pip
        UV.chmod(0o755)
        return
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--target", folder, "uv"], check=True)
        subprocess.run([f"{folder}/bin/uv", *sys.argv[1:]], check=True)
    for packages in Path("/").glob(PACKAGES):
        slim(packages)


def slim(packages: Path) -> None:
    """Take what the service never loads out of a folder of packages."""
    for file in [path for path in packages.rglob("*") if not path.is_dir()]:
        if UNUSED.match(file.relative_to(packages).as_posix()):
            file.unlink()
        elif ".so" in file.suffixes:
            strip(file)


def strip(library: Path) -> None:
    """Cut off what follows the segments of an ELF file: symbols and sources' lines for debuggers, and the table of
    sections. The loader reads segments alone (System V ABI, "Program Loading")."""
    data = bytearray(library.read_bytes())
    if data[:6] != b"\x7fELF\2\1":  # of 64 bits, little-endian
        return
    (table,) = struct.unpack_from("<Q", data, 32)
    size, n = struct.unpack_from("<HH", data, 54)
    segments = [struct.unpack_from("<Q16xQ", data, table + i * size + 8) for i in range(n)]  # offset, bytes in the file
    del data[max(offset + length for offset, length in segments) :]
    struct.pack_into("<Q", data, 40, 0)  # no table of sections,
    struct.pack_into("<HH", data, 60, 0, 0)  # and none in it
    library.write_bytes(data)


if __name__ == "__main__":
    main()
