"""Task ``describer`` on pretrained parts: pixels in place of kept features, EnCodec's codes or HuBERT's units."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from PIL import ImageOps

from pixvoice.audio import read_audio
from pixvoice.contracts import Codes, Floats, SpeechTokenizer
from pixvoice.describe.build import FullDescriberConfig, full_describer
from pixvoice.errors import OptionError
from pixvoice.images import read_image
from pixvoice.retrieve.model import count_parameters
from pixvoice.speech.pretrained import load_speech_tokenizer
from pixvoice.speech.word_tokenizer import WordTokenizer
from pixvoice.training import processes
from pixvoice.training.caches import Numbers, save_arrays, stamp
from pixvoice.training.describer import DescriberRecipe, Parts, PhotoViews, SaysSpeech
from pixvoice.training.image_units import StoredUnits, made_by
from pixvoice.training.progress import follow, tell
from pixvoice.training.student import crop

if TYPE_CHECKING:
    from PIL.Image import Image

PART = 1000  # recordings whose codes are kept in one file


class PreparesPhotos(Protocol):
    """What turns photos into the pixels that an image encoder takes."""

    def prepare(self, photos: Sequence[Image]) -> torch.Tensor:
        """Photos (B of them, RGB) -> pixels (B, 3, H, W)."""


class PhotoPixels:
    """Pixels of 2 + ``crops`` views of each photo (whole, mirrored, random crops), made when they are asked for."""

    takes = "pixels"

    def __init__(self, photos: Sequence[Path], image: PreparesPhotos, crops: int) -> None:
        self.photos, self.image, self.views = photos, image, 2 + crops

    def shown(self, photos: Numbers, views: Numbers, step: int) -> Floats:
        """Pixels (B, 3, H, W) of one of the ``views`` of each of ``photos``, as the image encoder takes them."""
        shown = [self._view(int(photo), int(number)) for photo, number in zip(photos, views, strict=True)]
        pixels: Floats = self.image.prepare(shown).numpy()
        return pixels

    def _view(self, photo: int, number: int) -> Image:
        shown = crop(read_image(self.photos[photo]), number, seed=photo)
        return ImageOps.mirror(shown) if number % 2 else shown


class PhotoUnits:
    """Image units of the photos, in the views that were encoded; the describer takes them where others take pixels."""

    takes = "pixels"

    def __init__(self, stored: StoredUnits) -> None:
        self.stored, self.views = stored, stored.views

    def shown(self, photos: Numbers, views: Numbers, step: int) -> Codes:
        """Codes (B, K, P) of one of the ``views`` of each of ``photos``."""
        return self.stored.shown(photos, views)


class SpokenTokens:
    """The codes (K, T) of recordings, kept in ``cache`` by parts, so that a killed run encodes none of them twice."""

    def __init__(self, recipe: SaysSpeech, cache: Path) -> None:
        self.speech, self.model, self.cache = recipe.speech, recipe.model, cache

    @cached_property
    def tokenizer(self) -> SpeechTokenizer:
        """What the recipe names, mute if its vocoder isn't there yet.  Raises what ``load_speech_tokenizer`` raises."""
        voice = self.speech.vocoder
        speech = self.speech if voice is None or voice.exists() else replace(self.speech, vocoder=None)
        return load_speech_tokenizer(speech, self.model.num_codebooks, self.model.codebook_size)

    def of(self, recordings: Sequence[Path]) -> list[Codes]:
        """The codes of each recording.  Raises InputError for one that can't be read."""
        made_by = self._made_by(self.tokenizer)
        codes: list[Codes] = []
        for start in range(0, len(recordings), PART):
            part = recordings[start : start + PART]
            path = self.cache / f"codes-{stamp(made_by, part)}.npz"
            with processes.main_first():
                if not path.exists():
                    self._encode(part, path)
            saved = np.load(path)
            codes += np.split(saved["flat"].astype(np.int64), np.cumsum(saved["lengths"])[:-1], axis=1)
        return codes

    def _encode(self, part: Sequence[Path], path: Path) -> None:
        rate = self.tokenizer.sample_rate
        codes = [self.tokenizer.encode(read_audio(one, rate)) for one in follow(part, "speech tokens")]
        flat = np.concatenate(codes, axis=1).astype(np.int16)
        save_arrays(path, flat=flat, lengths=np.array([c.shape[1] for c in codes]))

    def _made_by(self, tokenizer: SpeechTokenizer) -> bytes:
        """Changes with the options, and with what the tokenizer makes of a second of noise."""
        noise = np.random.default_rng(0).normal(0.0, 0.1, tokenizer.sample_rate).astype(np.float32)
        options = self.speech.sample_rate, self.speech.bandwidth, self.speech.layer, self.speech.unit_pairs
        digest = hashlib.sha256(repr(options if self.speech.merged else (*options, "each frame")).encode())
        if isinstance(tokenizer, WordTokenizer):
            digest.update(tokenizer.made_by)
        digest.update(tokenizer.encode(noise).tobytes())
        return digest.digest()


def pretrained_parts(recipe: DescriberRecipe, photos: Sequence[Path], audio: Sequence[Path], cache: Path) -> Parts:
    """The tokens of ``audio``, the photos' pixels, and a describer on the recipe's checkpoints.

    Raises BundleError, MissingToolError or OptionError for parts that aren't there or don't fit the recipe.
    """
    assert recipe.decoder is not None  # why it was called
    if recipe.teacher_steps:
        raise OptionError(f"teacher_steps: {recipe.teacher_steps}, but pretrained parts have no teacher; give 0")
    tokenizer = None if recipe.image_tokenizer is None else str(recipe.image_tokenizer)
    image = recipe.image or recipe.decoder
    config = FullDescriberConfig(recipe.model, image, recipe.decoder, recipe.speech, tokenizer)
    tokens = SpokenTokens(recipe, cache)
    tokens.tokenizer  # noqa: B018  the cheapest of the parts says first what is wrong with it
    torch.manual_seed(recipe.train.seed)
    model = full_describer(config)
    trained, frozen = count_parameters(model)
    tell(f"trainable {trained:,} of {trained + frozen:,} parameters")
    views: PhotoViews = PhotoPixels(photos, model.image, recipe.crops)
    if recipe.image_units is not None and recipe.image_tokenizer is not None:
        reader: Any = model.image  # a UnitsImage, for the recipe names its tokenizer
        patches: int = reader.tokenizer.model.patches
        views = PhotoUnits(StoredUnits(photos, recipe.image_units, patches, made_by(recipe.image_tokenizer)))
    return Parts(tokens.of(audio), views, model, config)
