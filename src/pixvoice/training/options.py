"""How long and how fast a model is trained: the part of a recipe that every task shares."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainOptions:
    """Optimiser, schedule and checkpoints of one training."""

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int = 200
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    save_every: int = 250
    log_every: int = 25
    bf16: bool = True
    seed: int = 0
    threads: int = 1
