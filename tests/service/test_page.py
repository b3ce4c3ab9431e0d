"""The browser page, in a real Chromium, on a real service."""

import base64
import os
import re
import shutil

import httpx
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image, ImageDraw
from playwright.sync_api import expect, sync_playwright

from service.http.static import CONTENT_TYPES, HEADERS, PAGE, PATHS
from tests.pipeline.runs import PLAIN
from tests.service.helpers import seven, sound_bytes, to_bytes, tone
from tests.serving import NEWEST, ROOT, careful_model, fill_store, flats_model, put, put_broken, serving, sides_model

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")  # the first in half the time
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
SEVEN = [(0.28, 0.22), (0.74, 0.22), (0.45, 0.82)]  # corners of a drawn 7, in parts of the pad
BLOCK = [(0.3 + 0.4 * (i % 2), 0.3 + 0.04 * i) for i in range(11)]  # so close that they leave no paper
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
LABEL = "#label"
SILENCE = np.zeros((44_100, 1))
SWELL = np.hanning(len(SILENCE))[:, None]  # a tone cut off would ring in the silence, once it is resampled
FLUTE, BASSOON = SWELL * tone(frequency=2000, seconds=1), SWELL * tone(frequency=100, seconds=1)
MELODY = sound_bytes(np.concatenate([FLUTE, SILENCE, BASSOON]))


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    home = tmp_path_factory.mktemp("page")
    fill_store(home)
    put(home, careful_model())
    put(home, sides_model(NEWEST))
    put(home, flats_model(NEWEST))
    put_broken(home)
    with serving(home) as running:
        yield running


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """The browser; its microphone hears a flute."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium; on Debian: apt-get install chromium-headless-shell")
    heard = tmp_path_factory.mktemp("microphone") / "flute.wav"
    heard.write_bytes(sound_bytes(FLUTE))
    arguments = [
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={heard}",
        *(["--no-sandbox"] if os.geteuid() == 0 else []),
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def visit(service, chromium):
    """Opens the page at `#model` in a new browser context. At the end nothing may have gone wrong: no error in
    the console except for requests that the service refused, no violation of the policy, no request elsewhere."""
    wrong, contexts = [], []

    def visit(model="", **options):
        context = chromium.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(10_000)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if complaint(message) else None)
        page.on("request", lambda request: wrong.append(request.url) if not ours(request.url) else None)
        page.goto(f"{service.url}/#{model}")
        expect(page.locator("#desk")).to_be_visible()
        return page

    def complaint(message):
        answered = re.search(r"/(digits|instruments|predict/\w+)(\?.*)?$", message.location["url"])
        return message.type in ("error", "warning") and not answered

    def ours(url):
        return url.startswith((f"{service.url}/", f"blob:{service.url}/"))

    yield visit
    for context in contexts:
        context.close()
    assert wrong == []


def positions(page, points):
    box = page.locator("#pad").bounding_box()
    return [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]


def draw(page, points, steps=8):
    """Draws a line through `points` with the mouse, in so many steps to each."""
    first, *others = positions(page, points)
    page.mouse.move(*first)
    page.mouse.down()
    for point in others:
        page.mouse.move(*point, steps=steps)
    page.mouse.up()


def heights(page):
    """The heights of the bars, as CSS transforms."""
    return page.locator("#bars .track span").evaluate_all("fills => fills.map(fill => fill.style.transform)")


def drop(page, target, name, content, content_type):
    """Drops a file on the element `target`."""
    transfer = page.evaluate_handle(
        """([name, content, type]) => {
            const transfer = new DataTransfer();
            const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
            transfer.items.add(new File([bytes], name, { type }));
            return transfer;
        }""",
        [name, base64.b64encode(content).decode(), content_type],
    )
    for event in ("dragover", "drop"):
        page.dispatch_event(target, event, {"dataTransfer": transfer})


def choose(page, kind, name, content):
    page.set_input_files(f"#{kind}-file", {"name": name, "mimeType": "", "buffer": content})


def painted(page, canvas):
    """Whether there is anything on a canvas."""
    return page.locator(canvas).evaluate(
        """(canvas) => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.some(Boolean)"""
    )


class TestFiles:
    @pytest.fixture(scope="class")
    @classmethod
    def client(cls, service):
        with httpx.Client(base_url=service.url) as connection:
            yield connection

    def test_the_page_and_its_headers(self, client):
        answer = client.get("/")
        assert answer.headers["content-type"] == CONTENT_TYPES[".html"].decode()
        assert "<title>percept</title>" in answer.text
        assert answer.headers["content-security-policy"] == PAGE.decode()
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert {name: answer.headers[name.decode()].encode() for name, _ in HEADERS} == dict(HEADERS)

    def test_its_files_are_served_and_cached(self, client):
        files = list((ROOT / "service" / "page").iterdir())
        assert sum(file.stat().st_size for file in files) < 76_000
        for file in files:
            answer = client.get(PATHS.get(file.name, f"/page/{file.name}"))
            assert answer.content == file.read_bytes()
            assert answer.headers["content-type"] == CONTENT_TYPES[file.suffix].decode()
            again = client.get(answer.url, headers={"If-None-Match": answer.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")

    @pytest.mark.parametrize(
        "name", ["nothing", "index.html", "..%2fstatic.py", "%2e%2e/static.py", ".", "", "style.css/"]
    )
    def test_nothing_else_is_served(self, client, name):
        assert client.get(f"/page/{name}").status_code == 404


class TestPictures:
    def test_a_seven_drawn_with_the_mouse(self, visit):
        page = visit()
        under_way, most = set(), 0

        def begin(request):
            nonlocal most
            under_way.add(request)
            most = max(most, len(under_way))

        page.on("request", begin)
        page.on("requestfinished", lambda request: under_way.discard(request))
        expect(page.get_by_text("Draw something.")).to_be_visible()
        start, corner, end = positions(page, SEVEN)
        page.mouse.move(*start)
        page.mouse.down()
        page.mouse.move(*corner, steps=8)
        expect(page.locator(LABEL)).not_to_be_empty()
        before = heights(page)
        page.mouse.move(*end, steps=8)
        expect(page.locator(LABEL)).to_have_text("7")
        assert heights(page) != before  # and the button is still down
        page.mouse.up()
        expect(page.locator("#confidence")).to_have_text(re.compile(r"^\d+\.\d % confident$"))
        expect(page.locator("#bars .top .name")).to_have_text("7")
        expect(page.get_by_role("status")).to_contain_text("7,")
        assert most == 1
        draw(page, [(0.2, 0.5), (0.8, 0.5)])
        page.get_by_role("button", name="Undo").click()
        expect(page.locator(LABEL)).to_have_text("7")
        page.get_by_role("button", name="Clear").click()
        expect(page.locator(LABEL)).to_be_empty()
        expect(page.get_by_text("Draw here")).to_be_visible()
        assert not painted(page, "#pad")

    def test_what_the_model_sees_is_shown(self, visit):
        page = visit("digits")
        draw(page, SEVEN)
        seen = page.get_by_role("img", name="The picture as the model sees it")
        expect(seen).to_be_visible()
        expect(seen).to_have_js_property("naturalWidth", 28)
        expect(page.locator("#curl code")).not_to_contain_text("seen")
        page.get_by_role("button", name="Clear").click()
        expect(seen).to_be_hidden()

    def test_a_picture_from_the_camera(self, visit):
        page = visit("digits", permissions=["camera"])
        page.get_by_role("button", name="Camera").focus()
        page.keyboard.press("Enter")
        finder = page.locator("#viewfinder")
        expect(finder).to_be_visible()
        check(page)
        page.keyboard.press("Escape")
        expect(finder).to_be_hidden()
        page.get_by_role("button", name="Camera").click()
        page.get_by_role("button", name="Take picture").click()
        expect(page.locator("#curl code")).to_have_text(re.compile("/digits' --data-binary @'camera.jpg'$"))
        expect(page.get_by_role("img", name="The picture as the model sees it")).to_be_visible()
        assert painted(page, "#pad")
        expect(finder).to_be_hidden()
        expect(page.get_by_role("button", name="Camera")).to_be_visible()
        assert page.evaluate("document.getElementById('viewfinder').srcObject") is None

    def test_no_camera(self, visit, chromium):
        page = visit("digits", permissions=["camera"])
        page.evaluate("void (navigator.mediaDevices.getUserMedia = () => Promise.reject(Error('there is none')))")
        page.get_by_role("button", name="Camera").click()
        expect(page.get_by_role("alert")).to_have_text("The camera cannot be used: there is none.")
        hidden = chromium.new_page()
        hidden.add_init_script("Object.defineProperty(navigator, 'mediaDevices', { value: undefined })")  # as over HTTP
        hidden.goto(page.url)
        expect(hidden.get_by_role("button", name="Clear")).to_be_visible()
        expect(hidden.get_by_role("button", name="Camera")).to_be_hidden()
        hidden.close()

    def test_a_seven_drawn_with_a_finger(self, visit):
        page = visit(**PHONE)
        touch = page.context.new_cdp_session(page)
        first, *corners = positions(page, SEVEN)
        path, (x, y) = [first], first
        for corner in corners:
            path += [(x + (corner[0] - x) * part / 8, y + (corner[1] - y) * part / 8) for part in range(1, 9)]
            x, y = corner
        for number, (x, y) in enumerate(path):
            kind = "touchMove" if number else "touchStart"
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        expect(page.locator(LABEL)).to_have_text("7")
        expect(page.locator("#bars .top")).to_be_in_viewport(ratio=1)
        assert page.evaluate("scrollY") == 0

    def test_of_many_labels_that_it_may_be_a_few_are_named(self, visit):
        page, picture = visit("careful"), Image.new("L", (100, 100), 255)
        ImageDraw.Draw(picture).line((20, 20, 80, 80), 0, 8)
        choose(page, "image", "stroke.png", to_bytes(picture))
        expect(page.get_by_text(re.compile(r"confident; may also be (\d, ){4}\d and 2 more$"))).to_be_visible()

    def test_a_dropped_picture(self, visit):
        page = visit()
        drop(page, "#pad", "seven.png", to_bytes(seven()), "image/png")
        expect(page.locator(LABEL)).to_have_text("7")
        expect(page.get_by_text("Draw here")).to_be_hidden()
        assert painted(page, "#pad")
        page.get_by_role("button", name="Undo").click()
        expect(page.locator(LABEL)).to_be_empty()

    def test_a_refused_picture_leaves_the_pad_and_a_large_one_is_not_sent(self, visit):
        page = visit()
        choose(page, "image", "seven.png", to_bytes(seven(), "PNG"))
        expect(page.locator(LABEL)).to_have_text("7")
        expect(page.locator("#curl code")).to_have_text(
            re.compile(r"^curl 'http.*/digits' --data-binary @'seven.png'$")
        )
        choose(page, "image", "broken.png", b"\x89PNG\r\n")
        expect(page.locator("#error")).not_to_be_empty()
        expect(page.locator("#pad-hint")).to_have_text("Draw here")
        expect(page.locator("#curl")).to_be_hidden()
        page.evaluate("""() => {
            const file = new File([new Uint8Array(33_600_000)], "huge.png", { type: "image/png" });
            const transfer = new DataTransfer();
            transfer.items.add(file);
            dispatchEvent(new DragEvent("drop", { dataTransfer: transfer }));
        }""")
        expect(page.locator("#error")).to_have_text("huge.png has 33.6 MB; at most 33.5 MB are read.")

    def test_a_format_that_the_browser_does_not_know(self, visit):
        page = visit()
        choose(page, "image", "seven.tiff", to_bytes(seven(), "TIFF"))
        expect(page.locator(LABEL)).to_have_text("7")
        expect(page.get_by_text("seven.tiff", exact=True)).to_be_visible()

    def test_a_dot_is_ink(self, visit):
        page = visit("digits")
        draw(page, SEVEN[:1])
        expect(page.locator(LABEL)).not_to_be_empty()
        expect(page.get_by_role("alert")).to_be_empty()

    def test_the_pad_stays_where_it_is_when_something_goes_wrong(self, visit):
        page = visit("digits")
        before = page.locator("#pad").bounding_box()
        page.locator("#image-file").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"})
        expect(page.get_by_role("alert")).not_to_be_empty()
        assert page.locator("#pad").bounding_box() == before

    def test_an_out_of_distribution_input(self, visit):
        page = visit("careful")
        draw(page, BLOCK)
        expect(page.locator("#known")).to_have_text("Unknown: unlike anything it was trained on.")
        page.get_by_role("button", name="Clear").click()
        draw(page, SEVEN)
        expect(page.locator("#known")).to_have_text("Like what it was trained on.")
        page.get_by_role("link", name="digits").click()  # another model's answer to the same drawing
        expect(page.get_by_text("It cannot tell")).to_be_visible()
        expect(page.locator(LABEL)).to_have_text("7")


class TestSounds:
    def test_a_dropped_clip(self, visit):
        page = visit("instruments")
        drop(page, "#track", "melody.wav", MELODY, "audio/wav")
        expect(page.locator(LABEL)).to_have_text(re.compile("flute|bassoon"))
        spans = page.get_by_role("list", name="What is heard when").get_by_role("listitem")
        expect(spans).to_have_text(["flute 0.0 to 1.0 s", "silence 1.0 to 2.0 s", "bassoon 2.0 to 3.0 s"])
        expect(page.get_by_text("melody.wav · 0:03.0")).to_be_visible()
        assert painted(page, "#wave")
        page.locator("#track").click(position={"x": page.locator("#track").bounding_box()["width"] * 0.7, "y": 20})
        expect(page.locator("#timeline .now")).to_contain_text("bassoon")
        head = page.locator("#playhead")
        before = head.bounding_box()["x"]
        page.wait_for_function("x => document.getElementById('playhead').getBoundingClientRect().x > x + 5", arg=before)

    def test_a_certain_answer_fits_its_line(self, visit):
        page = visit("instruments")
        choose(page, "audio", "melody.wav", MELODY)
        expect(page.locator(LABEL)).not_to_be_empty()
        certain = page.locator(".top .value")
        certain.evaluate("(cell) => { cell.textContent = '100.0 %'; }")
        assert certain.evaluate("(cell) => cell.scrollWidth <= cell.offsetWidth")
        assert certain.evaluate("(cell) => cell.offsetHeight < 1.5 * parseFloat(getComputedStyle(cell).lineHeight)")

    def test_a_format_that_the_browser_does_not_know(self, visit):
        page = visit("instruments")
        choose(page, "audio", "melody.aiff", sound_bytes(np.concatenate([FLUTE, BASSOON]), format="AIFF"))
        expect(page.locator("#timeline li")).to_have_count(2)
        expect(page.locator(LABEL)).not_to_be_empty()
        expect(page.get_by_text("Your browser cannot decode this file")).to_be_visible()
        expect(page.locator("#player")).to_be_hidden()

    def test_a_recording(self, visit):
        page = visit("instruments", permissions=["microphone"])
        page.get_by_role("button", name="Record").click()
        expect(page.locator(LABEL)).to_have_text("flute")  # already
        expect(page.locator("#timeline li")).to_have_count(0)
        page.get_by_role("button", name="Stop").click()
        expect(page.locator("#timeline li").first).to_contain_text("flute")
        expect(page.get_by_text(re.compile(r"^Recording · 0:0\d\.\d$"))).to_be_visible()
        expect(page.locator("#player")).to_be_visible()
        expect(page.get_by_role("button", name="Record")).to_be_visible()

    def test_no_microphone(self, visit):
        page = visit("instruments")
        page.evaluate("Object.defineProperty(navigator, 'mediaDevices', { value: undefined })")  # as over plain HTTP
        page.get_by_role("button", name="Record").click()
        expect(page.get_by_role("alert")).to_contain_text("The microphone cannot be used")


class TestNumbers:
    def test_a_row_of_a_table(self, visit):
        page = visit("flats")
        page.get_by_label("city", exact=True).select_option("Rom")
        page.get_by_label("size", exact=True).fill("60,5")
        expect(page.locator("#bars .value")).to_have_text("221")
        command = page.locator("#curl code")
        expect(command).to_have_text(re.compile(r"""/predict/flats' .* -d '{"size":60.5,"city":"Rom"}'$"""))
        page.get_by_label("size", exact=True).fill("big")
        page.get_by_role("button", name="Predict").click()
        expect(page.get_by_role("alert")).to_have_text("size: “big” is not a number.")
        page.get_by_label("size", exact=True).fill("1")
        page.get_by_label("city", exact=True).select_option("(another)")
        expect(page.get_by_role("alert")).to_contain_text("column 'city': \"another\" is none of Bonn, Rom")
        assert Axe().run(page).response["violations"] == []

    def test_a_vector(self, visit):
        page = visit("sums")
        page.get_by_label("x1", exact=True).fill("3")
        page.get_by_label("x2", exact=True).fill("0.5")
        bars = page.get_by_role("list", name="Values").get_by_role("listitem")
        expect(bars).to_have_text(["sum3.5", "difference2.5"])
        expect(page.get_by_role("status")).to_have_text("sum 3.5, difference 2.5")
        page.get_by_label("x2", exact=True).fill("-")
        expect(bars).to_have_text(["sum", "difference"])
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("“-” is not a number.")
        page.get_by_label("x2", exact=True).fill("-1e3")
        expect(bars).to_have_text(["sum-997", "difference1003"])
        expect(page.get_by_role("alert")).to_be_empty()

    def test_a_point_of_the_plane(self, visit):
        page = visit("sums")
        expect(page.get_by_role("list", name="Colours")).to_have_text("sum, 0 to 2")  # this card knows no ranges
        assert painted(page, "#plane")
        box = page.locator("#plane").bounding_box()
        page.mouse.click(box["x"] + 0.4 * box["width"], box["y"] + 0.3 * box["height"])
        chosen = [float(field.input_value()) for field in page.locator("#fields input").all()]
        assert 0.2 < chosen[0] < 0.5 < chosen[1] < 0.9
        bars = page.get_by_role("list", name="Values").get_by_role("listitem")
        expect(bars.first).to_have_text(re.compile(f"sum{sum(chosen):.3g}"))
        page.get_by_role("link", name="digits").click()
        expect(page.locator("#plane")).to_be_hidden()

    def test_the_point_moves_with_the_arrow_keys(self, visit):
        page = visit("sums")
        expect(page.get_by_role("list", name="Colours")).not_to_be_empty()
        page.get_by_role("application", name="Plane of x1 and x2").focus()
        for key in ["ArrowRight", "ArrowRight", "ArrowDown"]:
            page.keyboard.press(key)
        expect(page.locator("#fields input").first).to_have_value("0.55")
        expect(page.locator("#fields input").last).to_have_value("0.475")
        for _ in range(25):
            page.keyboard.press("ArrowRight")
        expect(page.locator("#fields input").first).to_have_value("1")  # the end of the axis

    def test_the_curve_of_one_number(self, visit):
        page = visit("sides", **PHONE)
        expect(page.get_by_role("list", name="Colours").get_by_role("listitem")).to_have_text(["left", "right"])
        page.get_by_label("x", exact=True).fill("7")
        expect(page.locator(LABEL)).to_have_text("right")
        page.get_by_role("application", name="Curve over x").focus()
        page.keyboard.press("ArrowUp")  # there is no second number
        expect(page.locator("#fields input")).to_have_value("7")
        page.keyboard.press("ArrowLeft")
        expect(page.locator("#fields input")).to_have_value("4")  # the end of its range
        page.keyboard.press("ArrowLeft")
        expect(page.locator("#fields input")).to_have_value("3.8")


class TestErrors:
    @pytest.mark.parametrize(
        ("model", "kind", "content", "message"),
        [
            ("digits", "image", b"\x89PNG and no more", "the file is damaged"),
            ("digits", "image", to_bytes(Image.new("L", (50, 50), 77)), "the image is blank"),
            ("instruments", "audio", b"hello", "this looks like text"),
            ("instruments", "audio", sound_bytes(SILENCE), "the audio is silent"),
        ],
    )
    def test_what_the_service_says(self, visit, model, kind, content, message):
        page = visit(model)
        choose(page, kind, "file", content)
        expect(page.get_by_role("alert")).to_contain_text(message)
        expect(page.locator(LABEL)).to_be_empty()

    def test_the_service_cannot_be_reached(self, visit):
        page = visit()
        page.context.set_offline(True)
        draw(page, SEVEN)
        expect(page.get_by_role("alert")).to_contain_text("The service did not answer.")
        page.context.set_offline(False)
        draw(page, [(0.5, 0.5), (0.5, 0.51)])
        expect(page.locator(LABEL)).not_to_be_empty()
        expect(page.get_by_role("alert")).to_be_empty()

    def test_a_model_that_failed(self, visit):
        page = visit("broken")
        expect(page.get_by_role("list", name="Unavailable models")).to_have_text(
            re.compile("^broken is unavailable: broken:v1 could not be loaded")
        )
        expect(page.get_by_role("link", name="digits")).to_have_attribute("aria-current", "page")

    def test_no_model(self, chromium, tmp_path):
        with serving(tmp_path, wait_for="/livez") as empty:
            page = chromium.new_page()
            page.goto(empty.url)
            expect(page.get_by_role("alert")).to_contain_text("No model is served yet.")
            page.close()


class TestAccess:
    def test_by_keyboard_alone(self, visit):
        page = visit()
        focused = page.locator(":focus")
        stops = []
        while "pad" not in stops:
            page.keyboard.press("Tab")
            stops.append(focused.get_attribute("id") or focused.inner_text())
            assert focused.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
        models = ["careful", "digits", "flats", "instruments", "sides", "sums"]
        assert [stop.split()[0] for stop in stops] == [*models, "pad"]
        to_start, slope = ["ArrowLeft"] * 5 + ["ArrowUp"] * 7, ["ArrowLeft", "ArrowDown", "ArrowDown"] * 7
        for key in [*to_start, "Space", *["ArrowRight"] * 11, *slope, "Space"]:
            page.keyboard.press(key)
        expect(page.locator(LABEL)).to_have_text("7")
        page.keyboard.press("Backspace")
        expect(page.locator(LABEL)).to_be_empty()
        for _ in range(4):
            page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
        expect(page.get_by_role("region", name="Sound")).to_be_hidden()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.get_by_role("region", name="Sound")).to_be_visible()

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_axe_finds_nothing(self, visit, scheme):
        page = visit("careful", color_scheme=scheme, reduced_motion="reduce")
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", background))) < 3 * 128) == (scheme == "dark")
        draw(page, SEVEN)
        expect(page.locator(LABEL)).to_have_text("7")
        check(page)
        page.get_by_role("button", name="Clear").click()
        draw(page, BLOCK)
        expect(page.locator("#known")).to_have_text("Unknown: unlike anything it was trained on.")
        check(page)
        page.get_by_role("link", name="instruments").click()
        choose(page, "audio", "melody.wav", MELODY)
        expect(page.locator("#timeline li")).to_have_count(3)
        check(page)
        page.get_by_role("link", name="sums").click()
        expect(page.get_by_role("list", name="Colours")).not_to_be_empty()
        page.get_by_label("x1", exact=True).fill("x")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).not_to_be_empty()
        check(page)

    @pytest.mark.parametrize("model", ["digits", "instruments", "sides", "sums"])
    def test_320_pixels_are_wide_enough(self, visit, model):
        page = visit(model, viewport={"width": 320, "height": 568})
        if model == "instruments":
            choose(page, "audio", f"{'long' * 20}.wav", MELODY)
            expect(page.locator("#timeline li")).to_have_count(3)
        assert page.evaluate("document.documentElement.scrollWidth") == 320

    def test_the_model_card_is_shown(self, visit):
        page = visit("instruments")
        expect(page.locator("#card")).to_contain_text(f"Version{NEWEST}")
        expect(page.locator("#card")).to_contain_text("90.0 % of 1 samples")
        links = page.get_by_role("contentinfo").get_by_role("link")
        assert [link.get_attribute("href") for link in links.all()] == ["docs", "models", "metrics"]


class TestDocs:
    def test_swagger_ui(self, service, chromium):
        page = chromium.new_page()
        page.set_default_timeout(10_000)
        wrong = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on(
            "request", lambda asked: None if asked.url.startswith((service.url, "data:")) else wrong.append(asked.url)
        )
        page.goto(f"{service.url}/docs")
        document = httpx.get(f"{service.url}/docs.json").json()
        expect(page.locator(".opblock")).to_have_count(sum(len(item) for item in document["paths"].values()))
        expect(page.locator(".errors-wrapper")).to_have_count(0)
        ready = page.locator("#operations-Operation-get_readyz")
        ready.locator(".opblock-summary-control").click()
        ready.get_by_role("button", name="Try it out").click()
        ready.get_by_role("button", name="Execute").click()
        expect(ready.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
        expect(ready.locator(".live-responses-table")).to_contain_text('"ready"')
        page.close()
        assert wrong == []


def check(page):
    """Fails with the violations of accessibility rules that axe finds."""
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def arc(x, y, width, height, start, end):
    """Points of an arc around (x, y), from one angle to another, in degrees; 0 is right, 90 is down."""
    angles = np.radians(np.linspace(start, end, 10))
    return np.stack([x + width * np.cos(angles), y + height * np.sin(angles)], 1)


DRAWN = {  # the strokes of each digit, between 0 and 1
    "0": [arc(0.5, 0.5, 0.3, 0.48, -90, 275)],
    "1": [[(0.52, 0.0), (0.48, 1.0)]],
    "2": [np.concatenate([arc(0.5, 0.27, 0.3, 0.25, -170, 30), [(0.2, 1.0), (0.85, 1.0)]])],
    "3": [np.concatenate([arc(0.47, 0.26, 0.28, 0.25, -150, 90), arc(0.47, 0.74, 0.33, 0.25, -90, 140)])],
    "4": [[(0.35, 0.0), (0.15, 0.6), (0.85, 0.58)], [(0.65, 0.1), (0.62, 1.0)]],
    "5": [np.concatenate([[(0.75, 0.02), (0.25, 0.02), (0.22, 0.42)], arc(0.45, 0.68, 0.33, 0.3, -120, 140)])],
    "6": [np.concatenate([[(0.65, 0.0), (0.35, 0.35)], arc(0.5, 0.73, 0.27, 0.26, 190, 560)])],
    "7": [[(0.2, 0.05), (0.85, 0.02), (0.45, 1.0)]],
    "8": [np.concatenate([arc(0.5, 0.24, 0.24, 0.23, 90, -270), arc(0.5, 0.74, 0.3, 0.26, -90, 270)])],
    "9": [np.concatenate([arc(0.5, 0.27, 0.27, 0.25, 0, -360), [(0.72, 1.0)]])],
}
WAYS = {  # how they are drawn: where the unit square lies on the pad, and how far it is slanted and shaken
    "as usual": ((0.2, 0.15, 0.6, 0.7), 0.0, 0.0),
    "shaky": ((0.25, 0.2, 0.5, 0.6), 0.0, 0.012),
    "slanted": ((0.2, 0.2, 0.5, 0.6), 0.3, 0.0),
    "tiny": ((0.6, 0.3, 0.14, 0.18), 0.0, 0.0),
    "touching the border": ((0.3, 0.0, 0.7, 1.0), 0.0, 0.0),
}


class TestDigits:
    @pytest.fixture(scope="class")
    @classmethod
    def service(cls, trained, tmp_path_factory):
        """A service of `digits` as trained on the embedded digits."""
        home = tmp_path_factory.mktemp("digits")
        trained(home, "digits", *PLAIN)
        with serving(home) as running:
            yield running

    def test_nineteen_of_twenty_in_any_hand(self, visit):
        page, rng, wrong = visit("digits"), np.random.default_rng(0), []
        for number, (way, ((left, top, width, height), slant, shake)) in enumerate(WAYS.items()):
            for digit in list(DRAWN)[number % 2 :: 2] if way != "tiny" else DRAWN:
                page.get_by_role("button", name="Clear").click()
                for stroke in DRAWN[digit]:
                    x, y = (np.array(stroke) + shake * rng.standard_normal(np.shape(stroke))).T
                    x = x + slant * (0.5 - y)
                    draw(page, np.stack([left + width * x, top + height * y], 1).clip(0.002, 0.998), steps=1)
                try:
                    expect(page.locator(LABEL)).to_have_text(digit, timeout=2_000)
                except AssertionError:
                    wrong.append((way, digit, page.locator(LABEL).text_content()))
        assert len(wrong) <= 1, wrong  # of thirty
