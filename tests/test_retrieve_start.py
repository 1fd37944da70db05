"""Search that begins with what another training has learned."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the dual-channel model's training form needs torch (the train extra)")
pytest.importorskip("transformers", reason="training needs transformers (the train extra)")

from safetensors.torch import load_file  # noqa: E402

import tiny  # noqa: E402
from pixvoice.audio import read_audio  # noqa: E402
from pixvoice.data import load_dataset  # noqa: E402
from pixvoice.errors import BundleError, OptionError  # noqa: E402
from pixvoice.letter_model import LetterModel  # noqa: E402
from pixvoice.retrieve.build import read_spelling  # noqa: E402
from pixvoice.retrieve.losses import LossOptions  # noqa: E402
from pixvoice.retrieve.small_parts import SmallRecognizer  # noqa: E402
from pixvoice.speech.ctc import LETTERS, CTCRecognizer  # noqa: E402
from pixvoice.training.loudness import choose_loudness  # noqa: E402
from pixvoice.training.retriever import SpokenPhotos, begin, load_retriever, run  # noqa: E402
from pixvoice.training.trainer import save_model  # noqa: E402
from test_retrieve import PARTS, SIZES, data, recipe_for  # noqa: E402, F401


@pytest.fixture
def words(data: Path, tmp_path: Path) -> Path:  # noqa: F811
    """A finished training of words alone."""
    recipe = recipe_for(
        data, model=replace(SIZES, variant="pipeline"), parts=replace(PARTS, image_norm=True), evaluate_every=1
    )
    run(replace(recipe, train=replace(recipe.train, steps=2)), tmp_path / "words")
    return tmp_path / "words"


def test_full_begins_with_what_pipeline_has_learned(data: Path, words: Path) -> None:  # noqa: F811
    known = load_retriever(words).state_dict()
    both, _ = begin(recipe_for(data, start_from=words, parts=replace(PARTS, image_norm=True)))
    begun = both.state_dict()
    assert all(torch.equal(begun[name], weight) for name, weight in known.items())
    assert {name.split(".")[0] for name in begun.keys() - known.keys()} == {"acoustic"}
    other = CTCRecognizer(tiny.RECOGNIZER)
    save_model(other, tiny.RECOGNIZER, "recognizer", words / "other")
    later, _ = begin(
        recipe_for(data, start_from=words, recognizer=words / "other", parts=replace(PARTS, image_norm=True))
    )
    assert torch.equal(later.speech.recognizer.head.weight, other.head.weight)  # type: ignore[union-attr]
    with pytest.raises(BundleError, match="aren't the recipe's"):
        begin(recipe_for(data, start_from=words, model=replace(SIZES, embed_dim=2 * SIZES.embed_dim)))


def test_a_start_that_leaves_nothing_to_train_is_refused(data: Path, words: Path) -> None:  # noqa: F811
    changes = {"model": replace(SIZES, variant="pipeline"), "parts": replace(PARTS, image_norm=True)}
    with pytest.raises(OptionError, match="leave keep_start out"):
        begin(recipe_for(data, start_from=words, keep_start=True, **changes))


@pytest.mark.parametrize("keep_start", [True, False])
def test_what_was_learned_may_stay_as_it_is(data: Path, words: Path, tmp_path: Path, keep_start: bool) -> None:  # noqa: F811
    recipe = recipe_for(
        data, start_from=words, keep_start=keep_start, parts=replace(PARTS, image_norm=True),
        loss=LossOptions(words_teach=True), evaluate_every=3,
    )  # fmt: skip
    first = begin(recipe)[0].state_dict()
    run(replace(recipe, train=replace(recipe.train, steps=3, save_every=2)), tmp_path / "both")
    known, last = load_retriever(words).state_dict(), load_retriever(tmp_path / "both").state_dict()
    moved = {name for name, weight in last.items() if not torch.equal(weight, first[name])}
    assert any(name.startswith("acoustic") for name in moved)
    assert all(name.endswith("num_batches_tracked") for name in moved & known.keys()) is keep_start


def test_the_moving_average_is_kept_and_a_stop_changes_nothing(data: Path, tmp_path: Path) -> None:  # noqa: F811
    recipe = recipe_for(data, parts=replace(PARTS, image_norm=True), average=0.5, evaluate_every=4)
    recipe, output = replace(recipe, train=replace(recipe.train, steps=4, save_every=1, log_every=1)), tmp_path / "run"
    run(recipe, output)
    kept = load_retriever(output).state_dict()
    third, last = (load_file(output / "checkpoints" / f"checkpoint-{n}" / "model.safetensors") for n in (3, 4))
    for name in (name for name, weight in kept.items() if weight.is_floating_point()):
        average = third[f"average.module.{name}"].lerp(last[f"model.{name}"], 1 - 4 / 13)
        torch.testing.assert_close(kept[name], average)
    assert not torch.equal(kept["image.out.weight"], last["model.image.out.weight"])
    for file in ("best.safetensors", "model.safetensors", "dev.jsonl"):
        (output / file).unlink()
    shutil.rmtree(output / "checkpoints" / "checkpoint-4")
    run(recipe, output)
    assert all(torch.equal(weight, kept[name]) for name, weight in load_retriever(output).state_dict().items())


def test_the_sound_is_as_loud_as_finds_most_on_dev(data: Path, tmp_path: Path) -> None:  # noqa: F811
    model = begin(recipe_for(data))[0]
    weight, bias = model.acoustic.out.weight.detach().clone(), model.acoustic.out.bias.detach().clone()
    length = float(weight.norm())
    wanted = iter([50.0, 60.0, 60.0])
    heard = []

    def measure() -> float:
        heard.append(model.acoustic.out.weight.norm().item() / length)
        return next(wanted)

    assert choose_loudness(model, (1.0, 0.5, 0.25), measure) == {1.0: 50.0, 0.5: 60.0, 0.25: 60.0}
    assert heard == pytest.approx([1.0, 0.5, 0.25])
    torch.testing.assert_close(model.acoustic.out.weight, 0.5 * weight)
    torch.testing.assert_close(model.acoustic.out.bias, 0.5 * bias)
    recipe = recipe_for(data, loudness=(1.0, 0.5), evaluate_every=4)
    run(replace(recipe, train=replace(recipe.train, steps=4)), tmp_path / "run")
    kept, best = load_retriever(tmp_path / "run").state_dict(), load_file(tmp_path / "run" / "best.safetensors")
    ratio = kept["acoustic.out.weight"].norm() / best["acoustic.out.weight"].norm()
    assert float(ratio) in (pytest.approx(1.0), pytest.approx(0.5))


def test_a_soup_is_the_mean_of_trainings(data: Path, words: Path, tmp_path: Path) -> None:  # noqa: F811
    recipe = recipe_for(data, parts=replace(PARTS, image_norm=True), evaluate_every=2)
    recipe = replace(recipe, train=replace(recipe.train, steps=2))
    run(recipe, tmp_path / "one")
    run(replace(recipe, train=replace(recipe.train, seed=1), soup=(tmp_path / "one",)), tmp_path / "soup")
    one, soup = (load_retriever(tmp_path / name).state_dict() for name in ("one", "soup"))
    own = load_file(tmp_path / "soup" / "best.safetensors")
    for name in ("acoustic.out.weight", "text.vectors.weight", "image.out.weight"):
        assert not torch.equal(one[name], own[name])
        torch.testing.assert_close(soup[name], (one[name] + own[name]) / 2)
    with pytest.raises(BundleError, match="soup: not all of its retrievers have the recipe's sizes"):
        run(replace(recipe, soup=(tmp_path / "one", words)), tmp_path / "other")
    assert not (tmp_path / "other" / "checkpoints").exists()  # before anything is trained


def test_a_run_knows_how_its_captions_are_spelled(data: Path, tmp_path: Path) -> None:  # noqa: F811
    recipe = recipe_for(data, spelling=3, evaluate_every=4)
    run(replace(recipe, train=replace(recipe.train, steps=4)), tmp_path / "run")
    spelling = read_spelling(tmp_path / "run")
    assert spelling is not None and spelling.order == 3
    after = dict(zip(LETTERS, spelling.log_probs("do"), strict=True))  # its texts are "dog 0", "dog 1", ...
    assert max(after, key=after.__getitem__) == "g"


def test_what_was_heard_is_spelled_anew_as_the_search_will(data: Path, tmp_path: Path) -> None:  # noqa: F811
    spelling, recipe = LetterModel.learn(["a dog runs", "two dogs"], LETTERS, 4), recipe_for(data)
    samples = load_dataset(data / "manifest.jsonl", "dev")
    dev = SpokenPhotos(samples, recipe, tmp_path, crops=0, passes=0)
    before = list(dev.texts[0])
    dev.spell(spelling)
    recognizer = tiny.models()["recognizer"][0]
    clips = [read_audio(sample.audio, recognizer.dims.sample_rate) for sample in samples if sample.audio]
    assert SmallRecognizer(recognizer).transcribe(clips) == before
    assert SmallRecognizer(recognizer, spelling=spelling).transcribe(clips) == dev.texts[0] != before
    written = SpokenPhotos(samples, replace(recipe, transcripts="truth"), tmp_path, crops=0, passes=0)
    written.spell(spelling)
    assert written.texts[0] == ["dog 8", "dog 9"]
