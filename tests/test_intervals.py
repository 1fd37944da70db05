"""Intervals of scores over resampled photos, against a bootstrap that scores every resample anew."""

from __future__ import annotations

import numpy as np
import pytest

from pixvoice.errors import InputError
from pixvoice.evaluation.captions import METRICS, CaptionStatistics, caption_scores, caption_statistics
from pixvoice.evaluation.intervals import Interval, Resampled, draws, recall_intervals
from pixvoice.evaluation.retrieval import Ranked, RecallScores

REFERENCES = [
    ["A black dog runs through the snow .", "The dog is running in deep snow .", "A dog in the snow ."],
    ["Two men play football on a field .", "Men in red play football .", "Two players fight for the ball ."],
    ["A girl climbs the stairs .", "A little girl goes up a set of stairs .", "The child climbs ."],
    ["A man in a red shirt .", "The man sits on a bench in the park ."],
]
HYPOTHESES = ["a black dog runs in the snow", "two men play a game", "", "a man sits in a park on a bench"]


def test_all_photos_once_are_the_scores_themselves(java: None) -> None:
    statistics = caption_statistics(HYPOTHESES, REFERENCES)
    expected = caption_scores(HYPOTHESES, REFERENCES)
    found = statistics.scores(np.ones((1, 4)))[0]
    np.testing.assert_allclose(found, [getattr(expected, metric) for metric in METRICS], rtol=1e-9, atol=1e-12)
    again = CaptionStatistics.from_json(**statistics.as_dict())
    np.testing.assert_array_equal(again.scores(np.ones((1, 4)))[0], found)
    with pytest.raises(InputError, match="one hypothesis a photo"):
        caption_statistics(HYPOTHESES[:2], REFERENCES)


def test_resamples_are_those_of_a_bootstrap_that_scores_each_anew(java: None) -> None:
    counts = draws(4, resamples=4, seed=5)
    found = caption_statistics(HYPOTHESES, REFERENCES).scores(counts)
    for row, taken in enumerate(counts):
        photos = [n for n in range(4) for _ in range(int(taken[n]))]
        naive = caption_scores([HYPOTHESES[n] for n in photos], [REFERENCES[n] for n in photos])
        for metric in METRICS[:-1]:  # CIDEr's word weights stay those of all photos
            assert found[row, METRICS.index(metric)] == pytest.approx(getattr(naive, metric)), metric
        own = caption_statistics(HYPOTHESES, REFERENCES).cider
        assert found[row, -1] == pytest.approx(100 * np.mean([own[n] for n in photos]))


def test_draws_are_seeded_and_each_takes_as_many_photos_as_there_are() -> None:
    counts = draws(1000)
    assert counts.shape == (1000, 1000) and (counts.sum(axis=1) == 1000).all()
    np.testing.assert_array_equal(counts, draws(1000))
    assert not np.array_equal(counts, draws(1000, seed=1))
    assert counts.var() == pytest.approx(1, abs=0.01)  # nearly Poisson


def test_the_interval_of_a_mean_is_the_one_that_theory_has_and_pairing_narrows_a_difference() -> None:
    random = np.random.default_rng(0)
    values, counts = random.normal(20, 10, 1000), draws(1000)
    interval = Interval.of(counts @ values / 1000)
    assert interval.low == pytest.approx(values.mean() - 1.96 * 10 / 1000**0.5, abs=0.1)
    assert interval.high == pytest.approx(values.mean() + 1.96 * 10 / 1000**0.5, abs=0.1)
    other = values + random.normal(1, 1, 1000)
    one, two = (Resampled(np.tile((counts @ each / 1000)[:, None], 7)) for each in (values, other))
    less = two.less(one)["cider"]
    assert 0.9 < less.low < less.high < 1.1 and interval.high - interval.low > 1


def test_a_photo_that_one_system_failed_at_is_left_out_of_its_resamples_alone(java: None) -> None:
    counts = draws(4, resamples=6)
    statistics = caption_statistics([HYPOTHESES[0], *HYPOTHESES[2:]], [REFERENCES[0], *REFERENCES[2:]])
    found = Resampled.of(statistics, (0, 2, 3), counts)
    np.testing.assert_array_equal(found.scores, statistics.scores(counts[:, [0, 2, 3]]))


def test_recall_is_resampled_by_photo_and_a_photo_takes_all_its_recordings_along() -> None:
    random = np.random.default_rng(3)
    photos, counts = np.repeat(np.arange(40), random.integers(1, 6, 40)), draws(40, resamples=200, seed=2)
    ranks = random.integers(1, 21, len(photos))
    found = recall_intervals(Ranked(ranks, photos), counts)
    naive = [
        RecallScores.of(np.concatenate([ranks[photos == p] for p in range(40) for _ in range(int(taken[p]))]))
        for taken in counts
    ]
    for name in ("r_at_1", "r_at_5", "r_at_10"):
        expected = Interval.of(np.array([getattr(scores, name) for scores in naive]))
        assert found[name].as_list() == expected.as_list()
