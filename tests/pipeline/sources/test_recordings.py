"""Recorded instruments: copies laid out as mirdata's own index says, and downloads from a server on this machine."""

import csv
import io
import json
import os
import re
import sys
import tarfile
import threading
from collections.abc import Iterator
from functools import cache, partial
from hashlib import md5
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile
from mirdata.core import Index
from mirdata.datasets import medley_solos_db, tinysol
from mirdata.download_utils import RemoteFileMetadata

from pipeline import sources, task
from pipeline.task import UserError
from tests.command import percept
from tests.pipeline.runs import few_outliers
from tests.pipeline.sources.folders import samples

RATE = 8_000  # Hz of the recordings that these tests make
NAMES = {  # TinySOL's abbreviation of each instrument → its name in full
    "BTb": "Bass Tuba", "Hn": "French Horn", "Tbn": "Trombone", "TpC": "Trumpet in C", "Acc": "Accordion",
    "Cb": "Contrabass", "Vn": "Violin", "Va": "Viola", "Vc": "Violoncello", "Bn": "Bassoon",
    "ClBb": "Clarinet in B-flat", "Fl": "Flute", "Ob": "Oboe", "ASax": "Alto Saxophone",
}  # fmt: skip
SOLOS = ("clarinet", "distorted electric guitar", "female singer", "flute", "piano", "tenor saxophone", "trumpet",
         "violin")  # fmt: skip
COLUMNS = [
    "Path", "Fold", "Family", "Instrument (abbr.)", "Instrument (in full)", "Technique (abbr.)",
    "Technique (in full)", "Pitch", "Pitch ID", "Dynamics", "Dynamics ID", "Instance ID", "String ID (if applicable)",
    "Needed digital retuning",
]  # fmt: skip


@cache
def note(i: int, instrument: str) -> bytes:
    """A WAV of a tenth of a second: the harmonics are the instrument's, pitch and noise those of recording `i`."""
    rng = np.random.default_rng(i)
    timbre = np.random.default_rng(list(instrument.encode())).uniform(0, 1, 12) ** 3
    phase = 2 * np.pi * rng.uniform(150, 300) * np.arange(RATE // 10) / RATE
    wave = (timbre[:, None] * np.sin(np.outer(np.arange(1, 13), phase))).sum(0)
    file = io.BytesIO()
    soundfile.write(file, 0.05 * wave + 0.001 * rng.standard_normal(wave.size), RATE, format="WAV")
    return file.getvalue()


def table(paths: list[str]) -> str:
    """TinySOL's metadata of these files, nearly all from their names; the folds alternate."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for i, path in enumerate(paths):
        family, _, technique, file = path.removeprefix("audio/").split("/")
        short, _, pitch, dynamics, instance, tuning = file.removesuffix(".wav").split("-")
        string = f"{instance[0]}.0" if instance[0].isdigit() else ""
        writer.writerow([path.removeprefix("audio/"), i % 5, family, short, NAMES[short], "ord", technique, pitch, 60,
                         dynamics, 2, 0, string, str(tuning != "N").upper()])  # fmt: skip
    return out.getvalue()


def write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def tracks_of_the_index(index: Path) -> dict[str, dict[str, tuple[str, str]]]:
    if not index.is_file():
        pytest.skip("this mirdata comes without its index")
    found: dict[str, dict[str, tuple[str, str]]] = json.loads(index.read_text())["tracks"]
    return found


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every file of TinySOL at its path, with one of twenty short tones of its instrument, the same within a fold."""
    root = tmp_path_factory.mktemp("tinysol")
    paths = [track["audio"][0] for track in tracks_of_the_index(Path(tinysol.Dataset(str(root)).index_path)).values()]
    for i, path in enumerate(paths):
        write(root / path, note(i % 20, Path(path).parent.parent.name))
    write(root / "annotation" / "TinySOL_metadata.csv", table(paths).encode())
    return root


def test_tinysol_has_fourteen_instruments(copy: Path) -> None:
    found = samples("instruments", f"tinysol:{copy}")
    assert len(found) == 2913
    assert {s.label for s in found} == set(NAMES.values())
    first = found[0]
    assert (first.file, first.label) == ("audio/Brass/Bass_Tuba/ordinario/BTb-ord-F#1-pp-N-N.wav", "Bass Tuba")
    assert first.media.load().dtype == np.float32
    assert first.media.load().size == pytest.approx(22_050 / 10, abs=2)  # at the task's rate, not at the file's


def test_the_seed_chooses_the_fold_that_is_tested(copy: Path) -> None:
    tested = []
    for seed in range(5):
        splits = [s.split for s in samples("instruments", f"tinysol:{copy}", f"data.seed={seed}")]
        fold = [{splits[i] for i in range(k, len(splits), 5)} for k in range(5)]
        assert all(len(names) == 1 for names in fold)
        assert fold[seed] == {"test"}
        assert fold[(seed + 1) % 5] == {"validation"}
        assert splits.count("train") == pytest.approx(0.6 * len(splits), abs=2)
        tested += [i for i, split in enumerate(splits) if split == "test"]
    assert sorted(tested) == list(range(2913))


def test_the_whole_way_on_a_copy_of_tinysol(copy: Path, tmp_path: Path) -> None:
    with few_outliers():
        done = percept(
            "run", "instruments", "--data", f"tinysol:{copy}", "--set", "train.epochs=3", "--set", "augment.copies=0",
            "--set", "validate.baselines=false", home=tmp_path,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "runs" / "instruments" / "report.json").read_text())
    assert {split: report["samples"][split] for split in ("train", "validation", "test")} == {
        "train": 12 * 14, "validation": 4 * 14, "test": 4 * 14,
    }  # fmt: skip
    assert len(report["samples"]["skipped"]) == 2913 - 20 * 14
    assert all(skipped["reason"].startswith("identical to ") for skipped in report["samples"]["skipped"])
    card = json.loads((tmp_path / "runs" / "instruments" / "card.json").read_text())
    assert card["labels"] == sorted(NAMES.values())


def test_medley_solos_db_names_its_splits(tmp_path: Path) -> None:
    tracks = tracks_of_the_index(Path(medley_solos_db.Dataset(str(tmp_path)).index_path))
    write(tmp_path / "audio" / "one.wav", note(0, "clarinet"))
    rows, expected = ["subset,instrument,instrument_id,song_id,uuid4"], []
    for uuid, track in tracks.items():
        os.link(tmp_path / "audio" / "one.wav", tmp_path / track["audio"][0])
        subset, k = re.search(r"_(training|validation|test)-(\d)_", track["audio"][0]).groups()  # type: ignore[union-attr]
        rows.append(f"{subset},{SOLOS[int(k)]},{k},0,{uuid}")
        expected.append((SOLOS[int(k)], "train" if subset == "training" else subset))
    write(tmp_path / "annotation" / "Medley-solos-DB_metadata.csv", "\n".join(rows).encode())
    found = samples("instruments", f"medley_solos_db:{tmp_path}")
    assert [(s.label, s.split) for s in found] == expected
    assert len(found) == 21571
    assert found[0].media.load().size == pytest.approx(22_050 / 10, abs=2)


@pytest.mark.parametrize("name", ["tinysol", "medley_solos_db"])
def test_a_name_may_stand_with_a_folder(name: str) -> None:
    assert sources.parse_data(name) == {"source": name}
    assert sources.parse_data(f"{name}:~/copy") == {"source": name, "path": "~/copy"}
    with pytest.raises(UserError, match=rf"{name}:: no such folder.*{re.escape('mnist[:DIR], tinysol[:DIR]')}"):
        sources.parse_data(f"{name}:")
    asked = task.load("digits", name)
    with pytest.raises(UserError, match=r"does not give what features\.kind"):
        sources.load(asked.data, asked.features)


def one_line(data: str) -> str:
    """The only line of the mistake that the source is said to be."""
    with pytest.raises(UserError) as caught:
        samples("instruments", data)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_missing_file_is_one_line(copy: Path, tmp_path: Path) -> None:
    note = next(copy.glob("audio/*/Flute/*/*.wav"))
    away = note.rename(tmp_path / "away")
    assert one_line(f"tinysol:{copy}") == f"tinysol: {note} is missing; `--data tinysol` downloads the data set"
    away.rename(note)
    nowhere = tmp_path / "nowhere"
    line = one_line(f"tinysol:{nowhere}")
    assert line.startswith(f"tinysol: {nowhere}/annotation/TinySOL_metadata.csv is missing, and so are 2,913 more; ")
    assert not nowhere.exists()


@pytest.mark.parametrize("damage", ["", "Path,Fold\na,b\n", "\xff\xfe", "no row of the first note"])
def test_a_table_that_is_not_understood_is_one_line(copy: Path, damage: str) -> None:
    file = copy / "annotation" / "TinySOL_metadata.csv"
    whole = file.read_text()
    lines = whole.splitlines(keepends=True)
    file.write_text("".join(lines[:1] + lines[2:]) if damage.startswith("no row") else damage, "latin-1")
    try:
        assert one_line(f"tinysol:{copy}") == (
            f"tinysol: {file} has no valid row for BTb-ord-F#1-pp-N-N; download it again"
        )
    finally:
        file.write_text(whole)


def test_without_mirdata_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mirdata.datasets.tinysol", None)
    line = one_line("tinysol:anywhere")
    assert line.startswith("tinysol: mirdata cannot be used (")
    assert line.endswith("); pip install 'percept[mir]'")


class Archive(ThreadingHTTPServer):
    """Serves a folder, whole files or the end of them; records what it was asked for, and can break off."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.asked: list[tuple[str, str | None]] = []  # file, range
        self.breaks_off_after: int | None = None  # bytes
        self.ranges = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(SimpleHTTPRequestHandler):
    server: Archive

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        self.server.asked.append((self.path[1:], wanted))
        content = Path(self.translate_path(self.path)).read_bytes()
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.ranges else 0
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : self.server.breaks_off_after])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    """Twenty notes, their table and their index on a server, from which mirdata downloads TinySOL."""
    folder = tmp_path / "server"
    paths = [f"audio/Winds/{name}/ordinario/{short}-ord-C4-mf-N-T{i}d.wav" for i in range(10)
             for name, short in (("Flute", "Fl"), ("Oboe", "Ob"))]  # fmt: skip
    files = {path: note(i, path) for i, path in enumerate(paths)}
    pack(folder, files)
    tracks = {Path(path).stem: {"audio": [path, md5(content).hexdigest()]} for path, content in files.items()}
    csv = table(paths).encode()
    write(folder / "TinySOL_metadata.csv", csv)
    metadata = {"TinySOL_metadata": ["annotation/TinySOL_metadata.csv", md5(csv).hexdigest()]}
    write(folder / "few.json", json.dumps({"version": "6.0", "metadata": metadata, "tracks": tracks}).encode())
    with Archive(folder) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        sums = {file.name: md5(file.read_bytes()).hexdigest() for file in folder.iterdir()}
        index = Index("few.json", f"{server.url}/few.json", sums["few.json"])
        if hasattr(index, "indexes_dir"):  # later mirdata would keep it beside its own code
            index.indexes_dir = index.remote.destination_dir = str(tmp_path / "indexes")
        monkeypatch.setitem(tinysol.INDEXES, "6.0", index)
        places = {"audio": ("TinySOL.tar.gz", "audio"), "annotations": ("TinySOL_metadata.csv", "annotation")}
        remotes = {
            key: RemoteFileMetadata(file, f"{server.url}/{file}", sums[file], place)
            for key, (file, place) in places.items()
        }
        monkeypatch.setattr(tinysol, "REMOTES", remotes)
        yield server
        server.shutdown()


def pack(folder: Path, files: dict[str, bytes]) -> None:
    """Write the archive of notes, as TinySOL's: the paths in it begin below `audio`."""
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / "TinySOL.tar.gz", "w:gz") as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(path.removeprefix("audio/"))
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_download(server: Archive, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = samples("instruments", "tinysol")
    assert [s.label for s in found] == ["Flute", "Oboe"] * 10
    assert found[0].media.load().size == pytest.approx(22_050 / 10, abs=2)
    assert [file for file, _ in server.asked] == ["TinySOL.tar.gz", "TinySOL_metadata.csv", "few.json"]
    assert re.search(
        rf"tinysol: downloading TinySOL.tar.gz, 0.\d MB → {tmp_path}/home/.cache/percept/tinysol/audio\n",
        capsys.readouterr().out,
    )
    assert samples("instruments", "tinysol") == found  # and is not downloaded again
    assert len(server.asked) == 3
    assert samples("instruments", f"tinysol:{tmp_path}/home/.cache/percept/tinysol") == found
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_continues(server: Archive, tmp_path: Path, ranges: bool) -> None:
    size = (tmp_path / "server" / "TinySOL.tar.gz").stat().st_size
    server.ranges, server.breaks_off_after = ranges, 10_000
    assert one_line("tinysol") == (
        f"tinysol: the download failed (TinySOL.tar.gz broke off after 10,000 of {size:,} bytes); "
        "the same command continues it, or give tinysol:DIR"
    )
    server.breaks_off_after = None
    server.asked.clear()
    assert len(samples("instruments", "tinysol")) == 20
    assert server.asked == [("TinySOL.tar.gz", "bytes=10000-"), ("TinySOL_metadata.csv", None), ("few.json", None)]


def test_finished_files_are_not_downloaded_again(server: Archive, tmp_path: Path) -> None:
    held_back = (tmp_path / "server" / "few.json").rename(tmp_path / "few.json")
    one_line("tinysol")
    held_back.rename(tmp_path / "server" / "few.json")
    server.asked.clear()
    assert len(samples("instruments", "tinysol")) == 20
    assert server.asked == [("few.json", None)]


def test_lost_or_half_unpacked_files_are_unpacked_again_without_a_network(server: Archive, tmp_path: Path) -> None:
    samples("instruments", "tinysol")
    server.asked.clear()
    recording = next((tmp_path / "home").rglob("*.wav"))
    whole = recording.read_bytes()
    recording.unlink()
    samples("instruments", "tinysol")
    assert recording.read_bytes() == whole
    recording.write_bytes(whole[:100])
    (
        tmp_path / "home" / ".cache" / "percept" / "tinysol" / ".checked-6.0"
    ).unlink()  # written last, so not there if unpacking was killed
    samples("instruments", "tinysol")
    assert recording.read_bytes() == whole
    assert server.asked == []


def test_an_archive_with_a_wrong_checksum_is_one_line_and_downloaded_again(server: Archive, tmp_path: Path) -> None:
    archive = tmp_path / "server" / "TinySOL.tar.gz"
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "TinySOL.tar.gz has an MD5 checksum" in one_line("tinysol")
    archive.write_bytes(whole)
    server.asked.clear()
    assert len(samples("instruments", "tinysol")) == 20
    assert [file for file, _ in server.asked].count("TinySOL.tar.gz") == 2  # the rest of it, of which there is none


def test_a_recording_with_a_wrong_checksum_is_one_line(server: Archive, tmp_path: Path) -> None:
    index = tmp_path / "server" / "few.json"
    text = index.read_text()
    first = json.loads(text)["tracks"]["Fl-ord-C4-mf-N-T0d"]["audio"][1]
    index.write_text(text.replace(first, "0" * 32))
    tinysol.INDEXES["6.0"].remote.checksum = md5(index.read_bytes()).hexdigest()
    for _ in range(2):  # it does not count as complete the second time
        assert one_line("tinysol") == (
            f"tinysol: {tmp_path}/home/.cache/percept/tinysol/audio/Winds/Flute/ordinario/Fl-ord-C4-mf-N-T0d.wav "
            "is missing or damaged; the same command unpacks the archive again"
        )


def test_a_copy_without_the_index_is_one_line(server: Archive, tmp_path: Path) -> None:
    assert re.search(
        r"/few\.json is missing; `--data tinysol` downloads the data set$", one_line(f"tinysol:{tmp_path}")
    )
    assert server.asked == []


def test_no_network_is_one_line(server: Archive) -> None:
    for remote in tinysol.REMOTES.values():
        remote.url = "http://127.0.0.1:1/none"
    assert re.fullmatch(r"tinysol: the download failed \(.*refused.*\); the same command .*", one_line("tinysol"))
