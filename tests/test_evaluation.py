"""The scores of an evaluation, on fakes whose right answers are known."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from pixvoice.audio import write_wav
from pixvoice.contracts import Audio, Codes, Recognizer, SpeechTokenizer
from pixvoice.errors import BundleError, InputError, MissingToolError, OptionError, OutputError, PixVoiceError
from pixvoice.evaluation.captions import METRICS, caption_scores
from pixvoice.evaluation.codec import evaluate_codec, pesq_score, stoi_score
from pixvoice.evaluation.describe import DescribeEvaluation, DescribeResult
from pixvoice.evaluation.photos import Photo, gather_photos
from pixvoice.evaluation.preparation import Listener, prepare_for_recognition
from pixvoice.evaluation.published import FLICKR8K
from pixvoice.evaluation.report import Report
from pixvoice.evaluation.tables import describe_table, results_console
from pixvoice.evaluation.voices import find_speak
from pixvoice.manifest import Sample

RATE = 16_000
UNIT = 320  # samples of one step of the fakes' lengths

REFERENCES = [
    ["A black dog runs through the snow .", "The dog is running in deep snow .", "A dog in the snow ."],
    ["Two men play football on a field .", "Men in red play football .", "Two players fight for the ball ."],
    ["A girl climbs the stairs .", "A little girl goes up a set of stairs .", "The child climbs ."],
]
HYPOTHESES = ["a black dog runs in the snow", "two men play a game", "the girl climbs the stairs"]


class Voice:
    """Speech whose length says which text it is, so that a fake recognizer can hear it."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def speak(self, text: str) -> Audio:
        if text not in self.texts:
            self.texts.append(text)
        t = np.arange(UNIT * (20 + 2 * self.texts.index(text)))
        return (0.1 * np.sin(2 * np.pi * 440 / RATE * t)).astype(np.float32)


@dataclass
class FakeRecognizer(Recognizer):
    voice: Voice
    clips: int = 0
    name = "fake"
    sample_rate = RATE

    def transcribe(self, audio: Sequence[Audio]) -> list[str]:
        self.clips += len(audio)
        return [self._text((len(clip) - 2 * 4800) // UNIT - 20) for clip in audio]

    def _text(self, steps: int) -> str:
        text = self.voice.texts[steps // 2].lower()
        return text if steps % 2 == 0 else text.rsplit(maxsplit=2)[0]  # one step longer: the last words are lost


class FakeTokenizer(SpeechTokenizer):
    """Codes that are the samples themselves; decoding adds one step, in which FakeRecognizer loses words."""

    sample_rate = RATE
    frame_rate = 50.0
    num_codebooks = 4
    codebook_size = 1024

    def __init__(self, extra: int = UNIT) -> None:
        self.extra = extra

    def encode(self, audio: Audio) -> Codes:
        return np.tile(np.round(audio * 32768).astype(np.int64), (4, 1))

    def decode(self, codes: Codes) -> Audio:
        return np.pad(codes[0] / 32768, (0, self.extra)).astype(np.float32)

    def decode_stream(self, frames: Iterable[Codes]) -> Iterator[Audio]:
        yield from map(self.decode, frames)


@dataclass(frozen=True)
class FakeDescription:
    audio: Audio
    sample_rate: int = RATE


@dataclass
class FakeDescriber:
    voice: Voice
    tokenizer: FakeTokenizer | None = None
    calls: list[Path] = field(default_factory=list)

    def describe(self, image: Path, *, seed: int) -> FakeDescription:
        self.calls.append(image)
        if not image.exists():
            raise InputError(f"{image}: no such file; check the path")
        return FakeDescription(self.voice.speak(HYPOTHESES[int(image.stem)]))


@pytest.fixture
def voice() -> Voice:
    return Voice()


@pytest.fixture
def photos(tmp_path: Path) -> list[Photo]:
    samples = []
    for row, captions in enumerate(REFERENCES):
        image = tmp_path / f"{row}.jpg"
        image.write_bytes(b"a photo")
        samples += [Sample(image, text=caption) for caption in captions]
    return gather_photos(samples)


def evaluate(photos: list[Photo], voice: Voice, **options: object) -> DescribeResult:
    return DescribeEvaluation(FakeDescriber(voice), FakeRecognizer(voice), **options).run(photos)  # type: ignore[arg-type]


# --- preparation


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000])
def test_every_clip_is_padded_and_gets_noise_45_db_below_it(rate: int) -> None:
    audio = np.full(rate, 0.5, np.float32)
    prepared = prepare_for_recognition(audio, rate, seed=3)
    pad = round(0.3 * rate)
    assert prepared.shape == (rate + 2 * pad,)
    assert prepared.dtype == np.float32
    noise = prepared - np.pad(audio, pad)
    assert 20 * np.log10(0.5 / np.sqrt(np.mean(noise**2))) == pytest.approx(45.0, abs=0.3)
    assert np.array_equal(prepared, prepare_for_recognition(audio, rate, seed=3))
    assert not np.array_equal(prepared, prepare_for_recognition(audio, rate, seed=4))


@pytest.mark.parametrize("audio", [np.zeros(0), np.zeros(100), np.ones(100)])
def test_silent_empty_and_full_scale_clips_stay_in_range_without_digital_silence(audio: Audio) -> None:
    prepared = prepare_for_recognition(audio.astype(np.float32), RATE, seed=0)
    assert len(prepared) == len(audio) + 9600
    assert np.abs(prepared).max() <= 1.0
    assert np.count_nonzero(prepared[:4800]) > 4700


def test_a_listener_hears_at_the_recognizers_rate(voice: Voice) -> None:
    voice.speak("a dog")
    at_32k = np.zeros(2 * len(voice.speak("a dog runs")), np.float32)
    assert Listener(FakeRecognizer(voice)).hear(at_32k, 2 * RATE, seed=0) == "a dog runs"


# --- photos


def test_each_photo_speaks_another_of_its_captions(photos: list[Photo]) -> None:
    assert [photo.spoken for photo in photos] == [0, 1, 2]
    assert [list(photo.captions) for photo in photos] == REFERENCES
    assert photos[1].spoken_caption == "Men in red play football ."
    assert photos[1].other_captions == (REFERENCES[1][0], REFERENCES[1][2])


def test_only_captions_that_were_recorded_are_spoken_and_only_texts_are_references() -> None:
    image = Path("a.jpg")
    samples = [Sample(image, text="one"), Sample(image), Sample(image, Path("two.wav"), "two")]
    (photo,) = gather_photos([*samples, Sample(Path("b.jpg"), text="three")], limit=1)
    assert (photo.captions, photo.spoken_caption, photo.recording) == (("one", "two"), "two", Path("two.wav"))
    with pytest.raises(InputError, match="no photo with a text"):
        gather_photos([Sample(image), Sample(image, text=" ")])


def test_a_caption_that_two_voices_speak_is_one_reference_and_a_repeated_caption_two() -> None:
    image = Path("a.jpg")
    rows = [(text, voice) for voice in ("rms", "slt") for text in ("a dog", "a cat", "a dog")]
    samples = [Sample(image, Path(f"{n}.wav"), text, voice) for n, (text, voice) in enumerate(rows)]
    (photo,) = gather_photos(samples)
    assert photo.captions == ("a dog", "a cat", "a dog")
    assert photo.other_captions == ("a cat", "a dog")


# --- describe


def test_descriptions_ceiling_and_codec_are_scored_in_one_pass(java: None, photos: list[Photo], voice: Voice) -> None:
    describer, recognizer = FakeDescriber(voice, FakeTokenizer()), FakeRecognizer(voice)
    result = DescribeEvaluation(describer, recognizer, voice.speak).run(photos)
    assert result.scores == caption_scores(HYPOTHESES, REFERENCES)
    assert result.ceiling is not None
    assert result.ceiling.bleu_4 == pytest.approx(100.0)
    assert result.ceiling_leave_one_out == caption_scores(
        [photo.spoken_caption for photo in photos], [photo.other_captions for photo in photos]
    )
    assert result.wer == 0.0
    # Of "... snow .", "... football ." and "... climbs ." the fake codec loses the last word: 3 of 8 + 5 + 3 words.
    assert result.wer_resynthesised == pytest.approx(100 * 3 / 15)
    assert (len(describer.calls), recognizer.clips) == (3, 9)
    assert (result.n_photos, result.n_failed, result.recognizer) == (3, 0, "fake")
    assert result.speech_seconds_per_photo == pytest.approx(np.mean([20, 24, 28]) * UNIT / RATE)
    assert result.real_time_factor >= 0.0


def test_the_json_object_has_the_promised_keys(java: None, photos: list[Photo], voice: Voice) -> None:
    values = json.loads(json.dumps(evaluate(photos, voice, speak=voice.speak).as_dict()))
    assert set(METRICS) | {"ceiling", "wer", "n_photos", "recognizer"} <= set(values)
    assert {"wer_resynthesised", "speech_seconds_per_photo", "real_time_factor", "ceiling_leave_one_out"} <= set(values)
    assert set(values["ceiling"]) == set(METRICS)
    assert all(0 <= values[metric] <= 100 for metric in METRICS if metric != "cider")


def test_without_speech_of_the_ground_truth_the_ceiling_is_null(java: None, photos: list[Photo], voice: Voice) -> None:
    values = evaluate(photos, voice).as_dict()
    for key in ("ceiling", "ceiling_leave_one_out", "wer", "wer_resynthesised"):
        assert values[key] is None
    assert values["n_photos"] == 3


def test_a_describer_that_says_nothing_scores_nothing(java: None, photos: list[Photo], voice: Voice) -> None:
    class Mute(FakeDescriber):
        def describe(self, image: Path, *, seed: int) -> FakeDescription:
            return FakeDescription(np.zeros(0, np.float32))

    class Deaf(FakeRecognizer):
        def transcribe(self, audio: Sequence[Audio]) -> list[str]:
            return [""] * len(audio)

    result = DescribeEvaluation(Mute(voice), Deaf(voice)).run(photos)
    assert result.scores.bleu_1 == pytest.approx(0.0)
    assert (result.speech_seconds_per_photo, result.real_time_factor) == (0.0, None)
    results_console().print(describe_table(result))


def test_a_bundle_that_can_not_encode_speech_says_so_once(java: None, photos: list[Photo], voice: Voice) -> None:
    class DecoderOnly(FakeTokenizer):
        def encode(self, audio: Audio) -> Codes:
            raise BundleError("no codec_encoder.onnx")

    told: list[PixVoiceError] = []
    describer = FakeDescriber(voice, DecoderOnly())
    result = DescribeEvaluation(describer, FakeRecognizer(voice), voice.speak, on_failure=told.append).run(photos)
    assert (result.wer, result.wer_resynthesised, result.n_failed, len(told)) == (0.0, None, 0, 1)


def test_recordings_are_preferred_to_synthesis(java: None, photos: list[Photo], voice: Voice, tmp_path: Path) -> None:
    recorded = []
    for photo in photos:
        path = tmp_path / f"{photo.image.stem}.wav"
        write_wav(path, voice.speak(photo.spoken_caption), RATE)
        recorded.append(Photo(photo.image, photo.captions, photo.spoken, path))
    assert evaluate(recorded, voice).wer == 0.0


def test_a_bad_photo_or_recording_is_told_and_the_others_are_scored(
    java: None, photos: list[Photo], voice: Voice, tmp_path: Path
) -> None:
    told: list[PixVoiceError] = []
    photos[1] = Photo(tmp_path / "gone.jpg", photos[1].captions)
    photos[2] = Photo(photos[2].image, photos[2].captions, recording=tmp_path / "gone.wav")
    result = evaluate(photos, voice, speak=voice.speak, on_failure=told.append)
    assert (result.n_photos, result.n_failed) == (2, 2)
    assert ["gone.jpg" in str(told[0]), "gone.wav" in str(told[1])] == [True, True]
    with pytest.raises(InputError, match="not one photo could be described"):
        evaluate([photos[1]], voice)


def test_the_report_shows_every_photo_with_its_player(
    java: None, photos: list[Photo], voice: Voice, tmp_path: Path
) -> None:
    report = Report(tmp_path / "new" / "report")
    photos[0] = Photo(photos[0].image, ("<b>snow</b> & dog", "a dog"))
    result = evaluate(photos, voice, speak=voice.speak, on_heard=report.add)
    page = report.finish(result).read_text()
    assert page.count("<audio controls") == page.count("<img ") == 3
    assert "&lt;b&gt;snow&lt;/b&gt; &amp; dog" in page
    assert 'alt="a black dog runs in the snow"' in page
    names = sorted(path.name for path in (tmp_path / "new" / "report").rglob("*") if path.is_file())
    assert names == ["00001.jpg", "00001.wav", "00002.jpg", "00002.wav", "00003.jpg", "00003.wav", "index.html"]


def test_a_report_where_nothing_can_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="give another --report folder"):
        Report(tmp_path / "file")


def test_the_table_sets_published_rows_beside_ours(
    java: None, photos: list[Photo], voice: Voice, capsys: pytest.CaptureFixture[str]
) -> None:
    result = evaluate(photos, voice, speak=voice.speak)
    results_console().print(describe_table(result))
    lines = capsys.readouterr().out.splitlines()
    first = [line.split("  ")[0].strip() for line in lines]
    heads = ["published, synthesised speech", "published, human speech", "this run", "ours"]
    assert [first.index(head) for head in heads] == sorted(first.index(head) for head in heads)
    assert first.index("SAS") < first.index("published, human speech") < first.index("SAT")
    for row in FLICKR8K:
        assert f"{row.bleu_4:.2f}" in lines[first.index(row.name)]
    assert f"{result.scores.bleu_4:.2f}" in lines[first.index("ours")]
    assert "fake" in "".join(lines)


def test_published_rows_are_marked_by_their_speech() -> None:
    speech = {row.name: row.speech for row in FLICKR8K}
    assert set(speech) == {"SAT", "SAT-FT", "E-I2S", "SAS", "PixVoxLM-Parallel", "PixVoxLM-Delay", "Im2Sp"}
    assert speech.pop("SAS") == "published, synthesised speech"
    assert set(speech.values()) == {"published, human speech"}
    assert all(row.source for row in FLICKR8K)


# --- voices

ENGINE = "import sys, shutil; open(sys.argv[3], 'a').write(sys.argv[2]); shutil.copy(sys.argv[1], sys.argv[4])"


def test_each_caption_is_spoken_once_and_kept(tmp_path: Path, voice: Voice) -> None:
    write_wav(tmp_path / "tone.wav", voice.speak("a"), RATE)
    command = f'{sys.executable} -c "{ENGINE}" {tmp_path}/tone.wav {{text}} {tmp_path}/log {{out}}'
    for _ in range(2):
        speak = find_speak(command, None, tmp_path / "cache")
        assert 0.2 < len(speak("A dog .")) / RATE < 0.5
        assert np.abs(speak("A dog .")).max() > 0.05
        speak("A cat .")
    assert (tmp_path / "log").read_text() == "A dog.A cat."


def test_an_engine_that_is_not_there_is_named_and_a_cache_must_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingToolError, match="no-such-program"):
        find_speak("no-such-program {text} {out}", None, tmp_path)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="--cache"):
        find_speak(f"{sys.executable} {{text}} {{out}}", None, tmp_path / "file")


# --- codec


def test_the_codecs_losses_are_measured_on_what_it_changed(photos: list[Photo], voice: Voice) -> None:
    pytest.importorskip("jiwer", reason="needs the evaluate extra")
    result = evaluate_codec(photos, FakeTokenizer(), FakeRecognizer(voice), voice.speak, codebooks=2)
    assert (result.wer, result.wer_resynthesised) == (0.0, pytest.approx(20.0))
    assert result.as_dict()["words_lost"] == pytest.approx(20.0)
    assert (result.codebooks, result.kbit_per_second) == (2, pytest.approx(1.0))
    assert (result.n_clips, result.n_failed) == (3, 0)


@pytest.mark.parametrize("codebooks", [0, 5, -1])
def test_more_codebooks_than_the_codec_has_are_refused(photos: list[Photo], voice: Voice, codebooks: int) -> None:
    with pytest.raises(OptionError, match="takes 1 to 4"):
        evaluate_codec(photos, FakeTokenizer(), FakeRecognizer(voice), voice.speak, codebooks)


def test_a_data_set_without_speech_has_nothing_for_the_codec(photos: list[Photo], voice: Voice) -> None:
    with pytest.raises(InputError, match="no speech to pass through the codec"):
        evaluate_codec(photos, FakeTokenizer(), FakeRecognizer(voice))


@pytest.mark.parametrize("score", [stoi_score, pesq_score])
def test_speech_scores_fall_with_noise_and_are_none_where_nothing_can_be_said(score: object) -> None:
    assert callable(score)
    pytest.importorskip("pystoi" if score is stoi_score else "pesq", reason="needs the evaluate or quality extra")
    t = np.arange(2 * RATE) / RATE
    rng = np.random.default_rng(0)
    speech = (0.1 * rng.standard_normal(len(t)) * np.sin(np.pi * 3 * t) ** 2).astype(np.float32)
    noisy = speech + 0.1 * rng.standard_normal(len(t)).astype(np.float32)
    assert score(speech, speech, RATE) > score(speech, noisy, RATE)
    assert score(np.zeros(100, np.float32), np.zeros(100, np.float32), RATE) is None


def test_a_missing_measure_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for package, score in (("pystoi", stoi_score), ("pesq", pesq_score)):
        monkeypatch.setitem(sys.modules, package, None)
        assert score(np.ones(RATE, np.float32), np.ones(RATE, np.float32), RATE) is None
