"""Bytes to arrays: every mode, format and depth; MNIST's form; limits; and nothing but MediaError for bad files."""

import gzip
import io
import json
import random
import struct
import zlib

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits
from torchvision.datasets import MNIST

from service.media import audio
from service.media.audio import decode_audio
from service.media.image import IMAGE_FORMATS, Limits, MediaError, decode_image, to_mnist_form

LIMITS = Limits()
RATE = 22_050  # Hz
STATUSES = (200, 400, 413, 415, 422)


def seven(size=(60, 80), ink=0, paper=255, mode="L"):
    """A drawn 7, off centre, on a page with a margin."""
    page = Image.new(mode, size, paper)
    width, height = size
    draw = ImageDraw.Draw(page)
    points = [(0.3 * width, 0.2 * height), (0.7 * width, 0.2 * height), (0.45 * width, 0.7 * height)]
    draw.line(points, fill=ink, width=max(1, width // 10))
    return page


def to_bytes(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def decode(image, format="PNG", **options):
    return decode_image(to_bytes(image, format, **options), LIMITS)


def difference(a, b):
    """Mean absolute difference in grey levels."""
    return np.abs(a.astype(int) - b.astype(int)).mean()


def outcome(call, *arguments):
    """(200, the result) or, if the file is refused, (status, its one line of message)."""
    try:
        return 200, call(*arguments)
    except MediaError as error:
        message = str(error)
        return (error.status, message) if message and "\n" not in message else (0, message)


def status_of(call, *arguments):
    return outcome(call, *arguments)[0]


@pytest.fixture(scope="module")
def mnist(real_data):
    return MNIST(real_data, train=False, download=False).data.numpy()


@pytest.fixture(scope="module")
def reference():
    """A 7 in MNIST's form."""
    return decode(seven())


class TestMnistForm:
    def test_every_mnist_picture_keeps_every_pixel(self, mnist):
        kept = [np.array_equal(decode(Image.fromarray(digit)), digit) for digit in mnist]
        assert np.mean(kept) >= 0.999

    def test_dark_on_light_is_turned_over(self, mnist):
        kept = [np.array_equal(decode(Image.fromarray(255 - digit)), digit) for digit in mnist[:1000]]
        assert np.mean(kept) >= 0.999

    @pytest.mark.parametrize("factor", [4, 10])
    def test_enlarged_pixels_come_back(self, mnist, factor):
        block = np.ones((factor, factor), np.uint8)
        differences = [difference(decode(Image.fromarray(np.kron(digit, block))), digit) for digit in mnist[:200]]
        assert np.mean(differences) < 4

    def test_enlarged_dark_on_light_jpeg_comes_back(self, mnist):
        pages = [Image.fromarray(255 - digit).resize((112, 112)).convert("RGB") for digit in mnist[:200]]
        differences = [difference(decode(page, "JPEG"), digit) for page, digit in zip(pages, mnist[:200], strict=True)]
        assert np.mean(differences) < 9

    def test_digits_of_scikit_learn(self):
        for scan in load_digits().images[:200]:
            picture = to_mnist_form(scan)
            rows, columns = np.nonzero(picture)
            assert 18 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 20
            for axis in (0, 1):
                assert abs(np.average(np.indices((28, 28))[axis], weights=picture) - 14) < 0.6
            assert picture.max() == 255

    @given(arrays(np.float32, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.floats(-5, 5, width=16)))
    @settings(max_examples=200, deadline=None)
    def test_any_array_gives_a_picture_or_is_blank(self, gray):
        status, picture = outcome(to_mnist_form, gray)
        assert status in (200, 422)
        if status == 200:
            assert picture.shape == (28, 28)
            assert picture.dtype == np.uint8
            assert picture.max() >= 254

    @pytest.mark.parametrize("size", [(28, 28), (60, 80), (333, 200), (2000, 1500)])
    def test_twice_is_once(self, size):
        once = to_mnist_form(np.asarray(seven(size)))
        assert np.array_equal(to_mnist_form(once), once)

    def test_scale_and_offset_do_not_matter(self, reference):
        gray = np.asarray(seven(), np.float64)
        assert difference(to_mnist_form(gray / 255 - 3), reference) < 0.1
        assert difference(to_mnist_form(-100 * gray), reference) < 0.1

    def test_paper_noise_and_shadow_are_not_ink(self, reference):
        gray = np.asarray(seven((300, 400), ink=60, paper=220), np.float64)
        gray += np.random.default_rng(0).normal(0, 5, gray.shape) - np.linspace(0, 30, gray.shape[1])
        assert difference(to_mnist_form(gray), reference) < 8


class TestImages:
    @pytest.mark.parametrize("size", [(28, 28), (20, 30), (60, 80), (500, 300), (3000, 4000), (4096, 4096)])
    def test_any_size(self, size):
        picture = decode(seven(size))
        assert picture.max() == 255
        rows, columns = np.nonzero(picture > 128)
        assert rows.size > 20
        assert columns[rows < 12].max() > columns[rows > 18].max()  # the foot of a 7 stands left of its shoulder

    @pytest.mark.parametrize(("ink", "paper"), [(0, 255), (255, 0), (90, 200), (200, 90), (120, 135)])
    def test_any_polarity_and_contrast(self, ink, paper, reference):
        assert difference(decode(seven(ink=ink, paper=paper)), reference) < 1

    @pytest.mark.parametrize(
        "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "I;16", "I", "F", "CMYK", "YCbCr", "LAB"]
    )
    def test_any_mode(self, mode, reference):
        page = seven()
        if mode in ("YCbCr", "LAB", "CMYK"):
            page = page.convert("RGB")
        if mode == "I;16":
            page = Image.fromarray(np.asarray(page).astype(np.uint16) * 257)
        elif mode == "LAB":
            page = Image.merge("LAB", [page.getchannel("R"), *[Image.new("L", page.size, 128)] * 2])
        elif mode == "PA":
            page = page.convert("LA").convert("PA")
        else:
            page = page.convert(mode)
        assert page.mode == mode
        format = "PNG" if mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else "TIFF"
        if mode == "PA":
            format, page = "PNG", page.convert("RGBA")
        assert difference(decode(page, format), reference) < 3

    @pytest.mark.parametrize("format", sorted({*IMAGE_FORMATS, "MPO"} - {"PSD"}))  # Pillow cannot write PSD
    def test_any_format(self, format, reference):
        page = seven().convert("RGB")
        assert difference(decode(page, format), reference) < 4

    def test_cmyk_jpeg(self, reference):
        assert difference(decode(seven().convert("CMYK"), "JPEG"), reference) < 4

    @pytest.mark.parametrize("ink", [0, 255])
    def test_ink_on_transparency(self, ink, reference):
        page = Image.new("LA", (60, 80), (ink, 0))
        page.paste(Image.new("LA", (60, 80), (ink, 255)), mask=seven(ink=255, paper=0))
        assert difference(decode(page), reference) < 1

    def test_transparent_palette_colour(self, reference):
        page = Image.new("P", (60, 80), 7)
        page.putpalette([0] * 768)  # ink and background are both black
        page.paste(3, mask=seven(ink=255, paper=0))
        assert difference(decode(page, transparency=7), reference) < 1

    def test_page_with_transparent_corners(self, reference):
        page = seven().convert("RGBA")
        for corner in ((0, 0), (59, 0), (0, 79), (59, 79)):
            page.putpixel(corner, (0, 0, 0, 0))
        assert difference(decode(page), reference) < 1

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
    def test_orientation_tag_is_obeyed(self, orientation, format, reference):
        turned = {
            2: Image.Transpose.FLIP_LEFT_RIGHT,
            3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_90,
            7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_270,
        }
        page = seven() if orientation == 1 else seven().transpose(turned[orientation])
        exif = page.getexif()
        exif[0x0112] = orientation
        assert difference(decode(page, format, exif=exif), reference) < 4

    def test_first_frame_of_an_animation(self, reference):
        frames = [Image.new("L", (60, 80), 255)] * 3
        assert difference(decode(seven(), "GIF", save_all=True, append_images=frames), reference) < 1

    @pytest.mark.parametrize("grey", [0, 128, 255])
    def test_blank_page(self, grey):
        for format in ("PNG", "JPEG"):
            assert status_of(decode, Image.new("L", (50, 50), grey), format) == 422

    def test_transparent_page(self):
        assert status_of(decode, Image.new("RGBA", (50, 50), (1, 2, 3, 0))) == 422

    def test_pixels_that_are_not_numbers(self):
        assert status_of(decode, Image.fromarray(np.full((9, 9), np.nan, np.float32)), "TIFF") == 422


class TestImageLimits:
    def test_bytes(self):
        assert status_of(decode_image, to_bytes(seven()), Limits(bytes=100)) == 413

    def test_pixels(self):
        assert status_of(decode_image, to_bytes(seven((100, 101))), Limits(pixels=10_000)) == 413
        assert decode_image(to_bytes(seven((100, 100))), Limits(pixels=10_000)).any()

    @pytest.mark.parametrize("side", [5_000, 40_000, 2**31 - 1])
    def test_bomb_is_refused_by_its_header(self, side):
        def chunk(name, body):
            return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        pixels = chunk(b"IDAT", zlib.compress(bytes(10_000)))
        assert status_of(decode_image, b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b""), LIMITS) == 413

    def test_jpeg_of_very_many_scans(self):
        data = to_bytes(seven(), "JPEG", progressive=True)
        scan = data[data.rindex(b"\xff\xda") : -2]
        assert status_of(decode_image, data[:-2] + scan * 200 + data[-2:], LIMITS) == 413

    def test_no_program_is_started_for_postscript(self, monkeypatch):
        monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was started"))
        assert status_of(decode, seven(), "EPS") == 415


def tone(rate=44_100, channels=1, seconds=0.5, frequency=440.0, peak=0.5):
    """float64 (T, channels)"""
    t = np.arange(round(rate * seconds)) / rate
    return np.repeat(peak * np.sin(2 * np.pi * frequency * t)[:, None], channels, axis=1)


def sound_bytes(samples, rate=44_100, format="WAV", subtype=None):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format, subtype=subtype)
    return file.getvalue()


def hear(samples, rate=44_100, format="WAV", subtype=None):
    return decode_audio(sound_bytes(samples, rate, format, subtype), RATE, LIMITS)


def pitch(waveform):
    """Hz of the strongest partial."""
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return spectrum.argmax() * RATE / len(waveform)


class TestAudio:
    @pytest.mark.parametrize("format", ["AIFF", "AU", "CAF", "FLAC", "RF64", "W64", "WAV", "WAVEX"])
    @pytest.mark.parametrize("channels", [1, 2, 3])
    def test_sixteen_bits_are_what_libsndfile_makes_of_them(self, format, channels):
        samples = np.random.default_rng(0).integers(-(2**15), 2**15, (70_000, channels), np.int16)
        data = sound_bytes(samples, RATE, format, "PCM_16")
        expected, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
        np.testing.assert_allclose(decode_audio(data, RATE, LIMITS), expected.mean(axis=1), rtol=0, atol=1e-7)
        if channels == 1:
            assert np.array_equal(decode_audio(data, RATE, LIMITS), expected[:, 0])

    @pytest.mark.parametrize(
        ("format", "subtype"),
        [("WAV", depth) for depth in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")]
        + [("WAV", "IMA_ADPCM"), ("WAVEX", "PCM_24"), ("RF64", "PCM_16"), ("W64", "PCM_16"), ("AU", "PCM_16")]
        + [("FLAC", "PCM_S8"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("AIFF", "PCM_16"), ("AIFF", "PCM_24")]
        + [("AIFF", "FLOAT"), ("CAF", "ALAC_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")],
    )
    @pytest.mark.parametrize("channels", [1, 2])
    def test_any_format_and_depth(self, format, subtype, channels):
        rate = 48_000 if subtype == "OPUS" else 44_100
        waveform = hear(tone(rate, channels), rate, format, subtype)
        assert waveform.dtype == np.float32
        assert waveform.ndim == 1
        assert len(waveform) == pytest.approx(RATE / 2, abs=RATE * 0.08)  # lossy formats pad
        assert pitch(waveform) == pytest.approx(440, abs=3)
        assert np.sqrt((waveform**2).mean()) == pytest.approx(0.5 / np.sqrt(2), abs=0.03)

    @pytest.mark.parametrize("rate", [4_000, 8_000, 11_025, 16_000, 22_050, 32_000, 48_000, 96_000, 192_000, 384_000])
    def test_any_sample_rate(self, rate):
        waveform = hear(tone(rate), rate)
        assert len(waveform) == pytest.approx(RATE / 2, abs=2)
        assert pitch(waveform) == pytest.approx(440, abs=3)

    def test_right_rate_is_not_resampled(self):
        samples = tone(RATE).astype(np.float32)
        assert np.array_equal(hear(samples, RATE, subtype="FLOAT"), samples[:, 0])

    def test_blocks_are_resampled_as_one(self):
        samples = np.random.default_rng(0).uniform(-0.5, 0.5, (300_000, 2)).astype(np.float32)
        expected = soxr.resample(samples.mean(axis=1), 44_100, RATE, quality="HQ")
        assert np.allclose(hear(samples, subtype="FLOAT"), expected, atol=1e-6)

    def test_channels_are_averaged(self):
        left, right = tone(RATE), tone(RATE, frequency=1000)
        waveform = hear(np.hstack([left, right]), RATE, subtype="FLOAT")
        assert np.allclose(waveform, ((left + right) / 2)[:, 0], atol=1e-6)

    @pytest.mark.parametrize("channels", range(1, 10))
    def test_channels_are_averaged_as_numpy_does(self, channels):
        samples = np.random.default_rng(0).uniform(-0.5, 0.5, (70_000, channels)).astype(np.float32)
        assert np.array_equal(hear(samples, RATE, subtype="FLOAT"), samples.mean(axis=1))

    def test_louder_than_full_scale_is_scaled_down(self):
        assert np.abs(hear(tone(RATE, peak=7), RATE, subtype="FLOAT")).max() == pytest.approx(1)

    def test_one_sample(self):
        assert hear(np.full((1, 1), 0.5), RATE).shape == (1,)

    def test_empty(self):
        assert status_of(hear, np.zeros((0, 1))) == 422

    @pytest.mark.parametrize("level", [0, 5e-5])
    def test_silent(self, level):
        assert status_of(hear, np.full((9000, 1), level, np.float32), 44_100, "WAV", "FLOAT") == 422

    @pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
    def test_samples_that_are_not_numbers(self, value):
        samples = tone()
        samples[100] = value
        for rate in (RATE, 44_100):
            assert status_of(hear, samples, rate, "WAV", "DOUBLE") == 422

    @pytest.mark.parametrize(("rate", "channels"), [(1, 1), (999, 1), (2**31 - 1, 1), (44_100, 33), (44_100, 1024)])
    def test_absurd_header(self, rate, channels):
        assert status_of(hear, np.full((8, channels), 0.5), rate) == 422

    def test_too_long_by_its_header(self):
        limits = Limits(seconds=1)
        assert decode_audio(sound_bytes(tone(seconds=1)), RATE, limits).size == RATE
        for format in ("WAV", "FLAC", "OGG", "MP3"):
            assert status_of(decode_audio, sound_bytes(tone(seconds=1.2), format=format), RATE, limits) == 413

    def test_too_many_samples(self, monkeypatch):
        """Silence of many channels at a high rate packs into a few bytes."""
        monkeypatch.setattr(audio, "MAX_SAMPLES", 80_000)
        for channels, status in ((1, 200), (2, 413)):
            data = sound_bytes(tone(channels=channels, seconds=1), format="FLAC")
            assert status_of(decode_audio, data, RATE, LIMITS) == status

    def test_too_many_bytes(self):
        assert status_of(decode_audio, sound_bytes(tone()), RATE, Limits(bytes=1000)) == 413

    def test_header_that_does_not_tell_the_length(self):
        data = bytearray(sound_bytes(tone(), format="FLAC"))
        data[21] &= 0xF0  # the last 36 bits of STREAMINFO before its MD5 are the number of samples
        data[22:26] = bytes(4)
        assert status_of(decode_audio, bytes(data), RATE, LIMITS) == 422

    def test_wav_of_a_pipe(self):
        """A writer that cannot seek back leaves the largest number as the length."""
        data = bytearray(sound_bytes(tone()))
        data[4:8] = data[40:44] = b"\xff" * 4
        assert decode_audio(bytes(data), RATE, LIMITS).size == RATE // 2


IMAGE_FILES = [to_bytes(seven().convert("RGB"), format) for format in sorted({*IMAGE_FORMATS} - {"PSD"})]
SOUND_FILES = [sound_bytes(tone(seconds=0.1), format=f) for f in ("WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF")]


def mutated(data, rng):
    """`data` with a few bytes changed, removed or doubled, or cut short."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 3, 20])):
        at = rng.randrange(len(changed))
        match rng.randrange(4):
            case 0 | 1:
                changed[at] = rng.randrange(256)
            case 2:
                del changed[at : at + rng.randrange(8)]
            case 3:
                changed[at:at] = changed[at : at + rng.randrange(8)]
        changed = changed or bytearray(b"\0")
    return bytes(changed[: rng.randrange(len(changed))] if rng.randrange(8) == 0 else changed)


class TestBadFiles:
    @pytest.mark.parametrize("data", IMAGE_FILES[:4] + IMAGE_FILES[7:8])
    def test_truncated_image(self, data):
        for end in range(0, len(data) - 2, 1 + len(data) // 200):
            assert outcome(decode_image, data[:end], LIMITS)[0] in STATUSES

    @pytest.mark.filterwarnings("ignore")
    def test_mutated_images(self):
        rng = random.Random(1)
        for _ in range(600):
            assert outcome(decode_image, mutated(rng.choice(IMAGE_FILES), rng), LIMITS)[0] in STATUSES

    def test_mutated_sounds(self):
        rng = random.Random(1)
        for _ in range(600):
            assert outcome(decode_audio, mutated(rng.choice(SOUND_FILES), rng), RATE, LIMITS)[0] in STATUSES

    @pytest.mark.parametrize(
        "data",
        [
            b"%PDF-1.7\n",
            b"<!doctype html><p>hello",
            json.dumps({"image": "http://169.254.169.254/"}).encode(),
            gzip.compress(to_bytes(seven())),
            b"PK\x03\x04" + bytes(30),
            b"\0\0\0\x18ftypmp42" + bytes(50),
            "zażółć gęślą jaźń ".encode() * 60,
        ],
    )
    def test_another_kind_of_file(self, data):
        assert status_of(decode_image, data, LIMITS) == 415
        assert status_of(decode_audio, data, RATE, LIMITS) == 415

    def test_sound_is_no_image_and_the_reverse(self):
        for data in SOUND_FILES:
            assert status_of(decode_image, data, LIMITS) == 415
        assert status_of(decode_audio, to_bytes(seven()), RATE, LIMITS) == 415
        assert status_of(decode_audio, to_bytes(seven(), "JPEG"), RATE, LIMITS) == 415

    @pytest.mark.parametrize("data", [b"", b"\0", bytes(1000), b"\x80\x04\x95" + bytes(100), b"\xff"])
    def test_unreadable(self, data):
        assert status_of(decode_image, data, LIMITS) == 400
        assert status_of(decode_audio, data, RATE, LIMITS) == 400


class TestLimits:
    def test_from_environment(self, monkeypatch):
        assert Limits.from_environment() == Limits()
        assert Limits().pixels == 4096 * 4096
        assert Limits().bytes_of("image") == Limits().bytes_of("vector") == 32 * 2**20
        assert Limits().bytes_of("audio") > 600 * 44_100 * 4  # ten minutes of a CD
        assert Limits(bytes=1000).bytes_of("audio") == 1000
        monkeypatch.setenv("PERCEPT_MAX_BYTES", "1000")
        monkeypatch.setenv("PERCEPT_MAX_PIXELS", "2000")
        monkeypatch.setenv("PERCEPT_MAX_SECONDS", "3")
        assert Limits.from_environment() == Limits(bytes=1000, pixels=2000, seconds=3)

    @pytest.mark.parametrize("text", ["", "0", "-1", "many", "1e6", "²"])
    def test_nonsense_is_quoted(self, monkeypatch, text):
        monkeypatch.setenv("PERCEPT_MAX_BYTES", text)
        with pytest.raises(ValueError, match=f"PERCEPT_MAX_BYTES={text}: expected a whole number above 0"):
            Limits.from_environment()
