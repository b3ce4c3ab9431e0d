"""Recordings: codings of libsndfile and of FFmpeg, in many lengths, rates and channels, with and without a timeline;
and files that consist of small pieces."""

import io
import struct
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from benchmarks.costly.kind import MANY, Kind, closing, repeated, unknown

PATH = "/instruments"
SECONDS = (1, 10, 60, 240, 599)
RATES = (22_050, 1000, 8000, 44_100, 48_000, 192_000)
TIMELINES = ("", "0.1", "1", "60")
LARGEST = 2**27  # numbers of a recording that is made here
CODINGS = (  # container and coding
    "WAV PCM_16", "WAV PCM_U8", "WAV ULAW", "WAV IMA_ADPCM", "WAV MS_ADPCM", "WAV GSM610", "WAV G721_32",
    "WAV NMS_ADPCM_16", "WAV DOUBLE", "W64 PCM_16", "RF64 PCM_16", "AIFF PCM_S8", "AU G723_24", "AU ULAW",
    "CAF ALAC_16", "CAF PCM_S8", "FLAC PCM_16", "OGG VORBIS", "OGG OPUS", "MP3 MPEG_LAYER_III",
)  # fmt: skip
PHONE = ("mp4 aac", "mp4 alac", "adts aac", "webm opus", "matroska pcm_u8", "mp4 opus")


def _path(timeline: str) -> str:
    return f"{PATH}?timeline={timeline}" if timeline else PATH


def waveform(seconds: float, rate: int, channels: int, content: str) -> NDArray[np.float32]:
    """float32 (T, channels). Raises ValueError if it is too long to be made here."""
    length = round(seconds * rate)
    if length * channels > LARGEST:
        raise ValueError("too long")
    samples = np.zeros((length, channels), np.float32)
    match content:
        case "noise":
            samples += np.random.default_rng(0).normal(0, 0.1, (length, 1)).astype(np.float32)
        case "wire swapped":
            samples += 0.3 * np.sin(np.arange(length, dtype=np.float32) / 10)[:, None]
            samples[:, ::2] *= -1
        case "clicks":
            samples[:: max(1, rate // 20)] = 0.5
        case _:
            samples += 0.3 * np.sin(np.arange(length, dtype=np.float32) / 10)[:, None]
    return samples


def recording(coding: str, seconds: int, rate: int, channels: int, content: str, timeline: str) -> bytes:
    """A recording that libsndfile writes. Raises RuntimeError or ValueError where it does not."""
    container, subtype = coding.split()
    file = io.BytesIO()
    soundfile.write(file, waveform(seconds, rate, channels, content), rate, subtype, format=container)
    return closing(_path(timeline), file.getvalue())


def by_phone(coding: str, seconds: int, rate: int, channels: int, content: str, timeline: str) -> bytes:
    """A recording that FFmpeg writes. Raises ImportError without PyAV, OSError or ValueError where FFmpeg does not."""
    import av

    container, codec = coding.split()
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate)
        stream.layout = {1: "mono", 2: "stereo", 8: "7.1"}[channels]
        stream.bit_rate = 8000
        samples = np.ascontiguousarray(waveform(seconds, rate, channels, content).T)
        for start in range(0, samples.shape[1], rate):
            piece = np.ascontiguousarray(samples[:, start : start + rate])
            frame = av.AudioFrame.from_ndarray(piece, "fltp", {1: "mono", 2: "stereo", 8: "7.1"}[channels])
            frame.rate = rate
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return closing(_path(timeline), file.getvalue())


def chunks(container: str, size: int, length: int, files: int) -> bytes:
    """Recordings with many small chunks, one after another."""
    file = io.BytesIO()
    soundfile.write(file, waveform(0.05, 22_050, 1, "tone"), 22_050, "PCM_16", format=container)
    data = file.getvalue()
    start, order = (12, "<") if container == "WAV" else (12, ">")
    chunk = b"junk" + struct.pack(f"{order}I", length) + b"a" * (length + length % 2)
    filled = data[:start] + repeated(chunk, size // files) + data[start:]
    whole = filled[:4] + struct.pack(f"{order}I", len(filled) - 8) + filled[8:]
    return closing(PATH, whole * files)


def joined(container: str, size: int, seconds: float) -> bytes:
    """Short recordings one after another."""
    file = io.BytesIO()
    subtype = soundfile.default_subtype(container)
    soundfile.write(file, waveform(seconds, 22_050, 1, "tone"), 22_050, subtype, format=container)
    return closing(PATH, repeated(file.getvalue(), max(size, len(file.getvalue()))))


def mp3_frames(size: int, rate: str) -> bytes:
    """Frames of MP3 that hold silence."""
    frames = {"8 kbit/s": b"\xff\xe3\x18\xc4" + bytes(68), "320 kbit/s": b"\xff\xfb\xe0\xc4" + bytes(956)}
    return closing(PATH, repeated(frames[rate], size))


def tags(size: int, length: int) -> bytes:
    """ID3 tags in front of nothing."""
    return closing(PATH, repeated(b"ID3\4\0\0" + bytes([0, 0, 0, length]) + bytes(length), size))


STARTS = {  # of files; what follows is no recording
    "": b"",
    "RIFF": b"RIFF\0\0\0\1WAVEfmt ",
    "fLaC": b"fLaC\0\0\0\x22",
    "OggS": b"OggS\0\2",
    "MP3": b"\xff\xfb\x90\x64",
    "ftyp": b"\0\0\0\x20ftypM4A ",
    "EBML": b"\x1aE\xdf\xa3",
    "caff": b"caff\0\1\0\0",
    "ADTS": b"\xff\xf1\x50\x80",
}


def _manner(coding: str) -> dict[str, tuple[Any, ...]]:
    return {
        "coding": (coding,),
        "seconds": (10, *SECONDS),
        "rate": (48_000, 8000) if "opus" in coding.lower() else RATES,
        "channels": (1, 2, 8),
        "content": ("tone", "noise", "wire swapped", "clicks"),
        "timeline": TIMELINES,
    }


SOUNDS = [
    *(Kind(f"sound {coding}", recording, _manner(coding)) for coding in CODINGS),
    *(Kind(f"sound of a phone, {coding}", by_phone, _manner(coding)) for coding in PHONE),
    Kind(
        "sound in small chunks",
        chunks,
        {"size": MANY, "container": ("WAV", "AIFF"), "length": (0, 2, 100), "files": (1, 10, 100, 1000)},
    ),
    Kind("sound joined", joined, {"size": MANY, "container": ("WAV", "FLAC", "OGG", "MP3"), "seconds": (0.01, 0.1, 1)}),
    Kind("sound MP3 frames", mp3_frames, {"size": MANY, "rate": ("8 kbit/s", "320 kbit/s")}),
    Kind("sound ID3 tags", tags, {"size": MANY, "length": (0, 1, 100)}),
    unknown("sound unknown", PATH, STARTS),
]
