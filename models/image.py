"""The front end of pictures: oriented gradients, colours, and a dictionary of patches that is learned without labels.

Raise `models.FEATURES_VERSION` when the features of the same picture change.
"""

import math
import warnings
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, pad, unfold

from models.card import Input
from models.familiarity import Outliers
from models.feature_groups import Span
from models.interface import FrontEnd
from models.kmeans import k_means

CELLS = (4, 8)  # of a picture's width, in cells of oriented gradients: two scales
DIRECTIONS = 16  # of a gradient, 0 … 360°
NOISE = 0.02  # of 0 … 1: contrast of a cell below which gradients hardly count
LEVELS = 3  # of each colour channel, in the histogram of colours
COLOURS = 4  # of a picture's width, in cells of mean colours and their deviations
QUADRANTS = 2  # of a picture's width, in which the dictionary's responses and the histogram of colours are pooled
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)
CONTRAST = 10.0  # of 0 … 255: added to a patch's variance, so that the noise of flat patches is not amplified
LEAST = 1e-6  # added under square roots; torch.onnx takes 1e-8 for 0 and leaves it out
MIDDLE = 128.0  # of 0 … 255, subtracted from pixels before they are squared
PATCHES = 60_000  # that a dictionary is learned from
WHITENING = 0.1  # added to the eigenvalues of the patches' covariance: directions below it are not amplified
LEAST_DEVIATION = 0.1  # of the root mean square of a group: else a rare atom's answer is thousands off its mean


class Picture(nn.Module, FrontEnd):
    """RGB pictures → features that small networks need and pixels do not show.

    - Histograms of oriented gradients (Dalal & Triggs 2005) over cells at two scales. Each gradient is divided among
      directions by a power of the cosine between them, which takes no arctangent; cells overlap, and each histogram is
      divided by the contrast around it. Most are of edges, directions without a sign: a thing is the same in front of
      something lighter and of something darker. The coarser cells have gradients with a sign too (Felzenszwalb et al.
      2010 use both).
    - Colours: mean and deviation of red, green and blue in cells, and a histogram in quadrants, in which each pixel is
      divided among neighbouring colours.
    - Responses to a dictionary of patches, learned from pictures without labels by k-means (Coates & Ng 2011): each
      patch, its contrast normalised and whitened, gives an atom how much closer it is to it than to the average atom,
      and these are averaged over quadrants. `learn` makes the dictionary, a state like a scaler's.

    Parameters
    ----------
    size : width and height of the pictures in pixels
    color : whether colours count; otherwise the features are those of the luma
    atoms : of the dictionary
    patch : width and height of an atom in pixels

    >>> picture = Picture(size=32, atoms=50)
    >>> picture(torch.zeros(2, 32, 32, 3, dtype=torch.uint8)).shape[1] == picture.n_features
    True
    """

    least_deviation = LEAST_DEVIATION
    outliers: Outliers | None = "scenes"
    has_strengths = True
    exact_export = False

    kernel: Tensor  # (d + atoms, C, patch, patch), d = C · patch²: the whitening, and the product of each atom with it
    bias: Tensor  # (d + atoms,): what the mean of all patches gives
    squares: Tensor  # (atoms,): the atoms' squared lengths
    share: Tensor  # (): how much colours and patches count beside gradients
    directions: Tensor  # (DIRECTIONS, 2, 1, 1)
    order: Tensor  # (1, 3, 1, 1): of the channels, where their gradients are equally strong
    luma: Tensor  # (1, 3, 1, 1)

    def __init__(self, size: int = 32, color: bool = True, atoms: int = 800, patch: int = 6) -> None:
        super().__init__()
        self.size, self.color, self.atoms, self.patch = size, color, atoms, patch
        self.channels = 3 if color else 1
        self.input = Input(kind="image", name="image", dtype="uint8", shape=(None, size, size, 3))
        self.d = self.channels * patch * patch
        self.register_buffer("kernel", torch.zeros(self.d + atoms, self.channels, patch, patch))
        self.register_buffer("bias", torch.zeros(self.d + atoms))
        self.register_buffer("squares", torch.zeros(atoms))
        self.register_buffer("share", torch.ones(()))
        angles = torch.arange(DIRECTIONS) * (2 * math.pi / DIRECTIONS)
        directions = torch.stack([angles.cos(), angles.sin()], 1)[:, :, None, None]
        self.register_buffer("directions", directions, persistent=False)
        self.register_buffer("order", torch.tensor([0.5, 0.25, 0.0])[None, :, None, None], persistent=False)
        self.register_buffer("luma", torch.tensor(LUMA)[None, :, None, None], persistent=False)
        with torch.inference_mode():
            self._widths = [(name, part.shape[1]) for name, part in self._parts(self.example())]
        self.n_features = sum(width for _, width in self._widths)

    @property
    def weights(self) -> Tensor:
        """How much each feature counts: see `FrontEnd`."""
        return torch.where(self.are_gradients(), 1.0, self.share)

    def are_gradients(self) -> Tensor:
        """Which features are histograms of gradients or edges, bool (n_features,)."""
        found = [name.startswith(("gradients", "edges")) for name, _ in self._widths]
        return torch.tensor(found).repeat_interleave(torch.tensor([width for _, width in self._widths]))

    def forward(self, image: Tensor) -> Tensor:
        """uint8 (N, size, size, 3) → float32 (N, n_features)."""
        return torch.cat([part for _, part in self._parts(image)], 1)

    def example(self) -> Tensor:
        return torch.zeros(2, self.size, self.size, 3, dtype=torch.uint8)

    def traced(self) -> Callable[[Tensor], Tensor]:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated, but has no successor for this
            traced: Callable[[Tensor], Tensor] = torch.jit.trace(self, self.example()[:1], check_trace=False)  # type: ignore[no-untyped-call]
        return traced

    def quadrants(self) -> tuple[Tensor, Tensor]:
        """In which quadrant of the picture each feature is, 0 and 1 above, 2 and 3 below, and which feature of quadrant
        0 is the same there: int64 (n_features,) each. Of an odd number of cells, the first quadrant has most."""
        in_cell = {  # by the first word of a group's name
            "gradients": DIRECTIONS, "edges": DIRECTIONS // 2, "colours": LEVELS**self.channels,
            "means": self.channels, "deviations": self.channels, "patches": self.atoms,
        }  # fmt: skip
        quadrants, same = [], []
        for name, start, stop in self.groups():
            n = in_cell[name.split()[0]]
            side = math.isqrt((stop - start) // n)
            cell = torch.arange(side)
            half = 2 * cell // side
            first = cell - half * (side - side // 2)
            quadrants.append((2 * half[:, None] + half).flatten().repeat(n))
            layers = start + side * side * torch.arange(n)
            same.append((layers[:, None] + (side * first[:, None] + first).flatten()).flatten())
        return torch.cat(quadrants), torch.cat(same)

    def groups(self) -> list[Span]:
        """One group for each kind of feature, and each scale of the gradients."""
        stops = list(accumulate(width for _, width in self._widths))
        return [(name, stop - width, stop) for (name, width), stop in zip(self._widths, stops, strict=True)]

    def _parts(self, image: Tensor) -> list[tuple[str, Tensor]]:
        """Groups of features by name, float32 (N, …) each."""
        x = self._channels(image)
        return [*self._gradients(x), *self._colours(x / 255), ("patches", self._responses(x))]

    def _channels(self, image: Tensor) -> Tensor:
        """uint8 (N, S, S, 3) → float32 (N, C, S, S), 0 … 255."""
        x = image.permute(0, 3, 1, 2).to(torch.float32)
        return x if self.color else (x * self.luma).sum(1, keepdim=True)

    def _gradients(self, x: Tensor) -> list[tuple[str, Tensor]]:
        padded = pad(x, (1, 1, 1, 1), mode="replicate")
        across = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
        down = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
        strength = across * across + down * down
        if self.color:
            # Of the channel that changes most; these are whole numbers, so a fraction decides between equals.
            strongest = (strength + self.order).argmax(1, keepdim=True)
            across, down, strength = (part.gather(1, strongest) for part in (across, down, strength))
        length = torch.sqrt(strength + 0.1)
        cosine = torch.relu(conv2d(torch.cat([across, down], 1), self.directions) / length)
        square = cosine * cosine
        divided = square * square * square * (length / 255)  # cosine⁶: directions that are neighbours share most of it
        edges = divided[:, : DIRECTIONS // 2] + divided[:, DIRECTIONS // 2 :]
        gradients = (f"gradients in {CELLS[0]} × {CELLS[0]} cells", self._histograms(divided, CELLS[0]))
        return [gradients, *((f"edges in {n} × {n} cells", self._histograms(edges, n)) for n in CELLS)]

    def _histograms(self, divided: Tensor, cells: int) -> Tensor:
        """Gradients divided among directions (N, bins, S, S) → their histograms in overlapping cells (N, …)."""
        width = self.size // cells
        histogram = avg_pool2d(pad(divided, (width // 2,) * 4), 2 * width, width)
        energy = avg_pool2d((histogram * histogram).sum(1, keepdim=True), 3, 1, 1, count_include_pad=False)
        return torch.sqrt(histogram / torch.sqrt(energy + NOISE * NOISE) + 1e-3).flatten(1)

    def _colours(self, x: Tensor) -> list[tuple[str, Tensor]]:
        width = self.size // COLOURS
        mean = avg_pool2d(x, width)
        deviation = torch.sqrt(torch.relu(avg_pool2d(x * x, width) - mean * mean) + 1e-4)
        # Each pixel's level of each channel, divided between the two next to it: (N, LEVELS, S, S) for each channel.
        histogram, *others = (
            torch.cat([torch.relu(1 - (part * (LEVELS - 1) - i).abs()) for i in range(LEVELS)], 1)
            for part in torch.split(x, 1, 1)
        )
        for levels in others:
            histogram = (histogram[:, :, None] * levels[:, None]).flatten(1, 2)
        pooled = torch.sqrt(avg_pool2d(histogram, self.size // QUADRANTS) + 1e-4)
        return [("colours", pooled.flatten(1)), ("means", mean.flatten(1)), ("deviations", deviation.flatten(1))]

    def _responses(self, x: Tensor) -> Tensor:
        x = x - MIDDLE
        whole = conv2d(x, self.kernel) / _contrast(x, self.patch) - self.bias[:, None, None]
        white, product = torch.split(whole, [self.d, self.atoms], 1)
        squared = (white * white).sum(1, keepdim=True) - 2 * product + self.squares[:, None, None]
        distance = torch.sqrt(torch.relu(squared) + LEAST)
        responses = torch.relu(distance.mean(1, keepdim=True) - distance)
        n = self.size - self.patch + 1  # not responses.shape[-1], which is a tensor while PyTorch 2.9 traces
        return avg_pool2d(responses, -(-n // QUADRANTS), n // QUADRANTS).flatten(1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """The share is 1 where there is none: in a dictionary that is new, and in files of earlier versions."""
        state_dict.setdefault(f"{prefix}share", torch.ones(()))
        super()._load_from_state_dict(state_dict, prefix, *others)

    def learn(self, pictures: Tensor) -> dict[str, Tensor]:
        """The state that makes the dictionary fit pictures uint8 (N, size, size, 3), for `load_state_dict`.

        The same pictures give the same state. Takes seconds.
        """
        generator = torch.Generator().manual_seed(0)
        patches = self._patches(pictures, generator)
        mean = patches.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov((patches - mean).T.double()))
        whiten = (vectors * (values.clamp(min=0) + WHITENING).rsqrt() @ vectors.T).float()
        atoms = k_means((patches - mean) @ whiten, self.atoms, generator)
        rows = torch.cat([whiten, atoms @ whiten])
        # A patch loses its mean before it is whitened, so the kernel loses its own: it gives constant patches nothing.
        kernel = (rows - rows.mean(1, keepdim=True)).view(-1, self.channels, self.patch, self.patch)
        return {"kernel": kernel, "bias": rows @ mean, "squares": atoms.square().sum(1)}

    def _patches(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        """Random patches of the pictures, as many of each, without their means, their contrast normalised (n, d)."""
        each = -(-PATCHES // len(pictures))
        patches = torch.empty(len(pictures), each, self.d)  # pieces put together would leave holes in the heap
        for part, out in zip(torch.split(pictures, 100), torch.split(patches, 100), strict=True):
            rows = unfold(self._channels(part) - MIDDLE, self.patch)  # (n, d, positions)
            which = torch.randint(rows.shape[2], (len(part), 1, each), generator=generator)
            out.copy_(rows.gather(2, which.expand(-1, self.d, -1)).transpose(1, 2))
        patches = patches.flatten(0, 1)
        patches -= patches.mean(1, keepdim=True)
        return patches.div_(torch.sqrt(patches.square().sum(1, keepdim=True) / (self.d - 1) + CONTRAST))


def _contrast(x: Tensor, patch: int) -> Tensor:
    """Standard deviation of each patch, over its pixels and channels: (N, C, S, S) → (N, 1, …)."""
    n = x.shape[1] * patch * patch
    mean = avg_pool2d(x.mean(1, keepdim=True), patch, 1)
    variance = avg_pool2d((x * x).mean(1, keepdim=True), patch, 1) - mean * mean
    return torch.sqrt(torch.relu(variance) * (n / (n - 1)) + CONTRAST)
