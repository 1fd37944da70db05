"""The photo index: what a run embeds, what it forgets, and that nothing leaves it unusable."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import seeing
from pixvoice.contracts import Floats
from pixvoice.errors import InputError, OptionError, OutputError
from pixvoice.runtime import indexing
from pixvoice.runtime.index import Entry, PhotoIndex, Rows, index_place
from pixvoice.runtime.searcher import Searcher
from pixvoice.runtime.waiting import wait

pytest.importorskip("lancedb", reason="needs the search extra")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photos, one in a folder of its own, and a text."""
    folder = tmp_path / "photos"
    for name, colour in (("rose.png", "red"), ("deep/leaf.png", "green"), ("it's the sea.png", "blue")):
        seeing.photo(folder / name, colour)
    (folder / "notes.txt").write_text("no photo")
    return folder


@pytest.fixture
def searcher(photos: Path) -> Searcher:
    return Searcher(seeing.ColourModel(), photos)


def names(searcher: Searcher, colour: str, tmp_path: Path, top: int = 10) -> list[str]:
    return [match.path.name for match in searcher.search(seeing.speech(tmp_path / "query.wav", colour), top)]


def counts(searcher: Searcher, **options: bool) -> dict[str, int]:
    """What a run did, without zeros, and how many photos it embedded."""
    before = searcher.model.seen  # type: ignore[attr-defined]
    report = searcher.index(**options)  # type: ignore[arg-type]
    values = {key: getattr(report, key) for key in ("new", "changed", "dropped")}
    values |= {"failed": len(report.failures), "embedded": searcher.model.seen - before}  # type: ignore[attr-defined]
    return {key: value for key, value in values.items() if value}


def test_a_spoken_colour_finds_its_photo(searcher: Searcher, photos: Path, tmp_path: Path) -> None:
    report = searcher.index()
    assert (report.photos, report.new, report.failures) == (3, 3, [])
    matches = searcher.search(seeing.speech(tmp_path / "query.wav", "green"), top=2)
    assert matches[0].path == Path(os.path.realpath(photos)) / "deep" / "leaf.png"
    assert len(matches) == 2 and matches[0].score > 0.95 > matches[1].score and not matches[0].missing


def test_the_index_lies_in_the_folder_and_moves_with_it(searcher: Searcher, photos: Path, tmp_path: Path) -> None:
    searcher.index()
    moved = photos.rename(tmp_path / "elsewhere")
    there = Searcher(searcher.model, moved)
    assert names(there, "red", tmp_path, top=1) == ["rose.png"]
    assert there.search(tmp_path / "query.wav")[0].path.is_file()
    assert counts(there) == {}
    assert index_place(moved / ".pixvoice-index") == str(moved / ".pixvoice-index")


def test_a_second_run_embeds_only_what_is_new_or_changed(searcher: Searcher, photos: Path, tmp_path: Path) -> None:
    assert counts(searcher) == {"new": 3, "embedded": 3}
    assert counts(searcher) == {}
    seeing.photo(photos / "fire.png", "red", shade=60)
    seeing.photo(photos / "deep" / "leaf.png", "blue", shade=60)
    os.utime(photos / "rose.png", ns=(1, 1))  # touched: the content is what it was
    assert counts(searcher) == {"new": 1, "changed": 1, "embedded": 2}
    assert counts(searcher) == {}
    assert names(searcher, "blue", tmp_path, top=2) == ["it's the sea.png", "leaf.png"]


def test_deleted_photos_are_forgotten(searcher: Searcher, photos: Path, tmp_path: Path) -> None:
    searcher.index()
    (photos / "it's the sea.png").unlink()
    gone = searcher.search(seeing.speech(tmp_path / "query.wav", "blue"))[0]
    assert gone.missing and gone.path.name == "it's the sea.png"
    assert counts(searcher) == {"dropped": 1}
    assert sorted(names(searcher, "blue", tmp_path)) == ["leaf.png", "rose.png"]


def test_a_photo_that_cannot_be_read_is_one_line_and_the_others_are_indexed(
    searcher: Searcher, photos: Path, tmp_path: Path
) -> None:
    searcher.index()
    (photos / "rose.png").write_bytes(b"no photo any more")
    (photos / "empty.jpg").write_bytes(b"")
    seeing.photo(photos / "new.png", "red")
    report = searcher.index()
    assert (report.photos, report.new) == (3, 1)
    assert [line.split(":")[0].rsplit("/")[-1] for line in report.failures] == ["empty.jpg", "rose.png"]
    assert "rose.png" not in names(searcher, "red", tmp_path)


def test_one_index_holds_several_folders(searcher: Searcher, photos: Path, tmp_path: Path) -> None:
    seeing.photo(tmp_path / "more" / "brick.png", "red")
    place = tmp_path / "both.index"
    assert Searcher(searcher.model, photos, place).index().photos == 3
    assert Searcher(searcher.model, tmp_path / "more", place).index().photos == 4
    both = Searcher(searcher.model, place, place)
    assert set(names(both, "red", tmp_path, top=2)) == {"rose.png", "brick.png"}


def test_recordings_are_found_by_photo_and_by_speech(searcher: Searcher, photos: Path, tmp_path: Path) -> None:
    for colour in seeing.TONES:
        seeing.speech(photos / f"{colour}.wav", colour)
    report = searcher.index(recordings=True)
    assert (report.photos, report.recordings) == (3, 3)
    found = searcher.search_photo(photos / "rose.png", top=1, kind="recordings")
    assert [(match.path.name, match.text, match.kind) for match in found] == [("red.wav", "red", "recordings")]
    assert names(searcher, "green", tmp_path, top=1) == ["leaf.png"]
    assert searcher.index().recordings == 3  # left alone by a run that wasn't asked for them


def test_a_photo_does_not_find_itself(searcher: Searcher, photos: Path) -> None:
    seeing.photo(photos / "fire.png", "red", shade=60)
    searcher.index()
    assert [match.path.name for match in searcher.search_photo(photos / "rose.png", top=1)] == ["fire.png"]


def test_another_models_index_is_refused_until_it_is_rebuilt(searcher: Searcher, photos: Path, tmp_path: Path) -> None:
    searcher.index()
    other = Searcher(seeing.ColourModel("other"), photos)
    for refused in (other.index, lambda: names(other, "red", tmp_path)):
        with pytest.raises(InputError, match=r"another model's embeddings .the colours model.*--rebuild"):
            refused()
    assert names(searcher, "red", tmp_path, top=1) == ["rose.png"]
    assert counts(other, rebuild=True) == {"new": 3, "embedded": 3}
    assert names(other, "red", tmp_path, top=1) == ["rose.png"]


def test_a_damaged_index_is_one_line_and_can_be_rebuilt(searcher: Searcher, photos: Path, tmp_path: Path) -> None:
    searcher.index()
    for file in (photos / ".pixvoice-index" / "photos.lance").rglob("*"):
        if file.is_file():
            file.write_bytes(b"damaged")
    for refused in (lambda again: again.index(), lambda again: names(again, "red", tmp_path)):
        with pytest.raises((InputError, OutputError), match=r"pixvoice-index: .*index"):
            refused(Searcher(searcher.model, photos))
    again = Searcher(searcher.model, photos)
    again.index(rebuild=True)
    assert names(again, "red", tmp_path, top=1) == ["rose.png"]


def test_what_cannot_be_indexed_or_searched(searcher: Searcher, photos: Path, tmp_path: Path) -> None:
    query = seeing.speech(tmp_path / "query.wav", "red")
    with pytest.raises(InputError, match=r"no index here; make one with: pixvoice index .*photos"):
        searcher.search(query)
    with pytest.raises(InputError, match="no such folder"):
        searcher.index(tmp_path / "nowhere")
    with pytest.raises(InputError, match="not a folder"):
        searcher.index(photos / "rose.png")
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputError, match="no photo in it"):
        Searcher(searcher.model, tmp_path / "bare").index()
    with pytest.raises(OutputError, match="can't be written"):
        Searcher(searcher.model, photos, photos / "rose.png").index()
    searcher.index()
    with pytest.raises(OptionError, match="top 0"):
        searcher.search(query, top=0)
    with pytest.raises(OptionError, match="kind 'songs'"):
        searcher.search(query, kind="songs")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no recordings in this index"):
        searcher.search(query, kind="recordings")
    with pytest.raises(InputError, match="nothing but silence"):
        searcher.search(np.zeros(8000, np.float32))
    with pytest.raises(InputError, match="finite float32"):
        searcher.search(np.full(8000, np.nan, np.float32))


@given(rows=st.integers(1, 40), top=st.integers(1, 12), seed=st.integers(0, 100))
def test_nearest_is_what_a_full_sort_finds(
    rows: int, top: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    index, vectors, query = made_up(tmp_path_factory.mktemp("index"), rows, seed)
    best = np.argsort(-(vectors @ query))[:top]
    hits = index.nearest("photos", query, top)
    assert [hit.path.name for hit in hits] == [f"{row}.jpg" for row in best]
    assert [hit.score for hit in hits] == pytest.approx((vectors @ query)[best], abs=1e-5)


def test_a_large_index_is_approximate_and_takes_more(tmp_path: Path) -> None:
    index, vectors, query = made_up(tmp_path, 2000, 0, ann_rows=1000)
    with index.writing():
        index.tidy("photos")
    table = index._table("photos")
    assert [wait(table.index_stats(each.name)).num_indexed_rows for each in wait(table.list_indices())] == [2000]
    near = unit(query + 0.01 * vectors[:1])
    with index.writing():
        index.put("photos", Rows([Path("/new.jpg")], [Entry(1, 1, "")], [""], near))
        assert index.nearest("photos", query, 1)[0].path == Path("/new.jpg")  # not in the approximate index yet
        index.tidy("photos")
    hits = index.nearest("photos", query, 10)
    best = np.argsort(-(vectors @ query))[:9]
    assert len({hit.path.name for hit in hits} & {f"{row}.jpg" for row in best}) >= 8
    assert len(index.nearest("photos", query, 1000)) == 1000
    assert hits[0].score == pytest.approx(float(near[0] @ query), abs=1e-5)


def test_every_thread_searches_and_so_does_one_with_a_loop_of_its_own(
    searcher: Searcher, photos: Path, tmp_path: Path
) -> None:
    searcher.index()
    query = seeing.speech(tmp_path / "query.wav", "green")

    async def in_a_notebook() -> list[str]:
        return [match.path.name for match in searcher.search(query, 2)]

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: searcher.search(query, 1)[0].path.name, range(6)))
    assert found == ["leaf.png"] * 6 and asyncio.run(in_a_notebook())[0] == "leaf.png"
    seeing.photo(photos / "grass.png", "green", shade=60)
    searcher.index()
    assert set(asyncio.run(in_a_notebook())) == {"leaf.png", "grass.png"}  # what this process has just written


def unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32)


def made_up(folder: Path, rows: int, seed: int, ann_rows: int = 10**6) -> tuple[PhotoIndex, Floats, Floats]:
    """An index of random embeddings, the embeddings (N, 8), and a query (8,)."""
    rng = np.random.default_rng(seed)
    vectors, query = unit(rng.normal(size=(rows, 8))), unit(rng.normal(size=8))
    index = PhotoIndex(folder / "index", seeing.ColourModel(), ann_rows)
    with index.writing():
        paths = [Path(f"/{row}.jpg") for row in range(rows)]
        index.put("photos", Rows(paths, [Entry(1, 1, "")] * rows, [""] * rows, vectors))
    return index, vectors, query


def process(code: str, *arguments: str | Path, **options: int) -> subprocess.Popen[str]:
    """A process of its own that has ``seeing``; its arguments are ``sys.argv[1:]``."""
    command = [sys.executable, "-c", f"import os, signal, sys; import seeing\n{code}", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, **options)


KILLED = """
from pixvoice.runtime import indexing
from pixvoice.runtime.index import PhotoIndex
indexing.FILES_AT_ONCE = 4
def die(*ignored): os.kill(os.getpid(), signal.SIGKILL)
kind, number = sys.argv[2].split()
if kind == "embed":
    before = lambda seen: die() if seen >= int(number) else None
else:
    before = lambda seen: None
    done = []
    whole = getattr(PhotoIndex, kind)
    def until(self, *rest):
        result = whole(self, *rest)
        done.append(1)
        return die() if len(done) > int(number) else result
    setattr(PhotoIndex, kind, until)
seeing.run_with(seeing.ColourModel(before=before), "index", sys.argv[1])
"""


@pytest.mark.parametrize("moment", ["embed 0", "embed 4", "put 1", "_merge 2", "tidy 0", "_schema 0"])
def test_a_killed_run_leaves_an_index_that_the_next_one_completes(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "FILES_AT_ONCE", 4)
    for number in range(12):
        seeing.photo(tmp_path / "photos" / f"{number}.png", "red", shade=10 * number)
    killed = process(KILLED, tmp_path / "photos", moment)
    assert killed.communicate()[1] == "" and killed.returncode == -9
    searcher = Searcher(seeing.ColourModel(), tmp_path / "photos")
    kept = searcher.store.count("photos")
    assert kept == {"embed 0": 0, "embed 4": 4, "put 1": 8, "_merge 2": 12, "tidy 0": 12, "_schema 0": 0}[moment]
    assert counts(searcher) == ({"new": 12 - kept, "embedded": 12 - kept} if kept < 12 else {})
    assert len(set(names(searcher, "red", tmp_path, top=20))) == 12


def test_what_a_killed_process_began_is_no_table(searcher: Searcher, photos: Path) -> None:
    (photos / ".pixvoice-index" / "photos.lance" / "data").mkdir(parents=True)
    assert not searcher.store.exists()
    assert counts(searcher) == {"new": 3, "embedded": 3}


def test_two_processes_never_write_at_once(photos: Path, tmp_path: Path) -> None:
    wait = "wait = lambda seen: (print('embedding', flush=True), sys.stdin.readline())\n"
    code = wait + "sys.exit(seeing.run_with(seeing.ColourModel(before=wait), 'index', sys.argv[1]))"
    first = process(code, photos, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert first.stdout is not None and first.stdout.readline() == "embedding\n"
    second = process(code, photos, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    said = second.communicate()[1]
    assert second.returncode == 1 and said.count("\n") == 1
    assert "another process is writing this index; wait until it's done" in said
    said = first.communicate("go on\n")[1]
    assert (first.returncode, said) == (0, "")
    searcher = Searcher(seeing.ColourModel(), photos)
    assert counts(searcher) == {} and len(names(searcher, "red", tmp_path)) == 3


def test_a_full_disk_is_one_line_and_costs_nothing_that_was_there(searcher: Searcher, photos: Path) -> None:
    """A limit on the size of a file stands for the disk."""
    resource = pytest.importorskip("resource", reason="not on Windows")
    assert resource
    searcher.index()
    for number in range(200):
        seeing.photo(photos / f"{number}.png", "green", shade=number)
    code = (
        "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "sys.exit(seeing.run_with(seeing.ColourModel(), 'index', sys.argv[1]))"
    )
    full = process(code, photos, stdout=subprocess.DEVNULL)
    said = full.communicate()[1]
    assert full.returncode == 1 and said.count("\n") == 1 and "can't be written" in said
    assert searcher.store.count("photos") == 3
    assert counts(searcher) == {"new": 200, "embedded": 200}


def test_a_url_is_an_index_too(searcher: Searcher, photos: Path, tmp_path: Path) -> None:
    """A file:// address goes the way of object storage: absolute paths, no lock."""
    there = Searcher(searcher.model, photos, (tmp_path / "store").as_uri())
    assert counts(there) == {"new": 3, "embedded": 3}
    assert counts(there) == {}
    match = Searcher(searcher.model, (tmp_path / "store").as_uri()).search(seeing.speech(tmp_path / "q.wav", "red"))[0]
    assert match.path == Path(os.path.realpath(photos)) / "rose.png" and not match.missing
    assert not (tmp_path / "store" / ".lock").exists()


def test_a_file_name_that_is_no_text_is_one_line(searcher: Searcher, photos: Path) -> None:
    try:
        shutil.copy(photos / "rose.png", os.fsencode(photos) + b"/\xff.png")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    report = searcher.index()
    assert report.photos == 3 and len(report.failures) == 1 and "isn't UTF-8" in report.failures[0]
