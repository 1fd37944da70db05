"""Spoken search scored on a data set: photos embedded once, then the queries of every voice and every noise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import numpy as np

from pixvoice.contracts import Audio, Floats, SearchModel
from pixvoice.errors import InputError, MissingToolError, OptionError, OutputError, PixVoiceError
from pixvoice.evaluation.queries import Query, Setting, hear
from pixvoice.evaluation.retrieval import Ranked, RecallScores, photo_to_speech_ranks, speech_to_photo_ranks
from pixvoice.evaluation.wer import normalize_words, word_error_rate
from pixvoice.images import read_image
from pixvoice.runtime.indexing import PHOTO_SIDE

T = TypeVar("T")
Track = Callable[[Sequence[Any], str], Iterable[Any]]
"""Batches and what is done to them -> the same batches, showing progress as they are taken."""

WAYS = ("speech_to_image", "image_to_speech")
BATCH = 8


@dataclass(frozen=True)
class SearchResult:
    """Recall of one model in one setting; ``wer`` in percent, None where nothing was read or nothing is written."""

    model: str
    voice: str
    noise_db: float | None
    transcripts: str
    speech_to_image: RecallScores
    image_to_speech: RecallScores
    wer: float | None
    n_photos: int
    n_queries: int
    n_failed: int
    ranked: Mapping[str, Ranked]  # of each way

    def as_dict(self) -> dict[str, Any]:
        """One JSON object: the scores, not the ranks."""
        values = {**vars(self), "wer": None if self.wer is None else round(self.wer, 2)}
        del values["ranked"]
        return values | {way: values[way].as_dict() for way in WAYS}


class ReadsTexts(Protocol):
    """A model that can be given the words that its recognizer would have to find."""

    def embed_with_texts(self, audio: Sequence[Audio], texts: Sequence[str]) -> Floats: ...


class SearchEvaluation:
    """A model and the photos that it searches, embedded once.

    ``on_failure`` is told once of each photo or recording that can't be used; the rest is scored.  With ``truth``, the
    model is given the texts in place of what it reads (``ReadsTexts``); queries without a text are left out.

    Raises OptionError where it can't be given any, InputError when not one photo can be read.
    """

    def __init__(
        self,
        model: SearchModel,
        photos: Sequence[Path],
        on_failure: Callable[[PixVoiceError], None] = lambda error: None,
        track: Track = lambda batches, what: batches,
        truth: bool = False,
    ) -> None:
        self.model, self._on_failure, self._track = model, on_failure, track
        self._told: set[str] = set()
        self._truth = truth
        if truth and not hasattr(model, "embed_with_texts"):
            raise OptionError(f"{model.name} can't be given texts; leave --transcripts truth away")
        found = self._embed("photos", list(enumerate(photos)), self._photos)
        if not found:
            raise InputError("not one photo could be read: run `pixvoice manifest check` on the manifest")
        self._place = {number: place for place, number in enumerate(found)}
        self._embeddings = np.stack(list(found.values()))
        self._unread = len(photos) - len(found)

    def run(self, queries: Sequence[Query], setting: Setting) -> SearchResult:
        """Hear every query in this setting, and score.  Raises InputError when not one could be used."""
        asked = [
            (seed, query)
            for seed, query in enumerate(queries)
            if query.photo in self._place and (query.text or not self._truth)
        ]
        read: dict[int, str] = {}
        with ThreadPoolExecutor() as pool:
            found = self._embed("queries", asked, lambda batch: self._queries(batch, setting, pool, read))
        if not found:
            raise InputError("not one recording could be used: run `pixvoice manifest check` on the manifest")
        heard = [queries[seed] for seed in found]
        speech, owner = np.stack(list(found.values())), np.array([self._place[query.photo] for query in heard])
        ranked = {
            "speech_to_image": Ranked(speech_to_photo_ranks(speech, self._embeddings, owner), owner),
            "image_to_speech": Ranked(photo_to_speech_ranks(speech, self._embeddings, owner), np.unique(owner)),
        }
        return SearchResult(
            model=self.model.name,
            voice=setting.voice,
            noise_db=setting.noise_db,
            transcripts="truth" if self._truth else "recognizer",
            speech_to_image=RecallScores.of(ranked["speech_to_image"].ranks),
            image_to_speech=RecallScores.of(ranked["image_to_speech"].ranks),
            wer=self._wer([(read[seed], queries[seed].text) for seed in found]),
            n_photos=len(self._embeddings),
            n_queries=len(found),
            n_failed=self._unread + len(asked) - len(found),
            ranked=ranked,
        )

    def _embed(
        self, what: str, items: list[tuple[int, T]], embed: Callable[[list[tuple[int, T]]], dict[int, Floats]]
    ) -> dict[int, Floats]:
        """Number -> embedding (D,) of what could be used, batch by batch."""
        found: dict[int, Floats] = {}
        batches = [items[start : start + BATCH] for start in range(0, len(items), BATCH)]
        for batch in self._track(batches, what):
            found |= embed(batch)
        return found

    def _photos(self, batch: list[tuple[int, Path]]) -> dict[int, Floats]:
        read = {number: self._usable(partial(read_image, path, at_least=PHOTO_SIDE)) for number, path in batch}
        there = {number: image for number, image in read.items() if image is not None}
        return dict(zip(there, self.model.embed_photos(list(there.values())), strict=True)) if there else {}

    def _queries(
        self, batch: list[tuple[int, Query]], setting: Setting, pool: Executor, read: dict[int, str]
    ) -> dict[int, Floats]:
        """Embeddings of a batch; what the model read in each goes to ``read``."""
        waiting = [pool.submit(hear, query, seed, setting, self.model.sample_rate) for seed, query in batch]
        heard = [self._usable(future.result) for future in waiting]
        there = [(*asked, audio) for asked, audio in zip(batch, heard, strict=True) if audio is not None]
        if not there:
            return {}
        embeddings, texts = self._embed_speech(
            [audio for *_, audio in there], [query.text or "" for _, query, _ in there]
        )
        seeds = [seed for seed, *_ in there]
        read.update(zip(seeds, texts, strict=True))
        return dict(zip(seeds, embeddings, strict=True))

    def _embed_speech(self, audio: list[Audio], said: list[str]) -> tuple[Floats, list[str]]:
        if not self._truth:
            return self.model.embed_speech(audio)
        texts = [normalize_words(text) for text in said]
        return cast(ReadsTexts, self.model).embed_with_texts(audio, texts), texts

    def _usable(self, get: Callable[[], T]) -> T | None:
        """What ``get`` gives; None, and one line, where it is a file that can't be used."""
        try:
            return get()
        except (InputError, OutputError) as error:
            self._tell(error)
            return None

    def _wer(self, read: list[tuple[str, str | None]]) -> float | None:
        pairs = [(text, said) for text, said in read if said is not None]
        if self._truth or not pairs or not any(text for text, _ in read):
            return None
        try:
            return word_error_rate([text for text, _ in pairs], [said for _, said in pairs])
        except (InputError, MissingToolError) as error:  # no word in any text; or no jiwer: recall needs none
            self._tell(error)
            return None

    def _tell(self, error: PixVoiceError) -> None:
        if str(error) not in self._told:
            self._told.add(str(error))
            self._on_failure(error)
