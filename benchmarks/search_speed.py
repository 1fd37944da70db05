"""How fast a spoken query finds photos: ``pixvoice search`` beside Whisper and CLIP, in one run, as a ratio.

    python benchmarks/search_speed.py [QUERY.wav] [--photos 1000] [--repeats 5] [--json]

Needs the ``search`` extra, and ``train`` for the other side: Whisper-base reads the query, the text tower of CLIP
ViT-B/32 embeds what was read, and numpy ranks the photos.  Both have their real size and random weights (time doesn't
depend on what the weights are, but for one length, which is fixed: Whisper is made to read 12 words, 16 tokens).  Its
tokenizers are left out, in its favour.  Both sides begin with a WAV file and end with ranked paths, warm, in a process
of their own with the same two cores and two threads; the photos' embeddings are made up, a thousand on both sides.
Without QUERY.wav, what the embedded describer says of ``examples/moose.jpg`` is the query.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
THREADS = 2
TOKENS = 16  # of a query of about 12 words
TOP = 10
BAR = 5.0


def pixvoice_side(query: Path, photos: int, folder: Path) -> Callable[[], list[Path]]:
    """The product: the search model that ships (or PIXVOICE_BUNDLE's), and an index on disk."""
    import pixvoice
    from pixvoice.runtime.index import Entry, Rows

    searcher = pixvoice.load_searcher(folder, threads=THREADS)
    with searcher.store.writing():
        paths = [folder / f"{number}.jpg" for number in range(photos)]
        rows = Rows(paths, [Entry(1, 1, "")] * photos, [""] * photos, made_up(photos, searcher.model.embed_dim))
        searcher.store.put("photos", rows)
        searcher.store.tidy("photos")
    return lambda: [match.path for match in searcher.search(query, TOP)]


def transformers_side(query: Path, photos: int, folder: Path) -> Callable[[], list[Path]]:
    """Whisper-base, then the text tower of CLIP ViT-B/32, then numpy."""
    import numpy as np
    import torch
    from transformers import (
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        logging,
    )

    from pixvoice.audio import read_audio

    logging.set_verbosity_error()
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    layers = {"encoder_layers": 6, "decoder_layers": 6, "encoder_attention_heads": 8, "decoder_attention_heads": 8}
    sizes = {"d_model": 512, "encoder_ffn_dim": 2048, "decoder_ffn_dim": 2048}
    extractor = WhisperFeatureExtractor()
    whisper = WhisperForConditionalGeneration(WhisperConfig(**layers, **sizes)).eval()
    clip = CLIPTextModelWithProjection(CLIPTextConfig()).eval()
    vectors = made_up(photos, clip.config.projection_dim)
    paths = [folder / f"{number}.jpg" for number in range(photos)]

    @torch.inference_mode()
    def find() -> list[Path]:
        features = extractor(read_audio(query), sampling_rate=16_000, return_tensors="pt").input_features
        read = whisper.generate(features, min_new_tokens=TOKENS, max_new_tokens=TOKENS, num_beams=1, do_sample=False)
        assert read.shape[1] >= TOKENS, read.shape
        words = read[:, -TOKENS:] % clip.config.vocab_size
        vector = clip(input_ids=words).text_embeds[0].numpy()
        scores = vectors @ (vector / np.linalg.norm(vector))
        return [paths[int(row)] for row in np.argsort(-scores)[:TOP]]

    return find


SIDES = {"pixvoice": pixvoice_side, "transformers": transformers_side}


def made_up(photos: int, width: int) -> Any:
    """Embeddings (N, D), each of length 1."""
    import numpy as np

    vectors = np.random.default_rng(0).standard_normal((photos, width), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def one_side(side: str, query: Path, photos: int, repeats: int) -> list[float]:
    """Seconds of each query, after one that isn't measured."""
    with tempfile.TemporaryDirectory(prefix="pixvoice-benchmark-") as folder:
        find = SIDES[side](query, photos, Path(folder))
        assert len(find()) == TOP
        seconds = []
        for _ in range(repeats):
            begun = time.perf_counter()
            find()
            seconds.append(time.perf_counter() - begun)
    return seconds


def measure(query: Path, photos: int, repeats: int, sides: list[str]) -> dict[str, Any]:
    """Each side twice, turn by turn so that a busy moment meets both; the median counts."""
    if hasattr(os, "sched_setaffinity"):  # inherited by every process started here
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    runs: dict[str, list[float]] = {side: [] for side in sides}
    for turn in (1, 2):
        for side in sides:
            print(f"{side}, turn {turn} of 2", file=sys.stderr, flush=True)
            command = [sys.executable, __file__, str(query), "--photos", str(photos), "--repeats", str(repeats)]
            done = subprocess.run([*command, "--side", side], env=environment(), stdout=subprocess.PIPE, text=True)
            if done.returncode:
                sys.exit(f"error: {side} failed with status {done.returncode}")
            runs[side] += json.loads(done.stdout)
    result: dict[str, Any] = {f"{side}_s": statistics.median(seconds) for side, seconds in runs.items()}
    if len(sides) == 2:
        result |= {"ratio": result["transformers_s"] / result["pixvoice_s"], "bar": BAR}
    return {"query": query.name, "photos": photos, "threads": THREADS, "repeats": 2 * repeats, **result}


def environment() -> dict[str, str]:
    """The environment of every process: two threads, and no network for a hub."""
    return {**os.environ, "OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def spoken(folder: str) -> Path:
    """A query of some words: what the embedded describer says of a photo."""
    import pixvoice

    query = Path(folder) / "query.wav"
    pixvoice.load().describe(HERE.parent / "examples" / "moose.jpg").save(query)
    return query


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = [f"{side:14}{1000 * result[f'{side}_s']:8.1f} ms a query" for side in SIDES if f"{side}_s" in result]
    if "ratio" in result:
        lines.append(f"{'ratio':14}{result['ratio']:8.1f} times faster (bar: {BAR:.0f})")
    facts = f"{result['photos']} photos, {result['threads']} threads, median of {result['repeats']}"
    return "\n".join([*lines, f"{result['query']}, {facts}"])


def main() -> None:
    """Measure both, or with ``--only`` one of them, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("query", nargs="?", type=Path)
    parser.add_argument("--photos", type=int, default=1_000, help="photos that are ranked")
    parser.add_argument("--repeats", type=int, default=5, help="queries of each side in each of two turns")
    parser.add_argument("--only", choices=tuple(SIDES), help="measure one side, without a ratio")
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of the table")
    parser.add_argument("--side", choices=tuple(SIDES), help=argparse.SUPPRESS)  # in a process of its own
    options = parser.parse_args()
    if options.side:
        print(json.dumps(one_side(options.side, options.query, options.photos, options.repeats)))
        return
    with tempfile.TemporaryDirectory(prefix="pixvoice-benchmark-") as folder:
        query = options.query.resolve() if options.query else spoken(folder)
        if not query.is_file():
            parser.error(f"{query}: no such recording")
        result = measure(query, options.photos, options.repeats, [options.only] if options.only else list(SIDES))
    print(json.dumps(result) if options.json else table(result))


if __name__ == "__main__":
    main()
