"""Results as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table

from pixvoice.evaluation.captions import METRICS, CaptionScores
from pixvoice.evaluation.codec import CodecResult
from pixvoice.evaluation.complete import CompleteResult
from pixvoice.evaluation.describe import DescribeResult
from pixvoice.evaluation.published import COMPLETION, FLICKR8K, HUMAN, SEARCH, SYNTHESISED, PublishedRow
from pixvoice.evaluation.round_trip import TextFreeScores
from pixvoice.evaluation.search import SearchResult
from pixvoice.evaluation.storage import StorageResult

MIN_WIDTH = 112  # characters; a pipe has no width of its own
HEADS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr", "WER %", "s/photo", "RTF")


def results_console() -> Console:
    """Stdout, never so narrow that a number would be cut."""
    return Console(width=max(Console().width, MIN_WIDTH))


def describe_table(result: DescribeResult) -> Table:
    """Our rows under the published ones; what isn't known is a dash."""
    table = _table("system", *HEADS)
    for speech in (SYNTHESISED, HUMAN):
        table.add_row(f"[italic]{speech}")
        for row in FLICKR8K:
            if row.speech == speech:
                table.add_row(row.name, *_numbers(row), "-", "-", "-")
        table.add_section()
    table.add_row("[italic]this run")
    ours = _number(result.speech_seconds_per_photo, 1), _number(result.real_time_factor, 3)
    table.add_row("ours", *_numbers(result.scores), "-", *ours)
    ceiling = "ground truth, its five", result.ceiling, result.wer
    others = "ground truth, the other four", result.ceiling_leave_one_out, None
    for name, scores, wer in (ceiling, others, ("ground truth after codec", None, result.wer_resynthesised)):
        table.add_row(name, *_numbers(scores), _number(wer, 1), "-", "-")
    table.caption = (
        f"{result.n_photos} photos, {result.n_failed} failed, recognizer {escape(result.recognizer)}."
        " Published rows are of the official test split and other recognizers."
    )
    return table


def describe_tables(result: DescribeResult) -> RenderableType:
    """``describe_table``, and ``text_free_table`` where there are such scores."""
    if result.text_free is None:
        return describe_table(result)
    return Group(describe_table(result), text_free_table(result.text_free))


def text_free_table(scores: TextFreeScores) -> Table:
    """Scores without a written word: the descriptions, and the spoken captions as their ceiling."""
    table = _table("without text", "R@1", "R@5", "R@10", "med", *(f"unit {head}" for head in HEADS[:4]))
    rows = {
        "ours": (scores.round_trip, scores.unit_bleu),
        "ground truth": (scores.round_trip_ceiling, scores.unit_bleu_ceiling),
    }
    for name, (trip, units) in rows.items():
        found = ["-"] * 4 if trip is None else [_number(value, 1) for value in vars(trip).values()]
        said = ["-"] * 4 if units is None else [_number(value, 2) for value in vars(units).values()]
        table.add_row(name, *found, *said)
    table.caption = (
        f"The photo found again by its description, among {scores.n_photos}, by {escape(scores.judge)}; units of the"
        " description among those of the spoken captions (the ground truth's: one among the others)."
    )
    return table


def complete_table(results: Sequence[CompleteResult]) -> Table:
    """A section a way of scoring, at least one result; the published rows above those of their way."""
    table = _table("system, percent given", *HEADS[: len(METRICS)], "s given", "s more")
    table.add_row("[italic]whole utterance, all captions (as published)")
    for percent in sorted({result.percent for result in results}):
        for row in COMPLETION.get(percent, ()):
            table.add_row(f"{row.name}, {percent} %, published", *_numbers(row), "-", "-")
    ordered = sorted(results, key=lambda result: result.percent)
    for result in ordered:
        table.add_row(_given(result), *_numbers(result.whole), *_seconds(result))
    table.add_row("  ground truth", *_numbers(ordered[0].ceiling), "-", "-")
    table.add_section()
    table.add_row("[italic]generated alone, the rest of the caption")
    for result in ordered:
        table.add_row(_given(result), *_numbers(result.generated), *_seconds(result))
        if result.unprompted is not None:
            table.add_row("  without a beginning", *_numbers(result.unprompted), "-", "-")
        table.add_row("  ground truth", *_numbers(result.ceiling_generated), "-", "-")
    table.add_section()
    table.add_row("[italic]generated alone, all captions")
    for result in ordered:
        table.add_row(_given(result), *_numbers(result.generated_all), *_seconds(result))
    table.caption = (
        f"{results[0].n_photos} photos, {max(result.n_failed for result in results)} failed, recognizer"
        f" {escape(results[0].recognizer)}. Published rows are of human speech, the official test split and another"
        " recognizer."
    )
    return table


def _given(result: CompleteResult) -> str:
    return escape(f"{result.name}, {result.percent} %")


def _seconds(result: CompleteResult) -> tuple[str, str]:
    return _number(result.given_seconds, 1), _number(result.generated_seconds, 1)


def published_sources() -> str:
    """Where the published rows come from, one line each."""
    return "\n".join(f"{row.name}: {row.source}" for row in FLICKR8K)


def search_table(results: Sequence[SearchResult]) -> Table:
    """A row a setting, at least one, under the published ones; what isn't known is a dash."""
    heads = [head for way in ("S>I", "I>S") for head in (f"{way} R@1", "R@5", "R@10", "med")]
    table = _table("system", *heads, "WER %")
    for heading, rows in SEARCH.items():
        table.add_row(f"[italic]{heading}")
        for row in rows:
            there, back = (
                [_number(value, 1) for value in values] for values in (row.speech_to_image, row.image_to_speech)
            )
            table.add_row(row.name, *there, "-", *back, "-", "-")
        table.add_section()
    table.add_row("[italic]this run")
    for result in results:
        ways = (result.speech_to_image, result.image_to_speech)
        scores = [_number(value, 1) for way in ways for value in vars(way).values()]
        table.add_row(escape(_setting(result)), *scores, _number(result.wer, 1))
    first, failed = results[0], max(result.n_failed for result in results)
    table.caption = (
        f"S>I: speech to image, I>S: image to speech, med: median rank. {first.n_photos} photos, {first.n_queries}"
        f" recordings a row, {failed} failed. Published rows are of the official test splits (1,000 and 5,000 photos)."
    )
    return table


def _setting(result: SearchResult) -> str:
    noise = "clean" if result.noise_db is None else f"{result.noise_db:g} dB"
    texts = ", true texts" if result.transcripts == "truth" else ""
    return f"{result.model}, {result.voice}, {noise}{texts}"


def codec_table(result: CodecResult) -> Table:
    """Original and resynthesised speech, one row each."""
    table = _table("speech", "WER %", "STOI", "PESQ", "kbit/s")
    table.add_row("original", _number(result.wer, 1), "1.000", "4.64", "256.0")
    coded = _number(result.stoi, 3), _number(result.pesq, 2), _number(result.kbit_per_second, 2)
    table.add_row(f"after the codec, {result.codebooks} codebooks", _number(result.wer_resynthesised, 1), *coded)
    table.caption = f"{result.n_clips} clips, {result.n_failed} failed, recognizer {escape(result.recognizer)}"
    return table


def storage_table(result: StorageResult) -> Table:
    """A row a way of keeping a photo or a recording."""
    table = _table("kept as", "bits", "% of the file", "% of raw", "bit/s")
    for kind, count in (("photo", result.n_photos), ("speech", result.n_recordings)):
        table.add_row(f"[italic]{kind}, mean of {count}")
        for row in result.rows:
            if row.kind == kind:
                bits = f"{row.bits:,.0f}"
                table.add_row(
                    escape(row.name), bits, *map(_share, (row.of_file, row.of_raw)), _number(row.bits_per_second, 0)
                )
        table.add_section()
    table.caption = f"Raw: pixels at 224 x 224, samples of 16 bit at 16 kHz. {result.n_failed} files failed."
    return table


def _share(percent: float) -> str:
    return f"{percent:.3f}" if percent < 10 else f"{percent:.1f}"


def _table(first: str, *heads: str) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold")
    for head in heads:  # a long name is folded before a number is cut
        table.add_column(head, justify="right", no_wrap=True, min_width=len(head))
    return table


def _numbers(scores: CaptionScores | PublishedRow | None) -> Iterable[str]:
    return [_number(getattr(scores, metric, None), 2) for metric in METRICS]


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
