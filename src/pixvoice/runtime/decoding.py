"""The one decoding loop: greedy, sampling and beam search over ``SpeechDecoder.step``, whatever stands behind it.

The first input is the special token V in every codebook.  A ``Pattern`` delays codebook k, so that at step s it speaks
of frame s - delay_k; where that frame doesn't exist the token is V, carries no probability and isn't chosen.  Codebook
0 ends the utterance by predicting V at step T; the others never predict V, and run on for their delays.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from pixvoice.contracts import Codes, Floats, SpeechDecoder
from pixvoice.errors import OptionError
from pixvoice.patterns import Pattern
from pixvoice.runtime.guidance import GuidedDecoder

Strategy = Literal["greedy", "sample", "beam"]
Doubles = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]
OnStep = Callable[[], None]


@dataclass(frozen=True)
class DecodingOptions:
    """How to choose tokens.  Raises OptionError for a value that isn't allowed.

    Candidates and beams are compared by the sum of their log-probabilities over their tokens to the power of
    ``length_penalty``: 1 compares means, less favours short utterances, more favours long ones.
    """

    strategy: Strategy = "greedy"
    temperature: float = 1.0  # sample: under 1 sharper, over 1 flatter
    top_k: int = 0  # sample: only the k likeliest tokens; 0 is all
    top_p: float = 1.0  # sample: only the likeliest tokens that together have this probability
    candidates: int = 1  # sample: utterances drawn in one batch, of which the best is kept
    beam_size: int = 4  # beam: utterances followed at once
    first_weight: float = 1.0  # weight of codebook 0 when candidates and beams are compared; the others have 1
    length_penalty: float = 1.0
    min_frames: int = 1
    max_frames: int = 1_000_000  # never more than the decoder's own limit
    end_bias: float = 0.0  # added to the end's logit: over 0 shorter, under 0 longer
    guidance: float = 0.0  # how much more than its due the photo counts, for twice the steps; about 0.5, 0 is off
    seed: int | None = None  # sample: the same seed, the same utterance

    def __post_init__(self) -> None:
        if self.strategy not in get_args(Strategy):
            raise OptionError(f"strategy {self.strategy!r}: use one of {', '.join(get_args(Strategy))}")
        _at_least(self, 1, "candidates", "beam_size", "min_frames", "max_frames")
        _at_least(self, 0, "top_k", "first_weight", "length_penalty", "guidance")
        _at_least(self, 0, *(["seed"] if self.seed is not None else []))
        _at_least(self, 1e-3, "temperature", "top_p")
        _at_least(self, -1e3, "end_bias")
        if self.top_p > 1:
            raise OptionError(f"top_p {self.top_p}: use a value over 0 and up to 1")
        if self.min_frames > self.max_frames:
            raise OptionError(f"min_frames {self.min_frames} is more than max_frames {self.max_frames}")

    def changed(self, **values: Any) -> DecodingOptions:
        """The same options but for ``values``.  Raises OptionError for a name or a value that isn't allowed."""
        names = [field.name for field in fields(self)]
        for name in values:
            if name not in names:
                raise OptionError(f"unknown decoding option {name!r}: use {', '.join(names)}")
        return replace(self, **values)


def _at_least(options: DecodingOptions, least: float, *names: str) -> None:
    for name in names:
        value = getattr(options, name)
        whole = isinstance(getattr(DecodingOptions, name), int) or name == "seed"
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not value >= least:
            raise OptionError(f"{name} {value!r}: use a {'whole ' if whole else ''}number of at least {least}")


@dataclass(frozen=True)
class Utterance:
    """What was decoded: codes (K, T), the mean log-probability (nats) of a chosen token, and the steps taken."""

    codes: Codes
    log_prob: float
    steps: int


@dataclass(frozen=True)
class Rows:
    """R sequences under way; ``ends`` holds each one's frames, at first the most that it may have."""

    tokens: Codes  # (R, K, S)
    ends: Codes  # (R,)
    log_probs: Doubles  # (R, K), summed over the tokens that were chosen
    counts: Codes  # (R, K), how many those are

    def pick(self, rows: npt.NDArray[np.int64]) -> Rows:
        """The sequences numbered ``rows`` (R',)."""
        return Rows(self.tokens[rows], self.ends[rows], self.log_probs[rows], self.counts[rows])

    def utterance(self, row: int, pattern: Pattern) -> Utterance:
        """Sequence ``row`` with its pattern undone."""
        steps = pattern.steps(int(self.ends[row]))
        mean = self.log_probs[row].sum() / max(1, self.counts[row].sum())
        return Utterance(pattern.undo(self.tokens[row, :, :steps]), float(mean), self.tokens.shape[2])


class Rules:
    """What the pattern, the prompt and the length limits leave to choose at each step."""

    def __init__(
        self, decoder: SpeechDecoder, pattern: Pattern, options: DecodingOptions, prompt: Codes | None
    ) -> None:
        codebooks, room = decoder.num_codebooks, decoder.max_steps - pattern.max_delay
        self.pattern, self.options, self.special = pattern, options, decoder.codebook_size
        self.delays = np.array(pattern.delays, dtype=np.int64)
        self.prompt = np.zeros((codebooks, 0), np.int64) if prompt is None else np.asarray(prompt, np.int64)
        if pattern.num_codebooks != codebooks:
            raise ValueError(f"a pattern of {pattern.num_codebooks} codebooks for a decoder of {codebooks}")
        if self.prompt.ndim != 2 or len(self.prompt) != codebooks or self.prompt.shape[1] > room:
            raise OptionError(f"prompt of shape {self.prompt.shape}: use {codebooks} codebooks, up to {room} frames")
        if self.prompt.size and not 0 <= self.prompt.min() <= self.prompt.max() < self.special:
            raise OptionError(f"prompt with codes outside 0 to {self.special - 1}: encode it with this bundle")
        prompted = self.prompt.shape[1]
        self.max_frames = max(prompted, min(options.max_frames, room))
        self.min_frames = max(prompted, min(options.min_frames, self.max_frames))
        self.weights = np.ones(codebooks)
        self.weights[0] = options.first_weight or 1e-9

    def first_rows(self, count: int) -> Rows:
        """``count`` sequences before their first step."""
        codebooks = len(self.delays)
        return Rows(
            np.zeros((count, codebooks, 0), np.int64),
            np.full(count, self.max_frames, np.int64),
            np.zeros((count, codebooks)),
            np.zeros((count, codebooks), np.int64),
        )

    def log_probs(self, logits: Floats, step: int) -> Doubles:
        """Logits (R, K, V + 1) -> log-probabilities, -inf for what may not be chosen."""
        scores = logits.astype(np.float64)
        scores[:, 0, self.special] += self.options.end_bias
        scores -= scores.max(axis=-1, keepdims=True)
        scores -= np.log(np.exp(scores).sum(axis=-1, keepdims=True))
        scores[:, 0 if step < self.min_frames else 1 :, self.special] = -np.inf
        return scores

    def forced(self, step: int, ends: Codes) -> Codes:
        """Tokens (R, K) that leave no choice at ``step``, and -1 where there is one."""
        frames = step - self.delays
        tokens = np.full((len(ends), len(frames)), -1, dtype=np.int64)
        prompted = np.flatnonzero((frames >= 0) & (frames < self.prompt.shape[1]))
        tokens[:, prompted] = self.prompt[prompted, frames[prompted]]
        tokens[(frames < 0) | (frames >= ends[:, None])] = self.special
        return tokens

    def extend(self, rows: Rows, picked: Codes, log_probs: Doubles, step: int) -> Rows:
        """Rows with tokens (R, K) ``picked`` among ``log_probs`` added, but for those that leave no choice."""
        forced = self.forced(step, rows.ends)
        tokens = np.where(forced < 0, picked, forced)
        ends = np.where((forced[:, 0] < 0) & (tokens[:, 0] == self.special), step, rows.ends)
        chosen = (forced < 0) & (self.forced(step, ends) < 0)
        chosen[:, 0] = forced[:, 0] < 0  # the end itself was chosen
        tokens[step - self.delays >= ends[:, None]] = self.special
        gained = np.where(chosen, np.take_along_axis(log_probs, tokens[:, :, None], axis=2)[:, :, 0], 0.0)
        longer = np.concatenate([rows.tokens, tokens[:, :, None]], axis=2)
        return Rows(longer, ends, rows.log_probs + gained, rows.counts + chosen)

    def complete(self, rows: Rows) -> Booleans:
        """Which rows (R,) hold all tokens of all their frames."""
        return np.asarray(rows.tokens.shape[2] >= rows.ends + self.pattern.max_delay)

    def scores(self, rows: Rows) -> Doubles:
        """How good each row (R,) is, normalised by its length."""
        tokens = np.maximum(1e-9, rows.counts @ self.weights)
        return np.asarray((rows.log_probs @ self.weights) / tokens**self.options.length_penalty)


class EachAlone:
    """Greedy and sampling: every row goes on by itself until all are complete."""

    def __init__(self, rules: Rules) -> None:
        self.rules, self.random = rules, np.random.default_rng(rules.options.seed)
        self.result: Rows | None = None

    def choose(self, log_probs: Doubles, rows: Rows, step: int) -> tuple[npt.NDArray[np.int64] | None, Rows]:
        """Extend the rows; None says that the decoder's state stays as it is."""
        if self.rules.options.strategy == "sample":
            noise = self.random.gumbel(size=log_probs.shape)
            picked = (_likeliest(log_probs, self.rules.options) + noise).argmax(axis=-1)
        else:
            picked = log_probs.argmax(axis=-1)
        rows = self.rules.extend(rows, picked, log_probs, step)
        if self.rules.complete(rows).all():
            self.result = rows
        return None, rows


class Beam:
    """Beam search over the joint choice of all codebooks, for one utterance."""

    def __init__(self, rules: Rules) -> None:
        self.rules, self.size = rules, rules.options.beam_size
        self.finished: list[tuple[float, Rows]] = []
        self.result: Rows | None = None

    def choose(self, log_probs: Doubles, rows: Rows, step: int) -> tuple[npt.NDArray[np.int64] | None, Rows]:
        """Keep the best extensions of all rows; the first value says which row each came from."""
        parents, picked = self._best(log_probs, rows, self.rules.forced(step, rows.ends))
        longer = self.rules.extend(rows.pick(parents), picked, log_probs[parents], step)
        complete, scores = self.rules.complete(longer), self.rules.scores(longer)
        self.finished += [(float(scores[i]), longer.pick(np.array([i]))) for i in np.flatnonzero(complete)]
        if complete.all() or len(self.finished) >= self.size:
            self.result = max(self.finished, key=lambda pair: pair[0])[1]
        return parents[~complete], longer.pick(np.flatnonzero(~complete))

    def _best(self, log_probs: Doubles, rows: Rows, forced: Codes) -> tuple[npt.NDArray[np.int64], Codes]:
        """The best extensions: their rows (N,) and tokens (N, K).  Each row can go on, or end where that is allowed."""
        special, weights = self.rules.special, self.rules.weights
        ending = np.flatnonzero((forced[:, 0] < 0) & np.isfinite(log_probs[:, 0, special]))
        owner = np.concatenate([np.arange(len(forced)), ending])
        fixed = np.concatenate([forced, np.where(self.rules.delays == 0, special, forced[ending])])
        going_on = log_probs * weights[:, None]
        going_on[:, 0, special] = -np.inf
        tokens = _top(going_on, self.size)[owner]
        gains = np.take_along_axis(going_on[owner], tokens, axis=2)
        gains[fixed >= 0] = [0.0, *[-np.inf] * (tokens.shape[2] - 1)]
        tokens[..., 0] = np.where(fixed >= 0, fixed, tokens[..., 0])
        gains[len(forced) :, 0, 0] = log_probs[ending, 0, special] * weights[0]
        chosen = fixed < 0
        chosen[len(forced) :, 0] = True
        counts = np.maximum(1e-9, (rows.counts[owner] + chosen) @ weights)
        found = best_joint(gains, rows.log_probs[owner] @ weights, counts**self.rules.options.length_penalty, self.size)
        picks = [tokens[i, np.arange(len(weights)), places] for i, places in found]
        return owner[[i for i, _ in found]], np.array(picks)


def best_joint(gains: Doubles, bases: Doubles, divisors: Doubles, count: int) -> list[tuple[int, tuple[int, ...]]]:
    """The ``count`` best choices of one row and one place in each of its codebooks, best first.

    Row i with places p scores (bases[i] + the sum over k of gains[i, k, p[k]]) / divisors[i]; ``gains`` (N, K, n) are
    sorted, best first, and -inf may not be chosen.  Exact: best-first, where a choice is followed by those one place
    down in one codebook, from its last one that isn't in the first place (so that each is met once).
    """
    values, first = gains.tolist(), (0,) * gains.shape[1]
    totals = bases + gains[:, :, 0].sum(axis=1)
    heap = [(-total / divisors[i], i, first) for i, total in enumerate(totals) if np.isfinite(total)]
    heapq.heapify(heap)
    found: list[tuple[int, tuple[int, ...]]] = []
    while heap and len(found) < count:
        cost, i, places = heapq.heappop(heap)
        found.append((i, places))
        last = max((k for k, place in enumerate(places) if place), default=0)
        for k in range(last, len(places)):
            following = places[k] + 1
            if following < len(values[i][k]) and values[i][k][following] > -np.inf:
                lost = (values[i][k][places[k]] - values[i][k][following]) / divisors[i]
                heapq.heappush(heap, (cost + lost, i, (*places[:k], following, *places[k + 1 :])))
    return found


def _top(scores: Doubles, count: int) -> npt.NDArray[np.int64]:
    """Places of the ``count`` best scores along the last axis, best first."""
    left, places = scores.copy(), []
    for _ in range(min(count, scores.shape[-1])):  # for the few that a beam needs, sooner done than a partition
        places.append(left.argmax(axis=-1, keepdims=True))
        np.put_along_axis(left, places[-1], -np.inf, axis=-1)
    return np.concatenate(places, axis=-1)


def _likeliest(log_probs: Doubles, options: DecodingOptions) -> Doubles:
    """Log-probabilities (R, K, V + 1) at the temperature, -inf outside ``top_k`` and ``top_p``."""
    scores = log_probs / options.temperature
    if 0 < options.top_k < scores.shape[-1]:
        least = np.partition(scores, -options.top_k, axis=-1)[..., -options.top_k, None]
        scores = np.where(scores >= least, scores, -np.inf)
    if options.top_p < 1.0:
        order = np.argsort(-scores, axis=-1, kind="stable")
        shares = np.exp(np.take_along_axis(scores, order, axis=-1) - scores.max(axis=-1, keepdims=True))
        before = np.cumsum(shares, axis=-1) - shares
        outside = before >= options.top_p * shares.sum(axis=-1, keepdims=True)
        np.put_along_axis(outside, order, outside.copy(), axis=-1)
        scores = np.where(outside, -np.inf, scores)
    return scores


def steps(
    decoder: SpeechDecoder, features: Floats, copies: int, search: EachAlone | Beam, on_step: OnStep | None = None
) -> Iterator[Rows]:
    """The loop itself: yield the rows after each step, until the search has its result."""
    if search.rules.options.guidance:
        decoder = GuidedDecoder(decoder, search.rules.options.guidance)
    state = decoder.start(features)
    if copies > 1:
        state = decoder.select(state, np.repeat(np.arange(len(features)), copies))
    rows = search.rules.first_rows(len(features) * copies)
    while search.result is None:
        if on_step is not None:
            on_step()
        step = rows.tokens.shape[2]
        last = rows.tokens[:, :, -1] if step else np.full(rows.counts.shape, search.rules.special, np.int64)
        logits, state = decoder.step(np.ascontiguousarray(last), state)
        parents, rows = search.choose(search.rules.log_probs(logits, step), rows, step)
        if parents is not None and search.result is None:
            state = decoder.select(state, parents)
        yield rows


def generate(
    decoder: SpeechDecoder,
    features: Floats,
    pattern: Pattern,
    options: DecodingOptions,
    prompt: Codes | None = None,
    on_step: OnStep | None = None,
) -> Utterance:
    """Image features (1, P, D) -> the utterance that ``options`` choose, beginning with ``prompt`` codes (K, T0).

    ``on_step`` is called before each step; what it raises ends the work.  Raises OptionError for a prompt of another
    shape or one that is too long.
    """
    return generate_batch(decoder, features, pattern, options, prompt, on_step)[0]


def generate_batch(
    decoder: SpeechDecoder,
    features: Floats,
    pattern: Pattern,
    options: DecodingOptions,
    prompt: Codes | None = None,
    on_step: OnStep | None = None,
) -> list[Utterance]:
    """Image features (B, P, D) -> B utterances: greedy and sampling in one batch, beam search one after another."""
    if options.strategy == "beam" and len(features) > 1:
        return [generate(decoder, one[None], pattern, options, prompt, on_step) for one in features]
    rules = Rules(decoder, pattern, options, prompt)
    search = Beam(rules) if options.strategy == "beam" else EachAlone(rules)
    copies = options.candidates if options.strategy == "sample" else 1
    for _ in steps(decoder, features, copies, search, on_step):
        pass
    assert search.result is not None
    best = rules.scores(search.result).reshape(len(features), -1).argmax(axis=1)
    return [search.result.utterance(int(i * copies + row), pattern) for i, row in enumerate(best)]
