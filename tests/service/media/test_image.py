"""Images to arrays: every mode, format and depth, MNIST's form, limits, and a reason for each bad file."""

import io
import random
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageOps
from sklearn.datasets import load_digits

from service.errors import TooLarge, Unreadable, Unusable, WrongMedia
from service.media import Limits, jpeg
from service.media.image import decode_image, to_mnist_form
from service.media.raster import IMAGE_FORMATS
from tests.service.helpers import IMAGE_FILES, mutated, seven, to_bytes
from tests.service.media.decoding import LIMITS, decode, difference, outcome, reason


@pytest.fixture(scope="module")
def mnist(real_data):
    from torchvision.datasets import MNIST  # takes more than a second, in every worker

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
        refused, picture = outcome(to_mnist_form, gray)
        assert refused in (None, Unusable)
        if refused is None:
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

    @pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
    @pytest.mark.parametrize("mode", ["L", "RGB"])
    def test_jpeg_that_was_cut(self, mode, options):
        """What was decoded is used, not the grey with which libjpeg fills the rest."""
        data = to_bytes(seven((240, 320)).convert(mode), "JPEG", quality=90, **options)
        whole = decode_image(data, LIMITS)
        for cut in (1, 2, 20, len(data) // 20):
            assert difference(decode_image(data[:-cut], LIMITS), whole) < 1
        assert reason(decode_image, data[:100], LIMITS) is Unreadable

    @pytest.mark.parametrize("ground", [255, 128])  # libjpeg fills what is missing with 128
    def test_jpeg_that_something_follows(self, ground):
        """Cameras append videos, second pictures and notes; an end in the thumbnail is not the picture's."""
        page = Image.fromarray(np.asarray(seven((240, 320))) // 255 * np.uint8(ground))
        thumbnail = to_bytes(page.resize((24, 32)), "JPEG")
        data = to_bytes(page, "JPEG", quality=90, comment=thumbnail)
        whole = decode_image(data, LIMITS)
        for follows in (b"\n", bytes(100), b"\0\0\0\x18ftypmp42" + random.Random(0).randbytes(5000)):
            assert np.array_equal(decode_image(data + follows, LIMITS), whole)
        assert difference(decode_image(data[: -len(data) // 20], LIMITS), whole) < 1

    @pytest.mark.parametrize("grey", [0, 128, 255])
    def test_blank_page(self, grey):
        for format in ("PNG", "JPEG"):
            assert reason(decode, Image.new("L", (50, 50), grey), format) is Unusable

    @pytest.mark.parametrize("format", ["PNG", "JPEG"])
    def test_colours_that_are_equally_bright(self, format):
        grey = seven((240, 320))
        ground = np.asarray(grey) > 128
        page = Image.fromarray(np.where(ground[..., None], np.uint8([0, 130, 0]), np.uint8([255, 0, 0])))
        assert difference(decode(page, format), decode(grey)) < 4
        noise = np.random.default_rng(0).integers(-2, 3, (50, 50, 3))
        assert reason(decode, Image.fromarray((200 + noise).astype(np.uint8)), format) is Unusable

    @pytest.mark.parametrize("before", [b"\r\n", b"\xef\xbb\xbf\n", bytes(20)])
    def test_what_a_script_sends_in_front(self, before):
        for format in ("PNG", "JPEG", "GIF", "WEBP", "AVIF"):
            data = to_bytes(seven(), format)
            assert np.array_equal(decode_image(before + data, LIMITS), decode_image(data, LIMITS))

    def test_the_header_of_a_tga_is_no_such_front(self):
        wide = ImageOps.expand(
            seven(), (1400, 0, 2815 - 1400 - seven().width, 0), 255
        )  # 2815 is \xff\x0a, as of JPEG XL
        assert np.array_equal(decode(wide, "TGA", compression="tga_rle"), decode(wide))

    def test_transparent_page(self):
        assert reason(decode, Image.new("RGBA", (50, 50), (1, 2, 3, 0))) is Unusable

    def test_pixels_that_are_not_numbers(self):
        assert reason(decode, Image.fromarray(np.full((9, 9), np.nan, np.float32)), "TIFF") is Unusable


class TestImageLimits:
    def test_bytes(self):
        assert reason(decode_image, to_bytes(seven()), Limits(bytes=100)) is TooLarge

    def test_pixels(self):
        assert reason(decode_image, to_bytes(seven((100, 101))), Limits(pixels=10_000)) is TooLarge
        assert decode_image(to_bytes(seven((100, 100))), Limits(pixels=10_000)).any()

    @pytest.mark.parametrize("side", [5_000, 40_000, 2**31 - 1])
    def test_bomb_is_refused_by_its_header(self, side):
        def chunk(name, body):
            return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        pixels = chunk(b"IDAT", zlib.compress(bytes(10_000)))
        assert reason(decode_image, b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b""), LIMITS) is TooLarge

    def test_jpeg_of_very_many_scans(self):
        data = to_bytes(seven(), "JPEG", progressive=True)
        scan = data[data.rindex(b"\xff\xda") : -2]
        assert reason(decode_image, data[:-2] + scan * 200 + data[-2:], LIMITS) is TooLarge

    def test_scans_count_for_their_size(self):
        data = to_bytes(seven((150, 150)), "JPEG", progressive=True)
        scan = data[data.rindex(b"\xff\xda") : -2]
        many = data[:-2] + scan * 50 + data[-2:]
        assert reason(decode_image, many, LIMITS) is None
        assert reason(decode_image, many, Limits(pixels=10_000)) is TooLarge

    def test_the_limit_of_a_jpeg_is_of_what_is_decoded(self):
        photo = seven((5712, 4284), ink=40, paper=225)
        assert difference(decode(photo, "JPEG"), decode(seven((1428, 1071)))) < 2
        assert reason(decode, photo) is TooLarge  # a PNG is decoded in full

    @pytest.mark.filterwarnings("ignore:Image size")
    @pytest.mark.parametrize(
        ("size", "subsampling", "progressive", "refused"),
        [
            ((11_500, 11_500), "4:2:0", False, None),
            ((8_000, 6_200), "4:2:0", True, None),
            ((8_000, 6_200), "4:4:4", False, None),
            ((8_000, 6_200), "4:4:4", True, TooLarge),  # 300 MB of coefficients
            ((12_000, 12_000), "4:2:0", False, TooLarge),
            ((60_000, 2_000), "4:2:0", False, TooLarge),  # must be decoded in full
            ((65_000, 65_000), "4:2:0", False, TooLarge),
        ],
    )
    def test_jpeg_headers(self, size, subsampling, progressive, refused):
        small = Image.new("RGB", (64, 64), (200, 0, 0))
        data = bytearray(to_bytes(small, "JPEG", subsampling=subsampling, progressive=progressive))
        frame = data.index(b"\xff\xc2" if progressive else b"\xff\xc0")
        data[frame + 5 : frame + 9] = struct.pack(">HH", size[1], size[0])
        if refused:
            assert reason(decode_image, bytes(data), LIMITS) is TooLarge
        else:  # the pixels that are missing would be blank
            with Image.open(io.BytesIO(data)) as image:
                jpeg.check(image, bytes(data), LIMITS)

    @pytest.mark.parametrize("format", ["PNG", "GIF", "JPEG", "TIFF"])
    def test_very_many_parts(self, format):
        """Pillow would take minutes to join the comments of a GIF of a few megabytes."""
        data = to_bytes(seven((28, 28)), format)
        n, after = 20_000, 13 + 3 * (2 << (data[10] & 7))  # the palette of a GIF
        tags = struct.pack("<H", n) + b"".join(struct.pack("<HHII", 1000 + i, 7, 8, 0) for i in range(n))
        many = {
            "PNG": data[:33] + (b"\0\0\0\0abCd" + struct.pack(">I", zlib.crc32(b"abCd"))) * n + data[33:],
            "GIF": data[:after] + b"\x21\xfe" + b"\1a" * n + b"\0" + data[after:],
            "JPEG": data[:2] + b"\xff\xe1\0\x0aExif\0\0xx" * n + data[2:],
            "TIFF": data[:4] + struct.pack("<I", len(data)) + data[8:] + tags,
        }
        assert reason(decode_image, many[format], LIMITS) is TooLarge

    @pytest.mark.parametrize("size", [(512, 512), (513, 512)])
    def test_what_pillow_decodes_in_python(self, size):
        refused = TooLarge if size[0] > 512 else None
        run = bytes([255, 0]) * (size[0] // 255) + bytes([size[0] % 255, 0]) + bytes(2)
        lines = [bytes([9, 1, size[0] - 9 >> 1, 0, size[0] - 9 - (size[0] - 9 >> 1), 0, 0, 0])] + [run] * (size[1] - 1)
        palette = bytes(1024)[:-4] + b"\xff\xff\xff\0"
        header = struct.pack("<IiiHHIIiiII", 40, *size, 1, 8, 1, 0, 0, 0, 256, 0)
        bmp = b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + len(palette)) + header + palette + b"".join(lines)
        text = b"P2 %d %d 255 " % size + b"0 " * (size[0] * size[1] - 9) + b"255 " * 9
        assert reason(decode, seven(size, mode="RGB"), "QOI") is refused
        for data in (bmp, text):
            assert (reason(decode_image, data, LIMITS) is TooLarge) == bool(refused)

    @pytest.mark.parametrize("format", ["WEBP", "AVIF"])
    def test_what_pillow_copies_at_once(self, format):
        assert reason(decode, seven((200, 200)), format) is None
        assert reason(decode_image, to_bytes(seven((200, 200)), format), Limits(pixels=4 * 40_000 - 1)) is TooLarge

    def test_jpeg_2000_is_refused_by_name(self):
        found, message = outcome(decode, seven(), "JPEG2000")
        assert found is WrongMedia
        assert "JPEG 2000" in message
        assert "convert it" in message

    def test_no_program_is_started_for_postscript(self, monkeypatch):
        monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was started"))
        assert reason(decode, seven(), "EPS") is WrongMedia


class TestBadFiles:
    @pytest.mark.parametrize("data", IMAGE_FILES[:4] + IMAGE_FILES[7:8])
    def test_truncated_image(self, data):
        for end in range(0, len(data) - 2, 1 + len(data) // 200):
            reason(decode_image, data[:end], LIMITS)

    def test_pillow_does_not_warn_on_the_terminal(self):
        """The length of a tag's values, which end behind the file."""
        data = bytearray(to_bytes(seven(), "TIFF"))
        first = struct.unpack_from("<I", data, 4)[0] + 2
        struct.pack_into("<HI", data, first + 2, 2, 1 << 20)
        program = "import sys; from service.media.image import *; decode_image(bytes.fromhex(sys.argv[1]), Limits())"
        done = subprocess.run([sys.executable, "-c", program, data.hex()], capture_output=True, text=True)
        assert "UserWarning" not in done.stderr

    def test_pillow_logs_nothing(self, caplog):
        """A picture that says it has 2048 samples for each pixel."""
        data = bytearray(to_bytes(seven(mode="RGB"), "TIFF"))
        first = struct.unpack_from("<I", data, 4)[0] + 2
        tags = [tag for tag, *_ in struct.iter_unpack("<HHII", data[first : first + 12 * data[first - 2]])]
        struct.pack_into("<HHII", data, first + 12 * tags.index(277), 277, 3, 1, 2048)
        assert reason(decode_image, bytes(data), LIMITS) is Unreadable
        assert caplog.records == []

    def test_libtiff_does_not_write_to_the_terminal(self, capfd):
        data = bytearray(to_bytes(seven(), "TIFF", compression="tiff_lzw"))
        data[8:100] = b"\xff" * 92
        reason(decode_image, bytes(data), LIMITS)
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize("values", [(-3e38, 3e38), (-np.inf, np.inf)])
    def test_floats_that_overflow(self, values):
        pixels = np.resize(np.float32(values), (30, 30))
        with np.errstate(all="raise"):
            assert reason(decode, Image.fromarray(pixels), "TIFF") is Unusable

    @pytest.mark.filterwarnings("ignore")
    def test_mutated_images(self, capfd):
        rng = random.Random(1)
        for _ in range(600):
            reason(decode_image, mutated(rng.choice(IMAGE_FILES), rng), LIMITS)
        assert capfd.readouterr() == ("", "")
