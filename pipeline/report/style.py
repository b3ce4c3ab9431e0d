"""How every figure looks: colours, matplotlib styles, and how figures become SVG and PNG files.

Figures are SVG in the text colour of the page that they are embedded in, light or dark; a file of its own follows the
reader's preference. Only the pixels of a picture have colours of their own. A timeline is a PNG on its own dark
background, for slides and messages.
"""

import io
import math
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import RendererSVG
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import Bbox
from numpy.typing import NDArray
from PIL import Image

from pipeline.run import replacing

INK = "#010203"  # placeholder: saved SVG has currentColor instead, the page's text colour
BLUE, ORANGE = "#3576b8", "#c8601a"  # contrast ≥ 3.8 : 1 on white and near-black; distinct for the colour-blind
TILE, LIGHT = "#15181d", "#d8dce2"  # background and text of a picture
CLASS_COLOURS = ("#f0883e", "#58a6ff", "#3fb950", "#d2a8ff", "#e3b341", "#ff7b9c", "#39c5cf", "#a8b1bb")  # on a tile
CURVES = (BLUE, ORANGE, "#3a8a4d", "#9a5fc0", "#a67a16", "#c2437a", "#16868f", "#7a828c")  # contrast ≥ 3 : 1
SIGNED = LinearSegmentedColormap.from_list("signed", ("#a9d4ff", "#2f81d6", "#242931", "#d2691e", "#ffc894"))

# `:root` is the <svg> only in a file of its own; within a page it is the page's own element.
ALONE = (
    "<style>svg:root{background:#fff;color:#1c2128}"
    f"@media(prefers-color-scheme:dark){{svg:root{{background:{TILE};color:{LIGHT}}}}}</style>"
)

DECIMALS = re.compile(r"(\.\d\d)\d+")  # of a point, which no screen shows

NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
POINTS = 72  # an inch, the unit of matplotlib's SVG
LABEL = 24  # characters of a class name on an axis, at most
PERCENT = FuncFormatter(lambda share, _: f"{100 * share:g} %")

Floats = NDArray[np.float64]

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: searchable, and in the page's own font
    "image.composite_image": False,  # an image without interpolation stays small; the browser enlarges its pixels
    "svg.hashsalt": "percept",  # the same results give the same bytes
    "text.parse_math": False,  # a class may be called "$5 to $10"
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "font.family": "DejaVu Sans",  # comes with matplotlib; wider than most fonts that a page uses instead
    "font.size": 10,
    "legend.frameon": False,
}
PICTURE_STYLE: dict[Any, Any] = STYLE | {"axes.grid": False, "font.size": 8}  # pixels under small text
DARK_STYLE: dict[Any, Any] = PICTURE_STYLE | {
    "text.color": LIGHT,
    "axes.edgecolor": LIGHT,
    "axes.labelcolor": LIGHT,
    "xtick.color": LIGHT,
    "ytick.color": LIGHT,
    "figure.facecolor": TILE,
}


def shorten(label: str) -> str:
    """A label of at most LABEL characters, cut in the middle: names of one family often differ only at the end.

    Example
    -------
    >>> shorten("electric guitar, clean, neck pick-up")
    'electric gui…eck pick-up'
    """
    if len(label) <= LABEL:
        return label
    head = math.ceil((LABEL - 1) / 2)
    return f"{label[:head]}…{label[head - LABEL + 1 :]}"


def shortened(labels: Collection[str]) -> list[str]:
    """Labels as `shorten` has them; of those that would look alike, what they begin with is cut off too.

    Example
    -------
    >>> shortened(["a picture of a red kite, from afar", "a picture of a kestrel, from afar", "kite"])
    ['…red kite, from afar', '…kestrel, from afar', 'kite']
    """
    alike: dict[str, list[str]] = {}
    for label in labels:
        alike.setdefault(shorten(label), []).append(label)
    names = {same[0]: name for name, same in alike.items()}
    for same in alike.values():
        if len(same) > 1:
            differ = (i for i, letters in enumerate(zip(*same, strict=False)) if len({*letters}) > 1)
            start = next(differ, min(map(len, same)))
            names |= {label: f"…{shorten(label[start:])}" for label in same}
    return [names[label] for label in labels]


def write_svg(figure: Figure, path: Path) -> Path:
    """Write a figure of curves as an SVG file, for a page or on its own; returns `path`."""
    return write(path, _svg(figure, path.stem))


def _svg(figure: Figure, name: str) -> bytes:
    """`figure` as an SVG element with ids that no other figure of the page has, in the page's text colour."""
    stream, drawn = io.StringIO(), _drawn(figure)
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(stream, format="svg", metadata=no_metadata, bbox_inches=drawn)
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :].replace(f": {INK}", ": currentColor")
    width, height = f"{drawn.width * POINTS:.2f}", f"{drawn.height * POINTS:.2f}"
    size = f'width="{width}pt" height="{height}pt" viewBox="0 0 {width} {height}"'
    svg = re.sub(r"^<svg[^>]*>", f"<svg {NAMESPACES} {size}>{ALONE}", svg)
    svg = re.sub(r' (?:d|x|y)="[^"]*"', lambda found: DECIMALS.sub(r"\1", found[0]), svg)
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg).encode()


def _drawn(figure: Figure) -> Bbox:
    """The part of a figure, in inches, in which there is anything: it may be larger than the figure, as where a legend
    is above it.

    `bbox_inches="tight"` does the same, but draws the figure twice. What is saved without it loses the lines beyond the
    figure.
    """
    figure.dpi = POINTS
    if layout := figure.get_layout_engine():
        layout.execute(figure)
    width, height = figure.get_size_inches() * POINTS
    renderer = RendererSVG(width, height, io.StringIO(), image_dpi=POINTS)  # type: ignore[no-untyped-call]
    bounds = figure.get_tightbbox(renderer).padded(matplotlib.rcParams["savefig.pad_inches"])
    return Bbox.from_extents(*bounds.extents)


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file."""
    drawn, stream = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    picture = Image.open(drawn).convert("RGB")
    # 256 colours: no visible difference, and half the size
    picture.quantize(256, dither=Image.Dither.NONE).save(stream, "png", optimize=True)
    return stream.getvalue()


def write(path: Path, data: bytes) -> Path:
    """Write a figure's bytes to `path` in one step; returns `path`."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    return path


def shown(value: Any) -> str:
    """A hyperparameter's value as tables and figures write it.

    Example
    -------
    >>> shown([100, 50]), shown([]), shown(0.00123), shown("relu")
    ('100-50', 'none', '0.00123', 'relu')
    """
    if isinstance(value, list):
        return "-".join(map(str, value)) or "none"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
