"""How a note sounds: tones whose spectra stay where they are when the pitch moves, and what a microphone hears of them.

- `Sustained`  a bowed or blown tone: a wavetable that opens with the envelope, breath or bow noise, vibrato, attack
- `Struck`     the decaying modes of a plucked or struck string or bar (Fletcher & Rossing 1998)

Both take the levels of their partials from a spectrum over frequency, not over the number of the partial: formants and
resonances of bodies stay while the pitch moves through them (Meyer, "Acoustics and the Performance of Music"). Each
note has its own specimen of the instrument, player, room and microphone.

scipy.fft takes a while to import, so only the functions that need it import it.
"""

from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 22_050  # Hz
NYQUIST = SAMPLE_RATE / 2  # Hz
TABLE_SIZE = 8192  # samples in one period of a wavetable
HERTZ = (60, 120, 250, 350, 500, 700, 1000, 1400, 2000, 2800, 4000, 5600, 8000, 11000)  # where spectra are given
NOISE_HERTZ = (125, 250, 500, 1000, 2000, 4000, 8000)  # centres of the octaves in which noises are given
DECAY_HERTZ = (125, 500, 2000, 8000)  # where decays are given
BREAK = 420.0  # Hz: above it a clarinet overblows, and its even harmonics are less weak

# How far specimens, players, rooms and microphones differ: standard deviations.
LEVELS_VARY = 1.0  # dB: each level of a spectrum
SIZES_VARY = 0.03  # octaves: all its frequencies
RESPONSE_VARIES = 1.0  # dB: a microphone's response in each octave
TILT_VARIES = 0.5  # dB per octave

# How far the spectrum of a bowed or blown note moves between its beginning, middle and end: standard deviations.
PARTIALS_MOVE = 4.0  # dB: partials next to each other, each in its own way
OCTAVES_MOVE = 3.0  # dB: those an octave apart
TILT_MOVES = 2.0  # dB per octave above 500 Hz

Signal = NDArray[np.float64]  # (T,) samples
Range = tuple[float, float]  # bounds of a uniform draw
Spectrum = tuple[float, ...]  # dB at HERTZ, of which only differences count
Octaves = tuple[float, ...]  # dB of noise in the octaves around NOISE_HERTZ


@dataclass(frozen=True, slots=True)
class Sustained:
    low: Spectrum  # of the lowest note
    high: Spectrum  # of the highest; between them it changes in proportion to the pitch
    noise: Octaves  # of breath or bow
    noise_level: Range  # dB of that noise against the tone
    attack: Range  # s, drawn on a logarithmic scale
    vibrato: Range  # semitones of deviation
    vibrates: float  # share of the notes that have vibrato
    bright: float = 2.5  # dB per octave above 500 Hz that the spectrum rises from mezzo-forte to fortissimo
    opening: float = 5.0  # how much darker, in the same measure, a note begins and ends: median of all notes
    rough: float = 2.5  # dB: deviation of each harmonic
    body: float = 0.0  # dB: deviation of the modes of a bowed body
    tremolo: float = 0.1  # largest depth of amplitude modulation
    chiff: Range = (-45.0, -20.0)  # dB of the attack's noise against the tone
    cylinder: bool = False  # closed at one end: even harmonics are weak up to the tone holes' cutoff
    ranks: tuple[int, ...] = (1,)  # of an organ: multiples of the pitch that sound together
    steady: bool = False  # blown by a machine


@dataclass(frozen=True, slots=True)
class Struck:
    low: Spectrum
    high: Spectrum
    decay: tuple[float, float, float, float]  # s to fall by 60 dB, at DECAY_HERTZ
    knock: Range  # noise of the blow: dB against the tone, s to fall by 60 dB
    damped: float = 0.0  # share of the notes that are stopped early
    bright: float = 2.5
    rough: float = 3.0
    plucked: bool = False  # somewhere along the string: partials with a node there stay silent
    strings: int = 1  # slightly out of tune with each other
    stiffness: float = 0.0  # inharmonicity coefficient B at 110 Hz
    ratios: tuple[float, ...] = ()  # modes / fundamental; () = partials of a string


class Specimen:
    """The spectrum of one specimen of an instrument at one pitch.

    `place` is 0 at the lowest note and 1 at the highest.
    """

    def __init__(self, voice: Sustained | Struck, place: float, rng: np.random.Generator) -> None:
        level = (1 - place) * np.array(voice.low, float) + place * np.array(voice.high, float)
        self._level = level + rng.normal(0, LEVELS_VARY, level.size)
        self._octave = np.log2(HERTZ) + rng.normal(0, SIZES_VARY)
        self._modes = np.arange(5.6, 13.6, 0.15)  # octaves
        self._body = rng.normal(0, voice.body if isinstance(voice, Sustained) else 0, self._modes.size)

    def moved(self, rng: np.random.Generator) -> "Specimen":
        """The same one at another moment of a note: with another pressure, embouchure or place of the bow."""
        other, octaves = copy(self), np.arange(5.5, 14.5)
        other._level = self._level + np.interp(self._octave, octaves, rng.normal(0, OCTAVES_MOVE, octaves.size))
        other._level += rng.normal(0, TILT_MOVES) * np.maximum(self._octave - np.log2(500), 0)
        other._body = self._body + rng.normal(0, PARTIALS_MOVE, self._body.size)
        return other

    def decibels(self, hertz: Signal) -> Signal:
        """Levels of partials at these frequencies."""
        octave = np.log2(hertz)
        levels: Signal = np.interp(octave, self._octave, self._level) + np.interp(octave, self._modes, self._body)
        return levels


def sustained(
    voice: Sustained, place: float, frequency: float, dynamic: float, n: int, rng: np.random.Generator
) -> Signal:
    """A bowed or blown tone (n,) and its noise."""
    specimen, envelope = Specimen(voice, place, rng), _envelope(voice, n, rng)
    phase, bend = _phase(voice, frequency, n, rng)
    loudness = _loudness(dynamic, rng)
    seed = int(rng.integers(2**31))
    # Recorded notes change more than notes of one spectrum, and of those only struck ones change as much.
    moments = [specimen if voice.steady else specimen.moved(rng) for _ in range(3)]
    bright = _wavetable(voice, moments[1], frequency, loudness, 1, seed)
    closed = loudness - voice.opening * np.exp(rng.normal(0, 0.5))
    dark = _wavetable(voice, specimen, frequency, closed, 1, seed)
    t = np.arange(n) / SAMPLE_RATE
    top = _lookup(bright, phase)
    if not voice.steady:
        first, last = (_wavetable(voice, moment, frequency, loudness, 1, seed) for moment in moments[::2])
        middle = t[-1] * rng.uniform(0.2, 0.8)  # s
        top += np.interp(t, (0, middle), (1, 0)) * (_lookup(first, phase) - top)
        top += np.interp(t, (middle, t[-1]), (0, 1)) * (_lookup(last, phase) - top)
    if voice.body:  # vibrato and bow move the harmonics over the body's modes, which stay
        other = _wavetable(voice, moments[1], frequency, loudness, 2**0.05, seed + 1)
        top += (0.5 + 2 * bend + 0.08 * _wander(n, 10, rng)).clip(0, 1) * (_lookup(other, phase) - top)
    opening, amplitude = envelope / envelope.max(), envelope
    if not voice.steady:
        opening = (opening * (1 + 0.1 * rng.uniform() * _wander(n, 6, rng))).clip(0, 1.3)
        tremolo = voice.tremolo * rng.uniform() * np.sin(2 * np.pi * (rng.uniform(4, 7) * t + rng.uniform()))
        amplitude = envelope * (1 + tremolo) * 10 ** (rng.uniform(0.03, 0.24) / 20 * _wander(n, 12, rng))
    tone = _lookup(dark, phase)
    tone += opening * (top - tone)
    chiff = 10 ** (rng.uniform(*voice.chiff) / 20) * np.exp(-t / (0.015 * 5 ** rng.uniform()))
    noise = 10 ** (rng.uniform(*voice.noise_level) / 20) * envelope + chiff
    return amplitude * tone / np.std(bright) + noise * _noise(voice.noise, n, rng)


def struck(voice: Struck, place: float, frequency: float, dynamic: float, n: int, rng: np.random.Generator) -> Signal:
    """A plucked or struck tone (n,) and the knock of the blow."""
    hertz = frequency * _ratios(voice, frequency, rng)
    hertz = hertz[hertz < 0.95 * NYQUIST]
    loudness = _loudness(dynamic, rng)
    level = Specimen(voice, place, rng).decibels(hertz) + _brightness(voice.bright * loudness, hertz)
    level += rng.normal(0, voice.rough, hertz.size)
    if voice.plucked:
        node = np.sin(np.pi * np.arange(1, hertz.size + 1) * rng.uniform(0.1, 0.5))
        level += 20 * np.log10(np.abs(node) + 0.05)
    seconds = np.interp(np.log2(hertz), np.log2(DECAY_HERTZ), np.log2(voice.decay)) + rng.normal(0, 0.25)
    decay = 2 ** (seconds + rng.normal(0, 0.2, hertz.size))
    gain = 10 ** (level / 20) * np.exp(2j * np.pi * rng.uniform(size=hertz.size))
    for _ in range(1, voice.strings):
        hertz, decay = np.append(hertz, hertz * 2 ** (rng.uniform(0.3, 2.5) / 1200)), np.append(decay, 1.3 * decay)
        gain = np.append(gain, gain * rng.uniform(0.3, 1))
    heard = np.abs(gain) > 1e-4 * np.abs(gain).max()
    tone = _modes(hertz[heard], decay[heard], gain[heard], n)
    t = np.arange(n) / SAMPLE_RATE
    tone *= (1 - np.exp(-t / (0.0005 * 8 ** rng.uniform()))) * np.minimum(1, (t[-1] - t) / 0.03) / np.abs(tone).max()
    if rng.uniform() < voice.damped:
        tone *= np.exp(-np.maximum(t - t[-1] * rng.uniform(0.3, 0.9), 0) / 0.04)
    blow, dying = voice.knock
    knock = 10 ** ((blow + rng.normal(0, 6)) / 20 - 3 * t / (dying * 2 ** rng.normal(0, 0.5)))
    return tone + knock * _noise((0, 0, -2, -6, -12, -20, -30), n, rng)


def record(sound: Signal, dynamic: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """What a microphone hears (T,): silence, the sound in a room, and its reverberation.

    It has the level of dynamic and distance, and the response and the noise of the recording.

    The room is noise that decays exponentially (Polack 1988), some of it longer than the recording goes on.
    """
    from scipy import fft

    before, after = (int(rng.uniform(*s) * SAMPLE_RATE) for s in ((0.005, 0.08), (0.02, 0.9)))
    rt60 = 0.15 * 8 ** rng.uniform()  # s to fall by 60 dB
    t = np.arange(int(rt60 * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.standard_normal(t.size) * 10 ** (-3 * t / rt60)
    length = before + sound.size + after
    size = fft.next_fast_len(length + t.size, real=True)
    octave = _octaves(size)
    wet = rng.uniform(-30, 0) - np.maximum(octave - 11, 0) * rng.uniform(0, 6)  # dB; walls absorb high frequencies
    room = 1 + fft.rfft(tail / np.linalg.norm(tail), size) * 10 ** (wet / 20)
    heard = fft.rfft(np.append(np.zeros(before), sound), size) * room * 10 ** (_response(octave, rng) / 20)
    floor = _gaussian(octave.size, rng) * 2 ** (-octave * rng.uniform(0, 1))  # between white and brown
    floor *= np.linalg.norm(heard) / np.linalg.norm(floor) * np.sqrt(size / length) * 10 ** (-rng.uniform(52, 80) / 20)
    clip: Signal = fft.irfft(heard + floor, size)[:length]
    clip *= 10 ** ((-16 * (1 - dynamic) - rng.uniform(1, 7)) / 20) / np.abs(clip).max()  # -23 to -1 dB of full scale
    clip[:110] *= np.linspace(0, 1, 110)
    clip[-220:] *= np.linspace(1, 0, 220)
    return clip.astype(np.float32)


def _response(octave: Signal, rng: np.random.Generator) -> Signal:
    """Of microphone and recorder, in dB: uneven, tilted, without the lowest and in one of five without the highest
    frequencies."""
    points = np.arange(5.3, 14.5)
    uneven = rng.normal(0, RESPONSE_VARIES, points.size) + rng.normal(0, TILT_VARIES) * (points - 10)
    response: Signal = np.interp(octave, points, uneven)
    if rng.uniform() < 0.2:
        response -= 240 * np.maximum(octave - np.log2(rng.uniform(6000, 11000)), 0)
    response -= 12 * np.maximum(np.log2(20 * 5 ** rng.uniform()) - octave, 0)
    return response


def _ratios(voice: Struck, frequency: float, rng: np.random.Generator) -> Signal:
    """Frequencies of the modes, in fundamentals."""
    ratios: Signal
    if voice.ratios:
        tuned = 0.02 * rng.standard_normal(len(voice.ratios) - 1)  # only the fundamental of a bar is tuned well
        ratios = np.array(voice.ratios) * np.append(1, 1 + tuned)
        return ratios
    k = np.arange(1, 61)
    ratios = k * np.sqrt(1 + voice.stiffness * (frequency / 110) ** 1.5 * rng.uniform(0.7, 1.4) * k**2)
    return ratios


def _modes(frequency: Signal, decay: Signal, gain: NDArray[np.complex128], n: int) -> Signal:
    """Sum of Re(gain * exp(rate * t)) over the modes: coarse steps times fine ones, which needs few exponentials."""
    rate = (2j * np.pi * frequency - np.log(1000) / decay) / SAMPLE_RATE  # per sample
    coarse = gain * np.exp(np.outer(np.arange(0, n, 256), rate))
    fine = np.exp(np.outer(np.arange(256), rate))
    # einsum and not BLAS, whose order of summation may change with its number of threads.
    tone: Signal = np.einsum("am,bm->ab", coarse.real, fine.real) - np.einsum("am,bm->ab", coarse.imag, fine.imag)
    return tone.reshape(-1)[:n]


def _loudness(dynamic: float, rng: np.random.Generator) -> float:
    """0 at mezzo-forte, about 0.6 at fortissimo and -0.6 at pianissimo."""
    return float(1.2 * (dynamic - 0.5) + rng.normal(0, 0.2))


def _brightness(slope: float, hertz: Signal) -> Signal:
    """dB: `slope` per octave above 500 Hz."""
    return slope * np.maximum(np.log2(hertz / 500), 0)


def _wavetable(
    voice: Sustained, specimen: Specimen, frequency: float, loudness: float, moved: float, seed: int
) -> Signal:
    """One period (TABLE_SIZE + 1,) whose harmonics stay below Nyquist, also when vibrato is a semitone deep; the
    spectrum is read `moved` times as high. The same seed draws the same harmonics."""
    rng = np.random.default_rng(seed)
    spectrum = np.zeros(TABLE_SIZE // 2 + 1, complex)
    for rank in voice.ranks:
        k = np.arange(1, int(0.94 * NYQUIST / (frequency * rank)) + 1)
        hertz = k.astype(np.float64) * frequency * rank
        level = specimen.decibels(hertz * moved) + _brightness(voice.bright * loudness, hertz)
        level += rng.normal(0, voice.rough, k.size)
        if voice.cylinder:  # above the tone holes' cutoff the bore no longer counts (Benade & Kouzoupis 1988)
            weak = (28 if frequency < BREAK else 14) * rng.uniform(0.7, 1.1)
            level[1::2] -= np.interp(np.log2(hertz[1::2]), np.log2((700, 1800)), (weak, 0))
        if rank != 1:
            level += rng.normal(-3, 3)
        # Schroeder's phases: no peak in the waveform.
        spectrum[k * rank] += 10 ** (level / 20) * np.exp(1j * np.pi * k * k / max(k.size, 1))
    table = np.fft.irfft(spectrum) * TABLE_SIZE
    return np.append(table, table[0])


def _lookup(table: Signal, phase: Signal) -> Signal:
    """The wavetable at `phase` periods, linearly interpolated."""
    position = phase % 1 * TABLE_SIZE
    i = position.astype(np.intp)
    return table[i] + (position - i) * (table[i + 1] - table[i])


def _phase(voice: Sustained, frequency: float, n: int, rng: np.random.Generator) -> tuple[Signal, Signal]:
    """Phase (n,) in periods, and the vibrato in semitones, which starts late; a player also drifts by a few cents."""
    t = np.arange(n) / SAMPLE_RATE  # s
    depth = rng.uniform(*voice.vibrato) * (rng.uniform() < voice.vibrates) * np.minimum(t / rng.uniform(0.1, 0.5), 1)
    vibrato = depth * np.sin(2 * np.pi * (rng.uniform(4.5, 6.5) * t + rng.uniform()))
    semitones = vibrato if voice.steady else vibrato + 0.04 * _wander(n, 4, rng)
    return np.cumsum(frequency / SAMPLE_RATE * 2 ** (semitones / 12)), vibrato


def _envelope(voice: Sustained, n: int, rng: np.random.Generator) -> Signal:
    """Amplitude (n,) of a sustained note: attack, swelling or fading, release."""
    t = np.arange(n) / SAMPLE_RATE  # s
    attack = voice.attack[0] * (voice.attack[1] / voice.attack[0]) ** rng.uniform()
    release = 0.03 * (3 if voice.steady else 10) ** rng.uniform()
    swell, arch = (0.0, 0.0) if voice.steady else (rng.normal(-4, 10), rng.uniform(0, 8))  # dB over the note; more fade
    x = t / t[-1]
    envelope: Signal = 10 ** ((swell * (x - 0.5) - arch * (2 * x - 1) ** 2) / 20)
    envelope *= (1 - np.exp(-3 * t / attack)) * (1 - np.exp(-3 * (t[-1] - t) / release))
    return envelope


def _wander(n: int, rate: float, rng: np.random.Generator) -> Signal:
    """Slow noise (n,) of deviation about 1 that changes its direction `rate` times a second."""
    steps = rng.standard_normal(int(n / SAMPLE_RATE * rate) + 3)
    wandering: Signal = np.interp(np.arange(n) * (rate / SAMPLE_RATE), np.arange(steps.size), steps)
    return wandering


def _noise(octaves: Octaves, n: int, rng: np.random.Generator) -> Signal:
    """Noise (n,) of deviation 1 with these levels in octaves, a little different each time."""
    from scipy import fft

    size = fft.next_fast_len(n, real=True)
    density = np.array(octaves) - 3.01 * np.arange(len(octaves)) + rng.normal(0, 3, len(octaves))  # per Hz
    octave = _octaves(size)
    spectrum = _gaussian(octave.size, rng) * 10 ** (np.interp(octave, np.log2(NOISE_HERTZ), density) / 20)
    noise: Signal = fft.irfft(spectrum, size)[:n]
    noise /= noise.std()
    return noise


def _octaves(size: int) -> Signal:
    """The frequencies of a real signal's spectrum, log2 of Hz; those below 20 Hz as 20."""
    octave: Signal = np.log2(np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE), 20))
    return octave


def _gaussian(n: int, rng: np.random.Generator) -> NDArray[np.complex128]:
    """Complex numbers (n,), the spectrum of white noise."""
    return rng.standard_normal(n) + 1j * rng.standard_normal(n)
