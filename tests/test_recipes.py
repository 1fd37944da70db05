"""Recipes: read whole, refused whole, written back whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="recipes need torch (the train extra)")
pytest.importorskip("transformers", reason="recipes need transformers (the train extra)")
yaml = pytest.importorskip("yaml", reason="recipes need PyYAML (the train extra)")

from pixvoice import cli  # noqa: E402
from pixvoice.errors import InputError, OptionError  # noqa: E402
from pixvoice.training import options  # noqa: E402
from pixvoice.training.codec import CodecRecipe  # noqa: E402
from pixvoice.training.describer import DescriberRecipe  # noqa: E402
from pixvoice.training.recipes import TASKS, flatten, load_recipe, missing_inputs, task_of, to_yaml  # noqa: E402

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))
TRAIN = "train: {steps: 100, batch_size: 4, learning_rate: 1e-3}\n"
CODEC = f"task: codec\nmanifests: [a.jsonl, b.jsonl]\n{TRAIN}"
DESCRIBER = f"task: describer\nmanifests: [a.jsonl]\ncodec: runs/codec\nstudent: runs/student\n{TRAIN}"
STUDENT = f"task: student\nmanifests: [a.jsonl]\nteacher: t.safetensors\n{TRAIN}"
RECOGNIZER = f"task: recognizer\nmanifests: [a.jsonl]\n{TRAIN}"
UNITS = f"task: units\nmanifests: [a.jsonl]\n{TRAIN}"
RETRIEVER = (
    "task: retriever\nmanifests: [a.jsonl]\ndev: [b.jsonl]\nrecognizer: runs/recognizer\nstudent: runs/student\n"
    f"model: {{variant: pipeline}}\n{TRAIN}"
)
VOCODER = f"task: vocoder\nmanifests: [a.jsonl]\ncodec: runs/codec\nspeech: {{units: runs/units}}\n{TRAIN}"


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def faults(folder: Path, text: str, *overrides: str) -> list[str]:
    """The faults of a recipe, without the first line."""
    with pytest.raises(OptionError) as caught:
        load_recipe(write(folder, text), overrides)
    first, *others = str(caught.value).splitlines()
    assert first == f"{folder / 'recipe.yaml'}: {len(others)} fault{'s' if len(others) > 1 else ''}:"
    assert all(line.startswith("  - ") for line in others)
    return [line[4:] for line in others]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_our_recipes_can_be_used(path: Path) -> None:
    recipe = load_recipe(path)
    commands = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(f"pixvoice train recipes/{path.name} -o runs/" in line for line in commands)
    assert recipe.train.steps > 0 and all(not manifest.is_absolute() for manifest in recipe.manifests)


def test_the_five_trainings_are_there() -> None:
    assert {path.stem for path in RECIPES} >= {
        "codec-small", "student-small", "recognizer-small", "pixvox-delay-small", "pixvox-parallel-small",
    }  # fmt: skip
    assert {task_of(load_recipe(path)) for path in RECIPES} == set(TASKS)
    delay, parallel = (flatten(load_recipe(p)) for p in RECIPES if p.stem.startswith("pixvox-"))
    assert {key for key in delay if delay[key] != parallel[key]} == {"model.pattern"}


def test_values_become_the_fields_of_the_dataclass(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, CODEC + "model: {num_codebooks: 4}\n"))
    assert isinstance(recipe, CodecRecipe)
    assert recipe.manifests == (Path("a.jsonl"), Path("b.jsonl"))
    assert (recipe.train.steps, recipe.train.learning_rate) == (100, 0.001)
    assert recipe.model.num_codebooks == 4 and recipe.model.codebook_size == 1024 and recipe.split == "train"


def test_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, DESCRIBER)
    recipe = load_recipe(path, ["train.steps=7", "model.pattern=parallel", "codec=elsewhere", "manifests=[x, y]"])
    assert isinstance(recipe, DescriberRecipe)
    assert recipe.train.steps == 7 and recipe.model.pattern == "parallel" and recipe.codec == Path("elsewhere")
    assert recipe.manifests == (Path("x"), Path("y")) and recipe.cache is None
    assert load_recipe(path, ["cache=runs/cache"]) == load_recipe(path, ["cache=a", "cache=runs/cache"])


@pytest.mark.parametrize("text", [CODEC, DESCRIBER, STUDENT, RECOGNIZER, UNITS, VOCODER, RETRIEVER])
def test_a_recipe_written_back_is_equal(tmp_path: Path, text: str) -> None:
    recipe = load_recipe(write(tmp_path, text))
    assert load_recipe(write(tmp_path, to_yaml(recipe))) == recipe


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_run_that_goes_on_reads_its_own_recipe(tmp_path: Path, path: Path) -> None:
    recipe = load_recipe(path)
    assert load_recipe(write(tmp_path, to_yaml(recipe))) == recipe


@pytest.mark.parametrize("able", [True, False])
def test_bfloat16_is_the_machines_choice_unless_told(
    tmp_path: Path, able: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "has_bf16", lambda on_gpu=True: able and on_gpu)  # a GPU, beside an old processor
    path = write(tmp_path, CODEC)
    untold = load_recipe(path).train
    assert untold.bf16 is None and untold == load_recipe(path, ["train.bf16=null"]).train
    assert untold.in_bf16() is able and untold.in_bf16(on_gpu=False) is False
    for told in ("true", "false"):
        train = load_recipe(path, [f"train.bf16={told}"]).train
        assert train.in_bf16() is train.in_bf16(on_gpu=False) is (told == "true")


@pytest.mark.parametrize(
    ("machine", "avx512_bf16", "onednn", "able"),
    [
        ("x86_64", True, True, True),
        ("x86_64", False, True, False),  # AVX-512 without bfloat16: oneDNN would emulate it
        ("AMD64", False, False, False),
        ("aarch64", False, True, True),
        ("aarch64", False, False, False),
    ],
)
def test_which_processors_compute_in_bfloat16(
    machine: str, avx512_bf16: bool, onednn: bool, able: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
    monkeypatch.setattr(options.platform, "machine", lambda: machine)
    assert options.has_bf16() is options.has_bf16(on_gpu=False) is able
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert options.has_bf16() is False
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not including_emulation)
    assert options.has_bf16() is True and options.has_bf16(on_gpu=False) is False


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    text = (
        "task: describer\nmanifests: a.jsonl\ncodec: runs/codec\nmodle: {}\n"
        "model: {width: 250, heads: 4, pattren: delay, layers: 0}\n"
        "train: {steps: ten, batch_size: -1, learning_rate: 1e-3, save_every: 30}\n"
    )
    assert faults(tmp_path, text, "train.stesp=3", "nonsense") == [
        "'nonsense': an override is key=value, such as train.steps=100",
        "modle: unknown key; did you mean model?",
        "manifests: 'a.jsonl' is not a list in [brackets], each a path",
        "train.stesp: unknown key; did you mean train.steps?",
        "train.steps: 'ten' is not a whole number",
        "train.batch_size: -1 is not above 0",
        "model.pattren: unknown key; did you mean model.pattern?",
        "model.layers: 0 is not above 0",
        "train.save_every: 30 is not a multiple of train.log_every (25), so a resumed run would log another curve",
        "codec: runs/codec and student: None must both be paths, or, without them, decoder: None and speech.checkpoint:"
        " None name pretrained parts; speech.units: None may stand for the codec or for the checkpoint",
        "model.width: 250 is not divisible by model.heads (4)",
    ]


@pytest.mark.parametrize(
    ("text", "override", "fault"),
    [
        (CODEC, "train.learning_rate=0", "train.learning_rate: 0.0 is not above 0"),
        (CODEC, "train.learning_rate=.nan", "train.learning_rate: nan is not above 0"),
        (CODEC, "train.learning_rate=.inf", "train.learning_rate: inf is not above 0"),
        (CODEC, "train.learning_rate=fast", "train.learning_rate: 'fast' is not a number"),
        (CODEC, "train.steps=true", "train.steps: True is not a whole number"),
        (CODEC, "train.steps=2.5", "train.steps: 2.5 is not a whole number"),
        (CODEC, "train.bf16=1", "train.bf16: 1 is not true or false, or null"),
        (CODEC, "train.seed=-1", "train.seed: -1 is not at least 0"),
        (CODEC, "split=", "split: None is not a text"),
        (CODEC, "split=''", "split: is empty; give a text"),
        (CODEC, "manifests=[]", "manifests: [] is not a list in [brackets], each a path"),
        (CODEC, "train=5", "train: 5 is not its keys: steps, batch_size"),
        (CODEC, "model.num_codebooks=1", "model.num_codebooks: 1 is not at least 2"),
        (CODEC, "model.n_fft=640", "model.n_fft: 640 is not 3, 5, 7, ... times model.hop_length (320)"),
        (CODEC, "crop_frames=0", "crop_frames: 0 is not above 0"),
        (CODEC, "task=codek", "task: 'codek' is not known; did you mean codec? use one of codec"),
        (CODEC, "task=[1]", "task: [1] is not known"),
        (STUDENT, "model.widths=[8, 8, 8]", "model.widths: (8, 8, 8) and model.blocks: (1, 1, 2, 2) must have four"),
        (STUDENT, "model.widths=[8, 8, 8, x]", "model.widths: [8, 8, 8, 'x'] is not a list in [brackets]"),
        (STUDENT, "model.image_size=100", "model.image_size: 100 is not divisible by 32"),
        (RECOGNIZER, "model.dropout=1", "model.dropout: 1.0 is not at least 0 and below 1"),
        (RECOGNIZER, "model.hop_length=161", "model.hop_length: 161 is not an even number"),
        (UNITS, "model.hop_length=161", "model.hop_length: 161 is not an even number"),
        (UNITS, "model.layer=7", "model.layer: 7 is not one of the blocks 1 to 6 (model.blocks)"),
        (UNITS, "pairs=-1", "pairs: -1 is not at least 0"),
        (VOCODER, "speech.units=null", "speech.units: None must be the run of a training of units, or"),
        (DESCRIBER, "speech.units=runs/units", "codec: runs/codec and student: runs/student must both be"),
        (DESCRIBER, "model.pattern=delayed", "model.pattern: 'delayed' is not known; did you mean delay? use one of"),
        (DESCRIBER, "model.max_steps=60", "model.max_steps: 60 is too few for max_frames (64) in the delay pattern"),
        (RETRIEVER, "average=1", "average: 1.0 is not at least 0 and below 1"),
        (RETRIEVER, "loudness=[1.0, 0.5]", "loudness: (1.0, 0.5) is of the sound beside the words, but variant"),
        (RETRIEVER, "model.speeds=[1,3]", "model.speeds: (1.0, 3.0); give one or more, each 0.5 to 2"),
        (RETRIEVER, "spelling=13", "spelling: n-grams of 13 letters are too long; give at most 12, or 0 for none"),
        (RETRIEVER.replace("pipeline", "e2e"), "spelling=8", "spelling: 8, but nothing reads letters"),
        (RETRIEVER, "loudness=[]", "loudness: [] is not a list in [brackets], each a number"),
        (DESCRIBER, "cache=3", "cache: 3 is not a path, or null"),
        (DESCRIBER, "model.width={", "model.width: the value '{' is not YAML; put it in quotes"),
    ],
)  # fmt: skip
def test_one_fault(tmp_path: Path, text: str, override: str, fault: str) -> None:
    (told,) = faults(tmp_path, text, override)
    assert told.startswith(fault)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("task: codec\ntask: student\n", "line 2: not YAML (the key 'task' stands twice); mend it"),
        ("task: [codec\n", "line 2: not YAML"),
        ("just words\n", "holds no keys; a recipe has lines such as `task: codec`"),
        ("manifests: [a]\n", "task: is missing; use one of codec, student"),
        ("task: codec\nmanifests: [a]\n", "train.steps: is missing; give a whole number"),
    ],
)
def test_files_that_are_no_recipe(tmp_path: Path, text: str, fault: str) -> None:
    assert faults(tmp_path, text)[0].startswith(fault)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF")
    with pytest.raises(OptionError, match="not YAML"):
        load_recipe(path)


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_recipe(tmp_path / "absent.yaml")
    with pytest.raises(InputError, match="a folder; give a recipe"):
        load_recipe(tmp_path)


def test_inputs_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "there.jsonl").touch()
    text = DESCRIBER.replace("a.jsonl", f"{tmp_path}/there.jsonl, {tmp_path}/absent.jsonl")
    absent = missing_inputs(load_recipe(write(tmp_path, text + f"cache: {tmp_path}/made-by-the-run\n")))
    assert [line.split(" is not there")[0] for line in absent] == [
        f"manifests: {tmp_path}/absent.jsonl",
        "codec: runs/codec",
        "student: runs/student",
    ]


def test_check_prints_every_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jsonl").touch()
    path = write(tmp_path, CODEC.replace("a.jsonl, b.jsonl", f"{tmp_path}/a.jsonl"))
    assert cli.run(["train", str(path), "--check", "--set", "train.steps=5", "--json"]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["train.steps"] == 5 and told["model.codebook_size"] == 1024 and told["task"] == "codec"
    assert err == ""
    assert cli.run(["train", str(path), "--check"]) == 0
    assert "train.steps" in capsys.readouterr().out


@pytest.mark.parametrize("options", [["--check"], []])
def test_a_recipe_with_three_mistakes_is_one_line(
    tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, CODEC.replace("steps: 100", "stesp: 100") + "crop_frames: -1\n")
    assert cli.run(["train", str(path), "-o", str(tmp_path / "run"), *options]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"error: {path}: 3 faults: - ") and err.count("\n") == 1
    for part in ("did you mean train.steps?", "train.steps: is missing", "crop_frames: -1"):
        assert part in err
    assert not (tmp_path / "run").exists()


def test_a_training_needs_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["train", str(write(tmp_path, CODEC))]) == 2
    assert "-o RUN_FOLDER" in capsys.readouterr().err


def test_inputs_are_looked_for_before_anything_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["train", str(write(tmp_path, CODEC)), "-o", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert "2 inputs that can't be found" in err and "a.jsonl" in err and "b.jsonl" in err
    assert not (tmp_path / "run").exists()
