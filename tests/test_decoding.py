"""The decoding loop on a decoder whose every answer is known, against brute force and the convention of training."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixvoice.contracts import Codes, Floats, SpeechDecoder
from pixvoice.errors import OptionError
from pixvoice.patterns import delay, make_pattern, parallel
from pixvoice.runtime.decoding import (
    DecodingOptions,
    best_joint,
    generate,
    generate_batch,
)
from pixvoice.runtime.streaming import generate_stream


class FakeDecoder(SpeechDecoder):
    """Logits are a fixed random function of the photo and of all tokens so far; ``inputs`` keeps what was fed."""

    def __init__(self, codebooks: int = 3, size: int = 5, max_steps: int = 40, ending: float = 0.0) -> None:
        self._sizes = codebooks, size, max_steps
        self.ending = ending
        self.inputs: list[Codes] = []

    num_codebooks = property(lambda self: self._sizes[0])  # type: ignore[assignment]
    codebook_size = property(lambda self: self._sizes[1])  # type: ignore[assignment]
    max_steps = property(lambda self: self._sizes[2])  # type: ignore[assignment]

    def start(self, features: Floats) -> Any:
        return [(int(row.sum()),) for row in features]

    def step(self, tokens: Codes, state: Any) -> tuple[Floats, Any]:
        assert tokens.shape == (len(state), self.num_codebooks) and tokens.dtype == np.int64
        self.inputs.append(tokens.copy())
        state = [(*past, *row) for past, row in zip(state, tokens.tolist(), strict=True)]
        assert len(state[0]) <= 1 + self.num_codebooks * self.max_steps
        return np.stack([self.logits(past) for past in state]), state

    def select(self, state: Any, rows: Any) -> Any:
        return [state[i] for i in rows]

    def logits(self, past: tuple[int, ...]) -> Floats:
        logits = np.random.default_rng(past).normal(size=(self.num_codebooks, self.codebook_size + 1))
        logits[0, -1] += self.ending
        return logits.astype(np.float32)


FEATURES = np.full((1, 2, 3), 7, np.float32)
EVERY_STRATEGY = [
    DecodingOptions(),
    DecodingOptions("sample", seed=3),
    DecodingOptions("sample", candidates=4, seed=3),
    DecodingOptions("beam", beam_size=3),
]


def log_softmax(logits: Floats) -> np.ndarray:
    return logits - np.log(np.exp(logits.astype(float)).sum(-1, keepdims=True))


def mean_log_prob(decoder: FakeDecoder, codes: Codes, pattern_name: str) -> float:
    """Teacher forcing with training's own inputs and labels."""
    from pixvoice.describe.model import IGNORE
    from pixvoice.training.describer import inputs_and_labels

    inputs, labels = inputs_and_labels(codes, make_pattern(pattern_name, len(codes)), decoder.codebook_size)
    state, total, count = decoder.start(FEATURES), 0.0, 0
    for step in range(inputs.shape[1]):
        logits, state = decoder.step(np.ascontiguousarray(inputs[None, :, step]), state)
        for k in np.flatnonzero(labels[:, step] != IGNORE):
            total += log_softmax(logits[0, k])[labels[k, step]]
            count += 1
    return total / count


@pytest.mark.parametrize("pattern", ["parallel", "delay"])
@pytest.mark.parametrize("options", EVERY_STRATEGY, ids=lambda o: f"{o.strategy}{o.candidates}")
def test_the_sequence_is_the_one_of_training(options: DecodingOptions, pattern: str) -> None:
    """The delay is applied once, and the confidence is the log-probability that training's loss is made of."""
    decoder = FakeDecoder(ending=2.0)
    utterance = generate(decoder, FEATURES, make_pattern(pattern, 3), options)
    assert 1 <= utterance.codes.shape[1] < 38
    assert 0 <= utterance.codes.min() <= utterance.codes.max() < 5
    assert utterance.log_prob == pytest.approx(mean_log_prob(decoder, utterance.codes, pattern), abs=1e-5)


def test_what_is_fed_is_the_pattern_of_what_is_decoded() -> None:
    decoder = FakeDecoder(ending=-9.0)
    codes = generate(decoder, FEATURES, delay(3), DecodingOptions(max_frames=6)).codes
    fed = np.concatenate(decoder.inputs).T
    assert codes.shape == (3, 6)
    assert fed.shape == (3, 8)  # one step for each of T + 2, the first on the special token
    np.testing.assert_array_equal(fed[:, 0], 5)
    np.testing.assert_array_equal(fed[:, 1:], delay(3).apply(codes, 5)[:, :-1])


@given(st.integers(0, 12), st.sampled_from(["parallel", "delay"]), st.sampled_from(EVERY_STRATEGY), st.integers(0, 99))
def test_a_whole_prompt_decodes_to_itself(frames: int, pattern: str, options: DecodingOptions, seed: int) -> None:
    prompt = np.random.default_rng(seed).integers(0, 5, (3, frames))
    options = options.changed(max_frames=max(1, frames))
    utterance = generate(FakeDecoder(), FEATURES, make_pattern(pattern, 3), options, prompt)
    np.testing.assert_array_equal(utterance.codes[:, :frames], prompt)
    assert utterance.codes.shape[1] == max(1, frames)


@pytest.mark.parametrize("options", EVERY_STRATEGY, ids=lambda o: f"{o.strategy}{o.candidates}")
@pytest.mark.parametrize("pattern", ["parallel", "delay"])
def test_a_prompt_is_kept_and_gone_on_from(options: DecodingOptions, pattern: str) -> None:
    prompt = np.random.default_rng(0).integers(0, 5, (3, 4))
    decoder = FakeDecoder(ending=1.0)
    utterance = generate(decoder, FEATURES, make_pattern(pattern, 3), options.changed(min_frames=7), prompt)
    np.testing.assert_array_equal(utterance.codes[:, :4], prompt)
    assert utterance.codes.shape[1] >= 7


def test_greedy_with_the_prompt_it_would_have_said_says_the_same() -> None:
    decoder = FakeDecoder(ending=1.0)
    codes = generate(decoder, FEATURES, delay(3), DecodingOptions(min_frames=6)).codes
    again = generate(decoder, FEATURES, delay(3), DecodingOptions(min_frames=6), codes[:, :3])
    np.testing.assert_array_equal(again.codes, codes)


@pytest.mark.parametrize("pattern", [parallel(3), delay(3)], ids=["parallel", "delay"])
@pytest.mark.parametrize("options", EVERY_STRATEGY, ids=lambda o: f"{o.strategy}{o.candidates}")
def test_the_stream_joined_is_the_utterance(options: DecodingOptions, pattern: Any) -> None:
    for ending in (-9.0, 1.0):
        decoder = FakeDecoder(ending=ending)
        frames = list(generate_stream(decoder, FEATURES, pattern, options.changed(max_frames=9)))
        assert all(frame.shape == (3, 1) for frame in frames)
        whole = generate(decoder, FEATURES, pattern, options.changed(max_frames=9)).codes
        np.testing.assert_array_equal(np.concatenate(frames, axis=1), whole)


def test_a_frame_is_given_as_soon_as_its_last_codebook_is_known() -> None:
    decoder = FakeDecoder(ending=-9.0)
    stream = generate_stream(decoder, FEATURES, delay(3), DecodingOptions(max_frames=9))
    assert [len(decoder.inputs) for _ in stream] == list(range(3, 12))


@pytest.mark.parametrize("options", EVERY_STRATEGY, ids=lambda o: f"{o.strategy}{o.candidates}")
@pytest.mark.parametrize("pattern", [parallel(3), delay(3)], ids=["parallel", "delay"])
def test_lengths_stay_within_their_limits(options: DecodingOptions, pattern: Any) -> None:
    hasty, endless = FakeDecoder(ending=30.0), FakeDecoder(ending=-30.0)
    assert generate(hasty, FEATURES, pattern, options).codes.shape == (3, 1)
    assert generate(hasty, FEATURES, pattern, options.changed(min_frames=6)).codes.shape == (3, 6)
    assert generate(endless, FEATURES, pattern, options.changed(max_frames=5)).codes.shape == (3, 5)
    room = 40 - pattern.max_delay
    assert generate(endless, FEATURES, pattern, options).codes.shape == (3, room)
    assert generate(endless, FEATURES, pattern, options.changed(min_frames=99)).codes.shape == (3, room)


def test_the_bias_of_the_end_makes_utterances_shorter_or_longer() -> None:
    decoder = FakeDecoder(ending=0.0)
    lengths = [
        generate(decoder, FEATURES, delay(3), DecodingOptions(end_bias=bias)).codes.shape[1]
        for bias in (9.0, 0.0, -9.0)
    ]
    assert lengths[0] < lengths[1] < lengths[2]


@given(st.integers(0, 999), st.integers(1, 3), st.integers(1, 3), st.integers(1, 30))
def test_the_best_joint_choices_are_exact(seed: int, rows: int, codebooks: int, count: int) -> None:
    random = np.random.default_rng(seed)
    gains = -np.sort(random.exponential(size=(rows, codebooks, 4)), axis=2)
    gains[0, 0, 1:] = -np.inf
    bases, divisors = random.normal(size=rows), random.uniform(1, 2, size=rows)
    every = {
        (i, places): (bases[i] + sum(gains[i, k, place] for k, place in enumerate(places))) / divisors[i]
        for i in range(rows)
        for places in itertools.product(range(4), repeat=codebooks)
    }
    finite = sorted((choice for choice in every if every[choice] > -np.inf), key=every.__getitem__, reverse=True)
    assert best_joint(gains, bases, divisors, count) == finite[:count]


@pytest.mark.parametrize("pattern", ["parallel", "delay"])
@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
def test_a_wide_beam_finds_the_best_of_all_utterances(pattern: str, penalty: float) -> None:
    decoder = FakeDecoder(codebooks=2, size=2, ending=0.5)
    shape = make_pattern(pattern, 2)
    options = DecodingOptions("beam", beam_size=2000, max_frames=3, length_penalty=penalty)
    utterance = generate(decoder, FEATURES, shape, options)

    def score(codes: Codes) -> float:
        frames = codes.shape[1]
        given = generate(decoder, FEATURES, shape, DecodingOptions(max_frames=frames), codes)
        np.testing.assert_array_equal(given.codes, codes)
        ended = frames < 3  # the end is forced at three frames and carries no probability
        tokens = 2 * frames + ended
        mean = mean_log_prob(decoder, codes, pattern)
        if not ended:
            mean = _without_end(decoder, codes, pattern, mean)
        return mean * tokens / tokens**penalty

    every = [
        np.array(flat, np.int64).reshape(2, frames)
        for frames in (1, 2, 3)
        for flat in itertools.product(range(2), repeat=2 * frames)
    ]
    best = max(every, key=score)
    np.testing.assert_array_equal(utterance.codes, best)


def _without_end(decoder: FakeDecoder, codes: Codes, pattern: str, mean: float) -> float:
    """The mean log-probability of an utterance whose end was forced, from the mean with its end."""
    sequence = make_pattern(pattern, 2).apply(codes, 2)
    fed = np.concatenate([np.full((2, 1), 2), sequence], axis=1)[:, : codes.shape[1] + 1]
    end = log_softmax(decoder.logits((int(FEATURES.sum()), *fed.T.ravel())))[0, 2]
    tokens = codes.size
    return float((mean * (tokens + 1) - end) / tokens)


def test_a_beam_of_one_is_greedy() -> None:
    decoder = FakeDecoder(ending=1.0)
    for length in (1, 5):
        greedy = generate(decoder, FEATURES, delay(3), DecodingOptions(min_frames=length))
        beam = generate(decoder, FEATURES, delay(3), DecodingOptions("beam", beam_size=1, min_frames=length))
        np.testing.assert_array_equal(beam.codes, greedy.codes)


def test_a_beam_finds_what_greedy_misses() -> None:
    decoder = FakeDecoder(ending=-9.0)
    greedy = generate(decoder, FEATURES, delay(3), DecodingOptions(max_frames=8))
    beam = generate(decoder, FEATURES, delay(3), DecodingOptions("beam", beam_size=8, max_frames=8))
    assert beam.log_prob > greedy.log_prob


def test_sampling_is_repeatable_and_varied() -> None:
    decoder = FakeDecoder(ending=-9.0)

    def sample(**changes: Any) -> list[int]:
        options = DecodingOptions("sample", max_frames=6).changed(**changes)
        return list(generate(decoder, FEATURES, delay(3), options).codes.ravel())

    greedy = list(generate(decoder, FEATURES, delay(3), DecodingOptions(max_frames=6)).codes.ravel())
    assert sample(seed=1) == sample(seed=1)
    assert sample(seed=1) != sample(seed=2)
    assert sample(seed=1) != greedy
    assert sample(top_k=1) == sample(top_p=0.01) == sample(temperature=0.001) == greedy


@pytest.mark.parametrize(("changes", "allowed"), [({"top_k": 2}, 2), ({"top_p": 0.75}, 2), ({}, 4)])
def test_unlikely_tokens_are_left_out(changes: dict[str, Any], allowed: int) -> None:
    class Fixed(FakeDecoder):
        def logits(self, past: tuple[int, ...]) -> Floats:
            return np.log(np.array([[0.45, 0.35, 0.15, 0.05, 1e-9]], np.float32))

    drawn = set()
    for seed in range(8):
        options = DecodingOptions("sample", seed=seed, min_frames=20, max_frames=20, **changes)
        drawn |= set(generate(Fixed(1, 4), FEATURES, parallel(1), options).codes.ravel().tolist())
    assert drawn == set(range(allowed))


def test_the_best_of_several_candidates_is_kept() -> None:
    decoder = FakeDecoder(ending=-9.0)
    options = DecodingOptions("sample", max_frames=6, seed=0)
    alone = [generate(decoder, FEATURES, delay(3), options.changed(seed=seed)).log_prob for seed in range(20)]
    assert generate(decoder, FEATURES, delay(3), options.changed(candidates=20)).log_prob > np.mean(alone) + np.std(
        alone
    )


@pytest.mark.parametrize("options", [EVERY_STRATEGY[0], EVERY_STRATEGY[3]], ids=["greedy", "beam"])
def test_photos_in_a_batch_are_described_as_if_alone(options: DecodingOptions) -> None:
    decoder = FakeDecoder(ending=1.5)
    features = np.arange(4, dtype=np.float32)[:, None, None] * np.ones((4, 2, 3), np.float32)
    together = generate_batch(decoder, features, delay(3), options.changed(max_frames=12))
    for one, utterance in zip(features, together, strict=True):
        alone = generate(decoder, one[None], delay(3), options.changed(max_frames=12))
        np.testing.assert_array_equal(utterance.codes, alone.codes)
        assert utterance.log_prob == pytest.approx(alone.log_prob)
    assert len({u.codes.shape[1] for u in together}) > 1


@pytest.mark.parametrize(
    "values",
    [
        {"strategy": "best"},
        {"temperature": 0},
        {"temperature": float("nan")},
        {"top_p": 1.5},
        {"top_k": -1},
        {"beam_size": 0},
        {"beam_size": 2.5},
        {"candidates": 0},
        {"min_frames": 9, "max_frames": 8},
        {"max_frames": "9"},
        {"max_frames": True},
        {"length_penalty": -1},
        {"guidance": -0.5},
        {"seed": -1},
        {"seed": 1.5},
        {"end_bias": "much"},
        {"end_bias": float("nan")},
        {"lenght_penalty": 1},
    ],
)
def test_an_option_that_is_not_allowed_is_named(values: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(values))) as caught:
        DecodingOptions().changed(**values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("prompt", [np.zeros((2, 3)), np.zeros((3, 39)), np.full((3, 2), 5), np.full((3, 2), -1)])
def test_a_prompt_that_does_not_fit_is_refused(prompt: np.ndarray) -> None:
    with pytest.raises(OptionError, match="prompt"):
        generate(FakeDecoder(), FEATURES, delay(3), DecodingOptions(), prompt)


# --- guidance


class TwoTokens(FakeDecoder):
    """Log-probabilities of a photo, and of features of zeros: tokens 0 and 1, and the end."""

    SEEN, UNSEEN = np.log([0.5, 0.4, 0.1]), np.log([0.8, 0.1, 0.1])

    def __init__(self) -> None:
        super().__init__(codebooks=1, size=2)

    def logits(self, past: tuple[int, ...]) -> Floats:
        return (self.SEEN if past[0] else self.UNSEEN).astype(np.float32)[None] + 3.0


def test_guidance_prefers_what_the_photo_makes_likelier() -> None:
    """A token that the photo makes four times likelier beats one that is a little more likely anyway."""
    options = DecodingOptions(min_frames=3, max_frames=3)
    plain = generate(TwoTokens(), FEATURES, parallel(1), options)
    guided = generate(TwoTokens(), FEATURES, parallel(1), options.changed(guidance=0.5))
    assert plain.codes.tolist() == [[0, 0, 0]]
    assert guided.codes.tolist() == [[1, 1, 1]]
    leaning = 1.5 * TwoTokens.SEEN - 0.5 * TwoTokens.UNSEEN
    assert guided.log_prob == pytest.approx(leaning[1] - np.log(np.exp(leaning).sum()), abs=1e-5)


@pytest.mark.parametrize("options", EVERY_STRATEGY, ids=lambda o: f"{o.strategy}{o.candidates}")
@pytest.mark.parametrize("pattern", ["parallel", "delay"])
def test_a_photo_that_says_nothing_guides_nowhere(options: DecodingOptions, pattern: str) -> None:
    """Features of zeros given, and features of zeros taken away."""
    zeros = np.zeros((1, 2, 3), np.float32)
    shape, options = make_pattern(pattern, 3), options.changed(max_frames=9)
    plain = generate(FakeDecoder(), zeros, shape, options)
    guided = generate(FakeDecoder(), zeros, shape, options.changed(guidance=2.0))
    np.testing.assert_array_equal(guided.codes, plain.codes)
    assert guided.log_prob == pytest.approx(plain.log_prob, abs=1e-5)


@given(st.integers(1, 5), st.floats(0.1, 50.0), st.sampled_from(EVERY_STRATEGY), st.integers(0, 99))
def test_guided_photos_are_described_together_and_alone(
    photos: int, guidance: float, options: DecodingOptions, seed: int
) -> None:
    """However strong, what is chosen is possible, and a prompt stays."""
    features = np.random.default_rng(seed).integers(1, 9, (photos, 2, 3)).astype(np.float32)
    prompt = np.random.default_rng(seed).integers(0, 5, (3, 2))
    options = options.changed(guidance=guidance, min_frames=4, max_frames=6)
    together = generate_batch(FakeDecoder(), features, delay(3), options, prompt)
    assert len(together) == photos
    for utterance, one in zip(together, features, strict=True):
        assert 4 <= utterance.codes.shape[1] <= 6 and np.isfinite(utterance.log_prob)
        assert 0 <= utterance.codes.min() <= utterance.codes.max() < 5
        np.testing.assert_array_equal(utterance.codes[:, :2], prompt)
        if options.strategy != "sample":
            [alone] = generate_batch(FakeDecoder(), one[None], delay(3), options, prompt)
            np.testing.assert_array_equal(utterance.codes, alone.codes)


def test_a_token_that_the_photo_makes_impossible_is_not_chosen() -> None:
    class Unlikely(TwoTokens):
        SEEN, UNSEEN = np.log([0.9989, 1e-3, 1e-4]), np.log([1e-9, 1e-30, 1e-30])

    options = DecodingOptions(min_frames=2, max_frames=2, guidance=5.0)
    assert generate(Unlikely(), FEATURES, parallel(1), options).codes.tolist() == [[0, 0]]


def test_a_guided_stream_is_the_guided_whole() -> None:
    options = DecodingOptions(guidance=0.7, max_frames=8, end_bias=-2.0)
    frames = list(generate_stream(FakeDecoder(), FEATURES, delay(3), options))
    np.testing.assert_array_equal(
        np.concatenate(frames, axis=1), generate(FakeDecoder(), FEATURES, delay(3), options).codes
    )
