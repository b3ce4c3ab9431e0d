"""Files as phones and browsers make them, written by PyAV, and HEIC around a picture that its x265 has coded."""

import io
import struct
from fractions import Fraction

import av
import numpy as np

from tests.service.helpers import seven, tone


def recorded(samples, rate, format, codec, **options):
    """float (T, channels) at `rate` Hz in a container of FFmpeg's."""
    file = io.BytesIO()
    with av.open(file, "w", format=format, options=options) as container:
        stream = container.add_stream(codec, rate=rate, layout={1: "mono", 2: "stereo"}[samples.shape[1]])
        resampler = av.AudioResampler(stream.codec_context.format, stream.codec_context.layout, rate)
        frame = av.AudioFrame.from_ndarray(
            samples.T.astype(np.float32).copy(), "fltp", stream.codec_context.layout.name
        )
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        fifo = av.AudioFifo()
        for converted in (*resampler.resample(frame), *resampler.resample(None)):
            fifo.write(converted)
        while part := fifo.read(stream.codec_context.frame_size or 1024, partial=True):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return file.getvalue()


def heic(image, brand=b"heic", quarter_turns=0):
    """A HEIF file (ISO/IEC 23008-12) of one picture, shown after that many turns against the clock."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        options = {"x265-params": "log-level=none:pools=none:frame-threads=1", "preset": "ultrafast", "crf": "4"}
        stream = container.add_stream("libx265", rate=1, options=options)
        stream.width, stream.height = image.size
        stream.pix_fmt, stream.codec_tag = "yuv420p", "hvc1"
        frame = av.VideoFrame.from_image(image.convert("RGB"))
        frame.pts = 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            packet.pts = packet.dts = 0  # x265 leaves the time of a single frame to chance
            container.mux(packet)
    configuration, coded = _box_of(file.getvalue(), b"hvcC"), _box_of(file.getvalue(), b"mdat")[8:]
    properties = [configuration, _box(b"ispe", bytes(4), struct.pack(">II", *image.size))]
    if quarter_turns:
        properties.append(_box(b"irot", bytes([quarter_turns])))
    start = _box(b"ftyp", brand, bytes(4), b"mif1heic")
    offset = len(start) + len(_meta(properties, 0, len(coded))) + 8
    return start + _meta(properties, offset, len(coded)) + _box(b"mdat", coded)


def _meta(properties, offset, n_bytes):
    associations = bytes([len(properties), *(i + 1 for i in range(len(properties)))])
    return _box(
        b"meta", bytes(4),
        _box(b"hdlr", bytes(8), b"pict", bytes(13)),
        _box(b"pitm", bytes(4), b"\0\1"),
        _box(b"iloc", bytes(4), b"\x44\0", struct.pack(">HHHHII", 1, 1, 0, 1, offset, n_bytes)),
        _box(b"iinf", bytes(4), b"\0\1", _box(b"infe", b"\2\0\0\0", b"\0\1\0\0hvc1\0")),
        _box(b"iprp", _box(b"ipco", *properties), _box(b"ipma", bytes(4), b"\0\0\0\1\0\1", associations)),
    )  # fmt: skip


def _box(kind, *parts):
    return struct.pack(">I", 8 + sum(map(len, parts))) + kind + b"".join(parts)


def _box_of(data, kind):
    at = data.index(kind) - 4
    return data[at : at + struct.unpack_from(">I", data, at)[0]]


FORMS = {  # format, codec, rate in Hz, and options of the container
    "m4a": ("ipod", "aac", 44_100, {}),
    "m4a, lossless": ("ipod", "alac", 44_100, {}),
    "m4a in fragments": ("mp4", "aac", 48_000, {"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
    "webm": ("webm", "libopus", 48_000, {}),
    "mkv": ("matroska", "flac", 44_100, {}),
    "aac": ("adts", "aac", 44_100, {}),
    "amr": ("amr", "libopencore_amrnb", 8_000, {}),
    "3gp": ("3gp", "libopencore_amrnb", 8_000, {}),
    "mov": ("mov", "pcm_s16be", 44_100, {}),
    "caf": ("caf", "adpcm_ima_qt", 44_100, {}),
}
PHONE_SOUNDS = {
    name: recorded(tone(rate, seconds=0.1), rate, format, codec, **options)
    for name, (format, codec, rate, options) in FORMS.items()
}
PHONE_PHOTO = heic(seven())
