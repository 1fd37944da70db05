"""Emotion heads: features computed once, a linear probe, and networks that go on from it.

Letters: B batch, T frames, D width, S statistics, P prosody, C classes, N recordings.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor
from torch.utils.data import Dataset

from pixvoice.contracts import Audio, Floats
from pixvoice.errors import BundleError
from pixvoice.retrieve.emotion import (
    EmotionNet,
    LinearHead,
    Standard,
    finish,
    frame_mask,
    hear_layers,
    level_and_cut,
    log_mel,
    sum_up,
)
from pixvoice.retrieve.model import AcousticChannel, DualChannel, RetrieverConfig
from pixvoice.runtime.bundle import RECOGNIZER, Bundle
from pixvoice.speech.ctc import CTCConfig, CTCRecognizer, greedy
from pixvoice.speech.prosody import prosody
from pixvoice.training.options import TrainOptions
from pixvoice.training.recognizer import play_at
from pixvoice.training.trainer import train

SPEEDS = (1.0, 0.9, 1.1)  # at which training recordings are heard, pitch and all: other voices of the same feeling
PENALTIES = (3e-3, 1e-3, 3e-4)  # of the ridge regression; chosen on the training actors
EPOCHS = {"prompts": 20, "all": 12}
ROWS = 32  # recordings scored at once
Labels = npt.NDArray[np.int64]


def recognizer_of(bundle: Bundle) -> CTCRecognizer:
    """The bundle's recognizer in PyTorch, from its ONNX file.  Raises BundleError where there is none."""
    if bundle.info.recognizer is None or RECOGNIZER not in bundle.info.files:
        raise BundleError(f"{bundle.folder}: this bundle has no recognizer; choose another one, or export with one")
    bundle.session(RECOGNIZER, {"audio": (None, None)})  # checks the file's SHA-256
    graph = onnx.load(bundle.folder / RECOGNIZER).graph
    values = {weight.name.removesuffix(".fp16"): numpy_helper.to_array(weight) for weight in graph.initializer}
    found = {name.removeprefix("recognizer."): value for name, value in values.items()}
    for node in graph.node:  # matrices are nameless, but the node that multiplies by one is named after its module
        if node.op_type == "MatMul" and node.input[1] in values and node.output[0].endswith("/MatMul_output_0"):
            module = node.output[0].removesuffix("/MatMul_output_0").strip("/").removeprefix("recognizer/")
            found[module.replace("/", ".") + ".weight"] = values[node.input[1]].T
    try:
        width, n_mels, _ = found["stem.weight"].shape
        kernel = found["blocks.0.depthwise.weight"].shape[2]
        blocks = sum(name.endswith("depthwise.weight") for name in found)
        config = CTCConfig(bundle.info.recognizer.sample_rate, 160, n_mels, width, blocks, kernel)
        recognizer = CTCRecognizer(config)
        weights = {name: torch.from_numpy(found[name].astype(np.float32)) for name in recognizer.state_dict()}
        recognizer.load_state_dict(weights)
    except (KeyError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise BundleError(
            f"{bundle.folder / RECOGNIZER}: not a recognizer of ours ({reason}); export it again"
        ) from None
    return recognizer.eval()


@dataclass(frozen=True)
class Heard:
    """What is computed once of N recordings.

    ``mels`` (n_mels, T) and ``frames`` (T', D) of each; ``features`` (V, N, S + P + E), as it is and at other
    ``SPEEDS``, which ``groups`` part as (columns, weight): statistics, prosody and, with a trained dual-channel model,
    its embedding.
    """

    mels: list[Tensor]
    frames: list[Tensor]
    features: Floats
    groups: tuple[tuple[int, float], ...]
    texts: list[str]

    @property
    def tunable(self) -> int:
        """Columns of ``features`` that a network computes or is given: statistics and prosody."""
        return sum(columns for columns, _ in self.groups[:2])


@torch.inference_mode()
def hear(
    clips: Iterable[Audio], recognizer: CTCRecognizer, dual: DualChannel | None = None, speeds: Sequence[float] = SPEEDS
) -> Heard:
    """Audio clips (N of them, each (L,)) -> what all modes begin with; the first of ``speeds`` is 1."""
    rate, shortest = recognizer.dims.sample_rate, recognizer.dims.sample_rate // 4
    mels, frames, texts = [], [], []
    versions: list[list[Floats]] = [[] for _ in speeds]
    widths: list[int] = []
    for clip in clips:
        speech = level_and_cut(clip, rate)
        for speed, rows in zip(speeds, versions, strict=True):
            audio = speech if speed == 1.0 else play_at(speech, speed)
            audio = np.pad(audio, (0, max(0, shortest - len(audio))))
            mel = log_mel(recognizer, torch.from_numpy(audio)[None])
            early = hear_layers(recognizer, mel)
            parts = [sum_up(early, torch.tensor([mel.shape[2]]), mel.shape[2])[0].numpy(), prosody(audio, rate)]
            if speed == 1.0 or dual is not None:
                last = finish(recognizer, early[-1])
                (text,) = greedy(recognizer.head(last))
            if dual is not None:
                parts.append(_fused(dual, last, text))
            widths = [len(part) for part in parts]
            rows.append(np.concatenate(parts))
            if speed == 1.0:
                mels.append(mel[0])
                frames.append(last[0])
                texts.append(text)
    return Heard(mels, frames, np.array(versions, np.float32), tuple((width, 1.0) for width in widths), texts)


def _fused(dual: DualChannel, frames: Tensor, text: str) -> Floats:
    """The embedding (D,) of one recording: last frames (1, T, D) and what was read."""
    tokens = None if dual.text is None else dual.text.tokenize([text])
    embedding: Floats = dual(tokens, frames, torch.ones(frames.shape[:2], dtype=torch.bool))[0].numpy()
    return embedding


def actor_groups(actors: Labels, count: int = 4) -> list[set[int]]:
    """The actors, ``count`` neighbours together: those who are left out at once."""
    names = sorted(set(actors.tolist()))
    return [set(names[i : i + count]) for i in range(0, len(names), count)]


def fit_probe(
    features: Floats, groups: Sequence[tuple[int, float]], labels: Labels, actors: Labels, classes: int
) -> tuple[Standard, LinearHead]:
    """Features (V, N, S) -> the head whose penalty does best on actors left out of these, trained on all of these."""
    right = np.zeros(len(PENALTIES))
    parts = actor_groups(actors)
    for left_out in parts if len(parts) > 1 else []:
        unheard = np.isin(actors, list(left_out))
        standard, heads = _fit(features[:, ~unheard], groups, labels[~unheard], classes, PENALTIES)
        right += [(head(standard(features[0, unheard])).argmax(1) == labels[unheard]).sum() for head in heads]
    standard, (head,) = _fit(features, groups, labels, classes, [PENALTIES[int(right.argmax())]])
    return standard, head


def _fit(
    features: Floats, groups: Sequence[tuple[int, float]], labels: Labels, classes: int, penalties: Sequence[float]
) -> tuple[Standard, list[LinearHead]]:
    """Features (V, N, S), ``labels`` (N,) -> a head for each of ``penalties``, trained on all versions."""
    flat = features.reshape(-1, features.shape[2])
    standard = Standard.of(flat, groups)
    return standard, LinearHead.fit(standard(flat), np.tile(labels, len(features)), classes, penalties)


def on_each_actor(features: Floats, actors: Labels) -> Floats:
    """Features (V, N, S) less their actor's mean, over their actor's deviation.

    It needs no labels, but many recordings of each actor, those who are tested among them.
    """
    result = features.copy()
    for actor in set(actors.tolist()):
        own = features[:, actors == actor]
        result[:, actors == actor] = (own - own.mean(axis=1, keepdims=True)) / (own.std(axis=1, keepdims=True) + 1e-5)
    return result


class Moved(Dataset[Any]):
    """``count`` recordings of ``rows``, disturbed for mode ``all``; item i is the same in every run of a seed."""

    def __init__(self, heard: Heard, rows: Labels, labels: Labels, options: TrainOptions, disturbed: bool) -> None:
        self.heard, self.rows, self.labels, self.seed, self.disturbed = heard, rows, labels, options.seed, disturbed
        self.count = options.steps * options.batch_size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> dict[str, Any]:
        epoch, number = divmod(i, len(self.rows))
        row = int(np.random.default_rng((self.seed, epoch)).permutation(self.rows)[number])
        item = take(self.heard, row, self.disturbed)
        if self.disturbed:
            item["mel"] = disturb_mel(item["mel"], np.random.default_rng((self.seed, i)))
        return {**item, "label": int(self.labels[row])}


def take(heard: Heard, row: int, from_mel: bool) -> dict[str, Any]:
    """What the network takes of one recording: its mel and prosody, or its last frames and features."""
    features = torch.from_numpy(heard.features[0, row, : heard.tunable])
    if from_mel:
        return {"mel": heard.mels[row], "prosody": features[heard.groups[0][0] :]}
    return {"frames": heard.frames[row], "statistics": features}


def disturb_mel(mel: Tensor, rng: np.random.Generator) -> Tensor:
    """Log-mel (n_mels, T), slower or faster, its bands moved up or down, louder or softer, with a noise floor."""
    speed, move = rng.uniform(0.85, 1.15), rng.uniform(-2.5, 2.5)
    frames = max(8, int(mel.shape[1] / speed))
    mel = F.interpolate(mel[None], size=frames, mode="linear", align_corners=False)[0]
    places = torch.clamp(torch.arange(len(mel)) + move, 0, len(mel) - 1)
    low = places.long()
    high, part = torch.clamp(low + 1, max=len(mel) - 1), (places - low)[:, None]
    mel = mel[low] * (1 - part) + mel[high] * part + rng.uniform(-0.15, 0.15)
    return torch.logaddexp(mel * 4.0, torch.tensor(rng.uniform(-16.0, -8.0))) / 4.0  # stays scaled as log_mel gives it


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Pad to the longest of the batch; mels with silence."""
    batch = {"labels": torch.tensor([item["label"] for item in items])} if "label" in items[0] else {}
    if "mel" in items[0]:
        mels = [item["mel"] for item in items]
        longest = max(mel.shape[1] for mel in mels)
        silence = (float(np.log(1e-5)) + 4.0) / 4.0
        batch["mel"] = torch.stack([F.pad(mel, (0, longest - mel.shape[1]), value=silence) for mel in mels])
        batch["counts"] = torch.tensor([mel.shape[1] for mel in mels])
        batch["prosody"] = torch.stack([item["prosody"] for item in items])
        return batch
    counts = torch.tensor([len(item["frames"]) for item in items])
    batch["frames"] = torch.nn.utils.rnn.pad_sequence([item["frames"] for item in items], batch_first=True)
    batch["mask"] = frame_mask(counts, int(counts.max()), int(counts.max()))
    batch["statistics"] = torch.stack([item["statistics"] for item in items])
    return batch


def tune(
    mode: str,
    heard: Heard,
    rows: Labels,
    labels: Labels,
    start: tuple[CTCRecognizer, DualChannel | None],
    probe: tuple[Standard, LinearHead],
    seed: int = 0,
    epochs: int | None = None,
    threads: int = 1,
) -> EmotionNet:
    """Train ``prompts`` or ``all`` on recordings ``rows`` from the probe on; ``start`` is left as it is.

    Without a trained dual-channel model the prompts and the acoustic channel begin untrained.
    """
    recognizer, dual = start
    config = dual.dims if dual is not None else RetrieverConfig()
    batch = 16
    steps = max(1, (epochs or EPOCHS[mode]) * len(rows) // batch)
    options = TrainOptions(
        steps, batch, 3e-4, steps // 10, 0.01, save_every=steps, log_every=max(1, steps // 8), bf16=False, seed=seed,
        threads=threads,
    )  # fmt: skip
    torch.manual_seed(seed)
    own = CTCRecognizer(recognizer.dims)
    own.load_state_dict(recognizer.state_dict())
    own.requires_grad_(mode == "all")
    acoustic, prompts = (
        AcousticChannel(config, recognizer.dims.width),
        torch.randn(config.prompts, config.embed_dim) * 0.02,
    )
    if dual is not None and dual.dims.hears:
        acoustic.load_state_dict(dual.acoustic.state_dict())
        prompts = prompts if dual.prompts is None else dual.prompts.detach()
    net = EmotionNet(own, acoustic, prompts if config.prompts else None, *probe, config)
    with tempfile.TemporaryDirectory(prefix="pixvoice-") as folder:
        train(net, Moved(heard, rows, labels, options, mode == "all"), options, Path(folder), collate)
    return net.eval()


@torch.inference_mode()
def scores(net: EmotionNet, heard: Heard, rows: Labels, from_mel: bool) -> Floats:
    """Logits (B, C) of recordings ``rows``."""
    parts = []
    for first in range(0, len(rows), ROWS):
        batch = collate([take(heard, int(row), from_mel) for row in rows[first : first + ROWS]])
        parts.append((net.logits if from_mel else net.score)(**batch).numpy())
    return np.concatenate(parts)
