"""A spoken query in, ranked photos out; a photo in, photos like it or recordings about it out."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from PIL.Image import Image

from pixvoice.audio import AudioSource, read_audio
from pixvoice.contracts import Audio, Floats, SearchModel
from pixvoice.errors import InputError, OptionError
from pixvoice.images import PhotoSource, read_image
from pixvoice.runtime.index import KINDS, Kind, PhotoIndex, index_place, is_url
from pixvoice.runtime.indexing import PHOTO_SIDE, Embed, IndexReport, Listener, embed_here, update

MAX_TOP = 1_000
SILENCE = 1e-4  # peak of a recording with nothing in it; 16-bit dither lies below


@dataclass(frozen=True)
class Match:
    """A photo or recording that was found; ``score`` is its cosine similarity to the query, 1 at most.

    ``text`` is what a machine read in a recording, empty for photos.  ``missing``: the file is in the index, but no
    longer (or not on this machine) at its path.
    """

    path: Path
    score: float
    kind: Kind = "photos"
    text: str = ""
    missing: bool = False


@dataclass(frozen=True)
class Query:
    """What is searched for: an embedding (D,), and what it was made from.

    That is audio (L,) at the model's ``sample_rate`` with the ``text`` that a machine read in it, or a photo and its
    ``path`` if it has one.
    """

    vector: Floats
    audio: Audio | None = None
    text: str = ""
    photo: Image | None = None
    path: Path | None = None


class Searcher:
    """Finds photos by speech.

    ``folder`` is a folder of photos, whose index lies inside of it, or an index itself, or its URL; ``index`` says
    where the index of ``folder`` lies when it is elsewhere.
    """

    def __init__(self, model: SearchModel, folder: str | Path = ".", index: str | Path | None = None) -> None:
        self.model = model
        self.folder = folder
        self.store = PhotoIndex(index_place(folder) if index is None else index, model)

    def search(self, query: AudioSource | Audio | Query, top: int = 10, kind: Kind = "photos") -> list[Match]:
        """The ``top`` photos (or ``kind="recordings"``) nearest to a spoken query, best first.

        ``query`` is a path, the bytes of a file, an open file, audio (L,) at the model's ``sample_rate``, or what
        ``hear`` or ``look`` returned.

        Raises:
            InputError: the recording can't be read or is silent; there is no index, or it can't be used.
            OptionError: ``top`` or ``kind`` isn't allowed.
        """
        if not 1 <= top <= MAX_TOP:
            raise OptionError(f"top {top}: give 1 to {MAX_TOP}")
        if kind not in KINDS:
            raise OptionError(f"kind {kind!r}: use one of {', '.join(KINDS)}")
        if not isinstance(query, Query):
            query = self.hear(query)
        hits = self.store.nearest(kind, query.vector, top + (query.path is not None))
        if not hits:
            self._say_why(kind)
        found = [Match(hit.path, hit.score, kind, hit.text, not hit.path.is_file()) for hit in hits]
        return [match for match in found if match.path != query.path][:top]

    def search_photo(self, photo: PhotoSource, top: int = 10, kind: Kind = "photos") -> list[Match]:
        """The ``top`` photos most like a photo, itself left out, or the recordings about it.  Raises as ``search``."""
        return self.search(self.look(photo), top, kind)

    def hear(self, audio: AudioSource | Audio) -> Query:
        """A spoken query, ready to search with.  Raises InputError if it can't be read or is silent."""
        name = str(audio) if isinstance(audio, str | Path) else "the recording"
        samples = _checked(audio) if isinstance(audio, np.ndarray) else read_audio(audio, self.model.sample_rate)
        if float(np.abs(samples).max()) < SILENCE:
            raise InputError(f"{name}: nothing but silence; say what to look for (is the microphone switched on?)")
        vectors, texts = self.model.embed_speech([samples])
        return Query(vectors[0], samples, texts[0])

    def look(self, photo: PhotoSource) -> Query:
        """A photo, ready to search with.  Raises InputError if it can't be read."""
        image = read_image(photo, at_least=PHOTO_SIDE)
        path = Path(photo) if isinstance(photo, str | Path) else None
        where = None if path is None else Path(os.path.realpath(path.parent)) / path.name
        return Query(self.model.embed_photos([image])[0], photo=image, path=where)

    def index(
        self,
        folder: str | Path | None = None,
        recordings: bool = False,
        rebuild: bool = False,
        embed: Embed | None = None,
        listener: Listener | None = None,
    ) -> IndexReport:
        """Bring the index up to date with ``folder`` (without, the searcher's own): new, changed and deleted files.

        ``embed`` does the embedding elsewhere (``pixvoice.cluster``); ``listener`` is told how it goes on.

        Raises:
            InputError: there is no photo in the folder, or the index is another model's; ``rebuild`` begins it anew.
            OutputError: the index can't be written, or another process is writing it.
        """
        kinds: tuple[Kind, ...] = KINDS if recordings else ("photos",)
        embed = embed or embed_here(self.model)
        return update(self.store, self.folder if folder is None else folder, embed, kinds, rebuild, listener)

    def _say_why(self, kind: Kind) -> NoReturn:
        if not self.store.exists():
            target = "FOLDER -o " + self.store.place if is_url(self.store.place) else str(self.folder)
            raise InputError(f"{self.folder}: there is no index here; make one with: pixvoice index {target}")
        more = " --recordings" if kind == "recordings" else ""
        raise InputError(f"{self.store.place}: no {kind} in this index; type: pixvoice index FOLDER{more}")


def load_searcher(
    folder: str | Path = ".",
    index: str | Path | None = None,
    bundle: str | Path | None = None,
    threads: int | None = None,
) -> Searcher:
    """A ``Searcher`` with the search model of a bundle (without, the one that ships).  Raises BundleError."""
    from pixvoice.runtime.retriever import load_search_model

    return Searcher(load_search_model(bundle, threads), folder, index)


def _checked(audio: np.ndarray[Any, Any]) -> Audio:
    if audio.ndim != 1 or not audio.size or audio.dtype.kind != "f" or not np.isfinite(audio).all():
        raise InputError(f"an array of {audio.dtype} {audio.shape}: give audio (L,) as finite float32 in [-1, 1]")
    return audio.astype(np.float32, copy=False)
