"""SpokenCOCO, Localized Narratives and RAVDESS, made small in the layouts that were published."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from PIL import Image

from pixvoice.audio import read_audio
from pixvoice.data import load_dataset, read_ravdess
from pixvoice.data.ravdess import EMOTIONS, SAME_AUDIO
from pixvoice.errors import InputError, OptionError
from pixvoice.manifest import check_manifest, write_manifest

RATE = 16_000


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2)).save(path)


def recording(path: Path, seconds: float = 0.2, rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = 0.2 * np.sin(np.arange(round(seconds * rate)) / 20)
    sf.write(path, tone, rate)


def spoken_photo(image: str, part: str, speakers: list[str]) -> dict[str, Any]:
    number = int(image[-16:-4])
    captions = [
        {"text": f"A PHOTO {number} BY {speaker}", "speaker": speaker, "uttid": f"{speaker}-X_{number}_{k}",
         "wav": f"wavs/{part}/0/{speaker}-X_{number}_{k}.wav"}
        for k, speaker in enumerate(speakers)
    ]  # fmt: skip
    return {"image": image, "captions": captions}


TRAIN = spoken_photo("train2014/COCO_train2014_000000000009.jpg", "train", ["m1", "m2"])
VAL = [spoken_photo(f"val2014/COCO_val2014_0000000000{n}.jpg", "val", ["m3", "m1"]) for n in (25, 30, 42)]


def spokencoco(root: Path, photos: Path, **extra: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for part, rows in (("train", [TRAIN]), ("val", VAL)):
        (root / f"SpokenCOCO_{part}.json").write_text(json.dumps({**extra, "data": rows}))
        for row in rows:
            photo(photos / row["image"])
            for caption in row["captions"]:
                recording(root / caption["wav"])
    return root


class TestSpokenCOCO:
    @pytest.mark.parametrize("photos", [".", "..", "images", "coco"])
    def test_is_read_with_its_recordings(self, photos: str, tmp_path: Path) -> None:
        root = spokencoco(tmp_path / "SpokenCOCO", tmp_path / "SpokenCOCO" / photos)
        samples = load_dataset(root)
        assert len(samples) == 8
        assert all(s.image.is_file() and s.audio is not None and s.audio.is_file() for s in samples)
        assert (samples[0].text, samples[0].speaker, samples[0].split) == ("A PHOTO 9 BY m1", "m1", "train")
        assert [s.speaker for s in load_dataset(root, "dev")] == ["m3", "m1"] * 3

    def test_one_file_is_that_part(self, tmp_path: Path) -> None:
        root = spokencoco(tmp_path, tmp_path)
        assert {s.split for s in load_dataset(root / "SpokenCOCO_val.json")} == {"dev"}
        with pytest.raises(OptionError, match="it has dev, train"):
            load_dataset(root, "test")

    def test_base_paths_in_the_file_count(self, tmp_path: Path) -> None:
        root = spokencoco(
            tmp_path / "a", tmp_path / "p", image_base_path=str(tmp_path / "p"), audio_base_path=str(tmp_path / "w")
        )
        (root / "wavs").rename((tmp_path / "w").mkdir() or tmp_path / "w" / "wavs")
        samples = load_dataset(root)
        assert all(s.image.is_file() and s.audio is not None and s.audio.is_file() for s in samples)

    def test_base_paths_of_another_machine_are_passed_over(self, tmp_path: Path) -> None:
        root = spokencoco(tmp_path, tmp_path, image_base_path="/not/here/", audio_base_path="/nor/here")
        assert all(s.image.is_file() and s.audio is not None and s.audio.is_file() for s in load_dataset(root))

    def test_karpathys_division_is_joined_by_photo(self, tmp_path: Path) -> None:
        root = spokencoco(tmp_path, tmp_path)
        splits = {"000025": "test", "000030": "val", "000042": "restval"}
        rows = [
            {"filepath": "val2014", "filename": f"COCO_val2014_000000{n}.jpg", "split": split, "sentences": []}
            for n, split in splits.items()
        ]
        (root / "dataset_coco.json").write_text(json.dumps({"images": rows}))
        found = {s.image.stem[-2:]: s.split for s in load_dataset(root)}
        assert found == {"09": "train", "25": "test", "30": "dev", "42": "train"}
        (root / "dataset_coco.json").write_text('{"images": [{}]}')
        with pytest.raises(InputError, match="Karpathy's division"):
            load_dataset(root)

    def test_without_recordings_there_is_text(self, tmp_path: Path) -> None:
        root = spokencoco(tmp_path, tmp_path)
        (root / "wavs").rename(root / "elsewhere")
        assert all(s.audio is None and s.text for s in load_dataset(root))

    def test_becomes_a_manifest_without_faults(self, tmp_path: Path) -> None:
        samples = load_dataset(spokencoco(tmp_path, tmp_path))
        write_manifest(tmp_path / "manifest.jsonl", samples)
        assert check_manifest(tmp_path / "manifest.jsonl") == []
        assert load_dataset(tmp_path) == samples  # a manifest comes first

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "isn't JSON"),
            ("[]", 'no list "data"'),
            ('{"data": []}', 'no list "data"'),
            ('{"data": [{"image": "a.jpg"}]}', "photo 1 lacks"),
            ('{"data": [{"image": "a.jpg", "captions": [{"text": 3, "wav": "a.wav"}]}]}', "photo 1 lacks"),
            ('{"data": ["a.jpg"]}', "photo 1 lacks"),
            ('{"data": [{"image": "a.jpg", "captions": [{"text": "A", "wav": "a.wav"}]}]}', "photos .* aren't beside"),
        ],
    )
    def test_damage_is_one_line(self, text: str, message: str, tmp_path: Path) -> None:
        (tmp_path / "SpokenCOCO_val.json").write_text(text)
        with pytest.raises(InputError, match=message) as error:
            load_dataset(tmp_path)
        assert "\n" not in str(error.value)


LONG = " ".join(["In this image there is a cow, and behind the cow there is another cow."] * 12)


def narrative(image_id: str, annotator: int, caption: str, part: str = "val") -> dict[str, Any]:
    return {
        "dataset_id": f"mscoco_{part}2017",
        "image_id": image_id,
        "annotator_id": annotator,
        "caption": caption,
        "timed_caption": [{"utterance": caption[:7], "start_time": 0.0, "end_time": 0.4}],
        "traces": [[{"x": 0.2086, "y": -0.0533, "t": 0.022}]],
        "voice_recording": f"coco_{part}/coco_{part}_{image_id}_{annotator}.ogg",
    }


def narratives(root: Path, photos: str = "{part}2017", voices: str = "voice-recordings") -> Path:
    files = {
        "coco_val_localized_narratives.jsonl": [narrative("137576", 93, LONG), narrative("285", 2, "A bear. ")],
        "coco_train_localized_narratives-00000-of-00004.jsonl": [narrative("9", 4, "Food.", "train")],
        "coco_train_localized_narratives-00001-of-00004.jsonl": [narrative("25", 4, "Giraffes.", "train")],
    }
    for name, rows in files.items():
        (root / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        for row in rows:
            folder = photos.format(part=row["dataset_id"][7:-4])
            photo(root / folder / f"{int(row['image_id']):012d}.jpg")
            recording(root / voices / row["voice_recording"], 35.0 if row["caption"] == LONG else 0.3)
    return root


class TestLocalizedNarratives:
    @pytest.mark.parametrize("photos", ["{part}2017", "images/{part}2017", "images"])
    @pytest.mark.parametrize("voices", [".", "voice-recordings"])
    def test_is_read_with_its_recordings(self, photos: str, voices: str, tmp_path: Path) -> None:
        samples = load_dataset(narratives(tmp_path, photos, voices))
        assert [(s.image.name, s.split, s.speaker) for s in samples] == [
            ("000000000009.jpg", "train", "4"),
            ("000000000025.jpg", "train", "4"),
            ("000000137576.jpg", "dev", "93"),
            ("000000000285.jpg", "dev", "2"),
        ]
        assert all(s.image.is_file() and s.audio is not None and s.audio.is_file() for s in samples)

    def test_a_long_narrative_stays_whole(self, tmp_path: Path) -> None:
        first, second = load_dataset(narratives(tmp_path) / "coco_val_localized_narratives.jsonl")
        assert first.text == LONG and second.text == "A bear."
        assert first.audio is not None
        assert len(read_audio(first.audio)) / RATE == pytest.approx(35.0, abs=0.1)

    def test_is_known_by_its_lines_under_any_name(self, tmp_path: Path) -> None:
        root = narratives(tmp_path)
        (root / "coco_val_localized_narratives.jsonl").rename(root / "val.jsonl")
        assert [s.speaker for s in load_dataset(root / "val.jsonl", "val")] == ["93", "2"]

    def test_without_recordings_there_is_text(self, tmp_path: Path) -> None:
        root = narratives(tmp_path)
        (root / "voice-recordings").rename(root / "elsewhere")
        assert all(s.audio is None and s.text for s in load_dataset(root))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"dataset_id": "ADE20k_validation"}, "line 1 is of 'ADE20k_validation'"),
            ({"dataset_id": None}, "line 1 isn't a narrative"),
            ({"caption": 7}, "line 1 isn't a narrative"),
            ({"image_id": "../9"}, "image_id '../9'"),
            ({"image_id": "10"}, "photos .* aren't beside"),
        ],
    )
    def test_damage_is_one_line(self, change: dict[str, Any], message: str, tmp_path: Path) -> None:
        row = narrative("9", 1, "A cow.") | change
        (tmp_path / "coco_val_localized_narratives.jsonl").write_text(json.dumps(row))
        with pytest.raises(InputError, match=message) as error:
            load_dataset(tmp_path)
        assert "\n" not in str(error.value)


def ravdess(root: Path, names: list[str], suffix: str = ".wav") -> Path:
    for name in names:
        recording(root / f"Actor_{name[-2:]}" / f"{name}{suffix}", rate=48_000)
    return root


def flat(root: Path) -> Path:
    return root


def nested(root: Path) -> Path:
    return root / "Audio_Speech_Actors_01-24"


class TestRavdess:
    @pytest.mark.parametrize("place", [flat, nested])
    @pytest.mark.parametrize("suffix", [".wav", ".flac"])
    def test_a_name_tells_all(self, place: Callable[[Path], Path], suffix: str, tmp_path: Path) -> None:
        ravdess(place(tmp_path), ["03-01-06-01-02-01-12", "03-01-01-01-01-02-03"], suffix)
        first, second = read_ravdess(tmp_path)
        assert (first.emotion, first.actor, first.repetition) == ("neutral", 3, 2)
        assert (second.emotion, second.intensity, second.statement, second.repetition, second.actor) == (
            "fearful", "normal", "Dogs are sitting by the door", 1, 12,
        )  # fmt: skip
        assert len(read_audio(second.path)) == 3200

    def test_all_emotions_in_their_order(self, tmp_path: Path) -> None:
        ravdess(tmp_path, [f"03-01-0{n}-01-01-01-24" for n in range(1, 9)])
        assert tuple(clip.emotion for clip in read_ravdess(tmp_path)) == EMOTIONS

    def test_songs_are_left_out_and_strange_names_are_told(self, tmp_path: Path) -> None:
        strange = ["03-01-09-01-01-01-01", "03-01-03-01-01-01-25", "3-1-3-1-1-1-01", "03-01-03-01-01-01"]
        ravdess(tmp_path, ["03-01-03-02-01-01-01", "03-02-03-02-01-01-01", *strange, "notes-01"])
        told: list[str] = []
        assert [clip.path.stem for clip in read_ravdess(tmp_path, told.append)] == ["03-01-03-02-01-01-01"]
        assert len(told) == 5
        assert all("isn't one of RAVDESS" in line and "\n" not in line for line in told)

    def test_an_archive_that_holds_everything_twice_is_read_once(self, tmp_path: Path) -> None:
        for place in (tmp_path, tmp_path / "audio_speech_actors_01-24"):
            ravdess(place, ["03-01-03-02-01-01-01", "03-01-04-02-01-01-01"])
        assert [clip.path.parent.parent for clip in read_ravdess(tmp_path)] == [tmp_path] * 2

    def test_the_repeated_recording_is_read_as_both_of_its_names(self, tmp_path: Path) -> None:
        ravdess(tmp_path, list(SAME_AUDIO))
        assert {(clip.emotion, clip.actor) for clip in read_ravdess(tmp_path)} == {("happy", 7)}
        assert len(read_ravdess(tmp_path)) == 2

    def test_nothing_there_is_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no such folder"):
            read_ravdess(tmp_path / "nothing")
        with pytest.raises(InputError, match="no recording of RAVDESS"):
            read_ravdess(tmp_path)
