"""What a sound is taken to be beyond its ends: zeros would make a step there, which is heard at all frequencies."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

PART = 0.003  # seconds: the slope at an end of a clip is that between the means of its last two parts of this length
LEVELLING = 0.009  # seconds: time constant in which that slope levels off beyond the end


class Ends(nn.Module):
    """Half a frame on either side of a clip: its first and its last value, with their slope, which levels off.

    Parameters
    ----------
    sample_rate : Hz
    n_fft : samples of a frame
    """

    fit: Tensor  # (K, 2), from the samples at an end, inwards, to its value and the slope
    beyond: Tensor  # (2, 2, n_fft/2 + 1), from these to the samples before the clip and after it, in the order of time

    def __init__(self, sample_rate: int, n_fft: int) -> None:
        super().__init__()
        self.samples, self.tau = n_fft // 2 + 1, LEVELLING * sample_rate
        self.part = max(1, round(PART * sample_rate))
        value = nn.functional.one_hot(torch.tensor(0), 2 * self.part).double()
        ones = torch.ones(self.part).double()
        slope = torch.cat([-ones, ones]) / self.part**2
        away = torch.arange(1, self.samples + 1).double()
        after = torch.stack([torch.ones_like(away), self.tau * torch.expm1(-away / self.tau)])
        constants = {"fit": torch.stack([value, slope], 1), "beyond": torch.stack([after.flip(1), after])}
        for name, constant in constants.items():  # computed in float64, used in float32; not saved with the weights
            self.register_buffer(name, constant.to(torch.float32), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """float32 (N, T), T ≥ 1 → what goes before it, and what goes after it, (2, N, n_fft/2 + 1).

        >>> Ends(8000, 256)(torch.full((1, 100), 0.5)).unique().tolist()
        [0.5]
        """
        inwards = torch.arange(len(self.fit)).clamp(max=audio.shape[1] - 1)
        ends = audio[:, torch.stack([inwards, audio.shape[1] - 1 - inwards])]  # (N, 2, K)
        return ends.transpose(0, 1) @ self.fit @ self.beyond

    def oracle(self, clip: NDArray[np.float32]) -> NDArray[np.float32]:
        """A clip (T,) between n_fft/2 + 1 samples before it and n_fft/2 after it, in plain NumPy."""
        sides = []
        for inwards, samples in ((clip, self.samples), (clip[::-1], self.samples - 1)):
            near = np.pad(inwards[: 2 * self.part], (0, max(0, 2 * self.part - len(clip))), "edge").astype(np.float64)
            slope = (near[self.part :].mean() - near[: self.part].mean()) / self.part
            sides.append(near[0] - slope * self.tau * (1 - np.exp(-np.arange(1, samples + 1) / self.tau)))
        return np.concatenate([sides[0][::-1], clip, sides[1]]).astype(np.float32)
