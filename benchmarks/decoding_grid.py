"""Which bundle, and which decoding options, describe best: scores of each through one recognizer.

    python benchmarks/decoding_grid.py DATASET --limit 250 --try strategy=greedy --try strategy=beam,beam_size=8
    python benchmarks/decoding_grid.py DATASET --limit 1000 --bundle bundle-im2sp --bundle bundle-sat

DATASET is in any layout of docs/data.md; choose on dev, never on test.  Needs the ``evaluate`` extra.  The first
bundle's recognizer hears all.  Beside BLEU-4 and CIDEr stands how far they are from the first line's, in the middle
95 % of the resamples of the photos.  The columns of log-prob are for ``confidence`` in bundle.json: mean and deviation
over photos of a token's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import pixvoice
from pixvoice.data import load_dataset
from pixvoice.evaluation.captions import caption_scores, caption_statistics
from pixvoice.evaluation.intervals import Resampled, draws
from pixvoice.evaluation.photos import Photo, gather_photos
from pixvoice.evaluation.preparation import Listener
from pixvoice.images import read_image, to_pixels
from pixvoice.runtime.decoding import generate
from pixvoice.runtime.describer import Describer
from pixvoice.runtime.recognizer import load_recognizer

HEAD = f"{'BLEU-4':>7}{'':18}{'METEOR':>8}{'CIDEr':>7}{'':18}{'seconds':>9}{'log-prob':>10}{'+-':>6}  options"


def parse(text: str) -> dict[str, Any]:
    """``strategy=beam,beam_size=8`` -> decoding options."""
    pairs = [pair.split("=", 1) for pair in text.split(",") if pair]
    return {key: value if key == "strategy" else (float(value) if "." in value else int(value)) for key, value in pairs}


def features_of(describer: Describer, photos: Sequence[Photo]) -> list[Any]:
    """The features (1, P, D) of each photo."""
    size = describer.image_encoder.image_size
    return [describer.image_encoder.encode(to_pixels(read_image(p.image), size)[None]) for p in photos]


def main() -> None:
    """Print a line for each bundle and set of options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--limit", type=int, default=250)
    parser.add_argument("--bundle", dest="bundles", type=Path, action="append", help="repeat to compare several")
    parser.add_argument("--length", default="normal", choices=("short", "normal", "long"))
    parser.add_argument("--try", dest="tries", type=parse, action="append", help="NAME=VALUE,...; repeat for more rows")
    options = parser.parse_args()

    photos = gather_photos(load_dataset(options.dataset, options.split), options.limit)
    captions, counts = [photo.captions for photo in photos], draws(len(photos))
    bundles = options.bundles or [None]
    listener = Listener(load_recognizer(bundles[0]))
    print(f"{len(photos)} photos\n{HEAD}", flush=True)
    first: Resampled | None = None
    for bundle in bundles:
        describer = pixvoice.load(bundle)
        features = features_of(describer, photos)
        for tried in options.tries or [{}]:
            decoding = describer.bundle.info.options(options.length, **tried)
            spoken = [generate(describer.decoder, one, describer.pattern, decoding) for one in features]
            audio = [describer.tokenizer.decode(utterance.codes) for utterance in spoken]
            heard = [listener.hear(clip, describer.sample_rate, row) for row, clip in enumerate(audio)]
            scores = caption_scores(heard, captions)
            resampled = Resampled.of(caption_statistics(heard, captions), range(len(photos)), counts)
            first = first or resampled
            more = {name: f"({a.low:+.2f} to {a.high:+.2f})" for name, a in resampled.less(first).items()}
            seconds = np.mean([len(clip) for clip in audio]) / describer.sample_rate
            sure = [utterance.log_prob for utterance in spoken]
            numbers = (
                f"{scores.bleu_4:7.2f}{more['bleu_4']:>18}{scores.meteor:8.2f}{scores.cider:7.2f}{more['cider']:>18}"
            )
            said = tried or "as the bundle says"
            print(f"{numbers}{seconds:9.2f}{np.mean(sure):10.3f}{np.std(sure):6.2f}  {bundle or ''} {said}", flush=True)
            print("   e.g.", " | ".join(heard[:: max(1, len(heard) // 4)][:4]), file=sys.stderr)


if __name__ == "__main__":
    main()
