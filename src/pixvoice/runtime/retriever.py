"""The bundle's dual-channel model: recordings and photos into one space."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pixvoice.contracts import Audio, Floats, SearchModel
from pixvoice.ctc_search import best_text, log_softmax
from pixvoice.errors import BundleError, OptionError
from pixvoice.images import to_pixels
from pixvoice.letter_model import LetterModel
from pixvoice.runtime.bundle import IMAGE_ENCODER, RECOGNIZER, SEARCH_LETTERS, SEARCH_PHOTO, SEARCH_SPEECH, Bundle
from pixvoice.runtime.recognizer import SHORTEST_S, spell
from pixvoice.runtime.sessions import OnnxImageEncoder
from pixvoice.speeds import at_speed, check_speeds, merge
from pixvoice.words import table

if TYPE_CHECKING:
    from PIL.Image import Image

PHOTOS = 8  # embedded at once


class OnnxSearchModel(SearchModel):
    """Search on ONNX Runtime.  Raises BundleError for a bundle without search, or a damaged one."""

    def __init__(self, bundle: Bundle) -> None:
        info = bundle.info
        if info.search is None or info.recognizer is None:
            hint = "choose another bundle, or export one with a retriever: pixvoice export"
            raise BundleError(f"{bundle.folder}: this bundle has no weights for search; {hint}")
        try:
            check_speeds(info.search.speeds)
        except OptionError as error:
            raise BundleError(f"{bundle.folder}: {error}; export the bundle again with: pixvoice export") from None
        self.bundle, self.sizes, self._letters = bundle, info.search, info.recognizer.letters
        self._rate = info.recognizer.sample_rate
        self._spelling: LetterModel | None = None
        if self.sizes.reads and SEARCH_LETTERS in info.files:
            source = bundle.folder / SEARCH_LETTERS
            self._spelling = LetterModel.load(bundle.read(SEARCH_LETTERS), self._letters, source)
        frames = {"hidden": (None, None, self.sizes.frame_dim)}
        hearing = {"audio": (None, None), "logits": (None, None, len(self._letters) + 1), **frames}
        speech: dict[str, tuple[int | None, ...]] = {"embedding": (None, self.sizes.embed_dim)}
        speech |= {**frames, "mask": (None, None)} if self.sizes.hears else {}
        speech |= {"ngrams": (None, None)} if self.sizes.reads else {}
        photo = {"features": (None, info.image.patches, info.image.embed_dim), "embedding": speech["embedding"]}
        with ThreadPoolExecutor(bundle.threads) as pool:  # ONNX Runtime makes sessions outside Python's lock
            recognizer = pool.submit(bundle.session, RECOGNIZER, hearing)
            encoder = pool.submit(OnnxImageEncoder, bundle)
            photos, spoken = (
                pool.submit(bundle.session, file, shapes)
                for file, shapes in ((SEARCH_PHOTO, photo), (SEARCH_SPEECH, speech))
            )
        self._recognizer, self._encoder = recognizer.result(), encoder.result()
        self._photos, self._speech = photos.result(), spoken.result()

    @property
    def name(self) -> str:
        """The bundle's name."""
        return self.bundle.info.name

    @property
    def fingerprint(self) -> str:
        """12 hexadecimal digits that change with any of the files that embeddings come from."""
        files = (IMAGE_ENCODER, RECOGNIZER, SEARCH_PHOTO, SEARCH_SPEECH, SEARCH_LETTERS)
        return hashlib.sha256("".join(self.bundle.info.files.get(f, "") for f in files).encode()).hexdigest()[:12]

    @property
    def embed_dim(self) -> int:
        """D."""
        return self.sizes.embed_dim

    @property
    def sample_rate(self) -> int:
        """Audio samples a second (Hz)."""
        return self._rate

    def embed_photos(self, photos: Sequence[Image]) -> Floats:
        """Photos (B of them, RGB, any size) -> embeddings (B, D)."""
        found = [np.zeros((0, self.embed_dim), np.float32)]
        for start in range(0, len(photos), PHOTOS):
            some = photos[start : start + PHOTOS]
            pixels = np.stack([to_pixels(photo, self._encoder.image_size) for photo in some])
            found += self._photos.run(("embedding",), {"features": self._encoder.encode(pixels)})
        return np.concatenate(found)

    def embed_speech(self, audio: Sequence[Audio]) -> tuple[Floats, list[str]]:
        """Audio clips (B of them, each (L,), any length) -> embeddings (B, D) and what the recognizer read in each.

        Each is heard by itself.  The texts are empty for variant ``e2e``.
        """
        pairs = [self._one(clip) for clip in audio]
        rows = [embedding for embedding, _ in pairs]
        return np.stack(rows) if rows else np.zeros((0, self.embed_dim), np.float32), [text for _, text in pairs]

    def embed_with_texts(self, audio: Sequence[Audio], texts: Sequence[str]) -> Floats:
        """As ``embed_speech``, reading ``texts`` (B) in place of transcripts: what a perfect recognizer would give.

        Raises OptionError for a variant that reads none.
        """
        if not self.sizes.reads:
            raise OptionError(f"{self.name} reads no transcripts (variant e2e); give a bundle of another variant")
        return np.stack([self._one(clip, text)[0] for clip, text in zip(audio, texts, strict=True)])

    def _one(self, clip: Audio, given: str | None = None) -> tuple[Floats, str]:
        """A clip (L,) heard at every speed -> its embedding (D,) and the likeliest text."""
        heard = [self._hear(at_speed(np.asarray(clip, np.float32), speed), given) for speed in self.sizes.speeds]
        rows, texts, scores = zip(*heard, strict=True)
        return merge(np.stack(rows), scores), texts[int(np.argmax(scores))]

    def _hear(self, clip: Audio, given: str | None) -> tuple[Floats, str, float]:
        """A clip (L,) -> its embedding (D,), what was read in it, and the score of that."""
        missing = max(0, int(SHORTEST_S * self._rate) - len(clip))
        padded = np.pad(clip, (0, missing))
        logits, hidden = self._recognizer.run(("logits", "hidden"), {"audio": padded[None]})
        text, score = given or "", 0.0
        if self.sizes.reads and given is None:
            text, score = self._read(logits[0])
        inputs: dict[str, Any] = {}
        if self.sizes.hears:
            inputs["hidden"], inputs["mask"] = self._windows(hidden[0])
        if self.sizes.reads:
            inputs["ngrams"] = table([text], self.sizes.buckets)[0][0]
        embedding: Floats = self._speech.run(("embedding",), inputs)[0][0]
        return embedding, text, score

    def _read(self, logits: Floats) -> tuple[str, float]:
        """The recognizer's logits (T, letters + blank) -> text and its score, 0 where no letter model weighs it."""
        if self._spelling is None:
            return spell(logits.argmax(axis=-1).tolist(), self._letters), 0.0
        return best_text(log_softmax(logits), self._spelling)

    def _windows(self, hidden: Floats) -> tuple[Floats, Any]:
        """Hidden frames (T, D) -> windows (N, W, D) and mask (N, W)."""
        several = len(hidden) > self.sizes.window
        width = self.sizes.window if several else len(hidden) + -len(hidden) % self.sizes.stack
        missing = -len(hidden) % width
        mask = np.pad(np.ones(len(hidden), bool), (0, missing)).reshape(-1, width)
        return np.pad(hidden, ((0, missing), (0, 0))).reshape(-1, width, hidden.shape[1]), mask


def load_search_model(bundle: str | Path | None = None, threads: int | None = None) -> OnnxSearchModel:
    """The search model of the bundle in folder ``bundle``; without, of the one that ships.  Raises BundleError."""
    return OnnxSearchModel(Bundle.load(bundle, threads))
