"""Distortion of images: ranges in their units, the covariance of the elastic field, the seed."""

import math
from typing import Any

import pytest
import torch

from models.frontend import IMAGE_SIZE
from pipeline import task
from pipeline.task import Augment, UserError
from pipeline.threads import threads
from pipeline.train.distortion import Distortion

CPU = torch.device("cpu")
MIDDLE = slice(8, 20)  # pixels that no distortion here takes from outside the image


def ramps(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of the pixel's own x and y, centred: sampled anywhere, they say where, since interpolation is linear."""
    places = torch.arange(IMAGE_SIZE, dtype=torch.float32) - (IMAGE_SIZE - 1) / 2
    return places.repeat(n, IMAGE_SIZE, 1).flatten(1), places.repeat(n, IMAGE_SIZE, 1).mT.flatten(1).contiguous()


def taken_from(n: int = 500, **options: Any) -> torch.Tensor:
    """Where each pixel of the middle was taken from, in pixels from the centre: (N, 2, 12, 12)."""
    found = []
    for image in ramps(n):
        moved = Distortion(Augment(**options), 0.0, CPU)(image, torch.Generator().manual_seed(1))
        found.append(moved.view(n, IMAGE_SIZE, IMAGE_SIZE)[:, MIDDLE, MIDDLE])
    return torch.stack(found, 1)


def maps(**options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The affine map (N, 2, 2) and the shift (N, 2) of each image, fitted to where its pixels were taken from."""
    where = taken_from(**options).flatten(2)
    grid = torch.stack([ramp.view(IMAGE_SIZE, IMAGE_SIZE)[MIDDLE, MIDDLE].flatten() for ramp in ramps(1)])
    design = torch.cat([grid, torch.ones(1, grid.shape[1])]).T
    solution = torch.linalg.lstsq(design.expand(len(where), *design.shape), where.mT).solution
    torch.testing.assert_close(design @ solution, where.mT, rtol=0, atol=1e-4)  # it is affine
    return solution[:, :2].mT, solution[:, 2]


def fills(values: torch.Tensor, limit: float) -> bool:
    """Whether the values are spread over -limit … limit."""
    return bool(
        (values.abs() <= limit * (1 + 1e-3)).all() and values.max() > 0.9 * limit and values.min() < -0.9 * limit
    )


def test_rotation() -> None:
    linear, shift = maps(rotation=10)
    angle = torch.atan2(linear[:, 1, 0], linear[:, 0, 0])
    assert fills(angle.rad2deg(), 10)
    torch.testing.assert_close(torch.linalg.det(linear), torch.ones(len(linear)), rtol=0, atol=1e-4)
    assert shift.abs().max() < 1e-3


def test_scale_of_width_and_of_height() -> None:
    linear, _ = maps(scale=0.1)
    assert fills(linear[:, 0, 0] - 1, 0.1)
    assert fills(linear[:, 1, 1] - 1, 0.1)
    assert abs(torch.corrcoef(torch.stack([linear[:, 0, 0], linear[:, 1, 1]]))[0, 1]) < 0.2


def test_shear() -> None:
    linear, _ = maps(shear=0.2)
    assert fills(linear[:, 0, 1], 0.2)
    torch.testing.assert_close(linear[:, 1], torch.tensor([0.0, 1.0]).expand(len(linear), 2), rtol=0, atol=1e-4)


def test_shift_in_pixels() -> None:
    linear, shift = maps(shift=2)
    assert fills(shift[:, 0], 2)
    assert fills(shift[:, 1], 2)
    torch.testing.assert_close(linear, torch.eye(2).expand_as(linear), rtol=0, atol=1e-4)


@pytest.mark.parametrize("smoothness", [2, 4])
def test_elastic_displacement_has_the_deviation_and_the_covariance_of_simards_fields(smoothness: float) -> None:
    n = 4000
    still = torch.stack([ramp.view(IMAGE_SIZE, IMAGE_SIZE)[MIDDLE, MIDDLE] for ramp in ramps(1)])
    moved = taken_from(n, elastic=1.5, smoothness=smoothness) - still
    assert moved.mean().item() == pytest.approx(0, abs=0.05)
    assert moved.std().item() == pytest.approx(1.5, rel=0.03)
    for distance in (1, 3, 6):
        together = (moved[..., distance:] * moved[..., :-distance]).mean().item() / 1.5**2
        assert together == pytest.approx(math.exp(-(distance**2) / (4 * smoothness**2)), abs=0.05)


def test_what_moves_in_at_the_edges_is_background() -> None:
    empty = torch.full((20, IMAGE_SIZE**2), -0.42)
    options = Augment(rotation=45, scale=0.5, shear=0.3, shift=10, elastic=3)
    moved = Distortion(options, -0.42, CPU)(empty.clone(), torch.Generator().manual_seed(0))
    torch.testing.assert_close(moved, empty)


def test_the_generator_fixes_the_distortion() -> None:
    draw = torch.rand(5, IMAGE_SIZE**2)
    distortion = Distortion(Augment(rotation=10, elastic=1), 0.0, CPU)
    first, again, other = (distortion(draw.clone(), torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, draw)


@pytest.mark.parametrize(
    "options",
    [
        {"rotation": 10, "scale": 0.12, "shear": 0.15, "shift": 1},
        {"elastic": 1.5, "smoothness": 3},
        {"rotation": 180, "scale": 0.9, "shear": 1, "shift": 28, "elastic": 20, "smoothness": 2},  # far outside too
    ],
)
def test_compiled_sampling_is_that_of_pytorch_with_any_number_of_threads(options: dict[str, Any]) -> None:
    pictures = torch.rand(41, IMAGE_SIZE**2)
    compiled = Distortion(Augment(**options), -0.42, CPU)
    assert compiled.sampler is not None
    found = []
    for n in (1, 2):
        with threads(n):
            found.append(compiled(pictures.clone(), torch.Generator().manual_seed(3)))
    compiled.sampler = None
    expected = compiled(pictures.clone(), torch.Generator().manual_seed(3))
    torch.testing.assert_close(found[0], expected, rtol=0, atol=2e-4)
    assert torch.equal(*found)


def test_it_is_off_unless_asked_for_and_on_for_the_few_shapes_of_pens() -> None:
    assert task.load("digits", overrides=["train.augment.shift=0"]).train.augment.shift == 0
    assert task.load("digits").train.augment.shift == 1
    assert not task.load("digits", "scans").train.augment
    assert task.load("digits", "scans", ["train.augment.shift=1"]).train.augment


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("instruments", ["train.augment.rotation=5"], "train.augment distorts images, and features.kind is 'mfcc'"),
        ("digits", ["train.augment.rotatoin=5"], "did you mean 'rotation'?"),
        ("digits", ["train.augment.scale=1"], "train.augment.scale: must be less than 1, not 1"),
        ("digits", ["train.augment.shift=1", "train.framework=keras"], "train.mix need framework = 'torch'"),
    ],
)
def test_a_mistake_is_one_line(name: str, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        task.load(name, overrides=overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
