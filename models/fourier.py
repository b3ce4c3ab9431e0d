"""Power spectra of the frames of a sound as matrix products, which ONNX Runtime computes faster than its FFT."""

import math

import torch
from torch import Tensor, nn


class PowerSpectrum(nn.Module):
    """The power spectrum of frames with a periodic Hann window, from the hops of which a frame is several in a row.

    The discrete Fourier transform is factorised twice, n_fft = R · C · C (Cooley & Tukey 1965). With
    n = C² r + C c + d and k = p + R q + R C s,

        X[p + R q + R C s] = Σ_d  e^(-2πi d s / C)  Σ_c  e^(-2πi (c / C + d / C²) q)
                             Σ_r  e^(-2πi n p / n_fft)  w[n]  x[n]

    The inner sum is one real matrix for each d and c, window and twiddle factors included, computed as a convolution
    over hops, which frames share; the second one is a complex matrix for each d; the third is one matrix. The signal is
    real, so p = 0 … R/2 give every bin.

    Parameters
    ----------
    n_fft, hop_length : samples; n_fft a power of two that hop_length divides
    """

    row_dft: Tensor  # (C · C · 2 · (R/2 + 1), R / overlap, overlap)
    middle_dft: Tensor  # (C, 2 C, 2 C)
    last_real: Tensor  # (C, 2 C)
    last_imaginary: Tensor  # (C, 2 C)

    def __init__(self, n_fft: int, hop_length: int) -> None:
        super().__init__()
        self.n_fft, self.hop_length = n_fft, hop_length
        n_bits, hop_bits = int(math.log2(n_fft)), int(math.log2(hop_length))
        self.columns = 2 ** min((n_bits - 1) // 3, hop_bits // 2)  # C: three factors of about the same size
        self.rows = n_fft // self.columns**2  # R
        self.n_bins = self.columns**2 * (self.rows // 2 + 1)  # some of them twice
        real, imaginary = _last_dft(self.columns)
        constants = {
            "row_dft": _row_dft(self.rows, self.columns, n_fft // hop_length),
            "middle_dft": _middle_dft(self.columns),
            "last_real": real,
            "last_imaginary": imaginary,
        }
        for name, constant in constants.items():  # computed in float64, used in float32; not saved with the weights
            self.register_buffer(name, constant.to(torch.float32), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """Whole hops, float32 (N, hops · hop_length) → float32 (N, n_bins, frames), the bins of each frame in the order
        of `positions`.

        >>> PowerSpectrum(256, 128)(torch.zeros(2, 9 * 128)).shape
        torch.Size([2, 144, 8])
        """
        n, columns = audio.shape[0], self.columns  # len would be a constant in the exported graph
        by_row = nn.functional.conv1d(self._arranged(audio), self.row_dft, groups=columns**2)
        frames = by_row.shape[2]
        by_row = by_row.reshape(n, columns, 2 * columns, (self.rows // 2 + 1) * frames)
        spectrum = (self.middle_dft @ by_row).reshape(n, 2 * columns, columns * (self.rows // 2 + 1) * frames)
        real, imaginary = self.last_real @ spectrum, self.last_imaginary @ spectrum
        power: Tensor = real * real + imaginary * imaginary
        return power.reshape(n, self.n_bins, frames)

    def _arranged(self, audio: Tensor) -> Tensor:
        """→ (N, hop_length, hops), the samples of a hop in the order d, c, r; by two fast copies."""
        n, n_hops, columns = audio.shape[0], audio.shape[1] // self.hop_length, self.columns
        hops = audio.reshape(n, n_hops, self.hop_length).transpose(1, 2)
        hops = hops.reshape(n, self.hop_length // columns**2, columns, columns, n_hops).permute(0, 3, 2, 1, 4)
        return hops.reshape(n, self.hop_length, n_hops)

    def positions(self) -> Tensor:
        """Where the bins 0 … n_fft/2 stand among those that `forward` returns. (n_fft/2 + 1,)

        >>> PowerSpectrum(8, 2).positions().tolist()  # C = 1: as they are
        [0, 1, 2, 3, 4]
        """
        bins = torch.arange(self.n_fft // 2 + 1)
        p = bins % self.rows
        k = torch.where(p <= self.rows // 2, bins, self.n_fft - bins)  # a real signal's bin k equals its bin n_fft - k
        p, q, s = k % self.rows, k // self.rows % self.columns, k // (self.rows * self.columns)
        position: Tensor = (_order(self.columns)[s] * self.columns + q) * (self.rows // 2 + 1) + p
        return position


def _row_dft(rows: int, columns: int, overlap: int) -> Tensor:
    """For each d and c the windowed first step with its twiddle factors: real parts of p = 0 … R/2, then the imaginary
    parts; as a convolution over hops, whose channels are rows. (C · C · 2 (R/2 + 1), R / overlap, overlap)"""
    n_fft = rows * columns**2
    first = (columns * torch.arange(columns) + torch.arange(columns).view(-1, 1)).view(-1, 1, 1)  # by d, then c
    p = torch.arange(rows // 2 + 1).view(1, -1, 1)
    n = columns**2 * torch.arange(rows) + first
    angle = -2 * torch.pi * (n * p % n_fft).to(torch.float64) / n_fft
    window = torch.hann_window(n_fft, periodic=True, dtype=torch.float64)[n]
    dft = torch.cat([window * angle.cos(), window * angle.sin()], 1)  # (C · C, 2 (R/2 + 1), R)
    return dft.view(-1, overlap, rows // overlap).mT


def _middle_dft(columns: int) -> Tensor:
    """For each d the complex matrix from c to q, as a real one: from the real and the imaginary part of each c to the
    real parts of all q, then the imaginary parts. (C, 2 C, 2 C)"""
    d, q, c = (torch.arange(columns).view(shape) for shape in ((-1, 1, 1), (-1, 1), (-1,)))
    angle = -2 * torch.pi * ((columns * c + d) * q % columns**2).to(torch.float64) / columns**2
    return torch.cat(_real(angle), 1)


def _last_dft(columns: int) -> tuple[Tensor, Tensor]:
    """The matrices from the real and the imaginary part of each d to the real parts of all s in their `_order`, and to
    the imaginary parts. (C, 2 C) each"""
    s = torch.argsort(_order(columns)).view(-1, 1)
    return _real(-2 * torch.pi * (s * torch.arange(columns) % columns).to(torch.float64) / columns)


def _real(angle: Tensor) -> tuple[Tensor, Tensor]:
    """The complex matrix e^(i angle) (…, M, K) as two real ones (…, M, 2 K). They take numbers whose real and imaginary
    parts stand side by side; the first gives the real parts of the product, the second the imaginary ones."""
    real, imaginary = angle.cos(), angle.sin()
    return torch.stack([real, -imaginary], -1).flatten(-2), torch.stack([imaginary, real], -1).flatten(-2)


def _order(columns: int) -> Tensor:
    """Position of each s: 0, C - 1, 1, C - 2, …, so that bins of neighbouring frequencies stand together. (C,)"""
    s = torch.arange(columns)
    return torch.where(s < (columns + 1) // 2, 2 * s, 2 * (columns - 1 - s) + 1)
