"""Manifests: what is written is read back, and every fault is found at once, with its line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from pixvoice.audio import write_wav
from pixvoice.cli.manifest import app
from pixvoice.errors import InputError, OptionError, OutputError
from pixvoice.manifest import SPLITS, Fault, Sample, check_manifest, read_manifest, write_manifest

run = CliRunner()

words = st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda text: text.strip())
names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=30).filter(
    lambda name: name.strip() and name not in (".", "..")
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two photos and two recordings."""
    for name in ("a.jpg", "b.png"):
        Image.new("RGB", (4, 3), "red").save(tmp_path / name)
    for name in ("a.wav", "b.wav"):
        write_wav(tmp_path / name, np.full(800, 0.1, np.float32))
    return tmp_path


def write(folder: Path, *rows: object) -> Path:
    file = folder / "manifest.jsonl"
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return file


def messages(file: Path) -> dict[int, str]:
    """Line -> what is wrong in it."""
    return {fault.line: fault.message for fault in check_manifest(file)}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            names,
            names | st.none(),
            words | st.none(),
            words | st.none(),
            st.sampled_from(SPLITS) | st.none(),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_what_is_written_is_read_back(tmp_path: Path, rows: list[tuple[str, str | None, str, str, str]]) -> None:
    samples = [
        Sample(tmp_path / image, None if audio is None else tmp_path / "wavs" / audio, text, speaker, split)
        for image, audio, text, speaker, split in rows
    ]
    write_manifest(tmp_path / "m.jsonl", samples)
    assert read_manifest(tmp_path / "m.jsonl") == samples


def test_a_manifest_moves_with_its_data_set(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    write_manifest(folder / "manifest.jsonl", [Sample(folder / "a.jpg", folder / "a.wav")])
    moved = tmp_path_factory.mktemp("elsewhere") / "moved"
    folder.rename(moved)
    assert read_manifest(moved / "manifest.jsonl") == [Sample(moved / "a.jpg", moved / "a.wav")]
    assert check_manifest(moved / "manifest.jsonl") == []


def test_a_photo_outside_is_found_through_dots_and_links(folder: Path) -> None:
    (folder / "deep" / "real").mkdir(parents=True)
    (folder / "link").symlink_to(folder / "deep" / "real", target_is_directory=True)
    write_manifest(folder / "link" / "m.jsonl", [Sample(folder / "a.jpg", text="A dog.")])
    assert json.loads((folder / "link" / "m.jsonl").read_text())["image"] == "../../a.jpg"
    assert check_manifest(folder / "link" / "m.jsonl") == []


def test_a_relative_manifest_and_relative_photos(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    write_manifest("m.jsonl", [Sample(Path("a.jpg"), text="A dog.")])
    assert read_manifest("m.jsonl") == [Sample(Path("a.jpg"), text="A dog.")]


def test_val_is_dev(folder: Path) -> None:
    rows = ({"image": "a.jpg", "text": "one", "split": "val"}, {"image": "b.png", "text": "two", "split": "train"})
    file = write(folder, *rows)
    assert [sample.text for sample in read_manifest(file, "dev")] == ["one"]
    assert read_manifest(file, "dev") == read_manifest(file, "val")


def test_a_split_that_is_not_there(folder: Path) -> None:
    file = write(folder, {"image": "a.jpg", "text": "one", "split": "val"})
    with pytest.raises(OptionError, match=r"no split 'test'.*has dev"):
        read_manifest(file, "test")
    with pytest.raises(OptionError, match="names no splits"):
        read_manifest(write(folder, {"image": "a.jpg", "text": "one"}), "dev")


FAULTY = [
    ('{"image": "a.jpg", "text": ', "not JSON"),
    ('["a.jpg"]', "a JSON list"),
    ({"text": "A dog."}, "no image"),
    ({"image": "", "text": "A dog."}, "image is empty"),
    ({"image": "a.jpg", "text": " "}, "text is empty"),
    ({"image": 3, "text": "A dog."}, "image is a int"),
    ({"image": "a.jpg", "texts": "A dog."}, "unknown key 'texts' (did you mean 'text'?)"),
    ({"image": "a.jpg"}, "neither audio nor text"),
    ({"image": "no.jpg", "text": "A dog."}, "no such file"),
    ({"image": "text.jpg", "text": "A dog."}, "not a photo"),
    ({"image": "empty.jpg", "text": "A dog."}, "empty"),
    ({"image": "a.jpg", "audio": "no.wav"}, "no such file"),
    ({"image": "a.jpg", "audio": "text.wav"}, "not a recording"),
    ({"image": "a.jpg", "audio": "silent.wav"}, "no sound"),
    ({"image": "/a.jpg", "text": "A dog."}, "absolute"),
    ({"image": "C:\\a.jpg", "text": "A dog."}, "absolute"),
    ({"image": "a.jpg", "audio": "~/a.wav"}, "isn't a relative path"),
    ({"image": "https://example.org/a.jpg", "text": "A dog."}, "isn't a relative path"),
    ({"image": "a.jpg", "text": "A dog.", "split": "trian"}, "unknown split 'trian' (did you mean 'train'?)"),
]


def test_every_fault_is_reported_at_once(folder: Path) -> None:
    for name in ("text.jpg", "text.wav"):
        (folder / name).write_text("this is text")
    (folder / "empty.jpg").touch()
    write_wav(folder / "silent.wav", np.zeros(0, np.float32))
    good = {"image": "b.png", "audio": "b.wav", "text": "A cat."}
    found = messages(write(folder, good, *(row for row, _ in FAULTY)))
    assert sorted(found) == list(range(2, len(FAULTY) + 2))
    for line, (_, expected) in enumerate(FAULTY, 2):
        assert expected in found[line]


def test_one_line_may_have_several_faults(folder: Path) -> None:
    faults = check_manifest(write(folder, {"image": "/x.jpg", "audio": 1, "splt": "train"}))
    assert len(faults) == 3
    assert {fault.line for fault in faults} == {1}


def test_repeats_name_the_first_line(folder: Path) -> None:
    first = {"image": "a.jpg", "audio": "a.wav"}
    found = messages(write(folder, first, "", first, {"image": "b.png", "audio": "a.wav"}))
    assert "the same as line 1" in found[3]
    assert "already that of line 1" in found[4]


def test_empty_and_missing_manifests(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").touch()
    assert check_manifest(tmp_path / "m.jsonl") == [Fault(1, "the manifest holds no samples")]
    for path in (tmp_path / "m.jsonl", tmp_path / "no.jsonl", tmp_path):
        with pytest.raises(InputError, match="manifest"):
            read_manifest(path)
    with pytest.raises(InputError, match="no such manifest"):
        check_manifest(tmp_path / "no.jsonl")


def test_reading_a_faulty_manifest_says_how_to_see_all(folder: Path) -> None:
    with pytest.raises(InputError, match=r"line 1: not JSON.* and 1 more; see all with: pixvoice manifest check"):
        read_manifest(write(folder, "{", {"image": 1}))


def test_a_manifest_of_another_editor(folder: Path) -> None:
    file = folder / "manifest.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"image": "a.jpg", "text": "caf\xc3\xa9 \xe2\x80\xa8", "speaker": null}\r\n\r\n')
    assert read_manifest(file) == [Sample(folder / "a.jpg", text="café \u2028")]


def test_a_name_that_is_not_unicode(tmp_path: Path) -> None:
    sample = Sample(tmp_path / os.fsdecode(b"\xff.jpg"), text="A dog.")
    write_manifest(tmp_path / "m.jsonl", [sample])
    assert read_manifest(tmp_path / "m.jsonl") == [sample]


def test_a_manifest_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        write_manifest(tmp_path / "no" / "m.jsonl", [Sample(tmp_path / "a.jpg", text="A dog.")])
    assert list(tmp_path.iterdir()) == []


def test_check_command(folder: Path) -> None:
    file = write(folder, {"image": "a.jpg", "audio": "a.wav", "speaker": "rms", "split": "val"})
    result = run.invoke(app, ["check", str(file)])
    assert result.exit_code == 0
    assert "1 samples, 1 photos, 1 recordings, 0 texts, 1 speakers (dev 1)" in result.stdout
    assert json.loads(run.invoke(app, ["check", str(file), "--json"]).stdout)["splits"] == {"dev": 1}

    file = write(folder, "{", {"image": "a.jpg", "text": 1})
    result = run.invoke(app, ["check", str(file)])
    assert result.exit_code == 2
    assert [line.split(": ")[1] for line in result.stdout.splitlines()] == ["line 1", "line 2"]
    assert "2 faults in 2 lines" in result.stderr
    result = run.invoke(app, ["check", str(file), "--json"])
    assert result.exit_code == 2
    assert [fault["line"] for fault in json.loads(result.stdout)["faults"]] == [1, 2]


def test_make_command(folder: Path) -> None:
    captions = {"image": "a.jpg", "split": "dev", "captions": ["A dog.", "A dog.", "A cat."]}
    (folder / "captions.jsonl").write_text(json.dumps(captions))
    target = folder / "made" / "m.jsonl"
    target.parent.mkdir()
    result = run.invoke(app, ["make", str(folder), "-o", str(target), "--split", "val"])
    assert result.exit_code == 0, result.output
    assert "2 samples" in result.stdout
    assert "1 repeated" in result.stderr
    assert [sample.text for sample in read_manifest(target)] == ["A dog.", "A cat."]
    assert run.invoke(app, ["check", str(target)]).exit_code == 0


def test_make_does_not_write_over_a_data_set(folder: Path) -> None:
    source = folder / "captions.jsonl"
    source.write_text(json.dumps({"image": "a.jpg", "captions": ["A dog."]}))
    result = run.invoke(app, ["make", str(folder), "-o", str(source)])
    assert isinstance(result.exception, OutputError)
    assert "captions" in source.read_text()
    assert run.invoke(app, ["make", str(folder), "-o", str(source), "--force"]).exit_code == 0
    assert read_manifest(source)[0].text == "A dog."
