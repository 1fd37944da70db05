"""Task ``cascade``: photos in, written captions out, which a TTS engine reads aloud.  The row that is given text."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from pixvoice.describe.cascade import CascadeConfig
from pixvoice.describe.model import PixVoxConfig, PixVoxLM
from pixvoice.errors import InputError, MissingToolError
from pixvoice.speech.written import VOCABULARY, Vocabulary, find_voice, has_words
from pixvoice.training import processes
from pixvoice.training.caches import photo_numbers, photos_of
from pixvoice.training.describer import CaptionBatches, PhotoFeatures, kept_captions, train_on
from pixvoice.training.options import TrainOptions
from pixvoice.training.progress import tell
from pixvoice.training.trainer import save_model


@dataclass(frozen=True)
class CascadeRecipe:
    """What ``task: cascade`` takes: manifests with photos and texts, and a trained image student.

    Texts become at most ``model.codebook_size`` byte pairs, of those seen ``min_count`` times.  Texts of more than
    ``max_frames`` pieces are left out.  ``engine`` is a TTS engine's name or a command, None the first that is
    installed, ``voice`` one of its voices, None its own choice; only speaking needs them.

    The first ``teacher_steps`` steps see the teacher's features, which the student's training left in its ``views``
    folder, in place of the student's.
    """

    manifests: tuple[Path, ...]
    train: TrainOptions
    student: Path
    model: PixVoxConfig = field(
        default_factory=lambda: PixVoxConfig(num_codebooks=1, codebook_size=2000, pattern="parallel")
    )
    split: str = "train"
    crops: int = 2
    max_frames: int = 64
    min_count: int = 4
    engine: str | None = "flite"
    voice: str | None = "rms"
    teacher_views: Path | None = None
    teacher_steps: int = 0
    cache: Path | None = None


def run(recipe: CascadeRecipe, output: Path) -> list[dict[str, float]]:
    """Train the captioner of ``recipe`` into ``output`` and return the log.

    Raises InputError if a manifest or a photo can't be read or no sample has a text, BundleError for an image student
    that isn't one, OptionError for an engine or a voice that isn't known.
    """
    from pixvoice.data import load_dataset

    torch.set_num_threads(recipe.train.threads)
    try:
        find_voice(recipe.engine, recipe.voice)
    except MissingToolError as error:
        tell(f"{error}; only speaking needs it")
    samples = [s for manifest in recipe.manifests for s in load_dataset(manifest, recipe.split)]
    written = [(s.image, s.text) for s in samples if s.text is not None and has_words(s.text)]
    if not written:
        raise InputError("no sample has a written caption: a cascade learns from text; give a manifest with texts")
    texts, photos = [text for _, text in written], photos_of(image for image, _ in written)
    vocabulary = Vocabulary.learn(texts, recipe.model.codebook_size, recipe.min_count)
    codes = [vocabulary.encode(text)[None] for text in texts]
    kept = kept_captions([one.shape[1] for one in codes], recipe.max_frames)
    rows = photo_numbers([written[i][0] for i in kept], photos)
    views = PhotoFeatures(photos, recipe, recipe.cache or output / "cache")
    torch.manual_seed(recipe.train.seed)
    model = PixVoxLM(recipe.model)
    log = train_on(CaptionBatches([codes[i] for i in kept], rows, views, recipe), model, recipe.train, output)
    if processes.is_main():
        vocabulary.save(output / VOCABULARY)
    save_model(model, CascadeConfig(recipe.model, recipe.student, recipe.engine, recipe.voice), "cascade", output)
    return log
