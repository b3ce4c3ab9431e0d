"""Augmentation of images during training: every epoch distorts every image differently.

Small affine maps, and elastic distortion (Simard, Steinkraus & Platt 2003, "Best practices for convolutional neural
networks applied to visual document analysis"): each pixel is sampled at a position displaced by a smooth random field.
Their field is white noise blurred with a Gaussian of σ = `smoothness` pixels. Its covariance, exp(-d² / 4σ²), is
separable, and a few of its eigenvectors carry all but a thousandth of the variance (Karhunen–Loève). So a field takes a
few dozen random numbers instead of 2 · 784 that are convolved, and sampling positions are products of such random
coefficients and the basis 1, x, y and the eigenvectors, which `sampling` computes and uses at once on a CPU.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.classifier import Standardize
from models.frontend import IMAGE_SIZE
from pipeline.task import Augment, Train
from pipeline.train.batches import Change

if TYPE_CHECKING:
    from pipeline.train.sampling import Sampler

VARIANCE = 0.999  # of the elastic field that the basis carries


class Distortion:
    """Distorts images in place, on their device, each with its own random parameters.

    Parameters
    ----------
    augment : the ranges that they are drawn from
    background : value of an empty pixel, which fills in at the edges

    Example
    -------
    >>> distort = Distortion(Augment(rotation=90), 0.0, torch.device("cpu"))
    >>> images = torch.zeros(3, 784)
    >>> distort(images, torch.Generator().manual_seed(0)).abs().max().item()
    0.0
    """

    def __init__(self, augment: Augment, background: float, device: torch.device) -> None:
        self.augment, self.background = augment, background
        centres = (2 * torch.arange(IMAGE_SIZE) + 1) / IMAGE_SIZE - 1  # of the pixels; the image spans -1 … 1
        line = torch.stack([torch.ones_like(centres), centres])
        deviation = augment.elastic * 2 / IMAGE_SIZE
        fields = _smooth_fields(augment.smoothness) * math.sqrt(deviation)  # two of which are multiplied
        self.basis = torch.cat([line, fields]) if augment.elastic else line  # of a column or a row, (R, 28)
        self.sampler = _sampler(self.basis, background) if device.type == "cpu" else None
        x, y = centres.repeat(IMAGE_SIZE), centres.repeat_interleave(IMAGE_SIZE)
        self.affine = torch.stack([torch.ones_like(x), x, y]).to(device)  # (3, pixels)
        self.fields = torch.kron(fields, fields).to(device)  # (R², pixels)

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """float32 (N, 784), changed in place and returned."""
        n, device = len(x), x.device
        maps = self._affine_maps(n, generator)
        field = None
        if self.augment.elastic:
            field = torch.empty(2 * n, len(self.fields), device=device).normal_(generator=generator)
        if self.sampler is not None:
            self.sampler(x, self._rows(maps, field))
            return x
        grid = torch.mm(maps.view(2 * n, 3), self.affine)
        if field is not None:
            grid.addmm_(field, self.fields)
        grid = grid.view(n, 2, IMAGE_SIZE, IMAGE_SIZE).permute(0, 2, 3, 1)  # a view: nothing is copied
        images = x.sub_(self.background).view(n, 1, IMAGE_SIZE, IMAGE_SIZE)
        moved = torch.nn.functional.grid_sample(images, grid, align_corners=False)
        return torch.add(moved.view_as(x), self.background, out=x)

    def _rows(self, maps: Tensor, field: Tensor | None) -> Tensor:
        """A position is a sum of products of a function of the column and one of the row: what each function of the
        column counts in each row, float32 (N, 2, R, 28), in pixels."""
        n, rank = len(maps), len(self.basis)
        products = torch.zeros(n, 2, rank, rank)  # of functions of the column and of the row
        products[..., 0, 0], products[..., 1, 0], products[..., 0, 1] = maps.unbind(2)
        if field is not None:
            products[..., 2:, 2:] = field.view(n, 2, rank - 2, rank - 2).mT
        products[..., 0, 0] += 1 - 1 / IMAGE_SIZE  # the centre of the first pixel is at 1 / 28 - 1
        rows: Tensor = torch.mm(products.view(-1, rank), self.basis * (IMAGE_SIZE / 2))
        return rows.view(n, 2, rank, IMAGE_SIZE)

    def _affine_maps(self, n: int, generator: torch.Generator) -> Tensor:
        """Where pixels are sampled: x' = shift + (rotation ∘ shear ∘ scale) x, float32 (N, 2, 3)."""
        a = self.augment
        ranges = (math.radians(a.rotation), a.shear, a.scale, a.scale, *2 * (a.shift * 2 / IMAGE_SIZE,))
        drawn = torch.rand(n, len(ranges), generator=generator, device=generator.device)
        angle, shear, *scale, shift_x, shift_y = ((2 * u - 1) * r for u, r in zip(drawn.T, ranges, strict=True))
        cos, sin, sx, sy = angle.cos(), angle.sin(), 1 + scale[0], 1 + scale[1]
        maps = [shift_x, cos * sx, (shear * cos - sin) * sy, shift_y, sin * sx, (shear * sin + cos) * sy]
        return torch.stack(maps, 1).view(n, 2, 3)


def _smooth_fields(smoothness: float) -> Tensor:
    """Functions (R, 28) of a column or a row, whose products are a basis of fields of unit variance that are smooth
    over `smoothness` pixels."""
    d = torch.arange(IMAGE_SIZE, dtype=torch.float64)
    variance, vectors = torch.linalg.eigh(torch.exp(-((d - d.view(-1, 1)) ** 2) / (4 * smoothness**2)))
    variance, vectors = variance.flip(0), vectors.flip(1)
    rank = int((variance.cumsum(0) < VARIANCE * variance.sum()).sum()) + 1
    fields: Tensor = (vectors[:, :rank] * variance[:rank].sqrt()).T
    return fields.to(torch.float32).contiguous()


def _sampler(basis: Tensor, background: float) -> "Sampler | None":
    """None where LLVM does not work, or `models.steps.llvm` was deleted."""
    try:
        from models.steps import llvm
        from pipeline.train.sampling import Sampler
    except ImportError:
        return None
    return Sampler(basis, background) if llvm.works() else None


def transform_of(options: Train, standardize: Standardize, device: torch.device) -> Change | None:
    """The change that `train.augment` and `train.noise` make, in place, to standardised samples (N, D) in every epoch;
    None if both are off."""
    distort = None
    if options.augment:
        empty = standardize(torch.zeros_like(standardize.mean))[0].item()  # pixels share one mean and one deviation
        distort = Distortion(options.augment, empty, device)
    if not options.noise:
        return distort

    def add_noise(x: Tensor, generator: torch.Generator) -> Tensor:
        x = distort(x, generator) if distort else x
        return x.add_(torch.empty_like(x).normal_(generator=generator), alpha=options.noise)

    return add_noise
