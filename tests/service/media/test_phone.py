"""What phones and browsers record, with the extra `phone` and without it."""

import io
import random
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from service.errors import TooLarge, Unreadable, Unusable, WrongMedia
from service.media import Limits, audio
from service.media.audio import decode_audio
from service.media.image import decode_image
from tests.service.helpers import mutated, seven, tone
from tests.service.media.decoding import LIMITS, RATE, decode, difference, outcome, reason
from tests.service.phone import FORMS, PHONE_PHOTO, PHONE_SOUNDS, heic, recorded

M4A = PHONE_SOUNDS["m4a"]


def sweep(rate):
    """float (T, 1), a second that no shift leaves as it is."""
    frequency = np.linspace(300, 3000, rate)
    return (0.4 * np.sin(2 * np.pi * np.cumsum(frequency) / rate) * np.hanning(rate))[:, np.newaxis]


def patched(data, box, offset, value):
    """`data` with four bytes of its last box of that kind changed, `offset` bytes behind the kind."""
    at = data.rindex(box) + 4 + offset
    return data[:at] + struct.pack(">I", value) + data[at + 4 :]


class TestSound:
    @pytest.mark.parametrize("form", FORMS)
    def test_what_was_recorded_is_heard_when_it_was(self, form):
        """Encoders begin with up to 46 ms of their own, which the container tells where it can."""
        format, codec, rate, options = FORMS[form]
        expected = sweep(rate)[:, 0]
        heard = decode_audio(recorded(sweep(rate), rate, format, codec, **options), rate, LIMITS)
        correlation = np.fft.irfft(np.fft.rfft(heard, 4 * rate) * np.fft.rfft(expected, 4 * rate).conj())
        told = {"m4a", "m4a, lossless", "webm", "mkv", "mov", "caf"}
        assert correlation.argmax() <= (0 if form in told else 1024) or (
            form == "3gp" and correlation.argmax() > 3.9 * rate
        )
        assert correlation.max() > (0.9 if "amr" in codec else 0.999) * np.linalg.norm(heard) * np.linalg.norm(expected)
        assert rate <= len(heard) < 1.05 * rate

    @pytest.mark.parametrize("form", ["m4a", "webm", "mkv"])
    def test_joined_files(self, form):
        format, codec, rate, options = FORMS[form]
        data = recorded(sweep(rate), rate, format, codec, **options)
        once, twice = (decode_audio(data * n, RATE, LIMITS) for n in (1, 2))
        assert np.array_equal(twice, np.concatenate([once, once]))

    @pytest.mark.parametrize("before", [b"\r\n", b"\xef\xbb\xbf", bytes(5)])
    def test_what_a_script_sends_in_front(self, before):
        assert np.array_equal(decode_audio(before + M4A, RATE, LIMITS), decode_audio(M4A, RATE, LIMITS))

    @pytest.mark.parametrize("codec", ["pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le"])
    @pytest.mark.parametrize("channels", [1, 2])
    def test_any_depth(self, codec, channels):
        samples = np.repeat(sweep(RATE), channels, axis=1)
        heard = decode_audio(recorded(samples, RATE, "mov", codec), RATE, LIMITS)
        assert np.allclose(heard, samples[:, 0], atol=0.02 if codec == "pcm_u8" else 1e-4)

    def test_one_wire_swapped(self):
        samples = np.hstack([sweep(48_000), -sweep(48_000)])
        heard = decode_audio(recorded(samples, 48_000, "matroska", "flac"), 48_000, LIMITS)
        assert np.allclose(heard, samples[:, 0], atol=1e-4)

    def test_cut_within_a_packet(self):
        data = recorded(sweep(44_100), 44_100, "caf", "adpcm_ima_qt")
        whole, cut = (decode_audio(part, RATE, LIMITS) for part in (data, data[: 6 * len(data) // 10]))
        assert 0.5 * RATE < len(cut) < 0.65 * RATE
        assert np.allclose(cut[:-100], whole[: len(cut) - 100], atol=1e-4)

    def test_sound_of_a_video(self):
        assert reason(decode_audio, with_picture(tone(44_100)), RATE, LIMITS) is None
        assert reason(decode_audio, with_picture(None), RATE, LIMITS) is Unusable

    def test_code_that_is_not_read(self):
        refused, message = outcome(decode_audio, recorded(tone(48_000), 48_000, "mov", "ac3"), RATE, LIMITS)
        assert refused is WrongMedia
        assert "ac3, which is not read; convert it: ffmpeg" in message

    def test_beginning_of_a_file_that_was_cut(self):
        data = recorded(sweep(48_000), 48_000, "webm", "libopus")
        assert 10_000 < len(decode_audio(data[: len(data) // 2], 48_000, LIMITS)) < 40_000

    def test_limits(self, monkeypatch):
        """They hold for what is decoded: the header of the second file tells a hundredth of its length."""
        data = recorded(tone(44_100, seconds=2), 44_100, "ipod", "aac")
        lying = patched(patched(data, b"mvhd", 16, 20), b"mdhd", 16, 882)
        for file in (data, lying):
            assert reason(decode_audio, file, RATE, Limits(seconds=1)) is TooLarge
            assert reason(decode_audio, file, RATE, Limits(seconds=3)) is None
            assert reason(decode_audio, file, RATE, Limits(bytes=1000)) is TooLarge
        monkeypatch.setattr(audio, "MAX_SAMPLES", 80_000)
        assert reason(decode_audio, data, RATE, LIMITS) is TooLarge

    def test_few_bytes_that_promise_many_frames(self):
        """FFmpeg would write an index of 24 bytes for each of them: 600 MB, and 2.4 GB."""
        table = patched(patched(patched(M4A, b"stsz", 4, 1), b"stsz", 8, 1 << 24), b"stsc", 12, 1 << 24)
        fragment = patched(patched(PHONE_SOUNDS["m4a in fragments"], b"trun", 0, 1), b"trun", 4, 1 << 26)
        program = (
            "import sys; from service.media.audio import decode_audio; from service.media import Limits\n"
            "for file in sys.argv[1:]:\n"
            "    try: decode_audio(bytes.fromhex(file), 22050, Limits())\n"
            "    except ValueError: print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
        )
        command = [sys.executable, "-c", program, table.hex(), fragment.hex()]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert len(peaks := [int(peak) for peak in done.stdout.split()]) == 2
        assert max(peaks) < 200_000  # kB

    def test_huge_frame(self):
        data = patched(PHONE_SOUNDS["m4a, lossless"], b"alac", 4, 1 << 24)
        assert reason(decode_audio, data, RATE, LIMITS) is Unusable

    @pytest.mark.parametrize(
        "text", ["#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "ffconcat version 1.0\nfile a.wav\n"]
    )
    def test_no_list_of_other_files_is_opened(self, text):
        assert reason(decode_audio, text.encode(), RATE, LIMITS) is WrongMedia

    def test_mutated_sounds(self, capfd):
        rng = random.Random(1)
        files = list(PHONE_SOUNDS.values())
        for _ in range(600):
            reason(decode_audio, mutated(rng.choice(files), rng), RATE, LIMITS)
        assert capfd.readouterr() == ("", "")


def with_picture(samples):
    """A video in WebM, with sound if there are samples."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="webm") as container:
        video = container.add_stream("libvpx", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        if samples is not None:
            sound = container.add_stream("libopus", rate=48_000, layout="mono")
        container.mux(video.encode(av.VideoFrame.from_image(Image.new("RGB", (64, 48)))))
        container.mux(video.encode(None))
        if samples is not None:
            frame = av.AudioFrame.from_ndarray(samples[:960].T.astype(np.float32).copy(), "flt", "mono")
            frame.sample_rate = 48_000
            container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
    return file.getvalue()


class TestPhotos:
    @pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1"])
    def test_heic(self, brand):
        assert difference(decode_image(heic(seven(), brand), LIMITS), decode(seven())) < 2

    @pytest.mark.parametrize("turns", [1, 2, 3])
    def test_orientation_is_obeyed(self, turns):
        page = seven().rotate(-90 * turns, expand=True)
        assert difference(decode_image(heic(page, quarter_turns=turns), LIMITS), decode(seven())) < 2

    def test_limits(self):
        assert reason(decode_image, PHONE_PHOTO, Limits(pixels=60 * 80)) is None
        assert reason(decode_image, PHONE_PHOTO, Limits(pixels=60 * 80 - 1)) is TooLarge
        assert reason(decode_image, PHONE_PHOTO, Limits(bytes=100)) is TooLarge

    def test_size_that_is_a_lie(self):
        assert reason(decode_image, patched(PHONE_PHOTO, b"ispe", 4, 6), LIMITS) is Unreadable

    def test_mutated_photos(self, capfd):
        rng = random.Random(1)
        for _ in range(300):
            reason(decode_image, mutated(PHONE_PHOTO, rng), LIMITS)
        assert capfd.readouterr() == ("", "")


class TestWithoutTheExtra:
    @pytest.fixture(autouse=True)
    def without(self, monkeypatch):
        for module in ("av", "pi_heif"):
            monkeypatch.setitem(sys.modules, module, None)

    @pytest.mark.parametrize("form", FORMS)
    def test_refusal_names_it_and_a_command(self, form):
        refused, message = outcome(decode_audio, PHONE_SOUNDS[form], RATE, LIMITS)
        assert refused is WrongMedia
        assert message.endswith(
            "needs percept's extra 'phone' (pip install '.[phone]'); or convert it: ffmpeg -i FILE out.wav"
        )

    @pytest.mark.parametrize("brand", [b"heic", b"mif1"])
    def test_refusal_of_photos(self, brand):
        refused, message = outcome(decode_image, heic(seven(), brand), LIMITS)
        assert refused is WrongMedia
        assert message.startswith("this looks like a HEIC photo, which needs percept's extra 'phone'")

    def test_nothing_of_it_is_imported_before_a_file_needs_it(self):
        program = (
            "import sys, service.media.audio, service.media.image; print('av' in sys.modules, 'pi_heif' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["False", "False"]


def test_a_damaged_file_is_told_by_its_kind() -> None:
    with pytest.raises(Unreadable, match=r"^this looks like AMR audio, but it is damaged$"):
        decode_audio(b"#!AMR\n\x3c\x91\x17", RATE, LIMITS)
    photo = struct.pack(">I", 28) + b"ftypmif1\0\0\0\0mif1heicmiaf"
    with pytest.raises(Unreadable, match=r"^this looks like a HEIC photo, but it is damaged$"):
        decode_image(photo, LIMITS)
