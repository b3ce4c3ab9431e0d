"""Single notes of 13 musical instruments, synthesised on demand: the embedded data set "notes".

Four models make every sound, each from the physics or the spectra of its instruments:

- `Sustained`  a harmonic wavetable with vibrato, bow noise or breath (bowed strings, woodwinds, organ pipes)
- `Fm`         frequency modulation whose index follows the envelope (brass; Chowning 1973)
- `Plucked`    the Karplus-Strong string as extended by Jaffe and Smith 1983 (guitar, harp)
- `Struck`     a sum of decaying modes (piano string, marimba bar; Fletcher and Rossing 1998)

Most instruments are played with two techniques, and in related instruments these cross: an open trumpet is bright
and clean, a muted one dark and airy; an open horn is dark and clean, a stopped one bright and airy. So no single cue
identifies the instrument, and a linear classifier must confuse instruments that a hidden layer can separate. Each note
also has its own specimen of the instrument, player, small room and distance.

scipy.signal takes half a second to import, so only the functions that need it import it: reading VERSION must stay
cheap.
"""

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Identifies the content of all notes: change it, to any other text, when a note sounds different. The splits depend on
# it, and so does every published figure of these notes; this is the value that those were measured with.
VERSION = "09f2f86251bb70b7fa8844c633874e08282e732705247873bdd5b33ae9b562d0"
SAMPLE_RATE = 22_050  # Hz
NYQUIST = SAMPLE_RATE / 2  # Hz
TABLE_SIZE = 8192  # samples in one period of a wavetable
DYNAMICS = ("pp", "p", "mp", "mf", "f", "ff")
PITCH_NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")

Signal = NDArray[np.float64]  # (T,) samples
Range = tuple[float, float]  # bounds of a uniform draw, or the values at pp and at ff
Body = tuple[tuple[float, float, float], ...]  # resonances: centre in Hz, Q, gain in dB


@dataclass(frozen=True, slots=True)
class Sustained:
    corner: Range  # Hz from which the source's spectrum falls steeply, at pp and at ff
    slope: float  # below the corner, harmonic k has the amplitude k ** -slope
    noise: float  # dB, bow noise or breath against the tone
    vibrato: Range  # semitones of deviation
    body: Body
    even: float = 1.0  # gain of the even harmonics below 1.5 kHz; a closed cylinder has hardly any
    tremolo: float = 0.1  # largest depth of amplitude modulation


@dataclass(frozen=True, slots=True)
class Fm:
    corner: Range  # Hz up to which sidebands reach, at pp and at ff
    noise: float  # dB, breath against the tone
    vibrato: Range  # semitones of deviation
    body: Body


@dataclass(frozen=True, slots=True)
class Plucked:
    decay: float  # s to fall by 60 dB at 110 Hz
    corner: Range  # Hz, low-pass of the pluck at pp and at ff
    knock: Range  # noise of finger and soundboard: dB against the tone, s to fall by 60 dB
    body: Body


@dataclass(frozen=True, slots=True)
class Struck:
    decay: float  # s to fall by 60 dB at 110 Hz
    corner: Range  # Hz, low-pass of the hammer's or mallet's blow at pp and at ff
    knock: Range  # noise of the blow and soundboard: dB against the tone, s to fall by 60 dB
    body: Body
    ratios: tuple[float, ...] = ()  # modes / fundamental; () = partials of a stiff string


@dataclass(frozen=True, slots=True)
class Instrument:
    low: int  # MIDI number of the lowest note
    high: int  # MIDI number of the highest note
    techniques: tuple[Sustained | Fm | Plucked | Struck, ...]  # equally likely


# Formants after Meyer, Acoustics and the Performance of Music; body modes after Fletcher and Rossing.
_BASSOON: Body = ((500, 3, 14), (1150, 4, 12), (3000, 0.7, -12))
_CELLO: Body = ((100, 8, 6), (180, 10, 8), (250, 4, 6), (600, 2, -6), (1500, 1.2, 4))
_CLARINET: Body = ((1500, 2, 6), (3700, 2, 10))
_FLUTE: Body = ((800, 1, 6), (3000, 0.5, -6))
_GUITAR: Body = ((105, 8, 8), (205, 10, 8), (400, 4, 6))
_HARP: Body = ((150, 2, 6), (800, 1, 9))
_HORN: Body = ((350, 1.5, 10), (1300, 1.5, -2), (3700, 2, -10))
_MARIMBA: Body = ((400, 0.6, 16), (4000, 0.5, -18))
_OBOE: Body = ((500, 1, -6), (1050, 3, 12), (2800, 3, 9))
_ORGAN: Body = ((500, 1, 4), (1500, 2, 3), (3700, 2, 7))
_PIANO: Body = ((1000, 0.5, 14), (8000, 0.5, -12))
_TRUMPET: Body = ((350, 1.5, -2), (1300, 1.5, 10), (3700, 2, -10))
_VIOLIN: Body = ((280, 10, 6), (460, 10, 8), (550, 10, 7), (1300, 2, -6), (2500, 1.5, 4))
_BRIGHT: Body = ((5000, 0.3, 14),)  # nail, bridge, hard reed, stopping hand
_DARK: Body = ((5000, 0.3, -20),)  # mute, flesh of the finger, hand in the bell

# Usual sounding ranges, without the rarely played extremes.
INSTRUMENTS: dict[str, Instrument] = {
    "bassoon": Instrument(34, 72, (
        Sustained((800, 2100), 0.6, -32, (0, 0.15), _BASSOON),
    )),
    "cello": Instrument(36, 76, (
        Sustained((1400, 3300), 1.0, -22, (0.25, 0.4), _CELLO),
        Sustained((2400, 5100), 0.8, -22, (0, 0.02), _CELLO + _BRIGHT),  # sul ponticello
    )),
    "clarinet": Instrument(50, 86, (
        Sustained((1000, 2100), 0.7, -42, (0, 0.02), _CLARINET + _DARK, even=0.04),  # orchestral
        Sustained((1700, 3500), 0.7, -16, (0.2, 0.35), _CLARINET + _BRIGHT, even=0.04),  # jazz
    )),
    "flute": Instrument(60, 93, (
        Sustained((700, 2100), 1.2, -18, (0.05, 0.25), _FLUTE, tremolo=0.3),
    )),
    "guitar": Instrument(40, 76, (
        Plucked(10.0, (5500, 8200), (-34, 2.0), _GUITAR + _BRIGHT),  # with the nail, left to ring
        Plucked(0.4, (600, 1100), (-12, 0.3), _GUITAR + _DARK),  # with the thumb, palm-muted
    )),
    "harp": Instrument(36, 84, (
        Plucked(10.0, (600, 1100), (-34, 2.0), _HARP + _DARK),  # with the finger, left to ring
        Plucked(0.4, (5500, 8200), (-12, 0.3), _HARP + _BRIGHT),  # with the nail, near the soundboard, damped
    )),
    "horn": Instrument(35, 74, (
        Fm((600, 1300), -42, (0, 0.03), _HORN + _DARK),
        Fm((3300, 5400), -16, (0.25, 0.4), _HORN + _BRIGHT),  # stopped by the hand
    )),
    "marimba": Instrument(45, 91, (
        Struck(1.5, (500, 4000), (-12, 0.2), _MARIMBA, (1, 3.98, 10.2, 17.5)),
    )),
    "oboe": Instrument(58, 89, (
        Sustained((2100, 3900), 0.5, -34, (0, 0.3), _OBOE),
    )),
    "organ": Instrument(36, 84, (
        Sustained((1000, 2100), 0.7, -16, (0.2, 0.35), _ORGAN + _DARK, tremolo=0),  # flute stop, tremulant
        Sustained((1700, 3500), 0.7, -42, (0, 0), _ORGAN + _BRIGHT, tremolo=0),  # principal
    )),
    "piano": Instrument(33, 96, (
        Struck(9.0, (900, 3700), (-20, 2.0), _PIANO),
    )),
    "trumpet": Instrument(52, 82, (
        Fm((3300, 5400), -42, (0, 0.03), _TRUMPET + _BRIGHT),
        Fm((600, 1300), -16, (0.25, 0.4), _TRUMPET + _DARK),  # bucket mute
    )),
    "violin": Instrument(55, 93, (
        Sustained((2400, 5100), 0.8, -22, (0.25, 0.4), _VIOLIN + _BRIGHT),
        Sustained((1400, 3300), 1.0, -22, (0, 0.02), _VIOLIN + _DARK),  # con sordino
    )),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Note:
    """One note as in a score; `render` synthesises it."""

    instrument: str
    pitch: int  # MIDI number; 69 = A4 = 440 Hz
    dynamic: float  # 0 = pianissimo ... 1 = fortissimo
    seed: int  # fixes technique, articulation, room and level; >= 0

    @property
    def name(self) -> str:
        """For instance "violin-A4-ff-0031"."""
        pitch = f"{PITCH_NAMES[self.pitch % 12]}{self.pitch // 12 - 1}"
        return f"{self.instrument}-{pitch}-{DYNAMICS[round(self.dynamic * 5)]}-{self.seed:04d}"

    def render(self) -> NDArray[np.float32]:
        """The sound (T,), mono in [-1, 1] at SAMPLE_RATE, 0.6 to 2.5 s long: a pure function of the fields."""
        # crc32, because Python salts hash(str) anew in each process.
        rng = np.random.default_rng([self.seed, self.pitch, zlib.crc32(self.instrument.encode())])
        techniques = INSTRUMENTS[self.instrument].techniques
        technique = techniques[rng.integers(len(techniques))]
        n = int(rng.uniform(0.6, 2.4) * SAMPLE_RATE)
        frequency = 440.0 * 2 ** ((self.pitch - 69 + rng.normal(0, 0.08)) / 12)  # Hz, a few cents out of tune
        match technique:
            case Sustained():
                sound = _sustained(technique, frequency, self.dynamic, n, rng)
            case Fm():
                sound = _fm(technique, frequency, self.dynamic, n, rng)
            case Plucked():
                sound = _plucked(technique, frequency, self.dynamic, n, rng)
            case Struck():
                sound = _struck(technique, frequency, self.dynamic, n, rng)
        return _record(_room(_body(sound, technique.body, rng), rng), self.dynamic, rng)


def notes(seed: int = 0, per_class: int = 100) -> list[Note]:
    """`per_class` notes of each instrument, their pitches and dynamics drawn uniformly over the whole range."""
    drawn = []
    for name, instrument in INSTRUMENTS.items():
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        for i in range(per_class):
            pitch, dynamic = int(rng.integers(instrument.low, instrument.high + 1)), round(rng.uniform(), 2)
            drawn.append(Note(name, pitch, dynamic, seed * 1_000_000 + i))
    return drawn


def _sustained(v: Sustained, frequency: float, dynamic: float, n: int, rng: np.random.Generator) -> Signal:
    """A bowed or blown tone that opens from a dark wavetable to a bright one, and its noise."""
    envelope, phase = _envelope(n, rng), _phase(frequency, v.vibrato, n, rng)
    corner = _between(v.corner, dynamic) * rng.uniform(0.8, 1.25)
    dark, bright = (_wavetable(frequency, c, v.slope, v.even) for c in (0.4 * corner, corner))
    tone = _lookup(dark, phase)
    tone += envelope * (_lookup(bright, phase) - tone)
    rate, start = rng.uniform(4, 7), rng.uniform()  # Hz, periods
    tremolo = 1 + v.tremolo * rng.uniform() * np.sin(2 * np.pi * (rate * np.arange(n) / SAMPLE_RATE + start))
    return envelope * tremolo * (tone / np.std(bright) + _noise(v.noise, n, rng))


def _fm(v: Fm, frequency: float, dynamic: float, n: int, rng: np.random.Generator) -> Signal:
    """Chowning's brass: carrier and modulator in unison, and the index follows the envelope."""
    envelope, phase = _envelope(n, rng), 2 * np.pi * _phase(frequency, v.vibrato, n, rng)
    # Carson's rule: sidebands reach (index + 2) * frequency; two more lie above -40 dB, still far below Nyquist.
    index = max(_between(v.corner, dynamic) * rng.uniform(0.8, 1.25) / frequency - 2, 0.3)
    return envelope * (np.sin(phase + index * envelope * np.sin(phase)) + _noise(v.noise, n, rng))


def _plucked(v: Plucked, frequency: float, dynamic: float, n: int, rng: np.random.Generator) -> Signal:
    """A burst of noise in a loop of a delay, a two-tap average, and an all-pass for the fraction of a sample."""
    from scipy.signal import lfilter

    period, damping = SAMPLE_RATE / frequency, rng.uniform(0.07, 0.13)  # samples
    delay = int(period - damping - 0.1)
    fraction = period - damping - delay  # in [0.1, 1.1), where the all-pass is stable and nearly flat
    allpass = (1 - fraction) / (1 + fraction)
    decay = v.decay * (110 / frequency) ** 0.5 * rng.uniform(0.7, 1.4)  # s
    loss = 10 ** (-3 / (decay * frequency))  # gain of one round

    burst = np.zeros(n)
    burst[:delay] = rng.standard_normal(delay)
    pluck = round(rng.uniform(0.08, 0.5) * period)
    burst[pluck:] -= burst[:-pluck].copy()  # harmonics with a node where the string is plucked stay silent
    loop = np.zeros(delay + 3)
    loop[:2] = 1, allpass
    loop[delay:] -= loss * np.convolve([1 - damping, damping], [allpass, 1])
    string = lfilter([1, allpass], loop, _lowpass(burst, _between(v.corner, dynamic)))
    note: Signal = string / np.abs(string).max() + _knock(v.knock, n, rng)
    return note


def _struck(v: Struck, frequency: float, dynamic: float, n: int, rng: np.random.Generator) -> Signal:
    """The decaying modes of one bar, or of two stiff strings slightly out of tune; and the knock of the blow."""
    if v.ratios:
        ratios = np.array(v.ratios)
        ratios[1:] *= 1 + 0.02 * rng.standard_normal(ratios.size - 1)  # only the fundamental is tuned well
        gain = np.ones(ratios.size)
    else:
        k = np.arange(1, 81)
        stiffness = 1e-4 * (frequency / 110) ** 1.5 * rng.uniform(0.7, 1.4)  # inharmonicity coefficient B
        ratios = k * np.sqrt(1 + stiffness * k**2)
        gain = np.sin(np.pi * k * rng.uniform(0.1, 0.14)) / np.sqrt(k)  # struck at about 1/8 of the length
        ratios = np.append(ratios, ratios * 2 ** (rng.uniform(0.3, 2.5) / 1200))
        gain = np.append(gain, gain * rng.uniform(0.3, 1))
    audible = ratios * frequency < 0.95 * NYQUIST
    ratios, gain = ratios[audible], gain[audible]
    gain = gain / (1 + (ratios * frequency / _between(v.corner, dynamic)) ** 2)
    decay = v.decay * (110 / frequency) ** 0.6 * rng.uniform(0.7, 1.4) / (1 + 0.15 * (ratios - 1))  # s
    tone = _modes(ratios * frequency, decay, gain * np.exp(2j * np.pi * rng.uniform(size=gain.size)), n)
    note: Signal = tone / np.abs(tone).max() + _knock(v.knock, n, rng)
    return note


def _modes(frequency: Signal, decay: Signal, gain: NDArray[np.complex128], n: int) -> Signal:
    """Sum of Re(gain * exp(rate * t)) over the modes: coarse steps times fine ones, which needs few exponentials."""
    rate = (2j * np.pi * frequency - np.log(1000) / decay) / SAMPLE_RATE  # per sample
    coarse = gain * np.exp(np.outer(np.arange(0, n, 256), rate))
    fine = np.exp(np.outer(np.arange(256), rate))
    # einsum and not BLAS, whose order of summation may change with its number of threads.
    tone: Signal = np.einsum("am,bm->ab", coarse.real, fine.real) - np.einsum("am,bm->ab", coarse.imag, fine.imag)
    return tone.reshape(-1)[:n]


def _between(bounds: Range, x: float) -> float:
    """From bounds[0] at x = 0 to bounds[1] at x = 1, geometrically, as frequencies are heard."""
    return float(bounds[0] ** (1 - x) * bounds[1] ** x)


def _envelope(n: int, rng: np.random.Generator) -> Signal:
    """Amplitude (n,) in [0, 1] of a sustained note: attack, slow fading, release."""
    t = np.arange(n) / SAMPLE_RATE  # s
    attack, release, fading = 0.03 * 4 ** rng.uniform(), rng.uniform(0.04, 0.15), rng.uniform(0, 1.5)
    envelope: Signal = 1 - np.exp(-3 * t / attack)
    envelope *= 2 ** (-fading * t / t[-1]) * (1 - np.exp(-3 * (t[-1] - t) / release))
    return envelope


def _phase(frequency: float, vibrato: Range, n: int, rng: np.random.Generator) -> Signal:
    """Phase (n,) in periods, with a vibrato that starts late and a drift of a few cents."""
    t = np.arange(n) / SAMPLE_RATE  # s
    depth = rng.uniform(*vibrato) * np.minimum(t / rng.uniform(0.1, 0.5), 1)
    semitones = depth * np.sin(2 * np.pi * (rng.uniform(4.5, 6.5) * t + rng.uniform()))
    semitones += 0.03 * np.sin(2 * np.pi * (rng.uniform(0.5, 2) * t + rng.uniform()))
    return np.cumsum(frequency / SAMPLE_RATE * 2 ** (semitones / 12))


def _wavetable(frequency: float, corner: float, slope: float, even: float) -> Signal:
    """One period (TABLE_SIZE + 1,) whose harmonics stay below Nyquist, also when vibrato is a semitone deep."""
    k = np.arange(1, int(0.94 * NYQUIST / frequency) + 1)
    gain = k**-slope / (1 + (k * frequency / corner) ** 4)
    # Above its tone holes' cutoff a clarinet's bore no longer counts, and even harmonics are as strong as odd ones.
    gain[1::2] *= even + (1 - even) / (1 + (1500 / (k[1::2] * frequency)) ** 4)
    spectrum = np.zeros(TABLE_SIZE // 2 + 1, complex)
    spectrum[k] = gain * np.exp(1j * np.pi * k * k / k.size)  # Schroeder's phases: no peak in the waveform
    table = np.fft.irfft(spectrum) * TABLE_SIZE
    return np.append(table, table[0])


def _lookup(table: Signal, phase: Signal) -> Signal:
    """The wavetable at `phase` periods, linearly interpolated."""
    position = phase % 1 * TABLE_SIZE
    i = position.astype(np.intp)
    return table[i] + (position - i) * (table[i + 1] - table[i])


def _noise(level: float, n: int, rng: np.random.Generator) -> Signal:
    """White noise (n,) of about `level` dB."""
    return 10 ** ((level + rng.normal(0, 1.5)) / 20) * rng.standard_normal(n)


def _knock(knock: Range, n: int, rng: np.random.Generator) -> Signal:
    """White noise (n,) that dies away."""
    level, decay = knock
    return _noise(level, n, rng) * 10 ** (-3 * np.arange(n) / SAMPLE_RATE / decay)


def _lowpass(x: Signal, corner: float) -> Signal:
    """Two one-pole low-passes, -6 dB at `corner` Hz."""
    from scipy.signal import lfilter

    pole = np.exp(-2 * np.pi * corner / SAMPLE_RATE)
    y: Signal = lfilter([(1 - pole) ** 2], [1, -2 * pole, pole**2], x)
    return y


def _body(x: Signal, body: Body, rng: np.random.Generator) -> Signal:
    """Peaking filters (Bristow-Johnson's cookbook) for body or formants, a little different in each specimen."""
    from scipy.signal import sosfilt

    size = 2 ** rng.normal(0, 0.02)
    sections = []
    for centre, q, gain in body:
        a = 10 ** ((gain + rng.normal(0, 0.5)) / 40)
        w = 2 * np.pi * centre * size * 2 ** rng.normal(0, 0.02) / SAMPLE_RATE
        alpha, middle = np.sin(w) / (2 * q), -2 * np.cos(w)
        b0, b2, a0, a2 = 1 + alpha * a, 1 - alpha * a, 1 + alpha / a, 1 - alpha / a
        sections.append([b0 / a0, middle / a0, b2 / a0, 1, middle / a0, a2 / a0])
    y: Signal = sosfilt(sections, x)
    return y


def _room(x: Signal, rng: np.random.Generator) -> Signal:
    """Direct sound, six early reflections, and a tail of exponentially decaying noise."""
    from scipy.signal import fftconvolve

    rt60 = rng.uniform(0.15, 0.7)  # s to fall by 60 dB
    t = np.arange(int(rt60 * SAMPLE_RATE)) / SAMPLE_RATE
    tail = _lowpass(rng.standard_normal(t.size), rng.uniform(2000, 6000)) * 10 ** (-3 * t / rt60)
    response = 10 ** (rng.uniform(-60, -45) / 20) * tail
    response[:220] = 0  # the tail begins after 10 ms
    response[rng.integers(50, 900, 6)] += rng.uniform(-0.1, 0.1, 6)  # after 2 to 40 ms
    response[0] = 1
    y: Signal = fftconvolve(x, response)[: x.size]
    return y


def _record(x: Signal, dynamic: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """A moment of silence, the level of dynamic and distance, the microphone's noise, and a fade-out of 10 ms."""
    x = np.append(np.zeros(int(rng.uniform(0.005, 0.08) * SAMPLE_RATE)), x)
    peak = 10 ** ((-16 * (1 - dynamic) - rng.uniform(1, 7)) / 20)  # -23 to -1 dB of full scale
    floor = 10 ** (rng.uniform(-80, -75) / 20)
    x = peak / np.abs(x).max() * x + floor * _lowpass(rng.standard_normal(x.size), 5000)
    x[-220:] *= np.linspace(1, 0, 220)
    return x.astype(np.float32)
