"""The service as its clients see it: the application in process, and a real `bentoml serve` where sockets matter."""

import asyncio
import base64
import gzip
import io
import json
import random
import re
import select
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import bentoml
import httpx
import numpy as np
import pytest
from bentoml._internal.models import ModelStore
from PIL import Image
from sklearn.datasets import load_digits
from starlette.exceptions import HTTPException

from models.card import ModelCard
from service.http import body, connections
from service.http.admission import Admission
from service.http.auth import APIKeys
from service.http.request import Request
from service.http.state import State
from service.media import Limits
from service.media.image import decode_image
from service.metrics import Metrics
from service.serving.predictor import Predictor
from service.serving.repository import Repository
from tests.command import model_store
from tests.load import closed_loop, post
from tests.service import in_process
from tests.service.helpers import (
    FLUTE,
    IMAGE_FILES,
    SOUND_FILES,
    digit_file,
    mutated,
    refusal,
    sound_bytes,
    to_bytes,
    tone,
)
from tests.service.in_process import application
from tests.service.phone import PHONE_PHOTO, PHONE_SOUNDS, heic, recorded
from tests.serving import NEWEST, ROOT, instruments_model, put, put_broken, resident_mb, serving, until, workers


@pytest.fixture(scope="module")
def strict(home, tmp_path_factory):
    """A server with low limits."""
    limits = {"PERCEPT_MAX_BYTES": "200000", "PERCEPT_MAX_PIXELS": "10000", "PERCEPT_MAX_SECONDS": "1"}
    with (
        serving(home, target="service.service:Percept", PERCEPT_MAX_CONCURRENCY="2", **limits) as running,
        httpx.Client(base_url=running.url, timeout=30) as connection,
    ):
        yield connection


class TestAnswers:
    def test_a_digit(self, local):
        answer = local.post("/digits", content=digit_file(3)).json()
        assert list(answer) == ["model", "version", "label", "confidence", "known", "probabilities"]
        assert (answer["model"], answer["version"], answer["label"]) == ("digits", NEWEST, "3")
        assert list(answer["probabilities"]) == [str(digit) for digit in range(10)]
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert answer["confidence"] == max(answer["probabilities"].values()) == answer["probabilities"]["3"]

    def test_digits_are_recognised(self, local):
        right = [
            local.post("/digits", content=digit_file(index)).json()["label"] == str(target)
            for index, target in enumerate(load_digits().target[:100])
        ]
        assert np.mean(right) > 0.9

    @pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
    @pytest.mark.parametrize(("frequency", "label"), [(2000, "flute"), (100, "bassoon")])
    def test_a_sound(self, local, format, frequency, label):
        file = sound_bytes(tone(channels=2, frequency=frequency), format=format)
        answer = local.post("/instruments", content=file).json()
        assert (answer["model"], answer["label"]) == ("instruments", label)

    @pytest.mark.parametrize(("format", "codec"), [("ipod", "aac"), ("webm", "libopus")])
    @pytest.mark.parametrize(("frequency", "label"), [(2000, "flute"), (100, "bassoon")])
    def test_a_sound_from_a_phone_or_a_browser(self, local, format, codec, frequency, label):
        file = recorded(tone(48_000, channels=2, frequency=frequency), 48_000, format, codec)
        assert local.post("/instruments", content=file).json()["label"] == label

    def test_a_photo_from_a_phone(self, local):
        page = Image.open(io.BytesIO(digit_file(3)))
        answer = local.post("/digits", content=heic(page), headers={"content-type": "image/heic"}).json()
        assert answer["label"] == "3"

    def test_a_vector(self, local):
        answer = local.post("/predict/sums", json=[3, 0.5])
        assert answer.json() == {"model": "sums", "version": NEWEST, "value": {"sum": 3.5, "difference": 2.5}}

    def test_every_model_by_its_name(self, local):
        file = digit_file(5)
        assert local.post("/predict/digits", content=file).json() == local.post("/digits", content=file).json()

    def test_same_answer_as_the_predictor(self, local, home):
        digits = Predictor(home / "models" / "digits" / NEWEST / "model.onnx")
        instruments = Predictor(home / "models" / "instruments" / NEWEST / "model.onnx")
        for index in range(20):
            for format in ("PNG", "JPEG", "WEBP"):
                file = digit_file(index, format)
                assert local.post("/digits", content=file).json() == digits.answer(file, Limits()).fields()
        for file in SOUND_FILES:
            assert local.post("/instruments", content=file).json() == instruments.answer(file, Limits()).fields()

    def test_large_files(self, local):
        noise = np.random.default_rng(0).integers(0, 255, (2000, 2000, 3), np.uint8)
        page = Image.fromarray(noise // 16 + 230).resize((4096, 4096))
        page.paste(Image.open(io.BytesIO(digit_file(0))).resize((2000, 2000)), (900, 700))
        assert local.post("/digits", content=to_bytes(page, "JPEG")).json()["label"] == "0"
        assert local.post("/instruments", content=sound_bytes(tone(seconds=120))).json()["label"] == "bassoon"

    def test_models(self, local):
        answer = local.get("/models").json()
        assert [ModelCard.model_validate(card).name for card in answer["models"]] == ["digits", "instruments", "sums"]
        assert {card["version"] for card in answer["models"]} == {NEWEST}
        assert answer["failed"] == {}


class TestRequests:
    @pytest.mark.parametrize(
        "content_type",
        ["application/x-www-form-urlencoded", "application/octet-stream", "text/plain", "image/tiff", ""],
    )
    def test_content_type_of_a_valid_file_does_not_matter(self, local, content_type):
        headers = {"content-type": content_type} if content_type else {}
        assert local.post("/digits", content=digit_file(3), headers=headers).json()["label"] == "3"

    def test_as_curl_sends_it(self, server, tmp_path):
        (tmp_path / "three.png").write_bytes(digit_file(3))
        for how in (["--data-binary", "@three.png"], ["-F", "anything=@three.png"], ["-T", "three.png", "-X", "POST"]):
            command = ["curl", "-s", *how, f"{server.url}/digits"]
            output = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout
            assert json.loads(output)["label"] == "3"

    @pytest.mark.parametrize("field", ["file", "image", "ü", ""])
    def test_form_with_any_field(self, local, field):
        assert local.post("/digits", files={field: ("a.png", digit_file(3), "image/png")}).json()["label"] == "3"

    def test_form_with_text_before_the_file(self, local):
        answer = local.post("/digits", data={"note": "hello"}, files={"f": digit_file(3)})
        assert answer.json()["label"] == "3"

    def test_form_with_sound(self, local):
        assert local.post("/instruments", files={"f": FLUTE}).json()["label"] == "flute"

    @pytest.mark.parametrize(
        ("content_type", "content"),
        [
            ("multipart/form-data", b"--x\r\n"),
            ("multipart/form-data; boundary=x", b""),
            ("multipart/form-data; boundary=x", b"nonsense"),
            ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; filename="a"\r\n\r\nhalf'),
            ("multipart/form-data; boundary=x", b"--x\r\n" + b"A: b\r\n" * 99 + b"\r\n\r\n--x--\r\n"),
            (f"multipart/form-data; boundary={'x' * 999}", b"--x\r\n"),
            ("multipart/form-data; boundary=x", b"--x\r\n\r\n\r\n--x--\r\n"),
        ],
    )
    def test_broken_form(self, local, content_type, content):
        answer = local.post("/digits", content=content, headers={"content-type": content_type})
        assert refusal(answer) == 400

    def test_chunked_body(self, client):
        file = digit_file(3)
        chunks = (file[i : i + 100] for i in range(0, len(file), 100))
        assert client.post("/digits", content=chunks).json()["label"] == "3"

    def test_slow_body_times_out(self, monkeypatch):
        """A large body may take longer, as long as it arrives at the lowest rate allowed."""
        sent = []

        async def receive():
            await asyncio.sleep(0.005)
            sent.append(b"x")
            return {"type": "http.request", "body": b"x", "more_body": len(sent) < 100}

        monkeypatch.setattr(body, "ARRIVAL_SECONDS", 0.05)
        request = Request({"path": "/", "headers": [], "method": "POST"}, receive)
        with pytest.raises(HTTPException) as raised:
            asyncio.run(body.read_file(request, 10**6))
        assert raised.value.status_code == 408
        sent.clear()
        monkeypatch.setattr(body, "SLOWEST", 20)  # bytes a second
        request = Request({"path": "/", "headers": [], "method": "POST"}, receive)
        assert asyncio.run(body.read_file(request, 10**6)) == (b"x" * 100, "", {})

    @pytest.mark.parametrize("more", [False, True])
    def test_only_a_body_that_has_arrived_needs_no_timer(self, monkeypatch, more):
        class Cycle:  # as uvicorn's, which knows whether there is more to come
            more_body = more

            async def receive(self):
                await asyncio.sleep(0.01)
                return {"type": "http.request", "body": b"x", "more_body": False}

        monkeypatch.setattr(body, "ARRIVAL_SECONDS", 0)
        request = Request({"path": "/", "headers": [], "method": "POST"}, Cycle().receive)
        if more:
            with pytest.raises(HTTPException, match="too slowly"):
                asyncio.run(body.read(request, 1000))
        else:
            assert asyncio.run(body.read(request, 1000)) == b"x"

    def test_a_single_chunk_is_not_copied(self):
        data = bytes(1000)

        async def receive():
            return {"type": "http.request", "body": data}

        request = Request({"path": "/", "headers": [], "method": "POST"}, receive)
        assert asyncio.run(body.read(request, 1000)) is data

    def test_a_body_in_pieces_and_the_next_request_in_its_last_packet(self, client):
        """The second request is answered too, and the first of its repeated headers counts."""
        digit = digit_file(3)
        head = b"POST /digits HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n"
        first = (head + b"\r\n") % len(digit) + digit
        second = (head + b"X-Request-Id: a\r\nX-Request-Id: b\r\n\r\n") % len(digit) + digit
        address = (client.base_url.host, client.base_url.port)
        with socket.create_connection(address, timeout=30) as connection, connection.makefile("rb") as answers:
            for piece in (first[:90], first[90:200], first[200:-1], first[-1:] + second):
                connection.sendall(piece)
                time.sleep(0.05)
            found = [answer_of(answers) for _ in range(2)]
        expected = client.post("/digits", content=digit).json()
        assert [json.loads(content) for _, content in found] == [expected] * 2
        assert b"x-request-id: a\r\n" in found[1][0]


def answer_of(answers):
    """Header and body of the next answer on a connection."""
    head = b"".join(iter(answers.readline, b"\r\n"))
    return head, answers.read(int(re.search(rb"content-length: (\d+)", head)[1]))


class TestRefusals:
    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/digits", 405),
            ("DELETE", "/instruments", 405),
            ("PUT", "/predict/sums", 405),
            ("POST", "/models", 405),
            ("POST", "/predict/absent", 404),
            ("POST", "/predict/", 404),
            ("POST", "/predict/a/b", 404),
            ("GET", "/nothing", 404),
            ("POST", "/", 405),
            ("POST", "/digits/", 404),
            ("GET", "/../../etc/passwd", 404),
            ("GET", "/%00", 404),
            ("POST", "/predict/..%2f..%2fetc%2fpasswd", 404),
        ],
    )
    def test_paths_and_methods(self, local, method, path, status):
        answer = local.request(method, path)
        assert answer.status_code == status
        assert refusal(answer) == status

    @pytest.mark.parametrize(
        ("path", "content", "content_type", "status"),
        [
            ("/digits", b"", "", 400),
            ("/digits", digit_file(1)[:100], "image/png", 400),
            ("/digits", digit_file(1)[:100], "", 400),
            ("/digits", b"\x80\x04\x95" + bytes(50), "application/vnd.bentoml+pickle", 415),
            ("/digits", bytes(100), "application/x-www-form-urlencoded", 400),
            ("/digits", bytes(100), "audio/wav", 415),
            ("/digits", FLUTE, "", 415),
            ("/digits", FLUTE, "image/png", 415),
            ("/digits", b'{"url": "http://example.com/a.png"}', "application/json", 415),
            ("/digits", b"%PDF-1.4", "application/pdf", 415),
            ("/digits", to_bytes(Image.new("L", (50, 50), 77)), "image/png", 422),
            ("/instruments", b"", "", 400),
            ("/instruments", digit_file(1), "", 415),
            ("/instruments", digit_file(1), "audio/mpeg", 415),
            ("/instruments", b"hello", "text/plain", 415),
            ("/instruments", FLUTE[:30], "audio/wav", 400),
            ("/instruments", sound_bytes(np.zeros(9000)), "audio/wav", 422),
            ("/instruments", sound_bytes(np.zeros(0)), "audio/wav", 422),
            ("/predict/sums", b"[1, 2", "application/json", 400),
            ("/predict/sums", b"[1, 2", "", 400),
            ("/predict/sums", digit_file(1), "application/json", 415),
            ("/predict/sums", b"[" * 100_000, "application/json", 400),
            ("/predict/sums", b"[1]", "", 422),
            ("/predict/sums", b"[1, 2, 3]", "", 422),
            ("/predict/sums", b'{"x": [1, 2]}', "", 422),
            ("/predict/sums", b'[1, "2"]', "", 422),
            ("/predict/sums", b"[1, true]", "", 422),
            ("/predict/sums", b"[[1, 2]]", "", 422),
            ("/predict/sums", b"[1, NaN]", "", 422),
            ("/predict/sums", b"[1, 1e39]", "", 422),
            ("/predict/sums", b"[1, 1" + b"0" * 400 + b"]", "", 422),
            ("/predict/sums", b"[1, 1" + b"0" * 5000 + b"]", "", 400),
            ("/predict/sums", b"[3e38, 3e38]", "", 422),
        ],
    )
    def test_files(self, local, path, content, content_type, status):
        answer = local.post(path, content=content, headers={"content-type": content_type} if content_type else {})
        assert refusal(answer) == status
        if content:
            form = local.post(path, files={"f": ("f", content, content_type or "application/octet-stream")})
            assert refusal(form) == status

    def test_urls_are_not_fetched(self, local):
        asked = []

        class Trap(BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)

        trap = HTTPServer(("127.0.0.1", 0), Trap)
        threading.Thread(target=trap.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{trap.server_port}/digit.png"
        try:
            for answer in (
                local.post("/digits", data={"file": url}),
                local.post("/digits", data={"url": url}),
                local.post("/digits", files={"file": (None, url)}),
                local.post("/digits", files={"file": ("url.txt", url)}),
                local.post("/digits", json={"file": url}),
                local.post("/digits", json=url),
                local.post("/digits", content=url),
                local.post("/digits", content=f'<svg><image href="{url}"/></svg>'),
                local.post("/digits", params={"url": url}),
            ):
                assert refusal(answer) in (400, 415)
        finally:
            trap.shutdown()
        assert asked == []

    @pytest.mark.parametrize("n", [300, pytest.param(5000, marks=pytest.mark.soak)])
    def test_mutated_files(self, client, n):
        rng = random.Random(7)
        requests = [("/digits", mutated(rng.choice([*IMAGE_FILES, PHONE_PHOTO]), rng)) for _ in range(n // 2)]
        sounds = [*SOUND_FILES, *PHONE_SOUNDS.values()]
        requests += [("/instruments", mutated(rng.choice(sounds), rng)) for _ in range(n // 2)]
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda request: client.post(request[0], content=request[1]), requests))
        statuses = Counter(answer.status_code for answer in answers)
        assert set(statuses) <= {200, 400, 413, 415, 422}
        assert statuses[200] > n // 10
        assert statuses[400] > n // 10
        for answer in answers:
            assert answer.status_code == 200 or refusal(answer)


class TestLimits:
    def test_bytes(self, strict):
        for content in (bytes(200_001), (bytes(1000) for _ in range(201))):
            assert refusal(strict.post("/digits", content=content)) == 413
        assert refusal(strict.post("/digits", files={"f": bytes(200_001)})) == 413
        assert refusal(strict.post("/digits", content=bytes(199_000))) == 400

    @pytest.mark.parametrize("length", [b"Content-Length: 1000000000", b"Transfer-Encoding: chunked"])
    def test_bytes_are_refused_before_they_are_read(self, strict, length):
        """The response comes although most of the body is never sent."""
        with socket.create_connection((strict.base_url.host, strict.base_url.port), timeout=10) as connection:
            connection.sendall(b"POST /digits HTTP/1.1\r\nHost: a\r\n" + length + b"\r\n\r\n")
            if b"chunked" in length:
                connection.sendall(b"%x\r\n%s" % (10**9, bytes(300_000)))
            assert connection.recv(100).startswith(b"HTTP/1.1 413 ")

    def test_pixels(self, strict):
        assert strict.post("/digits", content=digit_file(3)).json()["label"] == "3"
        page = Image.open(io.BytesIO(digit_file(3))).resize((101, 100))
        assert refusal(strict.post("/digits", content=to_bytes(page))) == 413

    def test_seconds(self, strict):
        assert strict.post("/instruments", content=sound_bytes(tone(seconds=1), format="OGG")).is_success
        assert refusal(strict.post("/instruments", content=sound_bytes(tone(seconds=1.1), format="OGG"))) == 413

    @pytest.mark.parametrize(("path", "most"), [("/digits", 2**25), ("/predict/sums", 2**25), ("/instruments", 2**27)])
    def test_default_size_of_a_file(self, client, path, most):
        for size, status in ((most + 1, b"413"), (most, None)):
            with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as connection:
                connection.sendall(b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (path.encode(), size))
                connection.settimeout(10 if status else 0.3)
                try:
                    assert connection.recv(100).split()[1] == status
                except TimeoutError:  # it waits for the body
                    assert status is None

    def test_default_limits(self, client):
        assert refusal(client.post("/digits", content=to_bytes(Image.new("1", (4096, 4097), 1)))) == 413
        assert refusal(client.post("/instruments", content=sound_bytes(tone(8000, seconds=601), 8000))) == 413

    def test_requests_in_flight(self, client):
        """Bodies that are still arriving may hold half of the slots."""
        file = digit_file(3) + bytes(2 * connections.AHEAD)
        request = f"POST /digits HTTP/1.1\r\nHost: a\r\nContent-Length: {len(file)}\r\n\r\n".encode() + file
        with ExitStack() as stack:
            address = (client.base_url.host, client.base_url.port)
            waiting = [stack.enter_context(socket.create_connection(address, timeout=10)) for _ in range(32)]
            for connection in waiting:
                connection.sendall(request[:-50])
            until(lambda: "percept_in_flight 32.0" in client.get("/metrics").text)
            answer = client.post("/digits", content=file)
            assert refusal(answer) == 503
            assert int(answer.headers["retry-after"]) >= 1
            assert client.post("/digits", content=digit_file(3)).is_success
            assert client.get("/livez").is_success
            assert client.get("/readyz").is_success
            for connection in waiting:
                connection.sendall(request[-50:])
                assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
        assert client.post("/digits", content=file).is_success

    def test_requests_that_have_sent_little_hold_no_slots(self, client):
        head = b"POST /instruments HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\nRIFF"
        with ExitStack() as stack:
            address = (client.base_url.host, client.base_url.port)
            for length in [1000, 128 * 2**20] * 70:
                connection = stack.enter_context(socket.create_connection(address, timeout=10))
                connection.sendall(head % length)
                assert client.post("/digits", content=digit_file(3)).json()["label"] == "3"

    def test_large_bodies_count_as_several_requests_in_flight(self, client):
        address = (client.base_url.host, client.base_url.port)
        head = b"POST /instruments HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\nRIFF" % (128 * 2**20)
        with ExitStack() as stack:
            arriving = [stack.enter_context(socket.create_connection(address, timeout=10)) for _ in range(12)]
            for connection in arriving:
                with suppress(OSError):  # it may have been refused already
                    connection.sendall(head + bytes(2 * connections.AHEAD))
            until(lambda: len(select.select(arriving, [], [], 0)[0]) == 12 - 32 // 8)
            for connection in select.select(arriving, [], [], 0)[0]:
                assert connection.recv(100).startswith(b"HTTP/1.1 503 ")
            assert "percept_in_flight 32.0" in client.get("/metrics").text
            assert client.post("/instruments", content=FLUTE).is_success
        until(lambda: "percept_in_flight 0.0" in client.get("/metrics").text)

    def test_clients_that_hang_up_are_forgotten(self, strict):
        for _ in range(5):
            with socket.create_connection((strict.base_url.host, strict.base_url.port)) as connection:
                connection.sendall(b"POST /digits HTTP/1.1\r\nHost: a\r\nContent-Length: 999\r\n\r\nabc")
        for _ in range(100):
            if strict.post("/digits", content=digit_file(3)).is_success:
                break
        assert strict.post("/digits", content=digit_file(3)).json()["label"] == "3"

    def test_an_invalid_environment_variable_is_one_line(self):
        result = subprocess.run(
            [sys.executable, "-c", "import service.service"],
            cwd=ROOT,
            env={"PERCEPT_MAX_CONCURRENCY": "lots", "PATH": ""},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 1
        assert result.stderr == "percept: PERCEPT_MAX_CONCURRENCY=lots: expected a whole number above 0\n"


class TestOperation:
    def test_health_and_metrics(self, client):
        assert client.get("/livez").is_success
        assert client.get("/readyz").is_success
        client.post("/digits", content=digit_file(3))
        assert re.search(
            r'^percept_requests_total\{code="200",route="/digits"\} [1-9]', client.get("/metrics").text, re.MULTILINE
        )
        assert "/livez" in client.get("/docs.json").json()["paths"]

    def test_worker_loads_no_library_of_training(self, server, client):
        (worker,) = workers(server)
        libraries = set(re.findall(r"site-packages/(\w+)", Path(f"/proc/{worker}/maps").read_text()))
        assert {"onnxruntime", "numpy", "PIL", "soxr"} <= libraries
        assert not libraries & {"torch", "torchvision", "librosa", "numba", "scipy", "sklearn", "matplotlib", "onnx"}

    def test_service_imports_no_library_of_training(self):
        program = (
            "import sys, service.service, service.serving.predictor\n"
            "print(*{name.split('.')[0] for name in sys.modules})"
        )
        output = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True, text=True)
        forbidden = {"torch", "librosa", "pipeline", "sklearn", "scipy", "matplotlib", "onnx", "typer"}
        assert not set(output.stdout.split()) & forbidden

    def test_supervisor_stays_small(self):
        program = "import sys, service.service; print(*sys.modules)"
        output = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True, text=True)
        assert not set(output.stdout.split()) & {"onnxruntime", "numpy", "PIL", "soundfile", "soxr"}

    def test_memory(self, server):
        (worker,) = workers(server)
        assert resident_mb(worker) < 600  # after the large files of other tests

    def test_requests_reuse_the_memory_of_earlier_ones(self, server, client):
        (worker,) = workers(server)
        tensor = {"name": "image", "shape": [64, 28, 28], "datatype": "UINT8", "data": [0, 255] * (64 * 28 * 14)}
        faults = []
        for _ in range(40):
            assert client.post("/v2/models/digits/infer", json={"inputs": [tensor]}).is_success
            faults.append(int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[7]))  # minor ones
        assert faults[-1] - faults[19] < 20 * 50  # of 4,096 bytes; the parser alone takes some 400 pages

    def test_versions_that_are_not_there(self, server):
        """Each path as it is, which HTTP clients would normalise."""
        names = ("v", "v3", "latest", ".", "..", "../v1", "%2e%2e", "..%2fv1", "v1%2f", "v1%00", "", "%20", "%C3%BC")
        before = server.log.stat().st_size
        for name in (*names, "x" * 4000):
            for path in (f"/predict/sums/versions/{name}", f"/v2/models/sums/versions/{name}/infer"):
                (refused,) = closed_loop(server.url, [post(path, b"[3, 1]")], 1, n=1).refusals
                assert refused.startswith(b"HTTP/1.1 404 "), (path, refused)
        assert "Traceback" not in server.log.read_text()[before:]

    def test_broken_models_do_not_take_the_others_down(self, tmp_path, caplog):
        put(tmp_path, instruments_model(NEWEST))
        put_broken(tmp_path)
        with bentoml.models.create("unlabelled:v1", _model_store=ModelStore(tmp_path / "models")):
            pass
        (tmp_path / "models" / "unfinished" / "v1").mkdir(parents=True)
        with application(tmp_path) as client:
            assert client.post("/instruments", content=FLUTE).json()["label"] == "flute"
            answer = client.get("/models").json()
            assert [card["name"] for card in answer["models"]] == ["instruments"]
            assert list(answer["failed"]) == ["broken"]
            assert refusal(client.post("/predict/broken", content=b"x")) == 404
            assert refusal(client.post("/digits", content=b"x")) == 404
            assert str(tmp_path) not in client.get("/models").text
        assert any("broken:v1" in line for line in caplog.messages)


def test_browsers_may_not_guess_content_types(local: httpx.Client) -> None:
    for answer in (local.post("/digits", content=digit_file(3)), local.get("/models"), local.get("/schema.json")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert re.fullmatch("[0-9a-f]{16}", answer.headers["x-request-id"])


def test_head_is_get_without_a_body(local: httpx.Client) -> None:
    for path in ("/", "/models", "/livez", "/v2"):
        assert local.head(path).headers["content-length"] == str(len(local.get(path).content))
        assert local.head(path).content == b""


def test_a_form_may_name_model_and_timeline(local: httpx.Client) -> None:
    files = {"file": ("clip.wav", sound_bytes(tone(frequency=2000, seconds=2)))}
    for text in ("1", '"1"', "1.0"):
        answer = local.post("/predict", data={"model": "instruments", "timeline": text}, files=files).json()
        assert (answer["label"], len(answer["timeline"])) == ("flute", 2)
    assert local.post("/predict?model=instruments", files=files).json()["label"] == "flute"
    assert refusal(local.post("/predict", data={"model": "none"}, files=files)) == 404
    assert refusal(local.post("/predict", files=files)) == 404
    assert refusal(local.post("/predict", data={"model": "digits", "timeline": "1"}, files={"f": digit_file(3)})) == 422


def test_an_answer_holds_what_the_model_sees_if_that_is_asked_for(local: httpx.Client) -> None:
    file = digit_file(3)
    asked = local.post("/digits?seen=true", content=file).json()
    with Image.open(io.BytesIO(base64.b64decode(asked["seen"]))) as image:
        assert np.array_equal(np.asarray(image), decode_image(file, Limits()))
    plain = local.post("/digits", content=file).json()
    assert asked == plain | {"seen": asked["seen"]}
    for text in ("1", "True", "true"):
        by_form = local.post("/predict", data={"model": "digits", "seen": text}, files={"file": file}).json()
        assert by_form["seen"] == asked["seen"]
    assert local.post("/predict/digits?seen=false", content=file).json() == plain
    sound = sound_bytes(tone(seconds=1))
    assert local.post("/instruments?seen=1", content=sound).json()["seen"] is None  # its graph returns no spectrogram
    assert local.post("/predict/sums?seen=0", content=b"[1, 2]").is_success
    assert refusal(local.post("/predict/sums?seen=true", content=b"[1, 2]")) == 422
    assert {refusal(local.post(f"/digits?seen={text}", content=file)) for text in ("yes", "", "2")} == {422}


def test_a_compressed_body_is_refused(local: httpx.Client) -> None:
    for path in ("/digits", "/v2/models/digits/infer"):
        answer = local.post(path, content=gzip.compress(digit_file(3)), headers={"content-encoding": "gzip"})
        assert answer.status_code == 415


def test_metrics_are_rendered_by_one_thread_for_all_who_ask(home, monkeypatch):
    calls, at_once, most = 0, 0, 0
    render = Metrics.render

    def counted(self, predictors):
        nonlocal calls, at_once, most
        calls, at_once = calls + 1, at_once + 1
        most = max(most, at_once)
        try:
            return render(self, predictors)
        finally:
            at_once -= 1

    monkeypatch.setattr(Metrics, "render", counted)

    async def ask(state):
        first = asyncio.create_task(state.render())
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # it has begun, so the others want what is counted from now on
        return await asyncio.gather(first, *(state.render() for _ in range(20)))

    with model_store(home):
        metrics = in_process._metrics()
        state = State(Repository(changed=metrics.changed), metrics, Limits(), Admission(1), APIKeys([]), None, False)
        texts = asyncio.run(ask(state))
    assert (calls, most) == (2, 1)
    assert all(b"percept_connections " in text for text in texts)
