"""Where quality is lost between a person's sentence and ours: one part of the chain more in each row.

    python benchmarks/where_quality_goes.py DATASET --teacher TEACHER.safetensors --statistics STATISTICS.npz

The statistics are those that the student's training left in its ``views`` folder.  DATASET is in any layout of
docs/data.md; without recordings, a TTS engine of this machine speaks the captions.  Every row is scored against the
four captions that the ground truth leaves.  Needs the ``train`` and ``evaluate`` extras.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

import pixvoice
from pixvoice.contracts import Floats
from pixvoice.data import load_dataset
from pixvoice.evaluation.captions import METRICS, caption_scores
from pixvoice.evaluation.photos import Photo, gather_photos, ground_truth_speech
from pixvoice.evaluation.preparation import Listener
from pixvoice.evaluation.voices import find_speak
from pixvoice.images import read_image, to_pixels
from pixvoice.runtime.decoding import generate
from pixvoice.runtime.describer import Describer
from pixvoice.runtime.recognizer import load_recognizer
from pixvoice.vision.teacher import MobileNetTeacher


def main() -> None:
    """Print one row of scores for each part added."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--statistics", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="folder that keeps the captions' speech")
    options = parser.parse_args()

    photos = gather_photos(load_dataset(options.dataset, options.split), options.limit)
    describer = pixvoice.load(options.bundle)
    listener = Listener(load_recognizer(options.bundle))
    teacher = teacher_features(options.teacher, options.statistics, describer.image_encoder.image_size)
    print(f"{len(photos)} photos\n" + "".join(f"{name:>9}" for name in METRICS))
    with TemporaryDirectory() as temporary:
        for name, texts in rows(photos, describer, listener, teacher, options.cache or Path(temporary)):
            scores = caption_scores(texts, [photo.other_captions for photo in photos]).as_dict()
            print("".join(f"{value:9.2f}" for value in scores.values()), f"  {name}", flush=True)


def teacher_features(path: Path, statistics: Path, size: int) -> Callable[[Photo], Floats]:
    """The teacher's standardised features (1, P, D) of a photo, which the student estimates."""
    teacher, saved = MobileNetTeacher(path), np.load(statistics)

    def see(photo: Photo) -> Floats:
        pixels = torch.from_numpy(to_pixels(read_image(photo.image), size)[None])
        return np.asarray((teacher(pixels).numpy() - saved["mean"]) / saved["std"], dtype=np.float32)

    return see


def rows(
    photos: list[Photo], describer: Describer, listener: Listener, teacher: Callable[[Photo], Floats], cache: Path
) -> Iterator[tuple[str, list[str]]]:
    """Name of each row and its texts, one a photo."""
    tokenizer, rate = describer.tokenizer, describer.sample_rate
    speak = find_speak(None, None, cache)
    yield "a person's sentence, as written", [photo.spoken_caption for photo in photos]
    speech = [audio for photo in photos if (audio := ground_truth_speech(photo, speak)) is not None]
    yield "spoken, and heard by the recognizer", [listener.hear(a, rate, i) for i, a in enumerate(speech)]
    coded = (tokenizer.decode(tokenizer.encode(audio)) for audio in speech)
    yield "spoken, through the tokens, heard", [listener.hear(a, rate, i) for i, a in enumerate(coded)]

    def described(features: Floats, row: int) -> str:
        codes = generate(describer.decoder, features, describer.pattern, describer.bundle.info.options()).codes
        return listener.hear(tokenizer.decode(codes), rate, row)

    yield "described from the teacher's features", [described(teacher(p), i) for i, p in enumerate(photos)]
    size, encoder = describer.image_encoder.image_size, describer.image_encoder
    seen = (encoder.encode(to_pixels(read_image(photo.image), size)[None]) for photo in photos)
    yield "described from the student's features: what ships", [described(f, i) for i, f in enumerate(seen)]


if __name__ == "__main__":
    main()
