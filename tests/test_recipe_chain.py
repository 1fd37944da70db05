"""The commands of ``recipes/README.md``, one after the other, on a small data set and with small models."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="training needs torch (the train extra)")
pytest.importorskip("transformers", reason="training needs transformers (the train extra)")
pytest.importorskip("yaml", reason="recipes need PyYAML (the train extra)")

from pixvoice import cli
from test_student import save_teacher

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
TRAIN = ("train.steps=4", "train.batch_size=2", "train.save_every=2", "train.log_every=2", "train.bf16=false")
CODEC = ("num_codebooks=5", "codebook_size=16", "latent_dim=4", "width=8", "token_width=8", "encoder_blocks=1",
         "token_blocks=1", "decoder_blocks=1", "n_mels=16")  # fmt: skip
DESCRIBER = ("num_codebooks=4", "codebook_size=16", "width=16", "layers=1", "heads=2", "image_dim=12")
UNITS = ("n_mels=16", "width=8", "blocks=1", "layer=1", "units=8")
SAYS = ("width=16", "layers=1", "heads=2", "image_dim=12")
SAT = ("model.width=16", "model.attention_width=8", "model.image_dim=12", "model.codebook_size=8")
SMALL = {
    "codec": ("crop_frames=2", *(f"model.{size}" for size in CODEC)),
    "student": ("model.image_size=64", "model.widths=[8,8,8,8]", "model.blocks=[1,1,1,1]", "model.embed_dim=12"),
    "recognizer": ("model.n_mels=16", "model.width=8", "model.blocks=1"),
    "brewclip": (
        "model.embed_dim=16",
        "model.heads=2",
        "model.feed_forward=16",
        "model.stack=1",
        "parts.buckets=64",
        "parts.word_width=8",
        "parts.text_width=8",
        "parts.image_width=16",
        "evaluate_every=2",
    ),
    "pixvox": tuple(f"model.{size}" for size in DESCRIBER),
    "units": (
        "crop_frames=4",
        "clusters=4",
        "words=6",
        "word_price=1",
        "model.segment_cost=0",
        *(f"model.{size}" for size in UNITS),
    ),
    "vqvae": ("crop_frames=4", *(f"model.{size}" for size in UNITS)),
    "vocoder": ("crop_frames=2", "model.width=8", "model.codec_width=8", "model.duration_width=8"),
    "sas": ("model.n_mels=16", "model.image_dim=12", "model.width=8", "model.lstm_width=8", "model.postnet_width=8"),
    "cascade": ("model.codebook_size=300", *(f"model.{size}" for size in SAYS)),
    "im2sp-pairs": (*(f"model.{size}" for size in SAYS), "speech.unit_pairs=1", "model.codebook_size=9"),
    "im2sp-words": (*(f"model.{size}" for size in SAYS), "model.codebook_size=6"),
    "im2sp": (*(f"model.{size}" for size in SAYS), "model.codebook_size=8"),
    "e-i2s": (*(f"model.{size}" for size in SAYS), "model.codebook_size=8"),
    "sat-ft": (*SAT, "start_from=runs/sat/checkpoints/checkpoint-2"),
    "sat": SAT,
}
ENGINE = """
import sys, wave, array, math
text, voice, out = sys.argv[1:4]
tone = [round(9000 * math.sin(i * (len(text) + len(voice)) / 60)) for i in range(6000)]
with wave.open(out, "wb") as file:
    file.setnchannels(1), file.setsampwidth(2), file.setframerate(16000)
    file.writeframes(array.array("h", tone).tobytes())
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the recipes and the source, ten photos with captions, a teacher, and a TTS engine."""
    images = tmp_path / "data" / "flickr8k" / "images"
    images.mkdir(parents=True)
    rows = []
    for n in range(10):
        noise = np.random.default_rng(n).integers(256, size=(64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(images / f"{n}.jpg")
        captions = [f"a {colour} dog number {n} runs" for colour in ("red", "black", "white", "brown", "grey")]
        rows.append({"image": f"{n}.jpg", "split": "dev" if n > 7 else "train", "captions": captions})
    (images.parent / "captions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    save_teacher(tmp_path / "data" / "teacher.safetensors")
    (tmp_path / "engine.py").write_text(ENGINE)
    for name in ("recipes", "src"):
        (tmp_path / name).symlink_to(RECIPES.with_name(name))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands() -> list[list[str]]:
    """The words of each ``pixvoice`` command in the first code block of the recipes' README."""
    block = re.search(r"```sh\n(.*?)```", (RECIPES / "README.md").read_text(), re.S)
    assert block
    lines = block[1].replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("pixvoice ")]


def made_small(words: list[str], engine: str) -> list[str]:
    """The same command with the fixture's engine, and with a model that trains in a second."""
    words = [engine if word in ("flite", "pico2wave", "espeak-ng", "festival") else word for word in words]
    if words[0] == "train":
        changes = TRAIN + next(sizes for part, sizes in SMALL.items() if Path(words[1]).name.startswith(part))
        if "cascade" in words[1]:
            changes += (f"engine={json.dumps(engine)}",)
        words += [part for change in changes for part in ("--set", change)]
    return words


def test_every_command_of_the_recipes_runs(here: Path, java: None, capsys: pytest.CaptureFixture[str]) -> None:
    script = shlex.quote(str(here / "engine.py"))
    engine = f"{shlex.quote(sys.executable)} -S {script} {{text}} {{voice}} {{out}}"
    scores = {}
    for words in commands():
        small = made_small(words, engine)
        if small[0] == "evaluate":
            small += ["--engine", engine, "--voice", "rms", "--json"]
        capsys.readouterr()
        assert cli.run(small) == 0, (small, capsys.readouterr().err)
        if small[0] == "evaluate":
            scores[small[1], Path(words[-1]).name] = json.loads(capsys.readouterr().out)
    found = scores["search", "bundle"]
    for row in ("bundle", "im2sp", "sat", "sat-ft", "e-i2s", "sas", "cascade"):
        described = scores["describe", row]
        assert described["n_photos"] == 2 and 0 <= described["bleu_4"] <= 100 and described["ceiling"] is not None
    assert found["n_photos"] == 2 and found["n_queries"] == 10 and found["speech_to_image"]["r_at_5"] == 100
    trained = {path.parent.name for path in here.glob("runs/*/model.safetensors")}
    assert trained >= {"codec", "student", "recognizer", "pixvox-delay", "pixvox-parallel"}
    assert trained >= {"units", "vocoder", "im2sp", "im2sp-pairs", "im2sp-words", "sat", "sat-ft", "vqvae"}
    assert (here / "bundle" / "bundle.json").is_file()
