"""Views of the spectrum that noise changes less than its decibels."""

import librosa
import numpy as np
import pytest
import torch

from models import views
from models.mfcc import Mfcc
from tests.models.sounds import noise, partials


def test_the_envelope_is_the_loudest_of_neighbouring_bands_above_a_floor() -> None:
    front = Mfcc(preemphasis=0.97)
    clip = torch.from_numpy(partials(22_050))[None]
    noisy = clip + clip.std() / 30 * torch.from_numpy(noise(22_050))[None]  # 30 dB below it
    clean, disturbed = (views.envelope(front.mel_power(x), front.loudness)[0, :, 2:-2] for x in (clip, noisy))
    mel = front.mel_power(clip)[0].double().numpy() * front.loudness.numpy().T
    decibels = librosa.power_to_db(mel, ref=np.max, amin=1e-30, top_db=40) + 40
    highest = [decibels[max(0, i - 3) : i + 4].max(0) for i in range(len(decibels))]
    assert np.abs(clean.numpy() - np.array(highest)[:, 2:-2]).max() < 1e-3
    changed = (views.plain(front.mel_power(x))[0, :, 2:-2] for x in (clip, noisy))
    assert (clean - disturbed).abs().mean() < 0.1 * (next(changed) - next(changed)).abs().mean()


def test_the_root_of_the_spectrum_changes_less_with_noise_than_its_logarithm() -> None:
    front = Mfcc(preemphasis=0.97)
    clip = torch.from_numpy(partials(22_050))[None]
    power = [front.mel_power(x) for x in (clip, clip + clip.std() / 30 * torch.from_numpy(noise(22_050))[None])]
    clean, disturbed = map(views.root, power)
    mel = power[0].double()
    assert (clean - 80 * (mel / mel.max()).clamp(min=1e-10) ** 0.25).abs().max() < 1e-3
    changed = [views.plain(mel) for mel in power]
    assert (clean - disturbed).abs().mean() < 0.4 * (changed[0] - changed[1]).abs().mean()


def test_steady_noise_is_subtracted_and_a_steady_tone_is_not() -> None:
    front, samples = Mfcc(preemphasis=0.97), np.arange(44_100) / 22_050
    tone = partials(44_100)
    clips = [tone, tone * np.exp(-3 * samples).astype(np.float32)]
    clips += [clip + clip.std() / 10 * noise(44_100) / np.float32(0.1) for clip in clips]  # 20 dB below
    steady, decaying, noisy_tone, noisy = (front.mel_power(torch.from_numpy(clip)[None]) for clip in clips)

    def left(mel: torch.Tensor) -> torch.Tensor:
        return views.subtracted(mel, torch.ones(1, 1, mel.shape[2]))[0]

    assert left(steady)[:, 20:60].max() > 44.9
    assert left(decaying).max() == pytest.approx(45, abs=1e-3)
    # Beyond the last partial there is nothing but noise: 8.4 kHz and more.
    assert left(noisy_tone)[-12:, 4:-4].mean() < 0.3 * views.plain(noisy_tone)[0, -12:, 4:-4].mean()
    with_noise, without = left(noisy), left(decaying)
    changed = views.plain(noisy)[0] - views.plain(decaying)[0]
    assert (with_noise - without)[:, :40].abs().mean() < 0.6 * changed[:, :40].abs().mean()


def test_partials_stand_out_of_the_noise_in_the_average_spectrum() -> None:
    front = Mfcc(preemphasis=0.97)
    tone = partials(44_100)
    noisy = tone + tone.std() * np.float32(np.sqrt(10)) * noise(44_100)  # 10 dB below
    (mel, total), (noisy_mel, noisy_total) = (front.powers(torch.from_numpy(clip)[None]) for clip in (tone, noisy))
    bands = front.valley, front.in_band, front.of_band
    sums, peaks = (views.averages(noisy_total, *bands) - views.averages(total, *bands)).abs().mean((0, 2)).tolist()
    changed = (views.plain(noisy_mel) - views.plain(mel)).abs().mean().item()
    assert max(sums, peaks) < 0.4 * changed
