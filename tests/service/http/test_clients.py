"""Third-party clients of a real service: Schemathesis, which reads the OpenAPI document, and BentoML's client."""

import asyncio
import os
import subprocess
import sys

import bentoml
import httpx
import pytest
from bentoml.exceptions import BentoMLException

from service.http.auth import OPEN
from service.http.static import FILES
from tests.service.helpers import FLUTE, digit_file
from tests.serving import serving

KEY = "a-key"


@pytest.fixture(scope="module")
def closed(home):
    with serving(home, PERCEPT_API_KEYS=KEY) as running:
        yield running.url


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A digit, a recording and a vector."""
    folder = tmp_path_factory.mktemp("files")
    contents = {"three.png": digit_file(3), "flute.wav": FLUTE, "vector.json": b"[3, 0.5]"}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


class TestDocument:
    def test_is_valid(self, closed):
        """The one without keys is the same but for them, as tests/service/http/test_auth.py shows."""
        import schemathesis  # takes a second, in every worker

        document = httpx.get(f"{closed}/docs.json", headers={"x-api-key": KEY}).json()
        schemathesis.openapi.from_dict(document).validate()
        assert set(document["components"]["securitySchemes"]) == {"bearer", "basic", "header"}

    @pytest.mark.parametrize(
        ("key", "extent"),
        [
            (False, ("--max-examples", "3", "--phases", "examples,fuzzing")),
            (True, ("--max-examples", "5")),
            pytest.param(False, ("--max-examples", "5", "--phases", "examples,fuzzing"), marks=pytest.mark.soak),
            pytest.param(True, ("--max-examples", "15"), marks=pytest.mark.soak),
        ],
    )
    def test_is_true(self, server, closed, tmp_path, key, extent):
        """Whatever is sent, statuses, content types and bodies are those in the document.

        Without keys the service differs only in what it refuses, and the document only in what it says of keys, as
        tests/service/http/test_auth.py shows; so fewer requests do.
        """
        url = closed if key else server.url
        command = [
            sys.executable, "-m", "schemathesis.cli", "run", f"{url}/docs.json", "--url", url, "--no-color",
            "--generation-deterministic", *extent, "--header", f"X-API-Key: {KEY}",
            # A schema cannot say which bytes are a picture, or fit which model; and a request with a wrong key passes,
            # because the right one is in another header. TestKeys tests what is refused without a key.
            "--exclude-checks", "positive_data_acceptance,ignored_auth",
        ]  # fmt: skip
        found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert found.returncode == 0, found.stdout[-8000:] + found.stderr[-2000:]
        assert "Test cases:" in found.stdout


class TestKeys:
    def test_only_health_is_open_without_one(self, closed):
        with httpx.Client(base_url=closed) as client:
            document = client.get("/docs.json", headers={"authorization": f"bearer {KEY}"}).json()
            paths = [*document["paths"], *FILES, "/docs.json", "/schema.json", "/static_content/swagger-ui.css", "/x"]
            for path in paths:
                for method in ("GET", "POST", "HEAD", "DELETE"):
                    answer = client.request(method, path)
                    assert (answer.status_code == 401) == (path not in OPEN), (method, path)
                    if answer.status_code == 401:
                        assert answer.headers["www-authenticate"].startswith("Basic ")
                        assert method == "HEAD" or list(answer.json()) == ["error"]

    def test_each_way_to_send_one(self, closed):
        def status(**options):
            return client.get("/models", **options).status_code

        with httpx.Client(base_url=closed) as client:
            bearers = {"authorization": f"Bearer {KEY}"}, {"authorization": f"BEARER  {KEY}"}
            for headers in (*bearers, {"x-api-key": KEY}):
                assert status(headers=headers) == 200
            assert status(auth=("anyone", KEY)) == 200
            for scheme in ("Bearer", "Basic", "Digest", ""):
                for key in ("", "wrong", f"{KEY}x", KEY[:-1], "é", "=", "a" * 5000):
                    headers = {"authorization": f"{scheme} {key}".strip().encode("latin-1")}
                    assert status(headers=headers) == 401
            assert status(params={"key": KEY}) == 401


class TestBentoML:
    @pytest.mark.parametrize("with_key", [False, True])
    def test_client(self, server, closed, client, files, with_key):
        digit, recording, vector = files
        url, options = (closed, {"token": KEY}) if with_key else (server.url, {})
        with bentoml.SyncHTTPClient(url, **options) as bento:
            assert bento.is_ready()
            assert bento.digits(file=digit) == client.post("/digits", content=digit.read_bytes()).json()
            expected = client.post("/instruments", params={"timeline": 0.5}, content=FLUTE).json()
            assert bento.instruments(file=recording, timeline=0.5) == expected
            assert "timeline" not in bento.instruments(file=recording)
            assert bento.predict(model="sums", file=vector)["value"] == {"sum": 3.5, "difference": 2.5}
            assert bento.predict(model="instruments", file=recording, timeline=0.5) == expected

    @pytest.mark.parametrize("with_key", [False, True])
    def test_asynchronous_client(self, server, closed, files, with_key):
        digit, recording, vector = files
        url, options = (closed, {"token": KEY}) if with_key else (server.url, {})

        async def ask():
            async with bentoml.AsyncHTTPClient(url, **options) as bento:
                return [  # one after the other: the client closes the files of all its calls when one is done
                    await bento.digits(file=digit),
                    await bento.instruments(file=recording, timeline=0.5),
                    await bento.predict(model="sums", file=vector),
                ]

        of_digit, of_recording, of_vector = asyncio.run(ask())
        assert (of_digit["label"], of_recording["label"]) == ("3", "flute")
        assert of_vector["value"] == {"sum": 3.5, "difference": 2.5}

    def test_refusals(self, server, closed, files):
        digit, _, vector = files
        with bentoml.SyncHTTPClient(server.url) as bento:
            with pytest.raises(BentoMLException, match="expected an image"):
                bento.digits(file=vector)
            with pytest.raises(BentoMLException, match="no model 'absent'"):
                bento.predict(model="absent", file=digit)
            with pytest.raises(BentoMLException, match="only recordings"):
                bento.predict(model="digits", file=digit, timeline=1.0)
        with pytest.raises(BentoMLException), bentoml.SyncHTTPClient(closed) as bento:
            bento.digits(file=digit)

    def test_typed_methods(self, home, files):
        """Called without HTTP, as by a script or another service."""
        program = (
            "import json, sys, pathlib\n"
            "from service.service import Percept\n"
            "digit, recording, vector = map(pathlib.Path, sys.argv[1:])\n"
            "service = Percept()\n"
            "print(json.dumps([service.digits(file=digit)['label'],\n"
            "    len(service.instruments(file=recording, timeline=0.5)['timeline']),\n"
            "    service.predict(model='sums', file=vector)['value']['sum']]))\n"
        )
        command = [sys.executable, "-c", program, *map(str, files)]
        found = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"BENTOML_HOME": str(home)})
        assert found.stdout.strip().splitlines()[-1:] == ['["3", 1, 3.5]'], found.stderr
