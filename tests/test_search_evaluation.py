"""``pixvoice evaluate search``: ranks against a naive full matrix, and what is printed of a model that hears levels."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner, Result

from pixvoice.audio import write_wav
from pixvoice.cli.evaluate import app
from pixvoice.contracts import Audio, Floats, SearchModel
from pixvoice.errors import InputError, MissingToolError, OptionError
from pixvoice.evaluation import retrieval
from pixvoice.evaluation.published import SEARCH
from pixvoice.evaluation.queries import NOISE_RANGE, Query, Setting, gather_queries, hear, noise_level
from pixvoice.evaluation.retrieval import RecallScores, photo_to_speech_ranks, speech_to_photo_ranks
from pixvoice.manifest import Sample

RATE = 16_000
N = 6  # photos
TEXTS = [f"caption {'abcdefghij'[k]} of photo {'abcdefghij'[n]}" for n in range(N) for k in range(2)]


# --- ranks


def naive(speech: Floats, photos: Floats, owner: np.ndarray) -> tuple[list[int], list[int]]:
    """One query at a time over the whole matrix: everything is sorted, right answers last among equals."""
    similar = speech @ photos.T
    there = [
        sorted(range(len(photos)), key=lambda n, q=q: (-similar[q, n], n == owner[q])).index(owner[q]) + 1
        for q in range(len(speech))
    ]
    back = []
    for n in sorted(set(owner.tolist())):
        own = [q for q in range(len(speech)) if owner[q] == n]
        best = max(own, key=lambda q: similar[q, n])
        others = [q for q in range(len(speech)) if q not in own]
        order = sorted([best, *others], key=lambda q: (-similar[q, n], q == best))
        back.append(order.index(best) + 1)
    return there, back


@st.composite
def embeddings(draw: st.DrawFn) -> tuple[Floats, Floats, np.ndarray]:
    """Small whole numbers, so that ties are many and exact."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    photos, queries, width = draw(st.integers(1, 9)), draw(st.integers(1, 20)), draw(st.integers(1, 4))
    values = [rng.integers(-2, 3, (rows, width)).astype(np.float32) for rows in (queries, photos)]
    return values[0], values[1], rng.integers(0, photos, queries)


@given(embeddings(), st.integers(1, 40))
def test_ranks_equal_those_of_the_full_matrix(
    monkeypatch: pytest.MonkeyPatch, made: tuple[Floats, Floats, np.ndarray], chunk: int
) -> None:
    monkeypatch.setattr(retrieval, "_CHUNK", chunk)  # similarities at once: from one row to all of them
    there, back = naive(*made)
    assert speech_to_photo_ranks(*made).tolist() == there
    assert photo_to_speech_ranks(*made).tolist() == back


def test_a_model_that_answers_everything_alike_is_last() -> None:
    speech, photos = np.ones((500, 64), np.float32) / 8, np.ones((100, 64), np.float32) / 8
    owner = np.arange(500) // 5
    assert set(speech_to_photo_ranks(speech, photos, owner)) == {100}
    assert set(photo_to_speech_ranks(speech, photos, owner)) == {496}


def test_what_is_not_a_number_is_last() -> None:
    speech, photos = np.full((4, 3), np.nan, np.float32), np.eye(4, 3, dtype=np.float32)
    assert set(speech_to_photo_ranks(speech, photos, np.arange(4))) == {4}
    assert set(photo_to_speech_ranks(speech, photos, np.arange(4))) == {4}


def test_scores_of_ranks() -> None:
    scores = RecallScores.of(np.array([1, 1, 5, 6, 10, 11]))
    assert scores.as_dict() == {"r_at_1": 33.33, "r_at_5": 50.0, "r_at_10": 83.33, "median_rank": 5.5}


# --- queries


def test_every_caption_is_a_query_and_photos_come_once() -> None:
    samples = [Sample(Path(f"{n}.jpg"), text=f"{n} {k}") for n in range(3) for k in range(5)]
    photos, queries = gather_queries([*samples, Sample(Path("9.jpg"), text=" ")], 2)
    assert photos == [Path("0.jpg"), Path("1.jpg")]
    assert [query.photo for query in queries] == [0] * 5 + [1] * 5
    with pytest.raises(InputError, match="no recording and no text"):
        gather_queries([Sample(Path("a.jpg"))])


def test_where_some_are_recorded_the_others_are_no_queries() -> None:
    samples = [Sample(Path("a.jpg"), text="one"), Sample(Path("a.jpg"), Path("a.wav"), "two", "anna")]
    assert gather_queries(samples)[1] == [Query(0, "two", Path("a.wav"), "anna")]


@pytest.mark.parametrize("noise_db", [0.0, 5.0, 20.0])
def test_noise_lies_as_far_below_the_speech_as_asked(noise_db: float) -> None:
    audio = (0.1 * np.sin(np.arange(RATE) / 9)).astype(np.float32)

    def speak(text: str) -> Audio:
        return audio

    heard = hear(Query(0, "a"), 7, Setting("tone", speak, noise_db), RATE)
    pad = (len(heard) - RATE) // 2
    noise = heard - np.pad(audio, pad)
    ratio = np.sqrt(np.mean(audio**2)) / np.sqrt(np.mean(noise**2))
    assert pad == 4800 and 20 * np.log10(ratio) == pytest.approx(noise_db, abs=0.2)
    assert np.array_equal(heard, hear(Query(0, "a"), 7, Setting("tone", speak, noise_db), RATE))
    louder = hear(Query(0, "a"), 7, Setting("tone", speak, noise_db - 5), RATE) - np.pad(audio, pad)
    assert np.corrcoef(noise, louder)[0, 1] > 0.999


def test_noise_of_full_scale_speech_is_not_clipped() -> None:
    def speak(text: str) -> Audio:
        return np.sign(np.sin(np.arange(RATE) / 9)).astype(np.float32)

    heard = hear(Query(0, "a"), 0, Setting("square", speak, 0.0), RATE)
    assert np.abs(heard).max() == pytest.approx(1.0)
    assert np.count_nonzero(np.abs(heard) > 0.999) < 10


@pytest.mark.parametrize("text", ["loud", "nan", "inf", "-21", "61", ""])
def test_noise_that_is_no_level_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="dB from -20 to 60"):
        noise_level(text)
    assert noise_level("clean") is None and noise_level("-20") == NOISE_RANGE[0]


# --- the command


class LevelModel(SearchModel):
    """Photo n is n grey, its recordings hold the level n: near neighbours lie near each other.  Noise disturbs it."""

    name, fingerprint, embed_dim, sample_rate = "by level", "0", 3, RATE
    text = "caption a of photo a"

    def embed_photos(self, photos: Sequence[Image.Image]) -> Floats:
        return np.stack([_at(np.asarray(photo).mean() / 40) for photo in photos])

    def embed_speech(self, audio: Sequence[Audio]) -> tuple[Floats, list[str]]:
        levels = [float(np.median(np.abs(clip[4800:-4800]))) * 20 for clip in audio]
        return np.stack([_at(level) for level in levels]), [self.text] * len(audio)


def _at(level: float) -> Floats:
    return np.array([np.cos(level / 4), np.sin(level / 4), 0.0], np.float32)


def tone(photo: int) -> Audio:
    return np.full(RATE // 4, photo / 20, np.float32)


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> LevelModel:
    """A fake stands where the bundle's model is loaded."""
    made = LevelModel()
    fake = types.ModuleType("pixvoice.runtime.retriever")
    fake.load_search_model = lambda bundle=None, threads=None: made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pixvoice.runtime.retriever", fake)
    return made


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Six photos with two recordings each, by two speakers, all in dev."""
    rows = []
    for n in range(N):
        Image.new("RGB", (4, 4), (40 * n,) * 3).save(tmp_path / f"{n}.png")
        for k, speaker in enumerate(("anna", "bert")):
            write_wav(tmp_path / f"{n}_{k}.wav", tone(n), RATE)
            row = {"image": f"{n}.png", "audio": f"{n}_{k}.wav", "text": TEXTS[2 * n + k]}
            rows.append({**row, "speaker": speaker, "split": "dev"})
    path = tmp_path / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def search(*arguments: object) -> Result:
    result = CliRunner().invoke(app, ["search", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_json_has_what_the_papers_report(manifest: Path) -> None:
    pytest.importorskip("jiwer", reason="needs the evaluate extra")
    result = search(manifest, "--split", "dev", "--json")
    values = json.loads(result.stdout)
    perfect = {"r_at_1": 100.0, "r_at_5": 100.0, "r_at_10": 100.0, "median_rank": 1.0}
    assert result.exit_code == 0
    assert values["speech_to_image"] == values["image_to_speech"] == perfect
    assert (values["n_photos"], values["n_queries"], values["n_failed"]) == (6, 12, 0)
    assert (values["model"], values["voice"], values["noise_db"]) == ("by level", "recordings", None)
    assert 0 < values["wer"] < 100
    assert len(values["rows"]) == 1 and "queries" in result.stderr


def test_several_noises_and_speakers_are_rows_of_one_table(manifest: Path) -> None:
    asked = ("--noise-db", "clean", "--noise-db", "-10", "--voice", "anna", "--voice", "bert")
    values = json.loads(search(manifest, *asked, "--json").stdout)
    assert [(row["voice"], row["noise_db"]) for row in values["rows"]] == [
        ("anna", None), ("anna", -10.0), ("bert", None), ("bert", -10.0),
    ]  # fmt: skip
    assert {row["n_queries"] for row in values["rows"]} == {6}
    clean, noisy = (row["speech_to_image"]["r_at_1"] for row in values["rows"][:2])
    assert clean == 100.0 > noisy
    assert values["voice"] == "anna" and values["noise_db"] is None
    table = search(manifest, *asked).stdout
    assert "by level, anna, clean" in table and "by level, bert, -10 dB" in table


def test_a_long_name_is_folded_and_no_number_is_cut(
    manifest: Path, model: LevelModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(LevelModel, "name", "a model " * 20)
    lines = search(manifest, "--noise-db", "45").stdout.splitlines()
    assert any(line.split()[-9:-1] == ["100.0", "100.0", "100.0", "1.0"] * 2 for line in lines)
    assert not any("…" in line for line in lines)


def test_published_rows_stand_beside_ours_and_say_what_speech_they_are_of(manifest: Path) -> None:
    result = search(manifest, "--limit", 3)
    for heading, rows in SEARCH.items():
        assert "human speech" in heading and heading in result.stdout
        assert all(row.name in result.stdout for row in rows)
    words = " ".join(result.stdout.split())
    assert "39.1" in words and "3 photos, 6 recordings a row, 0 failed" in words and "…" not in words
    assert "arXiv 2210.00705" in result.stderr


def test_what_can_not_be_used_is_named_once_and_counted(manifest: Path) -> None:
    (manifest.parent / "1_0.wav").write_bytes(b"not a recording")
    (manifest.parent / "2_1.wav").unlink()
    (manifest.parent / "3.png").unlink()
    result = search(manifest, "--noise-db", "30", "--noise-db", "clean", "--json")
    values = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (values["n_photos"], values["n_queries"], values["n_failed"]) == (5, 8, 3)
    assert values["image_to_speech"]["r_at_1"] == 100.0
    assert [result.stderr.count(name) for name in ("1_0.wav", "2_1.wav", "3.png")] == [1, 1, 1]


def test_a_photo_whose_recordings_all_fail_is_still_searched(manifest: Path) -> None:
    for k in (0, 1):
        (manifest.parent / f"4_{k}.wav").unlink()
    values = json.loads(search(manifest, "--json").stdout)
    assert (values["n_photos"], values["n_queries"], values["n_failed"]) == (6, 10, 2)


def test_nothing_that_can_be_used_is_one_line(manifest: Path) -> None:
    for path in manifest.parent.glob("*.wav"):
        path.unlink()
    with pytest.raises(InputError, match="not one recording"):
        search(manifest)
    for path in manifest.parent.glob("*.png"):
        path.unlink()
    with pytest.raises(InputError, match="not one photo"):
        search(manifest)


def test_a_data_set_without_audio_is_spoken_by_each_voice(manifest: Path, tmp_path: Path) -> None:
    for n in range(N):
        write_wav(tmp_path / f"tone{'abcdef'[n]}.wav", tone(max(n, 1)), RATE)
    program = "import sys, shutil; shutil.copy(sys.argv[1] + sys.argv[2].strip()[-1] + '.wav', sys.argv[4])"
    engine = f'{sys.executable} -c "{program}" {tmp_path}/tone {{text}} {{voice}} {{out}}'
    asked = ("--engine", engine, "--voice", "x", "--voice", "y", "--cache", tmp_path / "kept", "--json")
    values = json.loads(search(_without_audio(manifest), *asked).stdout)
    assert [row["voice"][-2:] for row in values["rows"]] == [" x", " y"]
    assert values["n_queries"] == 12 and values["speech_to_image"]["r_at_5"] == 100.0
    assert len(list((tmp_path / "kept").glob("*.wav"))) == 24


def test_without_audio_and_without_an_engine_it_says_what_to_install(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(manifest.parent))
    with pytest.raises(MissingToolError, match="no TTS engine is installed"):
        search(_without_audio(manifest))


def test_an_unknown_speaker_or_split_lists_those_there_are(manifest: Path) -> None:
    with pytest.raises(OptionError, match=r"no speaker 'ann' \(did you mean 'anna'\?\).*anna, bert"):
        search(manifest, "--voice", "ann")
    with pytest.raises(OptionError, match="it has dev"):
        search(manifest, "--split", "test")


def test_true_texts_take_the_place_of_what_is_read(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="can't be given texts"):
        search(manifest, "--transcripts", "truth")
    given: list[str] = []

    def embed_with_texts(self: LevelModel, audio: Sequence[Audio], texts: Sequence[str]) -> Floats:
        given.extend(texts)
        return self.embed_speech(audio)[0]

    monkeypatch.setattr(LevelModel, "embed_with_texts", embed_with_texts, raising=False)
    values = json.loads(search(manifest, "--transcripts", "truth", "--json").stdout)
    assert (values["transcripts"], values["wer"], values["n_queries"]) == ("truth", None, 12)
    assert given == TEXTS


def test_a_model_that_reads_nothing_has_no_word_error_rate(manifest: Path, model: LevelModel) -> None:
    model.text = ""
    assert json.loads(search(manifest, "--json").stdout)["wer"] is None
    assert "-" in search(manifest).stdout.rsplit("clean", 1)[1].splitlines()[0]


def test_long_recordings_reach_the_model_whole(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wav(manifest.parent / "0_0.wav", np.zeros(40 * RATE, np.float32), RATE)
    lengths: list[int] = []
    plain = LevelModel.embed_speech

    def listen(self: LevelModel, audio: Sequence[Audio]) -> tuple[Floats, list[str]]:
        lengths.extend(len(clip) for clip in audio)
        return plain(self, audio)

    monkeypatch.setattr(LevelModel, "embed_speech", listen)
    search(manifest, "--json")
    assert max(lengths) == 40 * RATE + 9600


def _without_audio(manifest: Path) -> Path:
    path = manifest.with_name("texts.jsonl")
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, "audio": None}) + "\n" for row in rows))
    return path
