"""The front ends: scaled pixels, MFCC equal to librosa's, pooling over frames that are not silence."""

import warnings
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks.frontend import Librosa, pooled
from models import views
from models.classifier import Standardize
from models.frontend import Pixels, build
from models.mfcc import Mfcc
from models.pooling import FOLLOWED, FOLLOWED_WEIGHT, LEVELS, ORDERS, STATISTICS, VIEW_STATISTICS, pool
from pipeline import task
from pipeline.threads import subnormals_flushed
from service.media import Limits
from service.media.audio import decode_audio
from tests.models.sounds import noise

TOLERANCE = 1e-3  # values reach some hundreds


def difference(front: Mfcc, clip: NDArray[np.float32]) -> float:
    """Larger difference from librosa's MFCC, of those in training and those in the exported graph."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # clips shorter than a frame
        expected = librosa.feature.mfcc(
            y=clip, sr=front.sample_rate, n_mfcc=front.n_mfcc, n_fft=front.n_fft,
            hop_length=front.hop_length, n_mels=front.n_mels,
        )  # fmt: skip
    audio = torch.from_numpy(clip)[None]
    (mel, total), (factorised, same) = front.powers(audio), front.factorised_powers(audio)
    assert torch.allclose(total, same, rtol=1e-3, atol=1e-6 * total.max().item())
    found = [front.coefficients(power)[0].numpy() for power in (mel, factorised)]
    assert all(values.shape == expected.shape for values in found)
    return max(float(np.abs(values - expected).max()) for values in found)


@pytest.mark.parametrize("samples", [1, 2, 511, 512, 513, 1023, 1024, 2047, 2048, 2049, 22_050, 100_001, 1_323_000])
def test_mfcc_equals_librosa_for_every_length(samples: int) -> None:
    assert difference(Mfcc(), noise(samples)) < TOLERANCE


@pytest.mark.parametrize(
    ("n_fft", "hop_length"), [(2048, 2048), (2048, 32), (2048, 16), (1024, 256), (512, 128), (64, 32), (4096, 1024)]
)
def test_mfcc_equals_librosa_for_every_frame_size(n_fft: int, hop_length: int) -> None:
    front = Mfcc(sample_rate=16_000, n_fft=n_fft, hop_length=hop_length, n_mels=20, n_mfcc=13)
    assert difference(front, noise(16_000)) < TOLERANCE


def test_mfcc_equals_librosa_on_tones_and_silence() -> None:
    t = np.arange(22_050) / 22_050
    tone = (0.9 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)
    half_silent = np.where(t < 0.5, tone, 0).astype(np.float32)
    for clip in (tone, half_silent, np.zeros_like(tone), 1e-4 * tone):
        assert difference(Mfcc(), clip) < TOLERANCE


def test_mfcc_equals_librosa_on_real_clips(real_data: Path) -> None:
    files = [*sorted(real_data.glob("clips/*/*"))[::7], *sorted(real_data.glob("notes/*/*"))[::60]]
    assert len(files) > 40
    front = Mfcc()
    assert max(difference(front, decode_audio(file.read_bytes(), 22_050, Limits())) for file in files) < TOLERANCE


def test_a_clip_has_the_same_features_alone_and_in_a_batch() -> None:
    clips = torch.from_numpy(np.stack([noise(30_000, seed) for seed in range(3)]))
    front = Mfcc()
    alone = torch.cat([front(clip[None]) for clip in clips])
    assert torch.allclose(front(clips), alone, atol=1e-4)


def test_more_silence_around_a_clip_does_not_change_its_features() -> None:
    front, hop = Mfcc(), 512
    clip = torch.from_numpy(noise(44_032))[None]
    short, long = (torch.nn.functional.pad(clip, (n * hop, 2 * n * hop)) for n in (5, 60))
    assert torch.allclose(front(short), front(long), atol=1e-3)
    assert torch.isfinite(front(torch.zeros(1, 5000))).all()


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 17, 100])
@pytest.mark.parametrize("seed", range(4))
def test_features_are_the_statistics_of_active_frames(frames: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, *views = (rng.normal(0, 30, (n, frames)).astype(np.float32) for n in (5, 3, 3))
    level = rng.uniform(-90, 0, frames).astype(np.float32)
    level[rng.integers(frames)] = 0
    active = (level >= -60).astype(np.float32)
    tensors = [torch.from_numpy(x)[None] for x in (values, level[None], active[None], *views)]
    found = pool(*tensors[:3], tensors[3:])[0].numpy()
    assert found.shape == (STATISTICS * 5 + LEVELS + 2 * VIEW_STATISTICS * 3 + len(ORDERS) * 5,)
    assert np.abs(found - pooled(values, level, views, 60)).max() < 1e-3


def test_features_tell_in_which_order_sounds_follow_each_other_but_not_how_fast() -> None:
    def played(*hertz: int, seconds: float) -> NDArray[np.float32]:
        parts = [np.sin(2 * np.pi * f * np.arange(int(seconds * 22_050)) / 22_050) for f in hertz]
        return np.concatenate(parts).astype(np.float32) / 2

    front = Mfcc(n_mfcc=20)
    spans = {name: slice(start, stop) for name, start, stop in front.groups()}
    cosines = slice(spans["cosine 1"].start, spans["cosine 6"].stop)
    up, down, slow = (
        front(torch.from_numpy(clip)[None])[0]
        for clip in (
            played(440, 880, 440, seconds=0.5),
            played(880, 440, 880, seconds=0.5),
            played(440, 880, 440, seconds=1),
        )
    )
    assert (up - slow)[cosines].norm() < 0.25 * (up - down)[cosines].norm()


@pytest.mark.parametrize("frames", [1, 7, 8, 100])
def test_features_equal_those_of_librosa_and_numpy(frames: int) -> None:
    front = build(task.load("instruments").features.model_dump())
    assert isinstance(front, Mfcc)
    clip = noise(frames * 512 - 300) * np.linspace(1, 0.01, frames * 512 - 300, dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # clips shorter than a frame
        expected = Librosa(front)(clip)
    assert np.abs(front(torch.from_numpy(clip)[None])[0].numpy() - expected).max() < 0.01


def test_features_do_not_depend_on_the_level() -> None:
    front = Mfcc(preemphasis=0.97)
    tone = np.sin(np.arange(30_000) * 0.06).astype(np.float32) / 2
    clip = torch.from_numpy(tone + 1e-3 * noise(30_000))[None]
    for gain in (2**-13, 2**-3, 2):  # by powers of two, so that nothing is rounded; the first is -78 dB
        assert torch.allclose(front(clip), front(clip * gain), atol=1e-4)


def test_levels_are_measured_before_preemphasis() -> None:
    rng, samples = np.random.default_rng(0), np.arange(44_032)
    decaying = sum(np.sin(0.05 * k * samples) / k for k in (1, 2, 5, 12)) * np.exp(-samples / 8000)
    clip = torch.from_numpy((decaying + 1e-3 * rng.standard_normal(len(samples))).astype(np.float32))[None]
    fronts = Mfcc(), Mfcc(preemphasis=0.97)
    plain, emphasised = (front.level(front.mel_power(clip)) for front in fronts)
    assert plain.min() < -40
    assert (plain - emphasised).abs().max() < 1


def test_quiet_noise_and_an_offset_around_a_sound_are_silence() -> None:
    front = build(task.load("instruments").features.model_dump())
    assert isinstance(front, Mfcc)
    tone = np.sin(np.arange(40 * 512) * 0.1).astype(np.float32) / 2
    clip = np.pad(tone, 44_032) + noise(len(tone) + 2 * 44_032) / 200 + np.float32(0.01)  # noise at -60 dB
    level = front.level(front.mel_power(torch.from_numpy(clip)[None]))[0, 0]
    assert int((level >= -front.silence_db).sum()) in range(40, 46)  # those that the tone reaches into


def test_a_constant_offset_changes_nothing_where_filters_begin_above_it() -> None:
    front = Mfcc(preemphasis=0.97, fmin=80)
    clip = torch.from_numpy(np.round(noise(22_050) * 2**12) / np.float32(2**12))[None]  # so that a sum is exact
    assert torch.equal(front(clip), front(clip + 0.25))
    assert torch.equal(front(torch.full((1, 5000), 0.3)), front(torch.zeros(1, 5000)))


def test_preemphasis_filters_the_waveform() -> None:
    clip = noise(20_000)
    emphasised = np.append(clip[:1], clip[1:] - np.float32(0.97) * clip[:-1])
    expected = librosa.feature.mfcc(y=emphasised, sr=22_050, n_mfcc=40)
    found = Mfcc(preemphasis=0.97).mfcc(torch.from_numpy(clip)[None])[0].numpy()
    assert np.abs(found - expected).max() < TOLERANCE


def test_cepstral_decay_gives_high_coefficients_less_weight() -> None:
    even, weights = Mfcc(n_mfcc=20).weights, Mfcc(n_mfcc=20, cepstral_decay=8).weights
    assert even is not None
    assert weights is not None
    own, views, cosines = STATISTICS * 20 + LEVELS, 3 * VIEW_STATISTICS * 10, len(ORDERS) * FOLLOWED
    assert weights.shape == (own + views + cosines + 2 * 20,)
    assert even[:own].tolist() == own * [1.0]
    assert weights[20:40].tolist() == weights[:20].tolist()
    assert weights[own : own + 10].tolist() == weights[:10].tolist()
    assert weights[own + views - 10 : own + views].tolist() == (weights[:10] / 2).tolist()
    assert torch.equal(weights[own + views :][:FOLLOWED], FOLLOWED_WEIGHT * weights[:FOLLOWED])
    assert weights[-20:].tolist() == weights[:20].tolist()
    assert [weights[0].item(), weights[8].item()] == [1.0, 0.5]
    x = torch.from_numpy(noise(50 * len(weights))).view(50, -1)
    standardised = Standardize(len(weights)).fit(x, Mfcc(n_mfcc=20, cepstral_decay=8))(x)
    assert torch.allclose(standardised.std(0, correction=0), weights, atol=1e-4)


def test_features_of_an_earlier_version_build_the_same_front_end() -> None:
    sections = ({"features": {"kind": "mfcc", "n_mfcc": 20, key: 8.0}} for key in ("cepstral_decay", "lifter"))
    now, before = (build(task.with_new_names(recorded)["features"]) for recorded in sections)
    assert now.weights is not None
    assert before.weights is not None
    assert torch.equal(now.weights, before.weights)


def test_pixels_are_scaled_to_one() -> None:
    image = torch.arange(784, dtype=torch.int64).remainder(256).to(torch.uint8).view(1, 28, 28)
    features = Pixels()(image)
    assert features.shape == (1, 784)
    assert features.dtype == torch.float32
    assert features[0, 255] == 1
    assert features[0, 51] == pytest.approx(0.2)


@pytest.mark.parametrize(
    "features", [{"kind": "pixels"}, {"kind": "vector", "size": 5}, {"kind": "mfcc", "sample_rate": 8000}], ids=str
)
def test_a_front_end_agrees_with_its_attributes(features: dict[str, object]) -> None:
    front = build(features)
    media = front.example()
    sizes = zip(media.shape, front.input.shape, strict=True)
    assert media.dtype == getattr(torch, front.input.dtype)
    assert all(size == expected or expected is None for size, expected in sizes)
    assert front(media).shape == (2, front.n_features)
    clip = torch.from_numpy(noise(media[0].numel())).view(media[:1].shape).mul(100).abs().to(media.dtype)
    assert torch.equal(front.traced()(clip), front(clip))
    assert front.groups()[0][1] == 0
    assert front.groups()[-1][2] == front.n_features
    if front.scale is not None:
        torch.testing.assert_close(front(clip) * front.scale, clip.flatten(1).to(torch.float32))
    assert (front.oracle(clip[0].numpy()) is None) == (front.oracle_constant is None)


def test_pooled_features_come_from_the_coefficients_of_the_oracle() -> None:
    front, clip = Mfcc(preemphasis=0.97), noise(30_000)
    found = front.dct @ views.plain(front.mel_power(torch.from_numpy(clip)[None]))
    assert np.abs(found[0].numpy() - front.oracle(clip)).max() < TOLERANCE


def test_silence_before_a_sound_is_the_same_where_subnormal_numbers_count_as_zero() -> None:
    """As they do in training; a frame of silence is too far below the loudest for float32."""
    clip = np.concatenate([np.zeros(22_050 // 2), np.random.default_rng(0).uniform(-1, 1, 22_050)]).astype(np.float32)
    front = Mfcc(fmin=80)
    expected = front(torch.from_numpy(clip[None]))
    with subnormals_flushed():
        found = front(torch.from_numpy(clip[None]))
    assert torch.equal(found, expected)
    assert expected.isfinite().all()
