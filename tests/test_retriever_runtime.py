"""Search as it ships: the ONNX form gives what PyTorch gives, for recordings of any length."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="the models of these tests are made with torch (the train extra)")
pytest.importorskip("transformers", reason="training needs transformers (the train extra)")

import tiny  # noqa: E402
from pixvoice.cli import run  # noqa: E402
from pixvoice.errors import BundleError  # noqa: E402
from pixvoice.letter_model import FILE, LetterModel  # noqa: E402
from pixvoice.retrieve.build import load_search_model as load_trained  # noqa: E402
from pixvoice.retrieve.model import DualChannel, RetrieverConfig  # noqa: E402
from pixvoice.retrieve.search_model import TorchSearchModel  # noqa: E402
from pixvoice.retrieve.small_parts import (  # noqa: E402
    PartsConfig,
    SmallConfig,
    SmallRecognizer,
    SmallSpeechPart,
    small_dual_channel,
)
from pixvoice.runtime.bundle import SEARCH_LETTERS, Bundle  # noqa: E402
from pixvoice.runtime.recognizer import load_recognizer  # noqa: E402
from pixvoice.runtime.retriever import OnnxSearchModel, load_search_model  # noqa: E402
from pixvoice.speech.ctc import LETTERS  # noqa: E402
from pixvoice.training.export import export_bundle  # noqa: E402
from pixvoice.training.retriever import load_retriever  # noqa: E402
from pixvoice.training.trainer import save_model  # noqa: E402

SIZES = RetrieverConfig(embed_dim=8, prompts=2, layers=2, heads=2, feed_forward=16, stack=3, window=30)
PARTS = PartsConfig(buckets=64, word_width=6, text_width=5, image_width=7)
SECOND = 16_000


def save(folder: Path, sizes: RetrieverConfig) -> Path:
    """A retriever around the tiny recognizer and student, as training leaves it."""
    models = tiny.models()
    parts = replace(PARTS, image_norm=sizes.variant == "pipeline")
    config = SmallConfig(sizes, parts, tiny.RECOGNIZER, tiny.STUDENT)
    model = small_dual_channel(config)
    torch.manual_seed(1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    assert isinstance(model.speech, SmallSpeechPart)
    model.speech.recognizer.load_state_dict(models["recognizer"][0].state_dict())
    model.image.student.load_state_dict(models["student"][0].state_dict())
    save_model(model, config, "retriever", folder)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Variant -> folder of the retriever, and of the bundle made of it."""
    found = {}
    for variant in ("full", "pipeline", "e2e"):
        folder = tmp_path_factory.mktemp(variant)
        retriever = save(folder / "retriever", replace(SIZES, variant=variant, prompts=0 if variant == "e2e" else 2))
        runs = [tiny.runs()[task] for task in tiny.TASKS]
        export_bundle(*runs, folder / "bundle", name="tiny", dtype="fp32", retriever=retriever)  # type: ignore[arg-type]
        found[variant] = retriever, folder / "bundle"
    return found


def both(made: tuple[Path, Path]) -> tuple[TorchSearchModel, OnnxSearchModel]:
    model = load_retriever(made[0])
    assert isinstance(model, DualChannel) and isinstance(model.speech, SmallSpeechPart)
    recognizer = SmallRecognizer(model.speech.recognizer)
    return TorchSearchModel(model, recognizer, "torch", "none"), load_search_model(made[1], threads=1)


def clips() -> list[np.ndarray]:
    """Nothing, a moment, silence, a second, and more than three windows."""
    rng = np.random.default_rng(0)
    lengths = (0, 160, SECOND, SECOND, 4 * SECOND + 123)
    found = [0.1 * rng.standard_normal(length).astype(np.float32) for length in lengths]
    return [*found[:2], np.zeros(SECOND, np.float32), *found[3:]]


@pytest.mark.parametrize("variant", ["full", "pipeline", "e2e"])
def test_torch_and_onnx_give_the_same_embeddings(made: dict[str, tuple[Path, Path]], variant: str) -> None:
    model, exported = both(made[variant])
    expected, texts = model.embed_speech(clips())
    embeddings, read = exported.embed_speech(clips())
    assert read == texts and embeddings.dtype == np.float32 and embeddings.shape == (5, 8)
    np.testing.assert_allclose(embeddings, expected, atol=2e-5)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1.0, atol=1e-5)
    assert any(read) is (variant != "e2e")
    photos = [
        Image.fromarray(np.random.default_rng(n).integers(256, size=(50, 70, 3), dtype=np.uint8)) for n in range(9)
    ]
    np.testing.assert_allclose(exported.embed_photos(photos), model.embed_photos(photos), atol=2e-5)
    assert exported.sample_rate == model.sample_rate == SECOND and exported.embed_dim == model.embed_dim == 8


@pytest.mark.parametrize("variant", ["full", "e2e"])
def test_a_channel_that_hears_tells_sounds_apart(made: dict[str, tuple[Path, Path]], variant: str) -> None:
    exported = load_search_model(made[variant][1])
    embeddings, _ = exported.embed_speech(clips()[2:])
    assert np.ptp(embeddings, axis=0).max() > 1e-3


def test_a_letter_model_is_heard_by_both_forms(made: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    retriever = Path(shutil.copytree(made["full"][0], tmp_path / "retriever"))
    (retriever / FILE).write_bytes(LetterModel.learn(["a dog runs", "two dogs"], LETTERS, 4).save())
    runs = [tiny.runs()[task] for task in tiny.TASKS]
    export_bundle(*runs, tmp_path / "bundle", name="tiny", dtype="fp32", retriever=retriever)  # type: ignore[arg-type]
    expected, texts = load_trained(retriever).embed_speech(clips())
    embeddings, read = load_search_model(tmp_path / "bundle").embed_speech(clips())
    assert read == texts and texts != load_search_model(made["full"][1]).embed_speech(clips())[1]
    np.testing.assert_allclose(embeddings, expected, atol=2e-5)
    plain = load_trained(made["full"][0]), load_search_model(made["full"][1])
    spelt = load_trained(retriever), load_search_model(tmp_path / "bundle")
    assert [a.fingerprint != b.fingerprint for a, b in zip(plain, spelt, strict=True)] == [True, True]
    (tmp_path / "bundle" / SEARCH_LETTERS).write_bytes(b"other letters")
    with pytest.raises(BundleError, match="damaged"):
        load_search_model(tmp_path / "bundle")


@pytest.mark.parametrize("variant", ["full", "pipeline", "e2e"])
def test_a_query_is_heard_at_every_speed(variant: str, tmp_path: Path) -> None:
    retriever = save(tmp_path / "retriever", replace(SIZES, variant=variant, speeds=(1.0, 0.7)))
    if variant != "e2e":
        (retriever / FILE).write_bytes(LetterModel.learn(["a dog runs", "two dogs"], LETTERS, 4).save())
    runs = [tiny.runs()[task] for task in tiny.TASKS]
    export_bundle(*runs, tmp_path / "bundle", name="tiny", dtype="fp32", retriever=retriever)  # type: ignore[arg-type]
    exported, trained = load_search_model(tmp_path / "bundle"), load_trained(retriever)
    embeddings, read = exported.embed_speech(clips())
    expected, texts = trained.embed_speech(clips())
    assert read == texts
    np.testing.assert_allclose(embeddings, expected, atol=2e-5)
    sizes = asdict(exported.sizes) | {"speeds": [1.0]}
    once = load_search_model(damage(tmp_path / "bundle", tmp_path / "once", search=sizes))
    assert np.abs(once.embed_speech(clips())[0] - embeddings)[3:].max() > 1e-4


def test_nothing_to_embed(made: dict[str, tuple[Path, Path]]) -> None:
    exported = load_search_model(made["full"][1])
    assert exported.embed_photos([]).shape == (0, 8)
    assert exported.embed_speech([])[0].shape == (0, 8)


def test_the_fingerprint_follows_the_weights(made: dict[str, tuple[Path, Path]]) -> None:
    prints = {variant: load_search_model(folder).fingerprint for variant, (_, folder) in made.items()}
    assert len(set(prints.values())) == 3
    assert prints["full"] == load_search_model(made["full"][1]).fingerprint
    assert load_search_model(made["full"][1]).name == "tiny"


def test_the_recognizer_of_such_a_bundle_still_transcribes(made: dict[str, tuple[Path, Path]]) -> None:
    _, texts = load_search_model(made["full"][1]).embed_speech(clips())
    assert load_recognizer(made["full"][1]).transcribe(clips()) == texts


def test_a_bundle_without_search_says_so(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no weights for search") as caught:
        load_search_model(tiny.bundle())
    assert "\n" not in str(caught.value)
    info = json.loads((tiny.bundle() / "bundle.json").read_text())
    shutil.copytree(tiny.bundle(), tmp_path / "old")
    del info["search"]  # as bundles were before there was search
    (tmp_path / "old" / "bundle.json").write_text(json.dumps(info))
    assert Bundle.load(tmp_path / "old").info.search is None


def damage(source: Path, folder: Path, **changes: Any) -> Path:
    shutil.copytree(source, folder)
    info = json.loads((folder / "bundle.json").read_text()) | changes
    (folder / "bundle.json").write_text(json.dumps(info))
    return folder


def test_damaged_bundles_are_one_line(made: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    whole = made["full"][1]
    sizes = asdict(Bundle.load(whole).info.search)  # type: ignore[call-overload]
    faults = [
        damage(whole, tmp_path / "narrow", search=sizes | {"embed_dim": 9}),
        damage(whole, tmp_path / "words", search=sizes | {"buckets": "many"}),
        damage(whole, tmp_path / "fast", search=sizes | {"speeds": [1.0, 9.0]}),
        damage(whole, tmp_path / "still", search=sizes | {"speeds": []}),
        damage(whole, tmp_path / "deaf", recognizer=None),
        damage(whole, tmp_path / "gone"),
    ]
    (faults[-1] / "search_speech.onnx").unlink()
    for folder in faults:
        with pytest.raises(BundleError) as caught:
            load_search_model(folder)
        assert "\n" not in str(caught.value)


def test_export_wants_the_parts_that_the_retriever_was_trained_with(
    made: dict[str, tuple[Path, Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tiny.runs()
    torch.manual_seed(5)
    other = type(tiny.models()["recognizer"][0])(tiny.RECOGNIZER)
    save_model(other, tiny.RECOGNIZER, "recognizer", tmp_path / "other")
    three = [str(runs[task]) for task in ("describer", "codec", "student")]
    for recognizer in ([], [str(tmp_path / "other")]):
        status = run(["export", *three, *recognizer, str(made["full"][0]), "-o", str(tmp_path / "bundle")])
        assert status == 2 and "another recognizer" in capsys.readouterr().err
    parts = [*three, str(runs["recognizer"]), str(made["full"][0])]
    assert run(["export", *parts, "-o", str(tmp_path / "bundle"), "--dtype", "int8"]) == 0
    small, whole = load_search_model(tmp_path / "bundle"), load_search_model(made["full"][1])
    difference = small.embed_speech(clips())[0] - whole.embed_speech(clips())[0]
    assert np.abs(difference).max() < 0.05


def test_search_of_another_bundle_is_taken_as_it_is(
    made: dict[str, tuple[Path, Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    searches = made["full"][1]
    runs = [str(tiny.runs()[task]) for task in tiny.TASKS]
    assert run(["export", *runs, str(searches), "-o", str(tmp_path / "bundle"), "--dtype", "fp32"]) == 0
    taken, own = load_search_model(tmp_path / "bundle"), load_search_model(searches)
    assert taken.fingerprint == own.fingerprint  # so that an index stays what it is
    assert np.array_equal(taken.embed_speech(clips())[0], own.embed_speech(clips())[0])
    capsys.readouterr()

    torch.manual_seed(5)
    save_model(type(tiny.models()["recognizer"][0])(tiny.RECOGNIZER), tiny.RECOGNIZER, "recognizer", tmp_path / "other")
    three = [str(tiny.runs()[task]) for task in ("describer", "codec", "student")]
    describes = tmp_path / "describes"
    assert run(["export", *three, "-o", str(describes), "--dtype", "fp32"]) == 0
    for recognizer, bundle, reason in (
        (tmp_path / "other", searches, "its search needs its own recognizer"),
        (tiny.runs()["recognizer"], describes, "a bundle without search"),
    ):
        parts = [*three, str(recognizer), str(bundle)]
        assert run(["export", *parts, "-o", str(tmp_path / "no"), "--dtype", "fp32"]) == 2
        assert reason in capsys.readouterr().err and not (tmp_path / "no").exists()
