"""A folder to look and listen through: each photo with its description, its ground truth and the scores above them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from html import escape
from pathlib import Path

from pixvoice.audio import write_wav
from pixvoice.errors import OutputError
from pixvoice.evaluation.captions import METRICS
from pixvoice.evaluation.describe import DescribeResult, Heard
from pixvoice.evaluation.round_trip import BLEU, TextFreeScores
from pixvoice.files import write_bytes_atomically

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>PixVoice evaluation</title>
<style>
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 1rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; }} th, td {{ padding: .2rem .8rem .2rem 0; text-align: left; }}
article {{ display: grid; grid-template-columns: 14rem 1fr; gap: 1rem; margin: 2rem 0; }} img {{ width: 100%; }}
</style>
</head>
<body>
<main>
<h1>PixVoice evaluation</h1>
<p>{summary}</p>
<table>
<thead><tr><th scope="col">speech</th>{heads}</tr></thead>
<tbody>{rows}</tbody>
</table>
{text_free}{cards}
</main>
</body>
</html>
"""

_CARD = """<article>
<img src="photos/{photo}" alt="{heard}" loading="lazy">
<div>
<h2>Photo {number}</h2>
<audio controls preload="none" src="speech/{speech}" aria-label="Description of photo {number}"></audio>
<p>Heard by the recognizer: <q>{heard}</q></p>
{truth}<ul>{captions}</ul>
</div>
</article>"""


_TEXT_FREE = """<h2>Without a written word</h2>
<p>{summary}</p>
<table>
<thead><tr><th scope="col">speech</th>{heads}</tr></thead>
<tbody>{rows}</tbody>
</table>
"""


class Report:
    """Written as the evaluation goes; the page comes last, when everything that it shows is there.

    Raises OutputError when the folder can't be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cards: list[str] = []
        try:
            for name in ("photos", "speech"):
                (folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error

    def add(self, row: int, heard: Heard) -> None:
        """Copy photo number ``row`` and write what was said of it."""
        photo, speech = f"{row + 1:05d}{heard.photo.image.suffix.lower()}", f"{row + 1:05d}.wav"
        try:
            shutil.copyfile(heard.photo.image, self._folder / "photos" / photo)
        except OSError as error:
            raise self._unwritable(error) from error
        write_wav(self._folder / "speech" / speech, heard.audio, heard.sample_rate)
        truth = "" if heard.truth is None else f"<p>Heard of the ground truth: <q>{escape(heard.truth)}</q></p>\n"
        captions = "".join(f"<li>{escape(caption)}</li>" for caption in heard.photo.captions)
        self._cards.append(
            _CARD.format(
                photo=escape(photo),
                speech=speech,
                number=row + 1,
                heard=escape(heard.text),
                truth=truth,
                captions=captions,
            )
        )

    def finish(self, result: DescribeResult) -> Path:
        """Write ``index.html`` and return its path."""
        rows = {"description": result.scores, "ground truth": result.ceiling}
        cells = {
            name: "".join(f"<td>{getattr(scores, metric):.2f}</td>" for metric in METRICS)
            for name, scores in rows.items()
            if scores is not None
        }
        page = _PAGE.format(
            summary=escape(f"{result.n_photos} photos, {result.n_failed} failed, recognizer {result.recognizer}"),
            heads="".join(f'<th scope="col">{metric}</th>' for metric in METRICS),
            rows=_rows(cells),
            text_free="" if result.text_free is None else _text_free(result.text_free),
            cards="\n".join(self._cards),
        )
        path = self._folder / "index.html"
        write_bytes_atomically(path, page.encode())
        return path

    def _unwritable(self, error: OSError) -> OutputError:
        return OutputError(
            f"{self._folder}: the report can't be written ({error.strerror}); give another --report folder"
        )


def _rows(cells: Mapping[str, str]) -> str:
    return "".join(f'<tr><th scope="row">{name}</th>{scores}</tr>' for name, scores in cells.items())


def _text_free(scores: TextFreeScores) -> str:
    """The table of the scores without text."""
    recall = ("r_at_1", "r_at_5", "r_at_10", "median_rank")
    rows = {
        "description": (scores.round_trip, scores.unit_bleu),
        "ground truth": (scores.round_trip_ceiling, scores.unit_bleu_ceiling),
    }
    cells = {
        name: "".join(
            "<td>-</td>" if of is None else f"<td>{getattr(of, score):.2f}</td>"
            for of, names in ((trip, recall), (units, BLEU))
            for score in names
        )
        for name, (trip, units) in rows.items()
    }
    return _TEXT_FREE.format(
        summary=escape(f"Each of {scores.n_photos} photos searched with its description by {scores.judge}"),
        heads="".join(f'<th scope="col">{name}</th>' for name in (*recall, *(f"unit_{name}" for name in BLEU))),
        rows=_rows(cells),
    )
