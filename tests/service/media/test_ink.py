"""Photos of writing on paper: the ink is found beneath rules, noise, specks and shadows; other pictures stay."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from service.media.image import to_mnist_form
from service.media.ink import ink_on_paper, without_specks
from tests.service.helpers import seven
from tests.service.media.decoding import decode, difference

SIZE = (420, 560)  # width and height in pixels
Y, X = np.mgrid[0 : SIZE[1], 0 : SIZE[0]].astype(np.float32)
SLANTED = Y + 0.04 * X  # lines along which this is constant fall by 2 degrees
PAPER = 215


def cover():
    """How much of each pixel the ink covers, 0 to 1; float32 (height, width)."""
    return 1 - np.asarray(seven(SIZE).filter(ImageFilter.GaussianBlur(1.5)), np.float32) / 255


def written(paper, ink=60.0, light=1.0, noise=3.0, seed=0):
    """A 7 on `paper`, grey levels (height, width) or one for all, as a photo."""
    page = (paper + cover() * (ink - paper)) * light
    page = page + np.random.default_rng(seed).normal(0, noise, page.shape)
    return Image.fromarray(page.clip(0, 255).astype(np.uint8))


def lines(position, period=45, thick=3, dark=60):
    return PAPER - dark * (position % period < thick)


def shadow(width, share=0.5, shift=490):
    """Half of the light is taken from the lower right half of the page, with an edge of about `width` pixels."""
    return 1 - share / (1 + np.exp((-(X + Y - shift) / width).clip(-50, 50)))


def specks(*places):
    page = np.full((SIZE[1], SIZE[0]), PAPER, np.float32)
    for row, column in places:
        page[row : row + 5, column : column + 5] = 50
    return page


def framed(margin, thick, slope=0.0):
    """White paper with a frame of lines that are `thick` and as straight as a ruler makes them, or slanted."""
    page = np.full((SIZE[1], SIZE[0]), PAPER, np.float32)
    for position, length in ((Y + slope * X, SIZE[1]), (X - slope * Y, SIZE[0])):
        for start in (margin, length - margin - thick):
            page[(start <= position) & (position < start + thick)] = 60
    far = np.maximum(np.abs(Y - SIZE[1] / 2) - SIZE[1] / 2, np.abs(X - SIZE[0] / 2) - SIZE[0] / 2) > 25 - margin
    return np.where(far & (slope > 0), PAPER, page)  # slanted lines cross there


FALLOFF = 1 - 0.5 * ((X / SIZE[0] - 0.5) ** 2 + (Y / SIZE[1] - 0.5) ** 2) * 2
PHOTOS = {
    "plain": written(PAPER),
    "ruled": written(lines(Y)),
    "squared": written(np.minimum(lines(Y), lines(X))),
    "ruled, tilted": written(lines(SLANTED)),
    "squared, tilted": written(np.minimum(lines(SLANTED), lines(X - 0.04 * Y))),
    "pencil": written(PAPER, ink=150),
    "pencil on squared paper": written(np.minimum(lines(Y, dark=25), lines(X, dark=25)), ink=140),
    "pencil on dark squares": written(np.minimum(lines(Y, dark=80), lines(X, dark=80)), ink=120),
    "noise": written(PAPER, noise=18),
    "a speck": written(specks((520, 30))),
    "specks": written(specks((520, 30), (10, 400), (300, 20), (40, 60), (450, 380), (540, 300))),
    "shadow, soft": written(PAPER, light=shadow(60)),
    "shadow, hard": written(PAPER, light=shadow(0.5)),
    "shadow, hard and deep": written(PAPER, light=shadow(0.5, 0.74, 700)),
    "shadow, hard and deep, over most of the page": written(PAPER, light=shadow(0.5, 0.74, 300)),
    "shadow, soft and deep": written(PAPER, light=shadow(60, 0.75)),
    "shadow as dark as ink in the light": written(PAPER, ink=80, light=shadow(0.5, 0.7, 800)),
    "a frame": written(framed(14, 3)),
    "a frame that touches the digit": written(framed(89, 4)),
    "a slanted frame": written(framed(30, 4, 0.03)),
    "a frame in a frame": written(np.minimum(framed(10, 3), framed(40, 3))),
    "fall-off": written(PAPER, light=FALLOFF),
    "lit from one side": written(PAPER, light=1 - 0.5 * X / SIZE[0]),
    "ruled, in shadow": written(lines(SLANTED, dark=40), light=shadow(30)),
    "chalk on a board": written(90.0, ink=230, light=FALLOFF),
    "edge of the table": written(np.where(Y > 530, 70.0, PAPER)),
    "a scanner's lid at one side": written(np.where(X < 7, 25.0, PAPER)),
    "the same at two, below and right": written(np.where((SIZE[0] - X < 7) | (SIZE[1] - Y < 7), 25.0, PAPER)),
    "dark corners": written(PAPER, light=1 - 0.75 * ((X / SIZE[0] - 0.5) ** 2 + (Y / SIZE[1] - 0.5) ** 2) * 2),
}


@pytest.mark.parametrize("name", PHOTOS)
def test_a_digit_on_paper_is_the_digit_on_white(name):
    assert difference(decode(PHOTOS[name], "JPEG", quality=85), decode(seven(SIZE))) < 6


def test_one_speck_on_a_clean_page_is_left_out():
    page = seven((600, 800))
    page.paste(0, (560, 20, 564, 24))
    assert difference(decode(page), decode(seven((600, 800)))) < 0.5


def test_a_small_digit_on_a_large_page_is_found():
    page = Image.fromarray(lines(np.mgrid[0:1400, 0:1000][0], period=50, dark=40).astype(np.uint8))
    page.paste(seven((150, 200), ink=50, paper=PAPER), (700, 300))
    assert difference(decode(page), decode(seven((150, 200)))) < 8


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("parts", ["ij", ":", "÷", "é", "%"])
def test_parts_of_a_clean_symbol_are_kept(parts, inverted):
    page = Image.new("L", (240, 240), 255)
    strokes = {
        "ij": [(60, 80, 80, 200), (60, 40, 80, 60), (140, 80, 160, 230), (140, 40, 160, 60)],
        ":": [(110, 60, 130, 80), (110, 160, 130, 180)],
        "÷": [(40, 110, 200, 130), (110, 50, 130, 70), (110, 170, 130, 190)],
        "é": [(60, 100, 180, 220), (130, 40, 150, 80)],
        "%": [(40, 40, 90, 90), (150, 150, 200, 200), (110, 60, 120, 180)],
    }[parts]
    for box in strokes:
        page.paste(0, box)
    gray = np.asarray(page)
    mask = gray < 128
    assert np.array_equal(without_specks(mask), mask)
    tight = gray[min(b[1] for b in strokes) : max(b[3] for b in strokes)]
    tight = tight[:, min(b[0] for b in strokes) : max(b[2] for b in strokes)]
    if min(tight.shape) >= 64 and parts != "%":
        gray, tight = (255 - gray, 255 - tight) if inverted else (gray, tight)
        assert difference(to_mnist_form(np.pad(tight, 9, constant_values=gray[0, 0])), to_mnist_form(gray)) < 1


def test_two_digits_stay_two():
    page = Image.new("L", (500, 300), PAPER)
    for left in (40, 280):
        page.paste(seven((180, 240), ink=60, paper=PAPER), (left, 30))
    noisy = np.asarray(page) + np.random.default_rng(0).normal(0, 15, (300, 500))
    rows, columns = (to_mnist_form(noisy) > 100).nonzero()
    assert np.ptp(columns) == 19
    assert np.ptp(rows) < 14


@pytest.mark.parametrize("inverted", [False, True])
def test_a_thick_shape_that_reaches_the_edge_is_no_shadow(inverted):
    page = Image.new("L", (200, 160), 255)
    draw = ImageDraw.Draw(page)
    draw.rectangle((0, 60, 90, 160), fill=0)
    draw.ellipse((80, 0, 200, 90), fill=0)
    gray = 255 - np.asarray(page) if inverted else np.asarray(page)
    whole = np.pad(gray, 5, constant_values=255 * (not inverted))
    assert difference(to_mnist_form(gray), to_mnist_form(whole)) < 2


def test_scenery_and_noise_are_not_paper():
    rng = np.random.default_rng(0)
    noise = rng.uniform(0, 255, (200, 260))
    clouds = sum(
        np.asarray(Image.fromarray(rng.normal(0, 30, (n, n)).astype(np.float32)).resize((260, 200), 3))
        for n in (4, 10, 30, 80)
    )
    assert ink_on_paper(noise) is None
    assert ink_on_paper(128 + clouds) is None
    assert ink_on_paper(np.full((100, 100), 200, np.uint8)) is None


@pytest.mark.parametrize("shape", [(65, 2_000), (2_000, 65)])
def test_a_narrow_strip_divides_nothing_by_zero(shape):
    strip = np.full(shape, 230, np.uint8)
    strip[0] = 200
    strip[shape[0] // 3 : shape[0] // 2, shape[1] // 3 : shape[1] // 2] = 30
    with np.errstate(all="raise"):
        assert to_mnist_form(strip).max() == 255


def test_lines_of_the_symbol_itself_are_no_frame():
    """An empty box, an 8 of seven bars and thick sides; a dot in a thin box is a dot."""
    for thick, bar, kept in ((4, False, True), (8, True, True), (30, True, True), (4, None, False)):
        page = Image.new("L", (300, 400), 255)
        draw = ImageDraw.Draw(page)
        draw.rectangle((60, 60, 240, 340), outline=0, width=thick)
        if bar:
            draw.rectangle((60, 195, 240, 195 + thick), fill=0)
        elif bar is None:
            draw.ellipse((120, 170, 180, 230), fill=0)
        picture = to_mnist_form(np.asarray(page))
        box = [int(np.ptp(np.flatnonzero(picture.any(axis=axis)))) + 1 for axis in (0, 1)]
        assert (box == [20, 20]) is not kept, (thick, bar, box)
