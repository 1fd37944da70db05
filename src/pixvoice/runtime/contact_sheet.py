"""What a search found, as one HTML file to look and listen through: everything is inside, nothing comes from a host."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from pixvoice.audio import read_audio, wav_bytes
from pixvoice.contracts import Audio
from pixvoice.errors import InputError, MissingToolError
from pixvoice.images import PhotoSource, read_image
from pixvoice.runtime.searcher import Match, Query

THUMBNAIL = 320  # pixels of the longer side
SAMPLE_RATE = 16_000  # Hz of a recording that was found

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; media-src data:; \
style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 80rem; margin: 1rem auto; padding: 0 1rem; }}
ol {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1.5rem; padding: 0; }}
li {{ list-style: none; overflow-wrap: anywhere; }}
img {{ max-width: 100%; max-height: 15rem; }} audio {{ width: 100%; }}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
{query}
<ol>
{cards}
</ol>
</main>
</body>
</html>
"""


def contact_sheet(matches: Sequence[Match], query: Query, sample_rate: int, title: str = "PixVoice search") -> str:
    """Matches, best first -> an HTML page, with the query above them.

    A spoken query, whose audio is at ``sample_rate`` Hz, can be played; a photo is shown.  A file that is gone or
    can't be read keeps its place, with a note.
    """
    asked = []
    if query.audio is not None:
        asked.append(_player(query.audio, sample_rate, "The spoken query"))
        asked.append(f"<p>Read in it by a machine: {f'<q>{escape(query.text)}</q>' if query.text else 'no words'}</p>")
    if query.photo is not None:
        asked.append(_picture(query.photo, "The photo that was searched with"))
    cards = "\n".join(_card(match, rank, len(matches)) for rank, match in enumerate(matches, 1))
    return _PAGE.format(title=escape(title), query="\n".join(asked), cards=cards)


def _card(match: Match, rank: int, n_matches: int) -> str:
    name = match.path.name.encode(errors="replace").decode()
    what = f"Match {rank} of {n_matches}: {name}"
    try:
        if match.missing:
            shown = "<p>The file is no longer there.</p>"
        elif match.kind == "photos":
            shown = _picture(match.path, what)
        else:
            shown = _player(read_audio(match.path, SAMPLE_RATE), SAMPLE_RATE, what)
    except (InputError, MissingToolError):
        shown = "<p>The file can't be read any more.</p>"
    text = f"<p>Read in it by a machine: <q>{escape(match.text)}</q></p>" if match.text else ""
    return f"<li>\n<h2>{rank}. {escape(name)}</h2>\n{shown}\n{text}<p>similarity {match.score:.3f}</p>\n</li>"


def thumbnail(photo: PhotoSource) -> tuple[bytes, tuple[int, int]]:
    """A photo -> a JPEG of ``THUMBNAIL`` pixels at most, and its width and height.  Raises as ``read_image``."""
    image = read_image(photo, at_least=THUMBNAIL).copy()
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue(), image.size


def _picture(photo: PhotoSource, alt: str) -> str:
    jpeg, (width, height) = thumbnail(photo)
    data = base64.b64encode(jpeg).decode()
    return f'<img src="data:image/jpeg;base64,{data}" alt="{escape(alt)}" width="{width}" height="{height}">'


def _player(audio: Audio, sample_rate: int, label: str) -> str:
    data = base64.b64encode(wav_bytes(audio, sample_rate)).decode()
    return f'<audio controls src="data:audio/wav;base64,{data}" aria-label="{escape(label)}"></audio>'
