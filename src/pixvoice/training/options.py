"""How long and how fast a model is trained: the part of a recipe that every task shares."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainOptions:
    """Optimiser, schedule and checkpoints of one training.

    ``batch_size`` is that of a step, however many processes share it.  A process takes its share in ``accumulate``
    parts, one after the other, when it doesn't fit into memory at once.  ``fsdp`` keeps a part of the weights, of their
    gradients and of the optimizer's state in each process, in place of all of them.
    """

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
    accumulate: int = 1
    fsdp: bool = False
