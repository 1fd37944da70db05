"""How long and how fast a model is trained: the part of a recipe that every task shares."""

from __future__ import annotations

import platform
from dataclasses import dataclass


@dataclass(frozen=True)
class TrainOptions:
    """Optimiser, schedule and checkpoints of one training.

    ``batch_size`` is that of a step, however many processes share it.  A process takes its share in ``accumulate``
    parts, one after the other, when it doesn't fit into memory at once.  ``bf16``, unless told, is on where the machine
    has it: a processor without it is many times slower in bfloat16 than in float32.  ``fsdp`` keeps a part of the
    weights, of their gradients and of the optimizer's state in each process, in place of all of them.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int = 200
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    save_every: int = 250
    log_every: int = 25
    bf16: bool | None = None
    seed: int = 0
    threads: int = 1
    accumulate: int = 1
    fsdp: bool = False

    def in_bf16(self, on_gpu: bool = True) -> bool:
        """Whether to compute in bfloat16, on the GPU if there is one, or, not ``on_gpu``, on the processor."""
        return has_bf16(on_gpu) if self.bf16 is None else self.bf16


def has_bf16(on_gpu: bool = True) -> bool:
    """Whether the GPU that torch finds computes in bfloat16 itself; the processor if there is none, or not ``on_gpu``.

    oneDNN takes bfloat16 on every processor with AVX-512, and emulates it where AVX-512 BF16 is missing.
    """
    import torch

    if on_gpu and torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    if x86 and not torch.cpu._is_avx512_bf16_supported():
        return False
    onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(onednn and torch.ops.mkldnn._is_mkldnn_bf16_supported())
