"""``pixvoice index`` and ``pixvoice search`` as their users meet them: arguments, text, pages, exit status."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import stat
import sys
import webbrowser
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

import pixvoice
import seeing
from pixvoice.cli import run
from pixvoice.runtime import microphone

pytest.importorskip("lancedb", reason="needs the search extra")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: ``photos`` with a red, a green and a blue one, and ``red.wav``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "pixvoice.runtime.retriever", seeing.retriever(seeing.ColourModel()))
    for name, colour in (("rose", "red"), ("leaf", "green"), ("sea", "blue")):
        seeing.photo(tmp_path / "photos" / f"{name}.png", colour)
    seeing.speech(tmp_path / "red.wav", "red")
    return tmp_path


@pytest.fixture
def indexed(folder: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert run(["index", "photos"]) == 0
    capsys.readouterr()
    return folder


def said(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, list[str], list[str]]:
    """Exit status, lines on standard output, lines on standard error."""
    status = run([*map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out.splitlines(), captured.err.splitlines()


def test_index_says_what_it_did(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = said(capsys, "index", "photos")
    assert (status, len(out), err) == (0, 1, [])
    assert out[0].startswith("photos/.pixvoice-index  3 photos  (3 new, 0 changed, 0 dropped, 0 failed)")
    (folder / "photos" / "text.jpg").write_text("no photo")
    (folder / "photos" / "sea.png").unlink()
    status, out, err = said(capsys, "index", "photos", "--json")
    values = json.loads(out[0])
    assert (status, len(err)) == (1, 1) and err[0].startswith("error: ") and "text.jpg: " in err[0]
    assert values.pop("seconds") >= 0
    assert values == {
        "index": "photos/.pixvoice-index", "photos": 2, "recordings": 0,
        "new": 0, "changed": 0, "dropped": 1, "failed": 1,
    }  # fmt: skip


def test_search_ranks_and_says_what_was_heard(indexed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = said(capsys, "search", "red.wav", "photos")
    assert (status, len(out), err) == (0, 3, ["heard (read by a machine): red"])
    assert re.fullmatch(r"  1  1\.000  photos/rose\.png", out[0])
    assert len(said(capsys, "search", "red.wav", "photos", "--top", 2)[1]) == 2


@pytest.mark.parametrize(
    "arguments",
    [["red.wav", "photos"], ["photos", "red.wav"], ["red.wav", "--index", "photos"],
     ["red.wav", "photos/.pixvoice-index"], ["--index", "photos/.pixvoice-index", "red.wav"]],
)  # fmt: skip
def test_every_order_that_can_be_meant(indexed: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    status, out, _ = said(capsys, "search", *arguments, "--top", 1)
    assert status == 0 and out[0].endswith("photos/rose.png")


def test_the_current_folder_is_searched_unless_told(
    indexed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(indexed / "photos")
    assert said(capsys, "search", "../red.wav", "--top", 1)[1] == ["  1  1.000  rose.png"]


def test_json_is_one_object(indexed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (indexed / "photos" / "rose.png").unlink()
    status, out, err = said(capsys, "search", "red.wav", "photos", "--json", "--top", 1)
    assert (status, len(out), err) == (0, 1, [])
    found = json.loads(out[0])
    assert (found["query"], found["text"]) == ("red.wav", "red")
    match = found["matches"][0]
    assert match.pop("score") > 0.9 and Path(match.pop("path")).name == "rose.png"
    assert match == {"rank": 1, "kind": "photos", "text": "", "missing": True}
    _, out, err = said(capsys, "search", "red.wav", "photos", "--top", 1)
    assert out[0].endswith("(no longer there)") and "some files are gone" in err[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to search for"),
        (["photos"], "nothing to search for"),
        (["--mic", "--photo", "photos/sea.png"], "search with one of them"),
        (["red.wav", "photos", "more"], "one query and one folder"),
        (["red.wav", "photos", "--index", "photos"], "one query and one folder"),
        (["red.wav", "photos", "-o", "sheet.png"], "ends in .html"),
        (["red.wav", "photos", "--top", "0"], "top 0: give 1 to 1000"),
        (["red.wav", "photos", "--kind", "songs"], "songs"),
        (["red.wav"], "no index here"),
        (["nowhere.wav", "photos"], "no such file"),
        (["photos/sea.png", "photos"], "not a recording"),
        (["--photo", "red.wav", "photos"], "not a photo"),
        (["--mic", "--seconds", "0", "photos"], "--seconds 0: give 0.5 to 60"),
    ],
)
def test_what_cannot_be_meant_is_one_line(
    indexed: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    status, out, err = said(capsys, "search", *arguments)
    assert (status, out) == (2, [])
    assert err[-1].startswith("error: ") and message in err[-1]


def test_every_recording_is_searched_with_or_refused_in_one_line(
    indexed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    times = np.arange(48_000) / 48_000
    tone = 0.5 * np.sin(2 * np.pi * 440 * times)
    good = {
        "stereo.wav": ("WAV", np.stack([tone, tone], 1), "PCM_16"), "deep.wav": ("WAV", tone, "PCM_24"),
        "float.wav": ("WAV", tone, "FLOAT"), "a.flac": ("FLAC", tone, "PCM_16"), "a.mp3": ("MP3", tone, None),
        "a.ogg": ("OGG", tone, "VORBIS"), "short.wav": ("WAV", tone[:4800], "PCM_16"),
    }  # fmt: skip
    for name, (form, audio, subtype) in good.items():
        sf.write(name, audio, 48_000, subtype=subtype, format=form)
    for rate in (8_000, 96_000):
        seeing.speech(Path(f"{rate}.wav"), "red", rate=rate)
    whole = Path("red.wav").read_bytes()
    Path("cut.wav").write_bytes(whole[:-3000])
    Path("lies.wav").write_bytes(whole[:40] + b"\xff\xff\xff\x7f" + whole[44:])
    for name in (*good, "8000.wav", "96000.wav", "cut.wav", "lies.wav"):
        status, out, err = said(capsys, "search", name, "photos", "--top", 1)
        assert (status, err) == (0, ["heard (read by a machine): red"]) and out[0].endswith("rose.png"), name
    sf.write("nan.wav", np.full(8000, np.nan), 16_000, subtype="FLOAT")
    sf.write("silence.wav", np.zeros(8000), 16_000)
    Path("empty.wav").write_bytes(b"")
    for name in ("nan.wav", "silence.wav", "empty.wav"):
        status, out, err = said(capsys, "search", name, "photos")
        assert (status, out, len(err)) == (2, [], 1) and err[0].startswith(f"error: {name}: "), name


def test_a_pipe_is_a_query(indexed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, file in ((["-"], indexed / "red.wav"), (["--photo", "-"], indexed / "photos" / "rose.png")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
        status, out, _ = said(capsys, "search", *arguments, "photos", "--top", 1)
        assert status == 0 and out[0].endswith("photos/rose.png")


def test_photo_to_photos_and_to_recordings(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for colour in seeing.TONES:
        seeing.speech(folder / "photos" / f"{colour}.wav", colour)
    seeing.photo(folder / "photos" / "fire.png", "red", shade=50)
    out = said(capsys, "index", "photos", "--recordings")[1]
    assert "4 photos and 3 recordings" in out[0]
    _, out, err = said(capsys, "search", "--photo", "photos/rose.png", "photos", "--top", 1)
    assert err == [] and out[0].endswith("photos/fire.png")
    _, out, _ = said(capsys, "search", "--photo", "photos/sea.png", "photos", "--top", 1, "--kind", "recordings")
    assert out[0].endswith("photos/blue.wav  blue")
    said(capsys, "search", "--photo", "photos/sea.png", "photos", "--kind", "recordings", "-o", "heard.html")
    assert Path("heard.html").read_text().count("<audio controls") == 3


class Page(HTMLParser):
    """Tags with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page_shows_everything_and_asks_no_host(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or True)
    evil = folder / "photos" / '<img src=x onerror=alert(1)> & "co".png'
    os.rename(folder / "photos" / "rose.png", evil)
    run(["index", "photos"])
    (folder / "photos" / "sea.png").unlink()
    assert said(capsys, "search", "red.wav", "photos", "-o", "sheet.html")[0] == 0 and opened == []
    text = Path("sheet.html").read_text()
    page = Page(text)
    pictures, players = page.of("img"), page.of("audio")
    assert [len(pictures), len(players), text.count("no longer there")] == [2, 1, 1]
    assert pictures[0]["alt"] == f"Match 1 of 3: {evil.name}"
    assert all(picture["src"].startswith("data:image/jpeg;base64,") for picture in pictures)  # type: ignore[union-attr]
    assert players[0]["aria-label"] == "The spoken query" and "controls" in players[0] and "autoplay" not in players[0]
    audio, rate = sf.read(io.BytesIO(base64.b64decode(str(players[0]["src"]).split(",")[1])))
    assert (len(audio), rate) == (8000, 16_000)
    assert "<q>red</q>" in text and "http" not in text.replace("http-equiv", "")
    assert page.of("html") == [{"lang": "en"}] and not page.of("script") and not page.of("link")


def test_open_shows_the_page_in_the_browser(
    indexed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or False)
    monkeypatch.setenv("TMPDIR", str(indexed))
    monkeypatch.setattr("tempfile.tempdir", None)
    status, out, err = said(capsys, "search", "red.wav", "photos", "--open")
    assert (status, len(out)) == (0, 3) and "no browser was found; open " in err[-1]
    assert opened[0].startswith("file://") and opened[0].endswith("index.html")
    assert said(capsys, "search", "red.wav", "photos", "-o", "nowhere/sheet.html")[0] == 1


def test_the_microphone_is_asked_for_as_many_seconds(
    indexed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that plays a recorder; sounddevice isn't there."""
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    monkeypatch.setenv("PATH", str(indexed / "bin"))
    recorder = indexed / "bin" / "arecord"
    recorder.parent.mkdir()
    recorder.write_text(
        f"#!{sys.executable}\nimport sys, soundfile\naudio, _ = soundfile.read({str(indexed / 'red.wav')!r}, "
        "dtype='int16')\ntry:\n    while True: sys.stdout.buffer.write(audio.tobytes())\nexcept OSError: pass\n"
    )
    recorder.chmod(recorder.stat().st_mode | stat.S_IEXEC)
    status, out, err = said(capsys, "search", "--mic", "photos", "--seconds", 1.5, "--top", 1)
    assert (status, err) == (0, ["listening for 1.5 s ...", "heard (read by a machine): red"])
    assert out[0].endswith("rose.png")
    assert len(microphone.record(1.5, 16_000)) == 24_000
    recorder.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('arecord: main: no soundcards found')\n")
    status, _, err = said(capsys, "search", "--mic", "photos")
    assert status == 2 and err[-1].startswith("error: no microphone can be used (arecord: main: no soundcards found)")
    recorder.unlink()
    status, _, err = said(capsys, "search", "--mic", "photos")
    assert status == 2 and "no way to record (looked for arecord, parec, rec)" in err[-1]


def test_without_lancedb_the_line_says_what_to_install(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lancedb", None)
    status, _, err = said(capsys, "index", "photos")
    assert (status, len(err)) == (2, 1) and "pip install 'pixvoice[search]'" in err[0]


def test_the_five_lines_of_python(indexed: Path) -> None:
    searcher = pixvoice.load_searcher("photos")
    assert isinstance(searcher, pixvoice.Searcher)
    assert searcher.index().photos == 3
    matches = searcher.search("red.wav", top=2)
    assert [match.path.name for match in matches][:1] == ["rose.png"] and isinstance(matches[0], pixvoice.Match)
    audio = sf.read("red.wav", dtype="float32")[0]
    assert searcher.search(audio, top=2) == matches == searcher.search(Path("red.wav").read_bytes(), top=2)
