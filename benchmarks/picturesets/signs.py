"""Road signs as a camera sees them: symbols on coloured boards, tilted, off centre, blurred, in any light, in front of
pieces of photographs. Some are mirror images of each other, and some differ in colour alone."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from benchmarks.picturesets.photos import lit, photos

SIDE = 32  # pixels
BOARD = 128  # pixels: side of the drawing
RED, BLUE, WHITE, YELLOW, BLACK, GREEN = (
    (200, 20, 30),
    (20, 70, 180),
    (240, 240, 240),
    (250, 200, 0),
    (20, 20, 20),
    (10, 120, 60),
)


def _round(draw: ImageDraw.ImageDraw, fill: tuple[int, ...], edge: tuple[int, ...] | None = None) -> None:
    draw.ellipse((8, 8, 120, 120), fill=edge or fill)
    draw.ellipse((22, 22, 106, 106), fill=fill)


def _triangle(draw: ImageDraw.ImageDraw, fill: tuple[int, ...]) -> None:
    draw.polygon([(64, 6), (124, 114), (4, 114)], fill=RED)
    draw.polygon([(64, 34), (102, 100), (26, 100)], fill=fill)


def _arrow(draw: ImageDraw.ImageDraw, fill: tuple[int, ...], points: list[tuple[int, int]]) -> None:
    draw.polygon(points, fill=fill)


LEFT = [(26, 64), (58, 34), (58, 54), (100, 54), (100, 74), (58, 74), (58, 94)]
RIGHT = [(128 - x, y) for x, y in LEFT]
AHEAD = [(y, x) for x, y in LEFT]


def _board(name: str) -> Image.Image:
    image = Image.new("RGBA", (BOARD, BOARD), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    match name:
        case "left" | "right" | "ahead":
            _round(draw, BLUE)
            _arrow(draw, WHITE, {"left": LEFT, "right": RIGHT, "ahead": AHEAD}[name])
        case "stop":
            draw.regular_polygon((64, 64, 58), 8, 22.5, fill=RED)
            draw.text((64, 64), "STOP", fill=WHITE, anchor="mm", font_size=38)
        case "no entry":
            _round(draw, RED)
            draw.rectangle((30, 54, 98, 74), fill=WHITE)
        case "forbidden":
            _round(draw, WHITE, RED)
        case "no parking":
            _round(draw, BLUE, RED)
            draw.line((30, 30, 98, 98), fill=RED, width=14)
        case "limit 30" | "limit 50" | "limit 80":
            _round(draw, WHITE, RED)
            draw.text((64, 64), name[-2:], fill=BLACK, anchor="mm", font_size=52)
        case "danger":
            _triangle(draw, WHITE)
            draw.rectangle((60, 50, 68, 78), fill=BLACK)
            draw.ellipse((58, 84, 70, 96), fill=BLACK)
        case "bend left" | "bend right":
            _triangle(draw, WHITE)
            points = [(72, 98), (72, 80), (56, 66), (56, 50)]
            points = points if name == "bend left" else [(128 - x, y) for x, y in points]
            draw.line(points, fill=BLACK, width=9)
        case "priority":
            draw.regular_polygon((64, 64, 60), 4, 45, fill=WHITE)
            draw.regular_polygon((64, 64, 42), 4, 45, fill=YELLOW)
        case "give way":
            draw.polygon([(64, 122), (124, 14), (4, 14)], fill=RED)
            draw.polygon([(64, 94), (102, 28), (26, 28)], fill=WHITE)
        case "exit":
            draw.rectangle((10, 26, 118, 102), fill=GREEN)
            draw.text((64, 64), "EXIT", fill=WHITE, anchor="mm", font_size=38)
    return image


NAMES = (
    "left", "right", "ahead", "stop", "no entry", "forbidden", "no parking", "limit 30", "limit 50", "limit 80",
    "danger", "bend left", "bend right", "priority", "give way", "exit",
)  # fmt: skip


def signs(n: int, seed: int):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    boards = {name: _board(name) for name in NAMES}
    labels = np.array(NAMES)[np.arange(n) % len(NAMES)]
    pictures = np.stack([_seen(boards[name], rng) for name in labels])
    return pictures, labels, rng.choice(["train", "validation", "test"], n, p=(0.7, 0.15, 0.15))


def _seen(board: Image.Image, rng: np.random.Generator):  # type: ignore[no-untyped-def]
    sources = list(photos().values())
    photo = sources[rng.integers(len(sources))]
    size = int(rng.uniform(0.15, 0.7) * min(photo.size))
    left, top = rng.integers(photo.width - size), rng.integers(photo.height - size)
    scene = photo.resize((2 * SIDE, 2 * SIDE), box=(left, top, left + size, top + size)).convert("RGBA")
    half = BOARD / 2 / rng.uniform(0.55, 0.95)
    centre = BOARD / 2 + rng.uniform(-0.25, 0.25, 2) * BOARD
    angle = rng.normal(0, 0.15)
    corners = np.array([(-1, -1), (-1, 1), (1, 1), (1, -1)]) * half + rng.normal(0, 0.1 * half, (4, 2))
    turn = np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
    quad = (corners @ turn.T + centre).ravel().tolist()
    seen = board.transform((2 * SIDE, 2 * SIDE), Image.Transform.QUAD, quad, Image.Resampling.BILINEAR)
    scene.alpha_composite(seen)
    blurred = scene.convert("RGB").filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.6)))
    small = np.asarray(blurred.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)
    return lit(small, rng, 1.2)
