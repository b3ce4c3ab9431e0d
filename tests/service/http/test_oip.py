"""The Open Inference Protocol, with Triton's client and with requests written by hand."""

import json
from typing import ClassVar

import httpx
import numpy as np
import onnxruntime
import pytest
import tritonclient.http as triton
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from tritonclient.utils import InferenceServerException, np_to_triton_dtype, triton_to_np_dtype

from models.card import FAMILIARITY
from service.http.tensors import DTYPES
from service.media.image import to_mnist_form
from tests.service.helpers import to_bytes
from tests.serving import FIRST, NEWEST, careful_model, digits_model, fill_store, put, put_broken, serving

KEY = "a-key"
RATE = 22_050
PICTURES = np.stack([to_mnist_form(image) for image in load_digits().images[:300]])
SUMS = "/v2/models/sums/infer"


def waveforms(n, seconds=0.2):
    """float32 (n, T): tones from 100 Hz up."""
    time = np.arange(int(seconds * RATE)) / RATE
    return np.float32([0.5 * np.sin(2 * np.pi * (100 + 50 * i) * time) for i in range(n)])


BATCHES = {
    "digits": ("image", PICTURES),
    "instruments": ("waveform", waveforms(300, 0.05)),
    "sums": ("vector", np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)),
}


def by_onnxruntime(home, name, batch, version=NEWEST):
    session = onnxruntime.InferenceSession(home / "models" / name / version / "model.onnx")
    return session.run(None, {session.get_inputs()[0].name: batch})[0]


def tensor(array, name, binary=True, datatype=None):
    input_ = triton.InferInput(name, array.shape, datatype or np_to_triton_dtype(array.dtype))
    input_.set_data_from_numpy(array, binary_data=binary)
    return input_


def error(response, status):
    """The message of an error; the test fails if it has another status or form."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["error"]
    assert body["error"]
    assert "\n" not in body["error"]
    return body["error"]


@pytest.fixture(scope="module")
def triton_client(server):
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        yield client


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    """A server with API keys, a low limit for batches, a model with a familiarity output, and a broken model."""
    home = tmp_path_factory.mktemp("closed")
    fill_store(home)
    put(home, careful_model())
    put_broken(home)
    limits = {"PERCEPT_MAX_BATCH": "10", "PERCEPT_MAX_SECONDS": "100", "PERCEPT_POLL_SECONDS": "3600"}
    with serving(home, PERCEPT_API_KEYS=f"another,{KEY}", **limits) as running:
        yield running, home


@pytest.fixture(scope="module")
def with_key(closed):
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=closed[0].url, headers=headers, timeout=30) as connection:
        yield connection


class TestMetadata:
    def test_server(self, triton_client):
        assert triton_client.is_server_live()
        assert triton_client.is_server_ready()
        metadata = triton_client.get_server_metadata()
        assert metadata["name"] == "percept"
        assert {"binary_tensor_data", "classification"} <= set(metadata["extensions"])

    @pytest.mark.parametrize(
        ("name", "inputs", "output", "labels"),
        [
            ("digits", {"name": "image", "datatype": "UINT8", "shape": [-1, 28, 28]}, "probabilities", 10),
            ("instruments", {"name": "waveform", "datatype": "FP32", "shape": [-1, -1]}, "probabilities", 2),
            ("sums", {"name": "vector", "datatype": "FP32", "shape": [-1, 2]}, "value", 2),
        ],
    )
    def test_model(self, triton_client, name, inputs, output, labels):
        metadata = triton_client.get_model_metadata(name)
        assert metadata["name"] == name
        assert metadata["inputs"] == [inputs]
        assert metadata["outputs"] == [{"name": output, "datatype": "FP32", "shape": [-1, labels]}]
        assert metadata["versions"] == ([NEWEST, FIRST] if name == "digits" else [NEWEST])
        assert len(metadata["parameters"]["labels"]) == labels
        assert triton_client.is_model_ready(name)
        assert triton_client.is_model_ready(name, NEWEST)

    def test_versions(self, triton_client, client):
        assert triton_client.is_model_ready("digits", FIRST)
        assert not triton_client.is_model_ready("digits", "v9")
        assert not triton_client.is_model_ready("absent")
        assert triton_client.get_model_metadata("digits", FIRST)["name"] == "digits"
        with pytest.raises(InferenceServerException, match="has no version 'v9'"):
            triton_client.get_model_metadata("digits", "v9")
        error(client.get("/v2/models/digits/versions/..%2f..%2fsums/ready"), 404)

    def test_index(self, triton_client, client):
        rows = triton_client.get_model_repository_index()
        present = {(row["name"], row["version"]): row["state"] for row in rows}
        expected = {(name, NEWEST): "READY" for name in BATCHES} | {("digits", FIRST): "UNAVAILABLE"}
        assert present == expected
        ready = client.post("/v2/repository/index", json={"ready": True}).json()
        assert {row["state"] for row in ready} == {"READY"}
        assert client.get("/v2/repository/index").json() == rows
        error(client.post("/v2/repository/index", json={"ready": 1}), 400)


class TestLoad:
    def test_is_refused_without_api_keys(self, triton_client):
        with pytest.raises(InferenceServerException, match="takes an API key"):
            triton_client.load_model("digits")

    def test_a_new_version(self, closed):
        running, home = closed
        headers = {"Authorization": f"Bearer {KEY}"}
        with triton.InferenceServerClient(running.url.removeprefix("http://")) as client:
            with pytest.raises(InferenceServerException, match="asks for an API key"):
                client.get_model_metadata("digits")
            assert client.is_server_ready()
            put(home, digits_model("v3"))
            assert (
                client.infer("digits", [tensor(PICTURES[:1], "image")], headers=headers).get_response()["model_version"]
                == NEWEST
            )
            client.load_model("digits", headers=headers)
            answer = client.infer("digits", [tensor(PICTURES[:1], "image")], headers=headers)
            assert answer.get_response()["model_version"] == "v3"
            for name, message in (("absent", "no model 'absent'"), ("broken", "broken:v1 could not be loaded")):
                with pytest.raises(InferenceServerException, match=message):
                    client.load_model(name, headers=headers)
            with pytest.raises(InferenceServerException, match="parameters"):
                client.load_model("digits", headers=headers, config="{}")

    def test_a_broken_model(self, with_key):
        assert with_key.get("/v2/models/broken/ready").status_code == 503
        error(with_key.get("/v2/models/broken"), 404)
        error(with_key.post("/v2/models/broken/infer", json={}), 404)
        rows = with_key.post("/v2/repository/index").json()
        assert [row["state"] for row in rows if row["name"] == "broken"] == ["UNAVAILABLE"]
        error(with_key.post("/v2/repository/models/digits/load", content=b"{"), 400)


class TestInference:
    @pytest.mark.parametrize("binary_output", [True, False])
    @pytest.mark.parametrize("binary_input", [True, False])
    @pytest.mark.parametrize("n", [1, 3, 300])
    @pytest.mark.parametrize("name", list(BATCHES))
    def test_same_as_onnxruntime(self, triton_client, home, name, n, binary_input, binary_output):
        input_name, batch = BATCHES[name]
        batch = batch[:n]
        output = triton_client.get_model_metadata(name)["outputs"][0]["name"]
        answer = triton_client.infer(
            name,
            [tensor(batch, input_name, binary_input)],
            outputs=[triton.InferRequestedOutput(output, binary_data=binary_output)],
            request_id="number 1",
        )
        response = answer.get_response()
        assert (response["model_name"], response["model_version"]) == (name, NEWEST)
        assert response["id"] == "number 1"
        # A larger batch may go through the graph in parts, which are rounded differently.
        np.testing.assert_allclose(answer.as_numpy(output), by_onnxruntime(home, name, batch), rtol=1e-5, atol=1e-6)

    def test_same_as_for_files(self, triton_client, client):
        answer = triton_client.infer("digits", [tensor(PICTURES[:20], "image")])
        for picture, probabilities in zip(PICTURES[:20], answer.as_numpy("probabilities"), strict=True):
            answer_to_file = client.post("/digits", content=to_bytes(Image.fromarray(picture))).json()
            np.testing.assert_allclose(list(answer_to_file["probabilities"].values()), probabilities, rtol=1e-5)

    def test_all_outputs_unless_some_are_named(self, triton_client, client):
        answer = triton_client.infer("digits", [tensor(PICTURES[:2], "image")])  # asks for binary_data_output
        assert answer.as_numpy("probabilities").shape == (2, 10)
        body = {"name": "vector", "shape": [1, 2], "datatype": "FP32", "data": [[1, 2]]}
        nothing = {"id": None, "parameters": None}
        assert client.post(SUMS, json={"inputs": [body | {"parameters": None}], "outputs": None} | nothing).is_success
        plain = client.post(SUMS, json={"inputs": [body], "outputs": []})
        assert plain.headers["content-type"] == "application/json"
        assert plain.json() == {
            "model_name": "sums",
            "model_version": NEWEST,
            "outputs": [{"name": "value", "shape": [1, 2], "datatype": "FP32", "data": [3, -1]}],
        }

    @pytest.mark.parametrize("binary", [True, False])
    def test_two_outputs_one_of_them_binary(self, closed, binary):
        running, home = closed
        with triton.InferenceServerClient(running.url.removeprefix("http://")) as client:
            answer = client.infer(
                "careful",
                [tensor(PICTURES[:3], "image")],
                outputs=[
                    triton.InferRequestedOutput(FAMILIARITY, binary_data=binary),
                    triton.InferRequestedOutput("probabilities", binary_data=not binary),
                ],
                headers={"Authorization": f"Bearer {KEY}"},
            )
        familiarity = 1 - PICTURES[:3].mean(axis=(1, 2)) / 255
        np.testing.assert_allclose(answer.as_numpy(FAMILIARITY), familiarity, rtol=1e-5)
        expected = by_onnxruntime(home, "careful", PICTURES[:3])
        np.testing.assert_allclose(answer.as_numpy("probabilities"), expected, rtol=1e-5)
        assert [output["name"] for output in answer.get_response()["outputs"]] == [FAMILIARITY, "probabilities"]

    def test_sets_of_labels_are_those_of_the_answers_to_files(self, closed, with_key):
        for picture in PICTURES[:3]:
            data = {"name": "image", "shape": [1, 28, 28], "datatype": "UINT8", "data": picture.ravel().tolist()}
            body = {"inputs": [data], "parameters": {"set": True}}
            found = with_key.post("/v2/models/careful/infer", json=body).json()["parameters"]
            answer = with_key.post("/predict/careful", content=to_bytes(Image.fromarray(picture))).json()
            assert (found["coverage"], found["set_threshold"]) == (0.95, 0.02)
            assert json.loads(found["set"]) == [answer["set"]]
            ranked = sorted(answer["probabilities"], key=answer["probabilities"].__getitem__, reverse=True)
            assert answer["set"] == [name for name in ranked if answer["probabilities"][name] >= 0.02]
            del body["parameters"]
            assert "set" not in with_key.post("/v2/models/careful/infer", json=body).json()["parameters"]

    def test_a_model_that_promises_no_set(self, client):
        data = {"name": "vector", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
        response = client.post(SUMS, json={"inputs": [data], "parameters": {"set": True}})
        assert error(response, 400) == "set: sums promises none"
        assert "parameters" not in client.post(SUMS, json={"inputs": [data]}).json()

    @pytest.mark.parametrize("binary", [True, False])
    @pytest.mark.parametrize("classes", [1, 3, 99])
    def test_classification(self, triton_client, home, classes, binary):
        answer = triton_client.infer(
            "digits",
            [tensor(PICTURES[:4], "image")],
            outputs=[triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=classes)],
        )
        named = answer.as_numpy("probabilities")
        expected = by_onnxruntime(home, "digits", PICTURES[:4])
        assert named.shape == (4, min(classes, 10))
        for row, probabilities in zip(named, expected, strict=True):
            texts = [text.decode() if binary else text for text in row]
            best = np.argsort(-probabilities, kind="stable")[: len(texts)]
            assert texts == [f"{probabilities[i]:f}:{i}:{i}" for i in best]

    def test_a_version(self, triton_client, home):
        answer = triton_client.infer("digits", [tensor(PICTURES[:1], "image")], model_version=FIRST)
        assert answer.get_response()["model_version"] == FIRST
        expected = by_onnxruntime(home, "digits", PICTURES[:1], FIRST)
        np.testing.assert_allclose(answer.as_numpy("probabilities"), expected, rtol=1e-5)

    @pytest.mark.parametrize("binary", [True, False])
    def test_long_recordings(self, triton_client, binary):
        """They are classified piece by piece, like files."""
        batch = waveforms(2, 61)
        outputs = [triton.InferRequestedOutput("probabilities", binary_data=binary)]
        answer = triton_client.infer("instruments", [tensor(batch, "waveform")], outputs=outputs)
        assert answer.as_numpy("probabilities").argmax(axis=1).tolist() == [0, 0]
        assert answer.as_numpy("probabilities").dtype == np.float32
        silent = tensor(batch * np.float32([[1], [0]]), "waveform")
        with pytest.raises(InferenceServerException, match="the audio is silent"):
            triton_client.infer("instruments", [silent])

    def test_many_at_once(self, triton_client, home, server):
        with triton.InferenceServerClient(server.url.removeprefix("http://"), concurrency=8) as client:
            waiting = [client.async_infer("digits", [tensor(PICTURES[i : i + 3], "image")]) for i in range(40)]
            for i, request in enumerate(waiting):
                expected = by_onnxruntime(home, "digits", PICTURES[i : i + 3])
                found = request.get_result().as_numpy("probabilities")
                np.testing.assert_allclose(found, expected, rtol=1e-5)


class TestDatatypes:
    @pytest.mark.parametrize("binary", [True, False])
    @pytest.mark.parametrize("datatype", list(DTYPES))
    def test_pictures(self, triton_client, home, datatype, binary):
        pictures = np.minimum(PICTURES[:2], 127)
        if datatype == "BOOL":
            pictures = np.where(pictures > 64, np.uint8(255), np.uint8(0))
        values = pictures.astype(triton_to_np_dtype(datatype))  # for BF16 float32, or, in newer clients, ml_dtypes' own
        if datatype in ("FP16", "BF16") and not binary:
            pytest.skip("Triton's client sends it in binary only")
        answer = triton_client.infer("digits", [tensor(values, "image", binary, datatype)])
        expected = by_onnxruntime(home, "digits", pictures)
        np.testing.assert_allclose(answer.as_numpy("probabilities"), expected, rtol=1e-5)

    @pytest.mark.parametrize("binary", [True, False])
    @pytest.mark.parametrize("datatype", list(DTYPES))
    def test_extremes_of_each(self, local, datatype, binary):
        """The smallest and largest integers, all of which the model's float32 can hold."""
        dtype = np.dtype(DTYPES[datatype])
        if datatype == "BOOL":
            values = np.array([False, True])
        elif dtype.kind == "f":
            values = np.array([-3e4, 0.1], np.float16 if datatype == "FP16" else np.float32)
            values = (values.view(np.uint32) & 0xFFFF0000).view(np.float32) if datatype == "BF16" else values
            values = values.astype(dtype)
        else:
            values = np.array([np.iinfo(dtype).min, np.iinfo(dtype).max], dtype)
        answer = local.post(SUMS, **request(values, datatype, binary))
        a, b = values.astype(np.float32)
        assert answer.json()["outputs"][0]["data"] == pytest.approx([a + b, a - b], rel=1e-6)

    def test_values_that_do_not_fit(self, local):
        def data(values, datatype):
            return {"inputs": [{"name": "vector", "shape": [1, 2], "datatype": datatype, "data": values}]}

        for datatype in [name for name in DTYPES if "INT" in name]:
            limits = np.iinfo(DTYPES[datatype])
            beyond = 2**64 if limits.bits == 64 else 1  # JSON parsers round integers of more than 64 bits
            for value in (int(limits.max) + beyond, int(limits.min) - beyond, 0.5, 1e300, -1e300, "1", None, True, [1]):
                error(local.post(SUMS, json=data([value, 1], datatype)), 400)
            assert local.post(SUMS, json=data([1.0, 2], datatype)).is_success
        for datatype, value in (("FP16", 7e4), ("FP32", 1e39), ("FP64", 1e39), ("FP32", True), ("FP32", "1")):
            error(local.post(SUMS, json=data([value, 1], datatype)), 400)
        for value in (0, 1, 0.0, "true", None):
            error(local.post(SUMS, json=data([value, True], "BOOL")), 400)

    @pytest.mark.parametrize("datatype", ["UINT8", "UINT16", "INT64", "FP32", "FP64"])
    @pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" ,", ":")])
    def test_many_whole_numbers(self, local, home, datatype, separators):
        def post(data, **others):
            tensor = {"name": "image", "shape": [40, 28, 28], "datatype": datatype} | others
            document = {"inputs": [tensor | ({} if data is None else {"data": data})]}
            return local.post("/v2/models/digits/infer", content=json.dumps(document, separators=separators))

        pictures = PICTURES[:40]
        numbers = pictures.reshape(-1).tolist()
        expected = by_onnxruntime(home, "digits", pictures).reshape(-1)
        for data in (numbers, pictures.tolist()):
            found = post(data).raise_for_status().json()["outputs"][0]["data"]
            assert found == pytest.approx(expected.tolist(), rel=1e-5)
        error(post([*numbers[:-1], 256]), 400)
        assert "got 31361 of them" in error(post([*numbers, 0]), 400)
        error(post(numbers, datatype="BOOL"), 400)
        error(post(None, parameters={"data": numbers}), 400)
        assert post(numbers, parameters={"data": numbers}).is_success

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_values_that_are_not_finite(self, local, value):
        for dtype, datatype in ((np.float16, "FP16"), (np.float32, "BF16"), (np.float32, "FP32"), (np.float64, "FP64")):
            error(local.post(SUMS, **request(np.array([value, 1], dtype), datatype, True)), 400)
        recording = waveforms(1)
        recording[0, 100] = value
        error(local.post("/v2/models/instruments/infer", **request(recording, "FP32", True, "waveform")), 400)
        for text in ("NaN", "Infinity", "-Infinity", "1e999"):
            body = json.dumps(changed(datatype="FP64")).replace("[1, 2]}", f"[1, {text}]}}")
            error(local.post(SUMS, content=body), 400)

    def test_an_answer_that_overflows(self, local):
        error(local.post(SUMS, **request(np.float32([3e38, 3e38]), "FP32", True)), 400)

    def test_pixels_are_whole_numbers_from_0_to_255(self, local):
        for value in (-1, 256, 0.5):
            picture = np.full((1, 28, 28), value, np.float32)
            message = error(local.post("/v2/models/digits/infer", **request(picture, "FP32", True, "image")), 400)
            assert "whole numbers from 0 to 255" in message

    @pytest.mark.parametrize("binary", [True, False])
    @pytest.mark.parametrize("datatype", list(DTYPES))
    def test_pixels_of_0_and_1_are_refused(self, local, datatype, binary):
        """They are nearly black, and every picture would be the same digit; as BOOL they are black and white."""
        ink = (PICTURES[:2] > 128).astype(DTYPES[datatype])
        answer = local.post("/v2/models/digits/infer", **request(ink, datatype, binary, "image"))
        if datatype == "BOOL":
            white = local.post("/v2/models/digits/infer", **request(ink * np.uint8(255), "UINT8", binary, "image"))
            assert answer.json() == white.json()
        else:
            assert "from 0, background, to 255, ink, and these end at 1" in error(answer, 400)
        fractions = np.float32(PICTURES[:2] / 255)
        assert "0 to 255" in error(
            local.post("/v2/models/digits/infer", **request(fractions, "FP32", binary, "image")), 400
        )
        blank = request(np.zeros((1, 28, 28), DTYPES[datatype]), datatype, binary, "image")
        assert local.post("/v2/models/digits/infer", **blank).is_success

    def test_any_byte_but_0_is_true(self, local):
        mask = np.where(PICTURES[:2] > 128, np.uint8(255), np.uint8(0))
        found, expected = (
            local.post("/v2/models/digits/infer", **request(mask, datatype, True, "image")).raise_for_status().json()
            for datatype in ("BOOL", "UINT8")
        )
        assert found == expected
        sums = local.post(SUMS, **request(np.uint8([2, 0]), "BOOL", True)).json()
        assert sums["outputs"][0]["data"] == [1, 1]


def request(values, datatype, binary, name="vector"):
    """What httpx sends for one input; a vector of one dimension is a batch of one."""
    values = np.atleast_2d(values)
    part = {"name": name, "shape": list(values.shape), "datatype": datatype}
    if not binary:
        return {"json": {"inputs": [part | {"data": values.reshape(-1).tolist()}]}}
    raw = values.astype(values.dtype.newbyteorder("<")).tobytes()
    if datatype == "BF16":
        raw = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    head = json.dumps({"inputs": [part | {"parameters": {"binary_data_size": len(raw)}}]}).encode()
    return {"content": head + raw, "headers": {"inference-header-content-length": str(len(head))}}


GOOD = {"name": "vector", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}


def changed(**keys):
    """A request whose tensor has these values, and lacks the keys whose value is None."""
    part = {key: value for key, value in (GOOD | keys).items() if value is not None}
    return {"inputs": [part]}


class TestRefusals:
    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("POST", "/v2/models/absent/infer", 404),
            ("GET", "/v2/models/absent", 404),
            ("GET", "/v2/models/absent/ready", 404),
            ("POST", "/v2/models/sums/versions/v9/infer", 404),
            ("POST", "/v2/models/%00/infer", 404),
            ("GET", "/v2/models/digits/versions/%00", 404),
            ("GET", f"/v2/models/{'a' * 5000}", 404),
            ("GET", "/v2/nothing", 404),
            ("GET", "/v2/", 404),
            ("GET", SUMS, 405),
            ("DELETE", "/v2/models/sums", 405),
            ("POST", "/v2", 405),
            ("POST", "/v2/health/live", 405),
            ("PUT", "/v2/repository/index", 405),
            ("GET", "/v2/repository/models/sums/load", 405),
        ],
    )
    def test_paths(self, local, method, path, status):
        answer = local.request(method, path)
        error(answer, status)
        assert status == 404 or answer.headers["allow"]

    @pytest.mark.parametrize(
        "body",
        [
            *([], 1, None, "x", {}, {"inputs": None}, {"inputs": []}, {"inputs": {}}, {"inputs": [1]}),
            {"inputs": [GOOD, GOOD]},
            *(changed(name=name) for name in (None, "image", 1, [], {}, "ü" * 1000, "a\nb")),
            *(changed(datatype=d) for d in (None, "fp32", "BYTES", "", 1, [], {}, "FP32\n")),
            *(changed(shape=s) for s in (None, [], [2], [1, 3], [2, 1], [1, 1, 2], [1, 2, 1], [2, 2], "12", {}, 1)),
            *(changed(shape=s) for s in ([-1, 2], [1, -2], [-1, -2], [0, 2], [1.0, 2], [True, 2], ["1", 2], [None, 2])),
            *(changed(shape=s) for s in ([2**40, 2], [2**63, 2], [2**64, 2], [1e300, 2], [[1], 2], [1, 2**62])),
            *(changed(shape=[1] * n) for n in (100, 10_000)),
            *(changed(data=d) for d in (None, [], [1], [1, 2, 3], {}, "12", 12, [[1], [2]], [[1, 2], [3, 4]])),
            *(changed(data=d) for d in ([1, [2]], [[1, 2], 3], [[[1, 2]]], [["1", "2"]], [{}, {}], [None, 1])),
            *(changed(data=d) for d in ([[1, [2]]], [[[1], 2]], [[[1], [2]]], [1, [], 2], [[1, []]], [1, [[2]]])),
            changed(shape=[2, 2], data=[[1], [2, 3, 4]]),
            changed(shape=[2, 2], data=["12", "34"]),
            changed(shape=[2, 2], data=[{"a": 1, "b": 2}, {"a": 1, "b": 2}]),
            *(changed(parameters=p) for p in (1, "x", [1])),
            *(changed(data=None, parameters={"binary_data_size": s}) for s in (8, 0, -8, 2**70, 8.0, "8", [], True)),
            changed(parameters={"binary_data_size": 8}),
            *(changed() | {"outputs": o} for o in (1, "value", {"name": "value"}, [1], [{}], [{"name": "values"}])),
            *(changed() | {"outputs": [{"name": n}]} for n in (None, 1, [], {}, FAMILIARITY)),
            changed() | {"outputs": [{"name": "value"}] * 2},
            changed() | {"outputs": [{"name": "value", "parameters": 1}]},
            *(changed() | {"outputs": [{"name": "value", "parameters": {"classification": c}}]} for c in (1, -1, "1")),
            *(changed() | {"id": i} for i in (1, [], {}, True)),
            *(changed() | {key: value} for key in ("parameters", "outputs") for value in (1, 0, "", False)),
        ],
    )  # fmt: skip
    def test_bodies(self, local, body):
        error(local.post(SUMS, json=body), 400)

    @pytest.mark.parametrize(
        "content",
        [
            *(b"", b"{", b"nonsense", b"\xff\xfe", b'{"inputs": [', b'{"id": "\\ud800"}', b"\0" * 100, b"NaN"),
            *(b"[" * 100_000, b'{"a":' * 100_000, b'{"inputs": ' + b"[" * 900 + b"]" * 900 + b"}"),
            json.dumps(changed(data=0)).replace(": 0}", ": " + "[" * 800 + "]" * 800 + "}").encode(),
            json.dumps(changed()).encode() + b"x",
        ],
    )
    def test_garbage(self, local, content):
        error(local.post(SUMS, content=content), 400)

    @pytest.mark.parametrize(
        "length",
        [b"0", b"-1", b"1", b"9", b"+5", b"1e2", b"0x10", b"", b"\xb2", b"9" * 17, b"9" * 19, b"9" * 5000, b"1,1"],
    )
    def test_length_of_the_header(self, local, length):
        sent = request(np.float32([1, 2]), "FP32", True)
        assert local.post(SUMS, **sent).is_success
        sent["headers"] = {"inference-header-content-length": length}
        error(local.post(SUMS, **sent), 400)

    @pytest.mark.parametrize("shift", [-4, -1, 1, 4])
    def test_sizes_of_binary_data(self, local, shift):
        sent = request(np.float32([1, 2]), "FP32", True)
        more = sent["content"] + bytes(shift) if shift > 0 else sent["content"][:shift]
        error(local.post(SUMS, content=more, headers=sent["headers"]), 400)
        length = str(int(sent["headers"]["inference-header-content-length"]) + shift)
        error(local.post(SUMS, content=sent["content"], headers={"inference-header-content-length": length}), 400)
        size = sent["content"].replace(b'size": 8', b'size": %d' % (8 + shift))
        length = str(len(size) - 8)
        error(local.post(SUMS, content=size, headers={"inference-header-content-length": length}), 400)
        unnamed = json.dumps(changed()).encode()
        length = str(len(unnamed))
        error(local.post(SUMS, content=unnamed + b"1234", headers={"inference-header-content-length": length}), 400)

    def test_a_long_string_among_numbers_takes_no_memory(self, local):
        """NumPy would pad every number to the length of the string: 64 GB."""
        body = changed(shape=[8000, 2], data=["x" * 1_000_000, *range(15_999)])
        assert "numbers of datatype FP32" in error(local.post(SUMS, json=body), 400)

    def test_batches(self, client, with_key):
        for shape in ([2**31, 2], [2**40 - 1, 2]):
            error(client.post(SUMS, json=changed(shape=shape)), 413)
        error(client.post(SUMS, **request(np.zeros((2**15 + 1, 2), np.float32), "FP32", True)), 413)
        assert client.post(SUMS, **request(np.zeros((2**15, 2), np.float32), "FP32", True)).is_success
        error(with_key.post(SUMS, **request(np.zeros((11, 2), np.float32), "FP32", True)), 413)
        assert with_key.post(SUMS, **request(np.zeros((10, 2), np.float32), "FP32", False)).is_success

    def test_recordings(self, with_key):
        path = "/v2/models/instruments/infer"
        error(with_key.post(path, **request(waveforms(1, 100.1), "FP32", True, "waveform")), 413)
        error(with_key.post(path, **request(np.zeros((1, 0), np.float32), "FP32", True, "waveform")), 400)
        for length in (1, 2, 3):
            answer = with_key.post(path, **request(np.full((1, length), 0.5, np.float32), "FP32", True, "waveform"))
            assert answer.status_code in (200, 400)

    def test_size_of_the_body(self, client):
        error(client.post(SUMS, content=bytes(2**25 + 1)), 413)
        error(client.post(SUMS, content=(bytes(2**20) for _ in range(40))), 413)
        error(client.post("/v2/repository/index", content=bytes(2**16 + 1)), 413)

    @pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
    def test_compression(self, triton_client, algorithm):
        with pytest.raises(InferenceServerException, match="a compressed body is not read"):
            triton_client.infer("digits", [tensor(PICTURES[:1], "image")], request_compression_algorithm=algorithm)
        answer = triton_client.infer(
            "digits", [tensor(PICTURES[:1], "image")], response_compression_algorithm=algorithm
        )
        assert answer.as_numpy("probabilities").shape == (1, 10)

    def test_what_triton_has_and_percept_does_not(self, triton_client):
        for ask in (triton_client.unload_model, triton_client.get_model_config):
            with pytest.raises(InferenceServerException, match="there is nothing at this path"):
                ask("digits")


NUMBERS = st.integers(-300, 300) | st.integers(-(2**66), 2**66) | st.floats()
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def mostly(strategy):
    """What the protocol expects or, sometimes, any JSON."""
    return st.integers(0, 19).flatmap(lambda n: strategy if n else ANYTHING)


def holding(**keys):
    """An object with these keys, sometimes without one of them."""
    return st.fixed_dictionaries({key: mostly(value) for key, value in keys.items()}).flatmap(
        lambda whole: st.sampled_from([*[None] * 19, *whole]).map(
            lambda missing: {key: value for key, value in whole.items() if key != missing}
        )
    )


@st.composite
def requests(draw):
    """A model, a body, and headers, perhaps with the length of the JSON in the body."""
    model, (name, batch) = draw(st.sampled_from(list(BATCHES.items())))
    n = draw(st.sampled_from([1, 1, 1, 2, 3, 0, -1, 2**33]))
    m = max(0, min(n, 3))
    shape = [n, *batch.shape[1:]] if model == "digits" else [n, 2]
    size = m * int(np.prod(shape[1:]))
    flat = st.lists(NUMBERS, min_size=min(size, 6), max_size=min(size, 6)).map(lambda some: (some * size)[:size])
    tail = draw(st.sampled_from([None, 0, 1, size, 2 * size, 4 * size, 8 * size]))
    parts = {
        "name": st.just(name),
        "shape": st.just(shape),
        "datatype": st.sampled_from(list(DTYPES)),
        "parameters": st.just({}) if tail is None else holding(binary_data_size=st.just(tail)),
        **({"data": flat} if tail is None else {}),
    }
    output = holding(
        name=st.sampled_from(["probabilities", "value"]),
        parameters=holding(classification=st.integers(0, 3), binary_data=st.booleans()),
    )
    body = draw(
        mostly(
            holding(
                id=st.text(max_size=3),
                inputs=st.lists(holding(**parts), min_size=1, max_size=1),
                outputs=st.lists(output, max_size=2),
            )
        )
    )
    head = json.dumps(body).encode()
    content = head + draw(st.binary(max_size=8)) * ((tail or 0) // 8 + 1) if tail is not None else head
    if tail is not None:
        content = content[: len(head) + tail]
    length = draw(st.sampled_from([len(head)] * 9 + [0, len(head) - 1, 2**70])) if tail is not None else None
    return model, content, {} if length is None else {"inference-header-content-length": str(length)}


class TestAnything:
    statuses: ClassVar[set[int]] = set()

    @settings(max_examples=150, derandomize=True, deadline=None, database=None)
    @given(drawn=requests())
    @example(drawn=("sums", json.dumps(changed()).encode(), {}))  # few that are drawn are valid
    def test_is_answered_or_refused(self, local, drawn):
        self.ask(local, *drawn)

    @pytest.mark.soak
    @settings(max_examples=2000, derandomize=True, deadline=None, database=None)
    @given(drawn=requests())
    def test_much_more_is_answered_or_refused(self, local, drawn):
        self.ask(local, *drawn)

    def ask(self, local, model, content, headers):
        answer = local.post(f"/v2/models/{model}/infer", content=content, headers=headers)
        self.statuses.add(answer.status_code)
        if answer.status_code != 200:
            error(answer, answer.status_code)
            assert answer.status_code in (400, 413)

    def test_every_status_occurred(self):
        assert self.statuses == {200, 400, 413}
