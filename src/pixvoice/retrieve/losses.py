"""What a dual-channel model is trained for: a recording nearer to its own photo than to any other of the batch.

Source: van den Oord et al. 2018, "Representation learning with contrastive predictive coding" (InfoNCE); BrewCLIP
(arXiv 2408.10383) for the inner and the outer loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from pixvoice.retrieve.model import DualChannel, fuse


@dataclass(frozen=True)
class LossOptions:
    """Weights and temperature.

    ``outer`` weighs the fused embedding against the photo.  ``inner`` weighs the two channels of the full variant
    against each other; the paper adds that loss in both directions, which are the same, and so does this.  With
    ``words_teach`` the inner loss moves the acoustic channel alone: finished words stay as they are, and every caption,
    not every photo only, tells the sound where it belongs.
    """

    outer: float = 0.75
    inner: float = 0.25
    words_teach: bool = False
    temperature: float = 0.07
    learned_temperature: bool = False


def info_nce(a: Tensor, b: Tensor, same: Tensor, temperature: Tensor | float) -> Tensor:
    """Symmetric InfoNCE of a (B, D) and b (B, D), each of length 1; row i of the one belongs to row i of the other.

    ``same`` (B, B) is True where both rows belong to one photo: what lies off the diagonal there is no negative.
    """
    logits = a @ b.T / temperature
    apart = same & ~torch.eye(len(a), dtype=torch.bool, device=a.device)
    logits = logits.masked_fill(apart, -math.inf)
    target = torch.arange(len(a), device=a.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def of_all(rows: Tensor) -> Tensor:
    """Rows (B, ...) of this process -> (B', ...) of all that train together, each as many: a batch is contrasted whole.

    Every process computes the loss of all rows, and learns from its own.  Their gradient counts as often as there are
    processes, so that the mean over those, which DistributedDataParallel takes, is that of one process with all rows.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return rows
    own, processes = rows.detach(), dist.get_world_size()
    gathered = [torch.empty_like(own) for _ in range(processes)]
    dist.all_gather(gathered, own.contiguous())
    gathered[dist.get_rank()] = own + processes * (rows - own)
    return torch.cat(gathered)


class Contrast(nn.Module):
    """A dual-channel model and its loss: the training form."""

    def __init__(self, model: DualChannel, options: LossOptions) -> None:
        super().__init__()
        self.model, self.options = model, options
        start = torch.tensor(math.log(options.temperature))
        self.log_temperature = nn.Parameter(start) if options.learned_temperature else None

    @property
    def temperature(self) -> Tensor | float:
        """What similarities are divided by; a learned one is never under 0.01."""
        return self.options.temperature if self.log_temperature is None else self.log_temperature.exp().clamp(min=0.01)

    def forward(
        self,
        pixels: Tensor,
        photo: Tensor,
        tokens: dict[str, Tensor] | None = None,
        frames: Tensor | None = None,
        mask: Tensor | None = None,
        audio: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """What the image part's ``prepare`` gave (B, ...), the photos' numbers (B,), and speech -> ``loss``.

        Speech is frames and their mask, or audio (B, L) and ``lengths`` (B,) in samples.
        """
        if audio is not None and lengths is not None and self.model.speech is not None:
            frames, mask = self.model.speech(audio, lengths)
        photo, seen = of_all(photo), of_all(self.model.see(pixels))
        same = photo[:, None] == photo[None]
        channels = [None if c is None else of_all(c) for c in self.model.channels(tokens, frames, mask)]
        loss = self.options.outer * self._against(fuse(*channels), seen, same)
        there = [F.normalize(channel, dim=-1) for channel in channels if channel is not None]
        if len(there) == 2:
            words = there[0].detach() if self.options.words_teach else there[0]
            loss = loss + 2 * self.options.inner * self._against(words, there[1], same)
        return {"loss": loss}

    def _against(self, a: Tensor, b: Tensor, same: Tensor) -> Tensor:
        return info_nce(a.float(), b.float(), same, self.temperature)
