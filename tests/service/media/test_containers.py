"""Audio files whose headers guess, do not know or do not tell all of their length are heard whole."""

import random
import struct
from functools import cache

import numpy as np
import pytest

from service.errors import TooLarge, Unreadable, Unusable
from service.media import Limits, containers, flac
from service.media.audio import decode_audio
from service.media.containers import STEP, find, recordings
from tests.service.helpers import mutated, sound_bytes, tone
from tests.service.media.decoding import LIMITS, RATE, outcome, reason

MP3_FRAME = 1152  # samples; 576 below 32 kHz


def sound(seconds=1.0, frequency=440, rate=RATE, **more):
    """A tone that fades, with some noise: each part of it differs from the others."""
    samples = tone(rate, seconds=seconds, frequency=frequency, **more)
    noise = np.random.default_rng(0).normal(scale=0.01, size=samples.shape)
    return samples * np.linspace(1, 0.3, len(samples))[:, None] + noise


def file(format="WAV", subtype=None, **more):
    return sound_bytes(sound(**more), more.get("rate", RATE), format, subtype)


def hear(data, limits=LIMITS):
    return decode_audio(data, RATE, limits)


def put(data, position, replacement):
    return data[:position] + replacement + data[position + len(replacement) :]


@cache
def vbr(loud=0.5, quiet=4.0, rate=44_100, channels=1, first="loud"):
    """MP3 of a variable bit rate: noise needs more bits than a quiet tone."""
    rng = np.random.default_rng(0)
    noise = rng.uniform(-0.5, 0.5, (round(loud * rate), channels))
    parts = [noise, tone(rate, channels, quiet, peak=0.1)]
    return sound_bytes(np.vstack(parts if first == "loud" else parts[::-1]), rate, "MP3")


def frame_size(data):
    """Of the MP3 frame at the beginning of `data`, from its header."""
    low = data[1] & 8 == 0
    kilobits = (containers.mpeg.LOW_BIT_RATES if low else containers.mpeg.BIT_RATES)[(data[2] >> 4) - 1]
    rate = containers.mpeg.SAMPLE_RATES[data[2] >> 2 & 3] >> (low + (data[1] & 16 == 0))
    return (72 if low else 144) * kilobits * 1000 // rate + (data[2] >> 1 & 1)


def without_xing(data):
    tag = data[: frame_size(data)]
    assert b"Xing" in tag or b"Info" in tag
    return data[len(tag) :]


def id3(size):
    """An ID3v2 tag with random content, as a cover picture is."""
    content = random.Random(0).randbytes(size)
    return b"ID3\4\0\0" + bytes(size >> shift & 127 for shift in (21, 14, 7, 0)) + content


class TestMp3:
    @pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000])
    @pytest.mark.parametrize("channels", [1, 2])
    def test_variable_bit_rate_without_xing(self, rate, channels):
        whole = vbr(rate=rate, channels=channels, quiet=3)
        waveform, expected = hear(without_xing(whole)), hear(whole)
        assert len(waveform) == pytest.approx(len(expected), abs=4 * MP3_FRAME * RATE / rate)
        assert np.abs(waveform[-RATE:]).max() == pytest.approx(0.1, abs=0.03)

    @pytest.mark.parametrize("before", [b"", id3(70_000), bytes(3000), b"ID3\4\0\0\0\0\0\0" + id3(100) + bytes(2000)])
    def test_what_stands_before(self, before):
        whole = vbr()
        assert len(hear(before + without_xing(whole))) == pytest.approx(len(hear(whole)), abs=MP3_FRAME)

    def test_vbri(self):
        """Fraunhofer's encoder writes another tag, which mpg123 does not read."""
        whole = vbr()
        tag = put(bytes(frame_size(whole)), 0, whole[:4])
        data = put(tag, 36, b"VBRI\0\1") + without_xing(whole)
        assert len(hear(data)) == pytest.approx(len(hear(whole)), abs=MP3_FRAME)

    @pytest.mark.parametrize("frames", [0, 3, 10**6])
    def test_xing_that_tells_another_length(self, frames):
        whole = vbr()
        data = put(whole, whole.index(b"Xing") + 8, frames.to_bytes(4))
        assert len(hear(data)) == pytest.approx(len(hear(whole)), abs=MP3_FRAME)

    def test_limits_are_of_the_true_length(self):
        for order, seconds in (("loud", 4), ("quiet", 5)):
            data = without_xing(vbr(first=order))
            assert reason(hear, data, Limits(seconds=seconds)) is (TooLarge if seconds == 4 else None)
        short = vbr(quiet=1)
        assert reason(hear, put(short, short.index(b"Xing") + 8, (10**6).to_bytes(4)), Limits(seconds=2)) is None

    def test_in_wav(self):
        whole = vbr()
        fmt = struct.pack("<HHIIHHHHIHHH", 0x55, 1, 44_100, 8_000, 1, 0, 12, 1, 2, 1152, 1, 0)
        data = containers._riff(fmt, [without_xing(whole)], "little")
        assert len(hear(data)) == pytest.approx(len(hear(whole)), abs=MP3_FRAME)

    def test_it_begins_inside_a_frame(self):
        whole = vbr()
        for cut in (1, 100, 1000):
            assert len(hear(without_xing(whole)[cut:])) == pytest.approx(len(hear(whole)), abs=5 * MP3_FRAME)

    def test_joined(self):
        one, other = vbr(), vbr(rate=22_050)
        seconds = 4.5
        for data in (one + one, one + id3(5000) + one, one + b"TAG" + bytes(125) + other, one + bytes(4000) + other):
            assert len(hear(data)) / RATE == pytest.approx(2 * seconds, abs=0.2)
            assert reason(hear, data, Limits(seconds=8)) is TooLarge
        assert reason(hear, one * 3 + vbr(channels=2)) is None

    def test_a_right_length_is_left_alone(self):
        for data in (vbr(), id3(100) + vbr(), file("MP3"), vbr() + b"TAG" + bytes(125)):
            assert recordings(data, 600)[0] is data

    def test_what_is_no_mp3(self):
        rng = random.Random(0)
        for data in (rng.randbytes(200_000), b"\xff" * 200_000, b"\xff\xfb\xb0" * 50_000, b"\xff\xfb\x90\0" * 50_000):
            assert recordings(data, 600) == [data]


def length_fields():
    """A file, where it tells the length of its data, and that field's format, for each container."""
    for format, mark, offset, field in (
        ("WAV", b"data", 4, "<I"), ("AU", b".snd", 8, ">I"), ("CAF", b"data", 4, ">q"), ("RF64", b"ds64", 16, "<q"),
        ("W64", b"data\xf3", 16, "<q"), ("AIFF", b"SSND", 4, ">I"),
    ):  # fmt: skip
        data = file(format)
        yield pytest.param(data, data.index(mark) + offset, field, id=format)


class TestUnknownLength:
    @pytest.mark.parametrize(("data", "position", "field"), list(length_fields()))
    @pytest.mark.parametrize("value", [0, -1, "largest", "double"])
    def test_the_sound_goes_to_the_end(self, data, position, field, value):
        bits = 8 * struct.calcsize(field)
        number = {"largest": 2 ** (bits - 1) - 1, "double": 2 * len(data)}.get(value, value)
        unknown = put(data, position, (number % 2**bits).to_bytes(bits // 8, "little" if field[0] == "<" else "big"))
        assert np.array_equal(hear(unknown), hear(data))

    @pytest.mark.parametrize("size", [0, 8, 0xFFFFFFFF])
    def test_wav_of_a_recorder_that_lost_power(self, size):
        data = file("WAV")
        assert np.array_equal(hear(put(put(data, 40, bytes(4)), 4, struct.pack("<I", size))), hear(data))
        assert np.array_equal(hear(b"BW64" + put(file("RF64"), 0, b"RF64")[4:]), hear(data))

    @pytest.mark.parametrize("lengths", [bytes(24), b"\xff" * 24])
    def test_rf64_may_have_its_length_where_riff_has_it(self, lengths):
        """EBU Tech 3306: ds64 holds only what has no room there."""
        wav = file("WAV")
        ds64 = b"ds64" + struct.pack("<I", 28) + lengths + bytes(4)
        assert np.array_equal(hear(b"RF64" + wav[4:12] + ds64 + wav[12:]), hear(wav))

    @pytest.mark.parametrize("subtype", ["IMA_ADPCM", "MS_ADPCM", "GSM610"])
    def test_coded_blocks_in_rf64(self, subtype):
        wav = file("WAV", subtype)
        at, unknown = wav.index(b"data") + 4, bytes([255]) * 4
        lengths = struct.pack("<IQQQI", 28, len(wav) + 28, int.from_bytes(wav[at : at + 4], "little"), 0, 0)
        heard = hear(b"RF64" + unknown + b"WAVEds64" + lengths + put(wav, at, unknown)[12:])
        expected = hear(wav)
        assert np.array_equal(heard[: len(expected)], expected)  # what pads the last block may follow

    def test_bytes_after_an_empty_sound_are_not_heard(self):
        empty = sound_bytes(np.zeros((0, 1)), RATE)
        for data in (empty, empty + b"LIST\x0c\0\0\0INFOabcdefgh"):
            assert reason(hear, data) is Unusable

    def test_compressed_wav(self):
        for subtype in ("IMA_ADPCM", "ULAW", "GSM610"):
            data = file("WAV", subtype)
            unknown = put(data, data.index(b"data") + 4, bytes(4))
            assert len(hear(unknown)) == pytest.approx(len(hear(data)), abs=1100)

    def test_two_data_chunks(self):
        data = file("WAV")
        half = len(data) // 4 * 2
        split = data[:40] + struct.pack("<I", half - 44) + data[44:half]
        split += b"data" + struct.pack("<I", len(data) - half) + data[half:]
        assert np.array_equal(hear(split), hear(data))

    def test_an_odd_chunk_without_padding(self):
        data = file("WAV")
        assert np.array_equal(hear(data[:36] + b"LIST\x05\0\0\0INFOx" + data[36:]), hear(data))

    @pytest.mark.parametrize("format", ["WAV", "AIFF", "AU", "CAF", "W64", "RF64"])
    def test_cut(self, format):
        data = file(format)
        waveform = hear(data[: len(data) // 2])
        assert 0.4 * RATE < len(waveform) < 0.6 * RATE
        assert np.array_equal(waveform, hear(data)[: len(waveform)])

    @pytest.mark.parametrize("code", [b".mp3", b"alac", b"opus", b"ac-3"])
    def test_cut_caf_without_its_table_of_packets(self, code):
        """Frames of MP3 tell where they begin; packets of other codes do not."""
        mp3 = file("MP3")
        description = struct.pack(">4sqd4sIIIII", b"desc", 32, RATE, code, 0, 0, MP3_FRAME, 1, 0)
        data = b"caff\0\1\0\0" + description + struct.pack(">4sqI", b"data", 4 + len(mp3), 0) + mp3[: len(mp3) // 2]
        if code == b".mp3":
            waveform = hear(data)
            assert 0.4 * RATE < len(waveform) < 0.7 * RATE
            assert np.array_equal(waveform, hear(mp3[: len(mp3) // 2]))
            assert len(hear(data + file("CAF"))) == len(waveform) + RATE
        else:
            refused, message = outcome(hear, data)
            assert (refused, "the table that tells where its packets begin is missing" in message) == (Unreadable, True)


class TestFlac:
    def no_total(self, data):
        assert data.startswith(b"fLaC")
        return data[:21] + bytes([data[21] & 0xF0]) + bytes(4) + data[26:]

    @pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
    @pytest.mark.parametrize("channels", [1, 2])
    def test_piped(self, subtype, channels):
        data = file("FLAC", subtype, channels=channels, seconds=4.03)
        for before in (b"", id3(500)):
            assert np.array_equal(hear(before + self.no_total(data)), hear(data))

    @pytest.mark.parametrize("total", [0, 1])
    def test_cut(self, total):
        """All that is lost is the frame that was cut."""
        data = file("FLAC", seconds=4)
        whole = hear(data)
        for cut in (len(data) - 1, len(data) - 2, len(data) - 5000, len(data) // 2, len(data) // 4):
            waveform = hear((data if total else self.no_total(data))[:cut])
            assert len(waveform) > len(whole) * cut / len(data) * 0.9 - 2 * 4096
            assert np.array_equal(waveform, whole[: len(waveform)])
        assert reason(hear, data[:300]) is Unreadable

    def test_limits_are_of_the_true_length(self):
        data = self.no_total(file("FLAC", seconds=2))
        assert reason(hear, data, Limits(seconds=1)) is TooLarge
        assert reason(hear, put(data, 22, b"\xff" * 4), Limits(seconds=2)) is None

    def test_a_segment_of_a_longer_recording(self):
        """Its frames are not numbered from 0."""
        data = self.no_total(file("FLAC", seconds=2))
        first = data.index(b"\xff\xf8")
        third = next(at for at in range(first, len(data)) if flac._frame(data, at) == (2 * 4096, 4096))
        assert np.array_equal(hear(data[:first] + data[third:]), hear(data)[2 * 4096 :])

    def test_damage_within_is_refused(self):
        data = bytearray(file("FLAC", seconds=2))
        data[len(data) // 2] ^= 1
        assert reason(hear, bytes(data)) is Unreadable


class TestJoined:
    @pytest.mark.parametrize("format", ["WAV", "WAVEX", "AIFF", "AU", "CAF", "FLAC", "OGG", "RF64", "W64"])
    def test_both_are_heard(self, format):
        low, high = file(format), file(format, frequency=880, rate=44_100)
        assert np.array_equal(hear(low + high), np.concatenate([hear(low), hear(high)]))
        assert reason(hear, low + high, Limits(seconds=1)) is TooLarge

    def test_kinds_may_differ(self):
        files = [file(format) for format in ("WAV", "AIFF", "FLAC")]
        assert len(hear(b"".join(files))) == sum(len(hear(data)) for data in files)

    def test_chained_opus(self):
        data = file("OGG", "OPUS", rate=48_000)
        assert len(hear(data * 3)) == 3 * len(hear(data))

    def test_too_many(self):
        assert reason(hear, sound_bytes(tone(seconds=0.001)) * 1500) is Unusable


def test_usual_files_are_not_copied():
    for format in ("WAV", "WAVEX", "AIFF", "AU", "CAF", "FLAC", "OGG", "RF64", "W64", "MP3"):
        data = file(format)
        assert recordings(data, 600)[0] is data


def test_mutated_files():
    rng = random.Random(2)
    one = file("WAV", seconds=0.2)
    files = [put(one, 40, bytes(4)), one + one, file("RF64", seconds=0.2), file("W64", seconds=0.2)]
    files += [file("CAF", seconds=0.2), file("AU", seconds=0.2) * 2, file("FLAC", seconds=0.4)[:-9]]
    files += [file("OGG", seconds=0.2) * 2, without_xing(file("MP3", seconds=0.4)) * 2, file("AIFF", seconds=0.2) * 2]
    for _ in range(600):
        reason(hear, mutated(rng.choice(files), rng))


class TestJoinedFilesOfDifferentKinds:
    @pytest.mark.parametrize("first", ["FLAC", "OGG", "MP3"])
    @pytest.mark.parametrize("second", ["WAV", "AIFF", "FLAC", "OGG", "AU"])
    def test_both_are_heard(self, first, second):
        parts = file(first), file(second, frequency=880)
        joined = hear(b"".join(parts))
        assert len(joined) == sum(len(hear(part)) for part in parts)

    def test_header_of_a_wav_in_the_metadata_of_flac_is_none_of_a_file(self):
        data, wav = file("FLAC"), file("WAV")[:44]
        kept = b"\x02" + (4 + len(wav)).to_bytes(3) + b"riff" + wav  # as flac --keep-foreign-metadata writes it
        assert np.array_equal(hear(data[:42] + kept + data[42:]), hear(data))

    @pytest.mark.parametrize("format", ["MP3", "WAV", "FLAC"])
    def test_zeros_in_front(self, format):
        data = file(format)
        for n in (1 << 17, (1 << 19) + 3):
            assert np.array_equal(hear(bytes(n) + data), hear(data))
            with pytest.raises(Unreadable):
                hear(bytes(n))


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "AIFF", "AU", "CAF"])
def test_what_a_script_sends_in_front(format):
    data = file(format)
    for before in (b"\r\n", b"\xef\xbb\xbf"):
        assert np.array_equal(hear(before + data), hear(data))


def test_marks_are_found_across_the_steps_of_the_search():
    data = bytes(STEP - 2) + b"OggS" + bytes(STEP)
    assert find(data, b"OggS", 0) == find(data, b"OggS", STEP - 2) == STEP - 2
    assert find(data, b"OggS", STEP - 1) == -1
