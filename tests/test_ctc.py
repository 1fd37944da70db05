"""The recognizer that we train: letters, frames, and a tiny one that learns two words."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the recognizer's training form needs torch (the train extra)")
pytest.importorskip("transformers", reason="training needs transformers (the train extra)")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from pixvoice.speech.ctc import (  # noqa: E402
    BLANK,
    LETTERS,
    CTCConfig,
    CTCRecognizer,
    greedy,
    mask_bands,
    recolour,
    to_letters,
    warp_bands,
)
from pixvoice.training.recognizer import collate, disturb  # noqa: E402

TINY = CTCConfig(n_mels=40, width=24, blocks=1, dropout=0.0)


def spelled(text: str) -> str:
    return "".join(LETTERS[i] for i in to_letters(text))


def tone(hz: float, seconds: float) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(int(16_000 * seconds)) / 16_000)).astype(np.float32)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A dog runs.", "a dog runs"),
        ("  The man's   hat, red! ", "the man's hat red"),
        ("2 dogs", "dogs"),
        ("café", "caf"),
        ("...", ""),
    ],
)
def test_text_becomes_letters(text: str, expected: str) -> None:
    assert spelled(text) == expected


@given(st.text(max_size=40))
def test_any_text_becomes_letters(text: str) -> None:
    letters = spelled(text)
    assert letters == letters.strip() and "  " not in letters and set(letters) <= set(LETTERS)


def test_greedy_merges_runs_and_drops_blanks() -> None:
    path = [BLANK, *to_letters("a"), *to_letters("a"), BLANK, *to_letters("a"), 0, 0, *to_letters("b"), 0]
    logits = torch.nn.functional.one_hot(torch.tensor([path, [BLANK] * len(path)]), BLANK + 1).float()
    assert greedy(logits) == ["aa b", ""]


@torch.inference_mode()
@pytest.mark.parametrize("length", [640, 6_400, 16_000])
def test_frames_are_a_quarter_of_the_log_mels(length: int) -> None:
    torch.manual_seed(0)
    logits = CTCRecognizer(TINY).eval().logits(torch.randn(2, length))
    assert logits.shape == (2, -(-length // 640), len(LETTERS) + 1)


@torch.inference_mode()
def test_loss_is_minus_the_log_probability_of_all_paths() -> None:
    """Two frames, one letter: the paths are letter-letter, letter-blank and blank-letter."""
    torch.manual_seed(0)
    model = CTCRecognizer(TINY).eval()
    audio = torch.randn(1, 1280)
    p = model.logits(audio)[0].softmax(-1)
    letter = to_letters("g")[0]
    paths = p[0, letter] * p[1, letter] + p[0, letter] * p[1, BLANK] + p[0, BLANK] * p[1, letter]
    loss = model(audio, torch.tensor([1280]), torch.tensor([[letter]]), torch.tensor([1]))["loss"]
    assert loss.item() == pytest.approx(-paths.log().item(), rel=1e-4)


def test_masking_hides_something_and_changes_nothing_else() -> None:
    torch.manual_seed(0)
    mel = torch.rand(4, 40, 60) + 1
    masked = mask_bands(mel)
    hidden = masked == 0
    assert hidden.any() and torch.equal(masked[~hidden], mel[~hidden])
    whole_bands, whole_frames = hidden.all(dim=2).sum(1), hidden.all(dim=1).sum(1)
    assert (whole_bands <= 11).all() and (whole_frames <= 22).all()
    assert not (hidden & ~hidden.all(dim=2)[:, :, None] & ~hidden.all(dim=1)[:, None]).any()


def test_disturbed_speech_holds_the_speech() -> None:
    speech = tone(300, 0.5)
    disturbed = disturb(speech, np.random.default_rng(0))
    assert disturbed.dtype == np.float32 and 8000 <= len(disturbed) < 8000 + 2 * 6400
    assert np.abs(np.correlate(disturbed, speech, "valid")).max() > 0.35 * np.sum(speech**2)
    np.testing.assert_array_equal(disturbed, disturb(speech, np.random.default_rng(0)))


def test_a_batch_is_padded_to_its_longest() -> None:
    batch = collate([(tone(300, 0.1), [1, 2]), (tone(300, 0.2), [3])])
    assert batch["audio"].shape == (2, 3200) and batch["letters"].tolist() == [[1, 2], [3, 0]]
    assert batch["lengths"].tolist() == [1600, 3200] and batch["letter_counts"].tolist() == [2, 1]
    assert batch["audio"][0, 1600:].abs().sum() == 0


def test_a_tiny_recognizer_learns_two_words() -> None:
    torch.manual_seed(0)
    model = CTCRecognizer(TINY).train()
    quiet = np.zeros(1600, np.float32)
    low, high = (np.concatenate([quiet, tone(hz, 0.4), quiet]) for hz in (250.0, 2500.0))
    batch = collate([(low, to_letters("on")), (high, to_letters("me"))])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(500):  # throats and rooms change all the time
        loss = model(**batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        assert greedy(model.eval().logits(batch["audio"])) == ["on", "me"]


def test_another_throat_moves_bands_and_leaves_time() -> None:
    torch.manual_seed(0)
    mel = torch.zeros(8, 64, 5)
    mel[:, 40] = 1.0  # one band is heard, always
    warped = warp_bands(mel)
    assert warped.shape == mel.shape and torch.equal(warped[:, :, 0], warped[:, :, 4])
    moved = warped[:, :, 0].argmax(1)
    assert len(set(moved.tolist())) > 2 and (moved - 40).abs().max() <= 5
    assert torch.allclose(warp_bands(torch.ones(2, 64, 5)), torch.ones(2, 64, 5))


def test_another_room_changes_the_colour_of_a_whole_recording() -> None:
    torch.manual_seed(0)
    added = recolour(torch.zeros(8, 64, 5))
    assert torch.equal(added[:, :, 0], added[:, :, 4]) and not torch.equal(added[0], added[1])
    assert added.mean(1).abs().max() < 1e-5 and 0.05 < added.std() < 0.5
