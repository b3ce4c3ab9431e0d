"""Timelines of recordings: windows, HTTP, the command line, and the memory that long recordings need."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
import soundfile
from numpy.typing import NDArray
from onnx import helper
from PIL import Image

from benchmarks import timeline
from models.card import Input
from pipeline.report.timeline import draw, lines
from pipeline.sources.notes import SAMPLE_RATE, notes
from service.errors import Unusable
from service.serving import Window
from service.serving.cost import PIECE_SECONDS
from service.serving.predictor import BATCH, Predictor
from tests import command
from tests.pipeline.runs import FEW_COPIES, few_outliers
from tests.pipeline.test_cli import PERCEPT, percept
from tests.service.helpers import SOUND_FILES, mutated, refusal, sound_bytes, tone
from tests.service.in_process import application
from tests.serving import NEWEST, ROOT, build, instruments_model, peak_mb, resident_mb, serving, workers

RATE = 22_050  # Hz
INSTRUMENTS = ("bassoon", "marimba", "violin")
BATCHED = 1e-5  # largest difference between an answer given in a batch and one given alone


@pytest.fixture(scope="module")
def zero_crossings(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    onnx.save(instruments_model(NEWEST), path)
    return Predictor(path)


@pytest.fixture(scope="module")
def loudness(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """A regression: the mean of the absolute samples."""
    nodes = [
        helper.make_node("Abs", ["waveform"], ["amplitude"]),
        helper.make_node("ReduceMean", ["amplitude", "one"], ["value"], keepdims=1),
    ]
    card_input = Input(kind="audio", name="waveform", dtype="float32", shape=(None, None), sample_rate=RATE)
    model = build("loudness", NEWEST, card_input, ["loudness"], nodes, {"one": np.array([1])})
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    onnx.save(model, path)
    return Predictor(path)


@pytest.fixture(scope="module")
def band(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Notes of three instruments, and the exported model of a run on them, in `band/runs` and in its model store."""
    root = tmp_path_factory.mktemp("band")
    for note in notes(per_class=40):
        if note.instrument in INSTRUMENTS:
            (root / "clips" / note.instrument).mkdir(parents=True, exist_ok=True)
            soundfile.write(root / "clips" / note.instrument / f"{note.name}.wav", note.render(), SAMPLE_RATE)
    options = ("--data", str(root / "clips"), *FEW_COPIES)
    with few_outliers():
        return command.ran(root, "instruments", options=options)


@pytest.fixture(scope="module")
def client(home: Path) -> Iterator[httpx.Client]:
    """A client of the application in this process, with the models of tests/serving.py."""
    with application(home) as client:
        yield client


def played(instrument: str, seconds: float) -> NDArray[np.float32]:
    """Notes of an instrument that the band has not been trained on, without their ends, float32 (T,)."""
    return np.concatenate([note[: RATE // 2] for note in rendered(instrument)])[: round(seconds * RATE)]


@cache
def rendered(instrument: str) -> list[NDArray[np.float32]]:
    return [note.render() for note in notes(seed=7, per_class=20) if note.instrument == instrument]


def noise(seconds: float, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * RATE)).astype(np.float32)


def tones(*frequencies: float | None) -> NDArray[np.float32]:
    """A second of each frequency, of silence for None."""
    return np.concatenate([tone(RATE, seconds=1, frequency=f or 1, peak=0.5 if f else 0)[:, 0] for f in frequencies],
                          dtype=np.float32)  # fmt: skip


def squares(*amplitudes: float, seconds: int = 1) -> NDArray[np.float32]:
    """A square wave of 441 Hz, so many seconds of each amplitude."""
    levels = np.repeat(np.float32(amplitudes), seconds * RATE)
    return levels * np.where(np.arange(len(levels)) // 25 % 2, np.float32(1), np.float32(-1))


def test_the_json_of_a_timeline_comes_without_a_warning(tmp_path: Path) -> None:
    model = tmp_path / "runs" / "heard" / "model.onnx"
    model.parent.mkdir(parents=True)
    onnx.save(instruments_model(NEWEST), model)
    soundfile.write(tmp_path / "a.wav", tones(100, None, 2000), RATE)
    done = percept("predict", "heard", "a.wav", "--timeline", "1", "--json", home=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [window["label"] for window in json.loads(done.stdout)["timeline"]] == ["bassoon", None, "flute"]


class TestWindows:
    @pytest.mark.parametrize(
        ("seconds", "window", "lengths"),
        [
            (2, 0.5, [0.5] * 4),
            (2.2, 0.5, [0.5, 0.5, 0.5, 0.7]),
            (2.26, 0.5, [0.5, 0.5, 0.5, 0.5, 0.26]),
            (2.3, 0.5, [0.5, 0.5, 0.5, 0.5, 0.3]),
            (0.6, 0.5, [0.6]),
            (0.1, 0.5, [0.1]),
            (1 / RATE, 60, [0]),
            (100, 60, [60, 40]),
            (80, 60, [80]),
            (7, 0.1, [0.1] * 70),
        ],
    )
    def test_lengths(self, zero_crossings: Predictor, seconds: float, window: float, lengths: list[float]) -> None:
        windows = zero_crossings.predict(noise(seconds), window).timeline
        assert [w.end - w.start for w in windows] == pytest.approx(lengths, abs=1e-4)
        assert windows[0].start == 0
        assert windows[-1].end == pytest.approx(seconds, abs=1e-4)
        assert all(a.end == b.start for a, b in pairwise(windows))

    def test_a_window_is_answered_as_if_it_were_alone(self, zero_crossings: Predictor) -> None:
        waveform = np.cumsum(noise(2 * BATCH + 1.3)) / 50
        for window in zero_crossings.predict(waveform, 0.7).timeline:
            alone = zero_crossings.predict(waveform[round(window.start * RATE) : round(window.end * RATE)])
            assert list(window.fields()) == ["start", "end", "label", "confidence", "known"]
            assert window.confidence == pytest.approx(alone.confidence, abs=BATCHED)

    def test_silent_windows_have_no_answer(self, zero_crossings: Predictor) -> None:
        answer = zero_crossings.predict(tones(100, None, 2000, None, None, 100), 1)
        heard = [window.label for window in answer.timeline]
        assert heard == ["bassoon", None, "flute", None, None, "bassoon"]
        assert [window.confidence is None for window in answer.timeline] == [label is None for label in heard]

    @pytest.mark.parametrize("text", ["", "x", "0", "-1", "0.09", "60.1", "nan", "inf", "1e400", "0x1", "1\n2", "1,5"])
    def test_a_length_that_windows_cannot_have_is_quoted(self, zero_crossings: Predictor, text: str) -> None:
        with pytest.raises(Unusable) as raised:
            zero_crossings.parse_timeline(text)
        assert str(raised.value) == f"timeline={text!r}: expected the seconds of a window, 0.1 to 60"

    def test_a_regression(self, loudness: Predictor) -> None:
        answer = loudness.predict(squares(0.25, 0, 0.75), 1)
        assert [window.value for window in answer.timeline] == [{"loudness": 0.25}, None, {"loudness": 0.75}]
        assert answer.value["loudness"] == pytest.approx(1 / 3)


class TestTheAnswerToTheWhole:
    @pytest.mark.parametrize("seconds", [0.3, 10, 59.9, PIECE_SECONDS])
    def test_up_to_a_minute_it_is_one_call(self, zero_crossings: Predictor, seconds: float) -> None:
        waveform = np.cumsum(noise(seconds)) / 50
        (expected,) = zero_crossings.session.run(None, {"waveform": waveform[np.newaxis]})[0].tolist()
        assert list(zero_crossings.predict(waveform).probabilities.values()) == expected
        with_timeline = zero_crossings.predict(waveform, 0.5)
        assert with_timeline.timeline
        whole = zero_crossings.predict(waveform)
        assert with_timeline.fields() == whole.fields() | {"timeline": with_timeline.timeline}

    def test_longer_it_is_the_mean_over_equal_pieces_that_are_heard(self, loudness: Predictor) -> None:
        thirds = squares(0.25, 0, 0.75, seconds=50)
        answer = loudness.predict(thirds)
        assert answer.value["loudness"] == pytest.approx(0.5)
        assert loudness.predict(thirds, 0.5).value == answer.value
        halves = squares(0.25, 0, 0.75, 0.75, seconds=PIECE_SECONDS // 2)
        assert loudness.predict(halves).value["loudness"] == pytest.approx((0.125 + 0.75) / 2)


class TestOverHttp:
    def test_two_sounds_and_the_silence_between(self, client: httpx.Client) -> None:
        file = sound_bytes(tones(100, 100, None, 2000)[:, np.newaxis], RATE)
        for path in ("/instruments", "/predict/instruments"):
            answer = client.post(path, params={"timeline": "1"}, content=file).json()
            timeline = answer.pop("timeline")
            assert answer == client.post(path, content=file).json()
            assert [(w["start"], w["end"], w["label"]) for w in timeline] == [
                (0, 1, "bassoon"), (1, 2, "bassoon"), (2, 3, None), (3, 4, "flute"),
            ]  # fmt: skip
            assert client.post(path, params={"timeline": "1"}, files={"f": file}).json()["timeline"] == timeline

    @pytest.mark.parametrize("value", ["", "=", "=x", "=0", "=61", "=nan", "=%00", "=%ff%0a", "=1&timeline=x"])
    def test_windows_that_cannot_be(self, client: httpx.Client, value: str) -> None:
        assert refusal(client.post(f"/instruments?timeline{value}", content=SOUND_FILES[0])) == 422

    @pytest.mark.parametrize("path", ["/digits", "/predict/sums"])
    def test_only_recordings_have_a_timeline(self, client: httpx.Client, path: str) -> None:
        answer = client.post(path, params={"timeline": "0.5"}, content=b"[1, 2]")
        assert refusal(answer) == 422
        assert "only recordings have a timeline" in answer.json()["error"]["message"]

    def test_bad_files_are_never_our_fault(self, client: httpx.Client) -> None:
        rng = random.Random(3)
        answers = [client.post("/instruments?timeline=0.1", content=file[: len(file) // 2]) for file in SOUND_FILES]
        for _ in range(150):
            file = mutated(rng.choice(SOUND_FILES), rng)
            answers.append(client.post("/instruments?timeline=0.1", content=file))
        for answer in answers:
            assert answer.status_code == 200 or refusal(answer) in (400, 413, 415, 422)
        assert sum(answer.status_code == 200 for answer in answers) > 20


class TestBand:
    def test_every_instrument_is_heard_where_it_plays(self, band: Path) -> None:
        silence = np.zeros(RATE * 3 // 2, np.float32)
        sound = np.concatenate([played("violin", 4), silence, played("bassoon", 4), silence, played("marimba", 4)])
        with application(band) as client:
            for format in ("WAV", "FLAC", "OGG", "MP3"):
                file = sound_bytes(np.repeat(sound, 2)[:, np.newaxis], 2 * RATE, format)
                answer = client.post("/instruments?timeline=0.5", content=file).json()
                heard = [window["label"] for window in answer["timeline"][:30]]
                for start, label in ((0, "violin"), (11, "bassoon"), (22, "marimba")):
                    assert heard[start : start + 8].count(label) >= 7, (format, heard)
                if format in ("WAV", "FLAC"):
                    assert heard[9] is heard[20] is None

    def test_ten_minutes_of_a_cd_in_bounded_memory(self, band: Path) -> None:
        file = sound_bytes(np.resize(played("violin", 9), (600 * 2 * RATE, 1)).repeat(2, 1), 2 * RATE)
        with serving(band) as server, httpx.Client(base_url=server.url, timeout=120) as client:
            (worker,) = workers(server)
            before, after = resident_mb(worker), []
            for sent in ({"content": file}, {"files": {"f": file}}):
                answer = client.post("/instruments?timeline=0.5", **sent)  # type: ignore[arg-type]
                assert answer.is_success, answer.text
                assert len(answer.json()["timeline"]) == 1200
                assert answer.json()["timeline"][-1]["end"] == 600
                after.append(peak_mb(worker))
            assert client.post(
                "/instruments", content=file[: len(file) // 2]
            ).is_success  # shorter than its header says
            assert peak_mb(worker) - before < 300
            assert after[-1] - after[0] < 30

    def test_the_command_prints_and_draws_it(self, band: Path) -> None:
        sound = np.concatenate([played("violin", 2), np.zeros(RATE, np.float32), played("bassoon", 2)])
        soundfile.write(band / "duet.wav", sound, RATE)
        (band / "other").mkdir()
        soundfile.write(band / "other" / "duet.wav", sound[::-1], RATE)
        done = command.percept("predict", "instruments", "duet.wav", "--timeline", home=band)
        assert done.returncode == 0, done.stderr
        first, *spans, last = done.stdout.splitlines()
        assert first.startswith("duet.wav  ")
        heard: list[list[str]] = []  # neighbours of one label together, known or unknown
        for time, label in (span.split()[:2] for span in spans):
            start, end = time.split("–")
            if heard and heard[-1][2] == label.rstrip(","):
                heard[-1][1] = end
            else:
                heard.append([start, end, label.rstrip(",")])
        assert heard == [
            ["0:00.00", "0:02.00", "violin"], ["0:02.00", "0:03.00", "silence"], ["0:03.00", "0:05.00", "bassoon"],
        ]  # fmt: skip
        assert last == "  → runs/instruments/timelines/duet.png"
        with Image.open(band / "runs" / "instruments" / "timelines" / "duet.png") as picture:
            assert min(picture.size) > 300
            colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24)}
            assert {(240, 136, 62), (88, 166, 255)} <= colours  # the first two of style.CLASS_COLOURS

        two = command.percept("predict", "instruments", "--timeline", "duet.wav", "other/duet.wav", home=band).stdout
        assert [line for line in two.splitlines() if "→" in line] == [
            "  → runs/instruments/timelines/duet.png", "  → runs/instruments/timelines/duet-2.png",
        ]  # fmt: skip

        (line,) = command.percept(
            "predict", "instruments", "duet.wav", "--timeline", "2.5", "--json", home=band
        ).stdout.splitlines()
        answer = json.loads(line)
        assert list(answer) == ["file", "label", "confidence", "known", "probabilities", "timeline"]
        assert [(window["start"], window["end"]) for window in answer["timeline"]] == [(0, 2.5), (2.5, 5)]

    def test_a_file_whose_name_is_no_text(self, band: Path) -> None:
        name = "violin\udcff.wav"  # the byte ff, as Latin-1 has ÿ
        (band / name).write_bytes(next((band / "clips" / "violin").iterdir()).read_bytes())
        done = command.percept("predict", "instruments", name, "--timeline", home=band)
        assert (done.returncode, done.stderr) == (0, "")
        (picture,) = (band / "runs" / "instruments" / "timelines").glob("violin*-*.png")
        assert done.stdout.endswith(f"/{picture.name}\n")

    def test_alone_on_several_threads_as_beside_others_on_one(self, band: Path) -> None:
        soundfile.write(band / "long.wav", np.resize(played("violin", 9), 70 * RATE), RATE)
        soundfile.write(band / "short.wav", played("bassoon", 1), RATE)
        options = ("predict", "instruments", "--timeline", "0.5", "--json", "long.wav")
        alone = command.percept(*options, home=band).stdout.splitlines()
        beside = command.percept(*options, "short.wav", home=band).stdout.splitlines()
        assert len(json.loads(alone[0])["timeline"]) == 140
        assert alone == beside[:1]

    def test_without_matplotlib_it_is_printed_alone(self, band: Path, tmp_path: Path) -> None:
        (tmp_path / "matplotlib.py").write_text("raise ModuleNotFoundError('absent', name='matplotlib')")
        soundfile.write(band / "violin.wav", played("violin", 2), RATE)
        paths = os.pathsep.join([str(tmp_path), str(ROOT)])
        done = percept("predict", "instruments", "violin.wav", "--timeline", "0.5", home=band, PYTHONPATH=paths)
        assert done.returncode == 0
        span, label, *_ = done.stdout.splitlines()[1].split()
        assert span.startswith("0:00.00–0:0")
        assert label.rstrip(",") == "violin"
        assert done.stderr == "percept: no picture is drawn: matplotlib is not installed\n"

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            (["--timeline", "0"], "timeline='0': expected the seconds of a window, 0.1 to 60"),
            (["--timeline=soon"], "timeline='soon': expected the seconds of a window, 0.1 to 60"),
        ],
    )
    def test_a_mistake_is_one_line(self, band: Path, option: list[str], message: str) -> None:
        done = command.percept("predict", "instruments", "any.wav", *option, home=band)
        assert (done.returncode, done.stderr) == (1, f"percept: {message}\n")

    def test_where_no_picture_can_be_written_the_text_still_comes(self, band: Path, tmp_path: Path) -> None:
        run = tmp_path / "runs" / "instruments"
        run.mkdir(parents=True)
        shutil.copy(band / "runs" / "instruments" / "model.onnx", run)
        (run / "timelines").touch()  # a file in place of the folder
        file = str(next((band / "clips" / "violin").iterdir()))
        done = command.percept("predict", "instruments", file, "--timeline", home=tmp_path)
        assert done.returncode == 1
        assert done.stdout.startswith(f"{file}  violin")
        assert done.stderr == "percept: no picture is drawn: runs/instruments/timelines: File exists\n"

    def test_a_reader_that_has_gone_is_not_a_picture_that_is_missing(self, band: Path) -> None:
        soundfile.write(band / "violin.wav", played("violin", 1), RATE)
        order = [PERCEPT, "predict", "instruments", "violin.wav", "--timeline", "1"]
        environment = os.environ | {"BENTOML_HOME": str(band), "PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(
            order, cwd=band, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as reading:
            assert reading.stdout
            assert reading.stderr
            for _ in range(2):  # the label, and the window; the picture takes a while
                assert reading.stdout.readline()
            reading.stdout.close()
            assert b"picture" not in reading.stderr.read()

    def test_it_needs_neither_torch_nor_librosa(self, band: Path) -> None:
        file = str(next((band / "clips" / "violin").iterdir()))
        program = (
            "import sys, pipeline.cli as c\n"
            f"c.app(['predict', 'instruments', {file!r}, '--timeline'], standalone_mode=False)\n"
            "print(*{'torch', 'librosa', 'numba', 'scipy', 'sklearn'} & set(sys.modules))"
        )
        done = subprocess.run(
            [sys.executable, "-P", "-c", program], cwd=band, capture_output=True, text=True, check=True
        )
        *_, drawn, imported = done.stdout.splitlines()
        assert drawn.startswith("  → ")
        assert imported == ""

    def test_the_benchmark_runs(
        self, band: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(sys, "argv", ["timeline", "--runs", str(band / "runs"), "--minutes", "0.05"])
        monkeypatch.setenv("BENTOML_HOME", str(band))
        monkeypatch.setattr(timeline, "REPEATS", 1)
        timeline.main()
        printed = capsys.readouterr().out
        assert len(printed.splitlines()) == 2 + 8 + 1
        assert "OGG  stereo" in printed


class TestDrawing:
    def test_neighbours_of_one_answer_become_one_line(self) -> None:
        windows = [
            Window(start=59.5, end=60, label="a", confidence=0.5),
            Window(start=60, end=60.5, label="a", confidence=1.0),
            Window(start=60.5, end=61, label=None, confidence=None),
            Window(start=61, end=3661.996, label="a", confidence=0.25),
        ]
        assert list(lines(windows)) == [
            "0:59.50–1:00.50  a  0.7500", "1:00.50–1:01.00  silence", "1:01.00–61:02.00  a  0.2500",
        ]  # fmt: skip
        values = [Window(start=i, end=i + 1, value=value) for i, value in enumerate(({"x": 1.5}, {"x": 1.5}, None))]
        assert list(lines(values)) == ["0:00.00–0:02.00  x = 1.5", "0:02.00–0:03.00  silence"]

    @pytest.mark.parametrize("classes", [1, 40])
    @pytest.mark.parametrize("samples", [1, 100_000])
    def test_any_number_of_labels_and_any_length(self, tmp_path: Path, classes: int, samples: int) -> None:
        windows = [
            Window(start=i, end=i + 1, label=f"${i % classes}$ 日本" if i % 7 else None, confidence=0.5)
            for i in range(1, 100)
        ]
        path = draw(tmp_path / "a" / "b.png", "any <title>", np.ones(samples, np.float32), windows)
        with Image.open(path) as picture:
            assert picture.width == 1350
