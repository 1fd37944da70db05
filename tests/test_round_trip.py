"""Scores without text: worked out by hand on fakes, and run on the bundle that ships."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pycocoevalcap", reason="needs the evaluate extra")

from pixvoice import cli
from pixvoice.audio import write_wav
from pixvoice.contracts import Audio, Codes, Floats, SearchModel
from pixvoice.errors import InputError, PixVoiceError
from pixvoice.evaluation.captions import CaptionScores
from pixvoice.evaluation.describe import DescribeResult, Heard
from pixvoice.evaluation.photos import Photo, gather_photos
from pixvoice.evaluation.report import Report
from pixvoice.evaluation.round_trip import RoundTrip, TextFreeScores, correlations, merged
from pixvoice.evaluation.tables import describe_tables, results_console
from pixvoice.manifest import Sample
from pixvoice.runtime.retriever import load_search_model

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.jpg"))
RATE = 16_000


def level(value: float, length: int = 1600) -> Audio:
    """Speech of one level: what the fakes tell clips apart by."""
    return np.full(length, value, np.float32)


class Levels(SearchModel):
    """A photo of red n and speech of level n / 10 have the same embedding."""

    name, fingerprint, embed_dim, sample_rate = "levels", "0", 10, RATE

    def embed_photos(self, photos: Sequence[Image.Image]) -> Floats:
        return np.eye(10, dtype=np.float32)[[photo.getpixel((0, 0))[0] for photo in photos]]  # type: ignore[index]

    def embed_speech(self, audio: Sequence[Audio]) -> tuple[Floats, list[str]]:
        middles = [round(10 * float(np.median(clip[4800:-4800]))) for clip in audio]
        return np.eye(10, dtype=np.float32)[middles], [""] * len(audio)


class Samples:
    """Ten times a sample is a unit."""

    sample_rate = RATE

    def encode(self, audio: Audio) -> Codes:
        return np.round(10 * audio).astype(np.int64)[None]


def words(*units: int) -> Audio:
    return np.concatenate([level(unit / 10, 3) for unit in units])


@pytest.fixture
def photos(tmp_path: Path) -> list[Photo]:
    """Four photos with three spoken captions each: of photo n, the first is at level n."""
    samples = []
    for n in range(1, 5):
        Image.new("RGB", (8, 8), (n, 0, 0)).save(tmp_path / f"{n}.png")
        for k, audio in enumerate((level(n / 10), level(0.5), level(n / 10))):
            write_wav(tmp_path / f"{n}_{k}.wav", audio, RATE)
            samples.append(Sample(tmp_path / f"{n}.png", tmp_path / f"{n}_{k}.wav", f"caption {k}"))
    return gather_photos(samples)


def round_trip(**options: Any) -> RoundTrip:
    return RoundTrip(Levels(), Samples(), **options)  # type: ignore[arg-type]


def heard(photo: Photo, audio: Audio) -> Heard:
    return Heard(photo, "", audio, RATE, 0.1)


def test_a_photo_is_found_by_the_description_that_is_about_it(photos: list[Photo]) -> None:
    scorer = round_trip()
    for row, (photo, said) in enumerate(zip(photos, (0.1, 0.2, 0.9, 0.9), strict=True)):
        scorer.add(row, heard(photo, level(said)))
    scores = scorer.finish()
    assert (scores.n_photos, scores.judge) == (4, "levels")
    assert (scores.round_trip.r_at_1, scores.round_trip.r_at_5) == (50.0, 100.0)
    assert scores.round_trip.median_rank == 2.5  # two at 1, two tied with all others at 4
    assert scores.round_trip_ceiling is not None
    assert scores.round_trip_ceiling.r_at_1 == 75.0  # photo 2 speaks its second caption, which is about another


def test_all_recordings_of_a_photo_are_references(photos: list[Photo]) -> None:
    assert [len(photo.recordings) for photo in photos] == [3] * 4
    assert all(photo.recording in photo.recordings for photo in photos)
    scorer = round_trip()
    scorer.add(0, heard(photos[0], words(5)))
    scores = scorer.finish()
    assert scores.unit_bleu is not None and scores.unit_bleu.bleu_1 == pytest.approx(100.0)
    assert scores.unit_bleu_ceiling is not None and scores.unit_bleu_ceiling.bleu_1 == pytest.approx(100.0)


def test_unit_bleu_is_that_of_the_merged_units(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (1, 0, 0)).save(tmp_path / "1.png")
    photo = Photo(tmp_path / "1.png", ("one", "two"))
    speech = {"one": words(1, 2, 3, 4, 5), "two": words(7, 8, 7, 8)}
    scorer = round_trip(speak=speech.__getitem__)
    scorer.add(0, heard(photo, words(1, 2, 3, 9, 5)))
    scores = scorer.finish()
    assert scores.unit_bleu is not None
    assert scores.unit_bleu.bleu_1 == pytest.approx(100 * 4 / 5)
    assert scores.unit_bleu.bleu_2 == pytest.approx(100 * math.sqrt(4 / 5 * 2 / 4))
    assert scores.unit_bleu_ceiling is not None and scores.unit_bleu_ceiling.bleu_1 < 1.0


def test_merged_is_codebook_0_without_repeats() -> None:
    assert merged(np.array([[0, 0, 3, 3, 3, 0], [1, 2, 3, 4, 5, 6]])) == (0, 3, 0)
    assert merged(np.zeros((2, 0), np.int64)) == ()


def test_without_speech_there_is_no_ceiling(photos: list[Photo]) -> None:
    scorer = round_trip()
    scorer.add(0, heard(Photo(photos[0].image, ("a", "b")), level(0.1)))
    scores = scorer.finish()
    assert scores.round_trip.r_at_1 == 100.0
    assert scores.round_trip_ceiling is scores.unit_bleu is scores.unit_bleu_ceiling is None
    json.dumps(scores.as_dict())
    with pytest.raises(InputError, match="nothing to score"):
        round_trip().finish()


def test_a_recording_that_is_gone_leaves_its_photo_scored(photos: list[Photo]) -> None:
    told: list[PixVoiceError] = []
    photos[0].recordings[1].unlink()
    scorer = round_trip(on_failure=told.append)
    scorer.add(0, heard(photos[0], level(0.1)))
    assert scorer.finish().n_photos == 1 and "1_1.wav" in str(told[0])


# what is made of them


def result(cider: float, r_at_1: float, **changes: Any) -> dict[str, Any]:
    trip = {"r_at_1": r_at_1, "r_at_5": 50.0, "r_at_10": 2 * r_at_1, "median_rank": 100 - r_at_1}
    return {"cider": cider, "bleu_4": 1.0, "text_free": {"round_trip": trip, "unit_bleu": None}, **changes}


def test_correlations_over_rows() -> None:
    pytest.importorskip("scipy", reason="needs the evaluate extra")
    rows = [result(1, 3), result(2, 4), result(4, 5), result(8, 1000), {"cider": 9.0}]
    found = correlations(rows)
    one = found["round_trip_r_at_1"]["cider"]
    assert one is not None and one.spearman == pytest.approx(1.0)
    assert one.pearson == pytest.approx(np.corrcoef([1, 2, 4, 8], [3, 4, 5, 1000])[0, 1])
    rank = found["round_trip_median_rank"]["cider"]
    assert rank is not None and rank.spearman == pytest.approx(-1.0)
    assert found["round_trip_r_at_5"]["cider"] is None  # all equal
    assert found["round_trip_r_at_1"]["bleu_4"] is None and found["round_trip_r_at_1"]["meteor"] is None
    assert correlations(rows[:2])["round_trip_r_at_1"]["cider"] is None and correlations([]) == {}


def test_table_json_and_report_show_them(photos: list[Photo], tmp_path: Path) -> None:
    scorer = round_trip()
    for row, photo in enumerate(photos):
        scorer.add(row, heard(photo, level(0.1)))
    scores, text = scorer.finish(), CaptionScores(*(7.0,) * 7)
    plain = DescribeResult(text, None, None, None, None, "ours", 4, 0, 1.0, 0.1)
    assert "text_free" not in plain.as_dict()
    whole = DescribeResult(text, None, None, None, None, "ours", 4, 0, 1.0, 0.1, scores)
    assert whole.as_dict()["text_free"]["round_trip"]["r_at_1"] == 25.0
    console = results_console()
    with console.capture() as capture:
        console.print(describe_tables(whole))
    assert "without text" in capture.get() and "among 4, by levels" in " ".join(capture.get().split())
    page = Report(tmp_path / "report").finish(whole).read_text()
    assert "Without a written word" in page and page.count("<table>") == 2 and "<td>25.00</td>" in page
    assert "Without a written word" not in Report(tmp_path / "plain").finish(plain).read_text()


def test_the_bundle_that_ships_judges_its_own_descriptions(tmp_path: Path) -> None:
    """Two example photos and two drawn ones, each described by speech that the bundle's codec makes of noise."""
    photos = [Photo(path, ("a dog runs",)) for path in EXAMPLES[:2]]
    for n in range(2):
        pixels = np.random.default_rng(n).integers(256, size=(64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{n}.png")
        photos.append(Photo(tmp_path / f"{n}.png", ("noise",)))
    import pixvoice

    describer = pixvoice.load()
    scorer = RoundTrip(load_search_model(), describer.tokenizer)
    for row, photo in enumerate(photos):
        said = describer.describe(photo.image, seed=0, strategy="greedy")
        scorer.add(row, Heard(photo, "", said.audio, said.sample_rate, 0.1))
    scores = scorer.finish()
    assert isinstance(scores, TextFreeScores) and scores.n_photos == 4
    assert scores.round_trip.r_at_5 == 100.0 and 1 <= scores.round_trip.median_rank <= 4


def test_the_command_gives_them_beside_the_text_scores(
    java: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = []
    for n, path in enumerate(EXAMPLES[:2]):
        for k in range(2):
            noise = np.random.default_rng(10 * n + k).normal(0, 0.05, 16_000).astype(np.float32)
            write_wav(tmp_path / f"{n}_{k}.wav", noise, RATE)
            lines.append({"image": str(path.relative_to(path.parent)), "audio": f"{n}_{k}.wav", "text": f"a dog {k}"})
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "manifest.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert cli.run(["evaluate", "describe", str(tmp_path / "manifest.jsonl"), "--round-trip", "--json"]) == 0
    free = json.loads(capsys.readouterr().out)["text_free"]
    assert free["n_photos"] == 2 and free["round_trip"]["r_at_5"] == 100.0
    assert free["unit_bleu"]["bleu_1"] >= 0 and free["unit_bleu_ceiling"] is not None
    assert free["round_trip_ceiling"]["median_rank"] >= 1
