"""Tiny untrained units, their vocoder, a describer of them, and their bundles, made once a test run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

import tiny
from pixvoice.describe.build import UnitDescriberConfig
from pixvoice.describe.model import PixVoxConfig, PixVoxLM
from pixvoice.describe.sat import SatConfig, SatRunConfig, ShowAttendTell
from pixvoice.speech.latent_vocoder import LatentVocoder, LatentVocoderConfig, LatentVocoderSizes
from pixvoice.speech.pretrained import SpeechParts
from pixvoice.speech.unit_encoder import KMEANS, PAIRS, WORDS, OwnFeatures, UnitEncoder, UnitEncoderConfig
from pixvoice.speech.units import CENTROIDS
from pixvoice.training.export import export_bundle
from pixvoice.training.trainer import save_model
from pixvoice.unit_words import UnitWords

RATE, HOP, UNITS = 16_000, 160, 6
MERGES = [[[1], [2]], [[1, 2], [3]], [[0], [1]], [[0, 1], [2]], [[0], [1, 2]], [[4], [5]]]
"""Six merges, of which two come to one pair."""
PAIRS_MADE = 5
ENCODER = UnitEncoderConfig(hop_length=40, n_mels=16, width=16, blocks=2, layer=1, kernel_size=3, units=UNITS)
VOCODER = LatentVocoderConfig(UNITS, HOP, LatentVocoderSizes(8, 1, 8, 1, 8), tiny.CODEC)
WORDS_MADE = 7
KINDS: dict[str, dict[str, Any]] = {
    "pairs": {"unit_pairs": PAIRS_MADE}, "merged": {}, "frames": {"merged": False},
    "words": {"unit_words": True, "merged": False},
}  # fmt: skip
"""What a describer says: byte pairs, merged units, the unit of every frame, or words of it."""

SAT = "sat"
DESCRIBERS = (*KINDS, SAT)
"""What says them: a transformer for each kind, and an LSTM that says merged units."""

SIZES = {"pairs": UNITS + PAIRS_MADE, "merged": UNITS, "frames": UNITS, "words": WORDS_MADE}
SEGMENT_COSTS = {"pairs": 0.05, "merged": 0.03, "frames": 0.02, "words": 0.0}
"""What a change of unit costs, as squared distance between frames 16 wide."""


def noise(samples: int) -> np.ndarray:
    """Noise (L,) that is another loudness every 40 ms."""
    loudness = np.repeat(np.random.default_rng(1).uniform(0.01, 0.3, samples // 640 + 1), 640)[:samples]
    return (np.random.default_rng(0).normal(size=samples) * loudness).astype(np.float32)


def runs(kind: str = "pairs") -> dict[str, Path]:
    """Of one of ``DESCRIBERS``: task -> folder as training leaves it.  Don't change what is in there."""
    root = tiny.runs()["student"].parent.parent / f"units-{kind}"
    if kind == SAT:
        return runs("merged") | {"describer": sat(root)}
    folders = {task: root / task for task in ("describer", "units", "vocoder")} | {"student": tiny.runs()["student"]}
    if root.exists():
        return folders
    config = replace(ENCODER, segment_cost=SEGMENT_COSTS[kind])
    encoder = UnitEncoder(config)
    tiny.loud(encoder)
    save_model(encoder, config, "units", folders["units"])
    frames = torch.from_numpy(OwnFeatures(encoder)(noise(9_600)))
    save_file({CENTROIDS: frames[5::10].clone()}, folders["units"] / KMEANS)
    (folders["units"] / WORDS).write_bytes(words(frames.numpy()).save())
    (folders["units"] / PAIRS).write_text(json.dumps({"units": UNITS, "merges": MERGES}))
    save_model(tiny.loud(LatentVocoder(VOCODER)), VOCODER, "vocoder", folders["vocoder"])
    sizes = {**vars(tiny.DESCRIBER), "num_codebooks": 1, "codebook_size": SIZES[kind], "pattern": "parallel"}
    speech = SpeechParts(sample_rate=RATE, units=folders["units"], vocoder=folders["vocoder"], **KINDS[kind])
    said = UnitDescriberConfig(PixVoxConfig(**sizes), folders["student"], speech)
    save_model(tiny.loud(PixVoxLM(said.model)), said, "describer", folders["describer"])
    return folders


def sat(folder: Path) -> Path:
    """The folder of an LSTM that says merged units."""
    if not folder.exists():
        parts = runs("merged")
        speech = SpeechParts(sample_rate=RATE, units=parts["units"], vocoder=parts["vocoder"])
        sizes = SatConfig(UNITS, width=20, attention_width=12, image_dim=16, max_steps=40)
        config = SatRunConfig(sizes, speech, parts["student"])
        save_model(tiny.loud(ShowAttendTell(config.model)), config, SAT, folder)
    return folder


def words(frames: np.ndarray) -> UnitWords:
    """A word of each unit, and one of two of them; ``frames`` (F, D) are what they sound like."""
    four = frames.reshape(UNITS, 10, -1)[:, 2:10:2]  # points of a span
    mixed = np.concatenate([four[3, :2], four[5, 2:]])
    middles = np.concatenate([four, mixed[None]]).reshape(WORDS_MADE, -1) / 2
    spoken = [*(np.full(unit + 1, unit) for unit in range(UNITS)), np.array([3, 3, 5])]
    width = frames.shape[1]
    return UnitWords(np.zeros(width, np.float32), np.eye(width, dtype=np.float32), middles, spoken, 0.02)


def bundle(kind: str = "pairs", dtype: str = "fp32") -> Path:
    """Folder of a bundle with a recognizer.  Don't change what is in there."""
    folder = tiny.runs()["student"].parent.parent / f"bundle-units-{kind}-{dtype}"
    if not folder.exists():
        run = runs(kind)
        export_bundle(
            run["describer"], None, run["student"], tiny.runs()["recognizer"], folder, "tiny-units",
            dtype, units=run["units"], vocoder=run["vocoder"],  # type: ignore[arg-type]
        )  # fmt: skip
    return folder
