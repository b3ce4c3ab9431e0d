"""Notes of 13 instruments, single ones and a few in a row, synthesised on demand: the embedded data set "notes".

How a tone is made of a spectrum stands in `tones.py`; here are the instruments. Their spectra began as the literature
has them (formants after Meyer, "Acoustics and the Performance of Music"; the clarinet's even harmonics after Benade and
Kouzoupis 1988). Then they were moved until the mean log-mel spectra of the notes, in the lower and in the upper half of
the range, were near those of sampled instruments: the General MIDI banks FluidR3, TimGM6mb and Csound's. A mean over a
range hides single partials. So the first twelve of the clarinet, the flute and the oboe were fitted once more: to notes
of FluidR3, TimGM6mb and MuseScore's bank, and to 40 real recordings of clarinets and flutes. Decays are those of the
first two banks, and levels of noise are 8 dB below theirs.

Those levels were chosen by how many notes a model then knew, of FluidR3, TimGM6mb and MuseScore's bank, and of 100 real
recordings of five of the instruments, those 40 among them. So was how far spectra move within a note, how notes swell
and fade, how short they are, and that some follow each other. `benchmarks/recordings.py` measures how well it knows
real notes of an orchestra: nothing was fitted to those, nor chosen on them.
"""

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.sources.tones import SAMPLE_RATE as SAMPLE_RATE  # re-exported
from pipeline.sources.tones import Octaves, Spectrum, Struck, Sustained, record, struck, sustained

# Identifies the content of all notes: change it, to any other text, when a note sounds different. The splits depend on
# it, and so does every published figure of these notes.
VERSION = "4: partials of woodwinds"
PER_CLASS = 300
LENGTHS = (0.18, 3.0)  # s, of a note, or of several in a row
FOLLOWED = 0.3  # share of the notes that others follow
FURTHER = 3  # notes that follow, at most
LEAP = 7  # semitones between them and the first one, at most
SHORTEST = 0.12  # s, of each of several notes
DYNAMICS = ("pp", "p", "mp", "mf", "f", "ff")
PITCH_NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")


@dataclass(frozen=True, slots=True)
class Instrument:
    low: int  # MIDI number of the lowest note
    high: int  # MIDI number of the highest note
    voice: Sustained | Struck


_BREATH: Octaves = (-10, -6, -2, 0, 0, -4, -14)
_REED: Octaves = (-16, -10, -5, 0, 0, -4, -16)
_BOW: Octaves = (-6, -3, 0, -2, 0, -3, -6)
_BRASS: Octaves = (-18, -10, 0, 0, -3, -14, -34)
_CLOSED: Octaves = (-20, -20, -14, -6, 0, -10, -28)

# dB at tones.HERTZ: of the lowest note, and of the highest.
# fmt: off
_BASSOON: tuple[Spectrum, Spectrum] = (
    (-5, -6, -15, -9, 0, -20, -22, -32, -43, -52, -57, -64, -69, -73),
    (-58, -51, -5, 0, -24, -9, -23, -36, -62, -77, -77, -88, -94, -102),
)
_CELLO: tuple[Spectrum, Spectrum] = (
    (-19, 0, -13, -18, -16, -21, -34, -41, -40, -47, -59, -69, -77, -83),
    (-7, -5, -8, 0, -15, -11, -19, -19, -25, -31, -38, -45, -47, -57),
)
_CLARINET: tuple[Spectrum, Spectrum] = (
    (0, 0, -1, -4, -5, -6, -6, -12, -26, -35, -45, -61, -73, -83),
    (0, -3, -6, -9, -13, -16, -17, -16, -12, -15, -27, -50, -68, -79),
)
_FLUTE: tuple[Spectrum, Spectrum] = (
    (-3, 0, -1, -39, -34, -25, -40, -37, -46, -57, -71, -86, -103, -111),
    (-10, -9, -8, 0, -4, -53, -39, -35, -52, -60, -66, -66, -76, -83),
)
_GUITAR: tuple[Spectrum, Spectrum] = (
    (0, -7, -19, -16, -28, -30, -35, -36, -38, -41, -49, -46, -31, -31),
    (-49, -43, 0, 0, -12, -26, -11, -21, -23, -30, -33, -43, -57, -72),
)
_HARP: tuple[Spectrum, Spectrum] = (
    (-38, 0, 0, -18, -41, -56, -62, -63, -75, -86, -99, -98, -92, -95),
    (-82, -88, -83, -29, -6, 0, -36, -41, -42, -45, -45, -57, -69, -84),
)
_HORN: tuple[Spectrum, Spectrum] = (
    (-10, -10, 0, -1, -4, -12, -19, -31, -45, -59, -73, -78, -74, -69),
    (-23, -18, -3, -3, -6, 0, -11, -17, -26, -34, -46, -63, -77, -86),
)
_MARIMBA: tuple[Spectrum, Spectrum] = (
    (-85, -43, -20, 0, -16, -3, -1, -6, -18, -29, -36, -45, -65, -95),
    (-41, -49, -53, -57, -36, -48, -21, -1, -4, -7, 0, -12, -43, -67),
)
_OBOE: tuple[Spectrum, Spectrum] = (
    (-6, -8, -16, -23, -20, -12, 0, -6, -29, -28, -46, -63, -73, -72),
    (-5, -4, -3, -1, 0, -25, -17, -7, -4, -12, -25, -42, -59, -68),
)
_ORGAN: tuple[Spectrum, Spectrum] = (
    (0, -22, -43, -50, -54, -55, -54, -63, -72, -80, -89, -98, -102, -102),
    (-14, -10, -4, 0, -7, -15, -17, -8, -11, -13, -15, -27, -53, -63),
)
_PIANO: tuple[Spectrum, Spectrum] = (
    (-37, 0, -17, -28, -33, -37, -42, -43, -47, -53, -62, -66, -61, -68),
    (-78, -85, -76, -14, -8, -10, 0, 0, -6, -20, -34, -56, -84, -105),
)
_TRUMPET: tuple[Spectrum, Spectrum] = (
    (-25, -22, -6, -10, -13, -7, 0, -3, -12, -26, -42, -55, -67, -69),
    (-50, -51, -52, -60, -49, -44, -28, -11, -6, 0, -8, -19, -43, -62),
)
_VIOLIN: tuple[Spectrum, Spectrum] = (
    (-24, -21, -7, -9, 0, -23, -20, -31, -34, -29, -37, -45, -55, -61),
    (-20, -20, -22, -17, -16, 0, -8, -14, -9, -15, -17, -27, -29, -36),
)


# Usual sounding ranges, without the rarely played extremes.
INSTRUMENTS: dict[str, Instrument] = {
    "bassoon": Instrument(
        34, 75,
        Sustained(*_BASSOON, _REED, (-70, -53), (0.012, 0.1), (0.05, 0.3), 0.4, opening=8),
    ),
    "cello": Instrument(
        36, 79,
        Sustained(*_CELLO, _BOW, (-63, -40), (0.03, 0.25), (0.08, 0.35), 0.6, body=4),
    ),
    "clarinet": Instrument(
        50, 91,
        Sustained(*_CLARINET, _CLOSED, (-66, -46), (0.012, 0.08), (0.02, 0.12), 0.12, cylinder=True),
    ),
    "flute": Instrument(
        60, 96,
        Sustained(*_FLUTE, _BREATH, (-52, -34), (0.02, 0.12), (0.05, 0.25), 0.6, tremolo=0.3, chiff=(-36, -14)),
    ),
    "guitar": Instrument(
        40, 79,
        Struck(*_GUITAR, (10, 7, 1.8, 0.8), (-30, 0.15), damped=0.4, plucked=True),
    ),
    "harp": Instrument(
        36, 90,
        Struck(*_HARP, (5, 3, 1.6, 1), (-38, 0.1), damped=0.15, plucked=True),
    ),
    "horn": Instrument(
        35, 77,
        Sustained(*_HORN, _BRASS, (-64, -46), (0.02, 0.12), (0.02, 0.12), 0.1, bright=4, opening=9, rough=1.5),
    ),
    "marimba": Instrument(
        45, 93,
        Struck(*_MARIMBA, (1.7, 1.2, 0.8, 0.6), (-30, 0.05), ratios=(1, 3.98, 10.2, 17.5)),
    ),
    "oboe": Instrument(
        58, 91,
        Sustained(*_OBOE, _REED, (-64, -48), (0.015, 0.12), (0.05, 0.3), 0.5),
    ),
    "organ": Instrument(
        36, 88,
        Sustained(*_ORGAN, _BREATH, (-60, -43), (0.02, 0.1), (0, 0), 0, rough=2, ranks=(1, 2, 3, 4, 8), steady=True),
    ),
    "piano": Instrument(
        33, 96,
        Struck(*_PIANO, (9, 5, 2, 1), (-30, 0.08), damped=0.5, strings=2, stiffness=1e-4),
    ),
    "trumpet": Instrument(
        52, 84,
        Sustained(*_TRUMPET, _BRASS, (-64, -44), (0.008, 0.05), (0.02, 0.2), 0.3, bright=4, opening=8, rough=1.5),
    ),
    "violin": Instrument(
        55, 95,
        Sustained(*_VIOLIN, _BOW, (-60, -36), (0.02, 0.22), (0.1, 0.5), 0.7, body=4),
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Note:
    """One note as in a score; `render` synthesises it."""

    instrument: str
    pitch: int  # MIDI number; 69 = A4 = 440 Hz
    dynamic: float  # 0 = pianissimo ... 1 = fortissimo
    seed: int  # fixes specimen, articulation, room and level; >= 0
    further: int = 0  # notes that follow it in the same recording, at pitches nearby

    @property
    def name(self) -> str:
        """For instance "violin-A4-ff-0031"."""
        pitch = f"{PITCH_NAMES[self.pitch % 12]}{self.pitch // 12 - 1}"
        return f"{self.instrument}-{pitch}-{DYNAMICS[round(self.dynamic * 5)]}-{self.seed:04d}"

    def render(self) -> NDArray[np.float32]:
        """The sound (T,), mono in [-1, 1] at SAMPLE_RATE, 0.2 to 4 s long: a pure function of the fields."""
        # crc32, because Python salts hash(str) anew in each process.
        rng = np.random.default_rng([self.seed, self.pitch, zlib.crc32(self.instrument.encode())])
        played = INSTRUMENTS[self.instrument]
        n = int(LENGTHS[0] * (LENGTHS[1] / LENGTHS[0]) ** rng.uniform() * SAMPLE_RATE)
        leaps = rng.integers(-LEAP, LEAP, self.further, endpoint=True)
        pitches = [self.pitch, *(self.pitch + leaps).clip(played.low, played.high).tolist()]
        if self.further:
            n = max(n // len(pitches), int(SHORTEST * SAMPLE_RATE))
        sounds = [self._played(pitch, n, rng) for pitch in pitches]
        return record(np.concatenate(sounds), self.dynamic, rng)

    def _played(self, pitch: int, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """One note (n,) of that pitch, without a room."""
        played = INSTRUMENTS[self.instrument]
        frequency = 440.0 * 2 ** ((pitch - 69 + rng.normal(0, 0.08)) / 12)  # Hz, a few cents out of tune
        place = (pitch - played.low) / (played.high - played.low)
        match played.voice:
            case Sustained():
                return sustained(played.voice, place, frequency, self.dynamic, n, rng)
            case Struck():
                return struck(played.voice, place, frequency, self.dynamic, n, rng)


def notes(seed: int = 0, per_class: int = PER_CLASS) -> list[Note]:
    """`per_class` notes of each instrument, their pitches and dynamics drawn uniformly over the whole range.

    Others follow some of them: how far the spectrum changes in a recording then says less of the instrument.
    """
    drawn = []
    for name, instrument in INSTRUMENTS.items():
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        for i in range(per_class):
            pitch, dynamic = int(rng.integers(instrument.low, instrument.high + 1)), round(rng.uniform(), 2)
            further = int(rng.integers(1, FURTHER + 1)) if rng.uniform() < FOLLOWED else 0
            drawn.append(Note(name, pitch, dynamic, seed * 1_000_000 + i, further))
    return drawn
