"""Views of a clip's spectrum, from powers to decibels or what takes their place: the plain one, three that noise
changes less, and the long-term average.

Noise fills the valleys between partials, and the highest bands, and so changes all decibels of the plain view.
"""

import math

import torch
from torch import Tensor, nn

TOP_DB = 80.0  # dB below the clip's maximum at which the plain view is clipped, as in librosa.power_to_db
ENVELOPE_DB = 40.0  # dB below the loudest point, as it is heard: what is fainter is not in the envelope
ENVELOPE_BANDS = 7  # neighbouring mel bands, the loudest of which counts for the one in the middle
VIEWS = {"envelope": 1.0, "root": 0.5, "subtracted": 0.5}  # beside the plain one: how much their features count
ROOT = 0.25  # exponent of the power
ROOT_RANGE = 80.0  # the root of the clip's loudest point, so that it counts as much as decibels
ROOT_DB = 100.0  # below the loudest point: what is fainter may be rounding, which the root would lift
NOISE_FRAMES = 8  # over which the power of noise is averaged
NOISE_BANDS = 5  # neighbouring ones, the least power of which is that of noise: a steady partial is in fewer
NOISE_FACTOR = 2.0  # times the least of these averages is subtracted
SUBTRACTED_DB = 45.0  # below the loudest point: what is fainter after the subtraction does not count
AVERAGES = ("sums", "peaks")  # of the long-term average spectrum in each mel band
AVERAGE_DB = 60.0  # below the loudest band: what is fainter in that spectrum does not count
VALLEYS = 650.0  # Hz: the least power this near on either side, in a valley between partials, is that of noise
VALLEY_BINS = 3  # over which that power is averaged
VALLEY_FACTOR = 2.0  # times that power is subtracted


def plain(mel: Tensor) -> Tensor:
    """Mel power (N, n_mels, frames) → decibels above a floor TOP_DB below the clip's maximum, at least 0."""
    return _above_floor(mel, TOP_DB)


def envelope(mel: Tensor, loudness: Tensor) -> Tensor:
    """Mel power, and the weight of each filter's power in the level (1, n_mels) → upper envelope of the spectrum before
    pre-emphasis, (N, n_mels, frames): the loudest of ENVELOPE_BANDS neighbouring bands, in decibels above a floor
    ENVELOPE_DB below the clip's maximum. Noise does not reach its peaks."""
    decibels = _above_floor(mel * loudness.T, ENVELOPE_DB)
    reach = (ENVELOPE_BANDS // 2, 0)
    return nn.functional.max_pool2d(decibels.unsqueeze(1), (ENVELOPE_BANDS, 1), 1, reach).squeeze(1)


def root(mel: Tensor) -> Tensor:
    """Mel power → its fourth root, ROOT_RANGE at the clip's maximum, and that of ROOT_DB below it at least. What is
    faint counts less than in decibels (Lim 1979, "Spectral root homomorphic deconvolution system")."""
    return ROOT_RANGE * (mel / _loudest(mel)).clamp(min=10 ** (-ROOT_DB / 10)) ** ROOT


def subtracted(mel: Tensor, active: Tensor) -> Tensor:
    """Mel power without the steady noise, in decibels above a floor SUBTRACTED_DB below its maximum,
    (N, n_mels, frames) (Boll 1979, "Suppression of acoustic noise in speech using spectral subtraction"). `active`
    (N, 1, frames) is 1 for each frame that is not silence, else 0.

    The noise is NOISE_FACTOR times the least power over NOISE_FRAMES frames that are not silence (minimum statistics;
    Martin 2001), in NOISE_BANDS neighbouring bands; none in a clip with fewer such frames.
    """
    beyond = (0, NOISE_FRAMES - 1)
    power = nn.functional.avg_pool1d(nn.functional.pad(mel * active, beyond), NOISE_FRAMES, 1)
    whole = nn.functional.avg_pool1d(nn.functional.pad(active, beyond), NOISE_FRAMES, 1) == 1
    least = torch.where(whole.any(2), torch.where(whole, power, torch.inf).amin(2), 0.0).unsqueeze(1)
    noise = _least(least, NOISE_BANDS // 2).transpose(1, 2)
    return _above_floor(torch.relu(mel - NOISE_FACTOR * noise), SUBTRACTED_DB)


def averages(total: Tensor, valley: int, in_band: Tensor, of_band: Tensor) -> Tensor:
    """Power of each bin over all frames → of each mel band its sum, and its loudest bin, without the noise in the
    valleys between partials; in decibels above a floor AVERAGE_DB below the loudest band, (N, 2, n_mels).

    In this long-term average spectrum (Welch 1967) noise is smooth, and the partials of a tone stand out by far.

    Parameters
    ----------
    total : (N, n_fft/2 + 1)
    valley : bins on either side, the least power of which is that of noise
    in_band, of_band : the bins of each mel filter, int64 (n_mels, W), and the filter there (n_mels, W)
    """
    bins = total.unsqueeze(1)
    smooth = nn.functional.avg_pool1d(bins, VALLEY_BINS, 1, VALLEY_BINS // 2, count_include_pad=False)
    left = torch.relu(bins - VALLEY_FACTOR * _least(smooth, valley))
    bands = left[:, :, in_band] * of_band  # (N, 1, n_mels, W)
    return torch.cat([_above_floor(band, AVERAGE_DB) for band in (bands.sum(3), bands.amax(3))], 1)


def decibels(power: Tensor) -> Tensor:
    return 10 / math.log(10) * torch.log(power)


def _above_floor(power: Tensor, depth: float) -> Tensor:
    """Power (N, n_mels, frames) → decibels above a floor `depth` below the clip's maximum, at least 0."""
    return decibels((power / _loudest(power)).clamp(min=10 ** (-depth / 10))) + depth


def _loudest(power: Tensor) -> Tensor:
    """The clip's maximum of the power (N, n_mels, frames), not 0. (N, 1, 1)"""
    return power.amax((1, 2), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)


def _least(power: Tensor, reach: int) -> Tensor:
    """The least power of the bands, or bins, up to `reach` away on either side. (N, 1, M) → (N, 1, M)"""
    return -nn.functional.max_pool1d(-power, 2 * reach + 1, 1, reach)
