"""Which decoding options describe best: scores of one bundle under several, through its own recognizer.

    python benchmarks/decoding_grid.py DATASET --limit 250 --try strategy=greedy --try strategy=beam,beam_size=8

DATASET is in any layout of docs/data.md; choose on dev, never on test.  Needs the ``evaluate`` extra.  The last columns
are for ``confidence`` in bundle.json: the mean and the deviation over photos of a token's log-probability.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

import pixvoice
from pixvoice.data import load_dataset
from pixvoice.evaluation.captions import caption_scores
from pixvoice.evaluation.photos import gather_photos
from pixvoice.evaluation.preparation import Listener
from pixvoice.images import read_image, to_pixels
from pixvoice.runtime.decoding import generate
from pixvoice.runtime.recognizer import load_recognizer


def parse(text: str) -> dict[str, Any]:
    """``strategy=beam,beam_size=8`` -> decoding options."""
    pairs = [pair.split("=", 1) for pair in text.split(",") if pair]
    return {key: value if key == "strategy" else (float(value) if "." in value else int(value)) for key, value in pairs}


def main() -> None:
    """Print a line for each set of options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--limit", type=int, default=250)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--length", default="normal", choices=("short", "normal", "long"))
    parser.add_argument("--try", dest="tries", type=parse, action="append", help="NAME=VALUE,...; repeat for more rows")
    options = parser.parse_args()

    photos = gather_photos(load_dataset(options.dataset, options.split), options.limit)
    describer = pixvoice.load(options.bundle)
    listener = Listener(load_recognizer(options.bundle))
    size = describer.image_encoder.image_size
    features = [describer.image_encoder.encode(to_pixels(read_image(p.image), size)[None]) for p in photos]
    print(
        f"{len(photos)} photos\n{'BLEU-4':>7}{'METEOR':>8}{'CIDEr':>7}{'seconds':>9}{'log-prob':>10}{'+-':>6}  options"
    )
    for tried in options.tries or [{}]:
        decoding = describer.bundle.info.options(options.length, **tried)
        spoken = [generate(describer.decoder, one, describer.pattern, decoding) for one in features]
        audio = [describer.tokenizer.decode(utterance.codes) for utterance in spoken]
        heard = [listener.hear(clip, describer.sample_rate, row) for row, clip in enumerate(audio)]
        scores = caption_scores(heard, [photo.captions for photo in photos])
        seconds = np.mean([len(clip) for clip in audio]) / describer.sample_rate
        sure = [utterance.log_prob for utterance in spoken]
        numbers = f"{scores.bleu_4:7.2f}{scores.meteor:8.2f}{scores.cider:7.2f}{seconds:9.2f}"
        print(f"{numbers}{np.mean(sure):10.3f}{np.std(sure):6.2f}  {tried or 'as the bundle says'}", flush=True)
        print("   e.g.", " | ".join(heard[:: max(1, len(heard) // 4)][:4]), file=sys.stderr)


if __name__ == "__main__":
    main()
