"""Data sets in the layouts that people have: each gives the same samples."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pixvoice.data import load_dataset
from pixvoice.errors import InputError, OptionError
from pixvoice.manifest import Sample, write_manifest

PHOTOS = {"a.jpg": "train", "b.jpg": "dev", "c.jpg": "test"}
CAPTIONS = {name: [f"A {name[0]} one .", f"The {name[0]}, two ."] for name in PHOTOS}


def photos(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*PHOTOS, "d.jpg"):
        Image.new("RGB", (2, 2)).save(folder / name)


def tokens(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{name}#{k}\t{text}" for name, texts in CAPTIONS.items() for k, text in enumerate(texts)]
    (folder / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")


def lists(folder: Path) -> None:
    for name, split in PHOTOS.items():
        (folder / f"Flickr_8k.{split}Images.txt").write_text(f"{name}\n")


def original(root: Path) -> None:
    photos(root / "Flicker8k_Dataset")
    tokens(root)
    lists(root)


def nested(root: Path) -> None:
    photos(root / "Flickr8k_Dataset" / "Flicker8k_Dataset")
    tokens(root / "Flickr8k_text")
    lists(root / "Flickr8k_text")


def karpathy(root: Path) -> None:
    photos(root / "images")
    rows = [
        {
            "filename": name,
            "split": "val" if split == "dev" else split,
            "sentences": [{"raw": text, "tokens": text.split()} for text in CAPTIONS[name]],
        }
        for name, split in PHOTOS.items()
    ]
    (root / "dataset_flickr8k.json").write_text(json.dumps({"images": rows, "dataset": "flickr8k"}))


def kaggle(root: Path) -> None:
    photos(root / "Images")
    rows = [f'{name},"{text}"' for name, texts in CAPTIONS.items() for text in texts]
    (root / "captions.txt").write_text("image,caption\n" + "\n".join(rows) + "\n")
    lists(root)


def json_lines(root: Path) -> None:
    photos(root / "images")
    rows = [{"image": name, "split": split, "captions": CAPTIONS[name]} for name, split in PHOTOS.items()]
    (root / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))


def ours(root: Path) -> None:
    photos(root)
    samples = [Sample(root / name, text=text, split=PHOTOS[name]) for name in PHOTOS for text in CAPTIONS[name]]
    write_manifest(root / "manifest.jsonl", samples)


def corpus(folder: Path) -> None:
    (folder / "wavs").mkdir(parents=True)
    wavs = [(f"{name[0]}_{k}.wav", name, k) for name in PHOTOS for k in (0, 1)]
    lines = [f"{wav} {name} #{k}" for wav, name, k in wavs]
    (folder / "wav2capt.txt").write_text("\n".join(["a_1_txt.wav a.jpg #1", *lines, "a_1_txt a.jpg #1"]) + "\n")
    (folder / "wav2spk.txt").write_text("\n".join(f"{wav} {k + 7}" for wav, _, k in wavs) + "\n")


LAYOUTS = [original, nested, karpathy, kaggle, json_lines, ours]


@pytest.mark.parametrize("make", LAYOUTS)
def test_each_layout_gives_the_same_samples(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path)
    samples = load_dataset(tmp_path)
    assert [(s.image.name, s.text, s.split) for s in samples] == [
        (name, text, split) for name, split in PHOTOS.items() for text in CAPTIONS[name]
    ]
    assert all(sample.image.is_file() and sample.audio is None for sample in samples)
    assert [s.image.name for s in load_dataset(tmp_path, "val")] == ["b.jpg", "b.jpg"]
    assert load_dataset(tmp_path, "dev") == load_dataset(tmp_path, "val")
    with pytest.raises(OptionError, match=r"no split 'extra'.*dev, test, train"):
        load_dataset(tmp_path, "extra")


@pytest.mark.parametrize("make", LAYOUTS)
def test_the_file_of_a_layout_is_as_good_as_its_folder(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path)
    names = ("*token.txt", "*.json", "captions.*", "manifest.jsonl")
    file = next(found for name in names for found in tmp_path.rglob(name))
    assert load_dataset(file) == load_dataset(tmp_path)


@pytest.mark.parametrize("make", [original, nested])
@pytest.mark.parametrize("place", ["flickr_audio", "."])
def test_recordings_beside_the_text_files(make: Callable[[Path], None], place: str, tmp_path: Path) -> None:
    make(tmp_path)
    corpus(tmp_path / place)
    samples = load_dataset(tmp_path)
    expected = [(f"{name[0]}_{k}.wav", CAPTIONS[name][k], str(k + 7)) for name in PHOTOS for k in (0, 1)]
    assert [(s.audio.name, s.text, s.speaker) for s in samples if s.audio] == expected
    assert all(s.audio and s.audio.parent.is_dir() for s in samples)
    for given in (tmp_path / place, tmp_path / place / "wav2capt.txt"):
        heard = load_dataset(given)
        assert [(s.audio and s.audio.resolve(), s.text, s.split) for s in heard] == [
            (s.audio and s.audio.resolve(), s.text, s.split) for s in samples
        ]


def test_recordings_without_text_files(tmp_path: Path) -> None:
    photos(tmp_path / "images")
    corpus(tmp_path / "flickr_audio")
    samples = load_dataset(tmp_path / "flickr_audio")
    assert len(samples) == 6
    assert all(s.text is None and s.split is None and s.audio and s.image.is_file() for s in samples)


def test_a_caption_without_a_recording_stays(tmp_path: Path) -> None:
    original(tmp_path)
    corpus(tmp_path / "flickr_audio")
    kept = (tmp_path / "flickr_audio" / "wav2capt.txt").read_text().splitlines()[:2]
    (tmp_path / "flickr_audio" / "wav2capt.txt").write_text("\n".join(kept))
    assert [sample.audio is not None for sample in load_dataset(tmp_path)] == [True] + [False] * 5


def test_a_photo_in_no_official_list_is_extra(tmp_path: Path) -> None:
    original(tmp_path)
    with (tmp_path / "Flickr8k.token.txt").open("a") as file:
        file.write("d.jpg#0\tA dog .\ne.jpg.1#0\tA photo that isn't in the data set .\n")
    assert [sample.image.name for sample in load_dataset(tmp_path, "extra")] == ["d.jpg"]


def test_text_files_without_split_lists(tmp_path: Path) -> None:
    photos(tmp_path / "images")
    tokens(tmp_path)
    assert {sample.split for sample in load_dataset(tmp_path)} == {None}
    with pytest.raises(OptionError, match="names no splits"):
        load_dataset(tmp_path, "train")


def test_the_csv_is_train_when_no_list_stands_beside_it(tmp_path: Path) -> None:
    photos(tmp_path / "Images")
    (tmp_path / "captions.txt").write_text('image,caption\r\na.jpg,A dog , and a cat .\r\nb.jpg,"A , ""b"""\r\n')
    samples = load_dataset(tmp_path, "train")
    assert [sample.text for sample in samples] == ["A dog , and a cat .", 'A , "b"']
    with pytest.raises(OptionError, match=r"Images.txt beside the file"):
        load_dataset(tmp_path, "dev")


def test_a_neighbouring_data_set_is_left_alone(tmp_path: Path) -> None:
    photos(tmp_path / "mine" / "images")
    tokens(tmp_path / "mine")
    original(tmp_path / "yours")
    corpus(tmp_path / "theirs")
    samples = load_dataset(tmp_path / "mine")
    assert all(sample.audio is None and sample.split is None for sample in samples)


def test_coco_folders_and_restval(tmp_path: Path) -> None:
    photos(tmp_path / "val2014")
    photos(tmp_path / "images")
    (tmp_path / "images").rename(tmp_path / "other")
    row = {"filepath": "val2014", "filename": "a.jpg", "split": "restval", "sentences": [{"raw": "A dog."}]}
    (tmp_path / "dataset.json").write_text(json.dumps({"images": [row]}))
    assert [s.image.is_file() for s in load_dataset(tmp_path, "train")] == [True]


def test_an_unknown_folder_says_what_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        load_dataset(tmp_path)
    for name in ("Flickr8k.token.txt", "dataset_flickr8k.json", "captions.txt", "wav2capt.txt", "manifest.jsonl"):
        assert name in str(error.value)
    with pytest.raises(InputError, match="no such file or folder"):
        load_dataset(tmp_path / "nothing")


def test_text_without_photos_says_where_to_put_them(tmp_path: Path) -> None:
    tokens(tmp_path)
    with pytest.raises(InputError, match=r"photos \(a.jpg, ...\) aren't beside it; put them in .*images"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("Flickr8k.token.txt", "a.jpg A dog .\n", "line 1 isn't 'photo.jpg#0<TAB>caption'"),
        ("Flickr8k.token.txt", "\n", "holds no captions"),
        ("wav2capt.txt", "a_0.wav a.jpg\n", "line 1 isn't 'photo_0.wav photo.jpg #0'"),
        ("dataset.json", '{"images": [', "line 1 isn't JSON"),
        ("dataset.json", '{"annotations": []}', "no list of images"),
        ("dataset.json", '{"images": [{"filename": "a.jpg"}]}', "image 1 lacks"),
        ("captions.txt", "a.jpg,A dog .\n", "first line isn't 'image,caption'"),
        ("captions.jsonl", '\n{"captions": ["A dog."]}\n', "line 2 isn't"),
        ("captions.jsonl", '{"image": "a.jpg", "captions": ["x"], "split": "trian"}', "in the split 'trian'"),
        ("captions.jsonl", '{"image": "a.jpg", "captions": [1]}', "a caption that isn't text"),
        ("captions.jsonl", '{"image": "a.jpg", "captions": [" "]}', "holds no captions"),
        ("notes.txt", "a dog\n", "known are .*token.*or give the folder"),
    ],
)
def test_a_damaged_file_is_one_clear_line(name: str, content: str, message: str, tmp_path: Path) -> None:
    photos(tmp_path / "images")
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message) as error:
        load_dataset(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_bytes(b"image,caption\na.jpg,caf\xe9\n")
    with pytest.raises(InputError, match="isn't UTF-8"):
        load_dataset(tmp_path)


def test_reading_data_loads_no_torch() -> None:
    code = "import sys, pixvoice.data, pixvoice.data.spoken, pixvoice.manifest; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
