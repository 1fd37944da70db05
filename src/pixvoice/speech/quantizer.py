"""Residual vector quantizer with codebooks learned by moving averages.

Source: van den Oord et al. 2017 (VQ-VAE, appendix A.1) and Zeghidour et al. 2021 (SoundStream).
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


class ResidualVectorQuantizer(nn.Module):
    """Latents (B, T, D) <-> codes (B, K, T); codebook k quantizes what the ones before it left over.

    In training each utterance uses a random number of codebooks (at least ``min_codebooks``), so that one model can be
    decoded from fewer; codes that fall out of use are replaced by latents of the batch.
    """

    codebooks: Tensor
    usage: Tensor
    sums: Tensor

    def __init__(self, num_codebooks: int, codebook_size: int, dim: int, decay: float = 0.98) -> None:
        super().__init__()
        self.num_codebooks, self.codebook_size, self.decay = num_codebooks, codebook_size, decay
        self.register_buffer("codebooks", torch.zeros(num_codebooks, codebook_size, dim))
        self.register_buffer("usage", torch.zeros(num_codebooks, codebook_size))
        self.register_buffer("sums", torch.zeros(num_codebooks, codebook_size, dim))

    def nearest(self, residual: Tensor, k: int) -> Tensor:
        """Residual (..., D) -> index (...) of the nearest entry of codebook k."""
        codebook = self.codebooks[k]
        return torch.argmax(residual @ codebook.T - 0.5 * codebook.square().sum(-1), dim=-1)

    def encode(self, latents: Tensor) -> Tensor:
        """Latents (B, T, D) -> codes (B, K, T)."""
        residual, codes = latents, []
        for k in range(self.num_codebooks):
            index = self.nearest(residual, k)
            residual = residual - self.codebooks[k][index]
            codes.append(index)
        return torch.stack(codes, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, K', T) with K' <= K -> latents (B, T, D)."""
        latents = F.embedding(codes[:, 0], self.codebooks[0])
        for k in range(1, codes.shape[1]):
            latents = latents + F.embedding(codes[:, k], self.codebooks[k])
        return latents

    def forward(self, latents: Tensor, min_codebooks: int) -> tuple[Tensor, Tensor]:
        """Latents (B, T, D) -> quantized latents (B, T, D) with straight-through gradient, commitment loss ()."""
        batch = latents.shape[0]
        used = torch.randint(min_codebooks, self.num_codebooks + 1, (batch,), device=latents.device)
        used[: batch // 2] = self.num_codebooks
        residual, quantized, loss = latents, torch.zeros_like(latents), latents.new_zeros(())
        for k in range(self.num_codebooks):
            index = self.nearest(residual.detach(), k)
            if self.training:
                self._update(k, residual.detach().reshape(-1, latents.shape[-1]), index.reshape(-1))
            entry = self.codebooks[k][index]
            loss = loss + F.mse_loss(residual, entry)
            residual = residual - entry
            quantized = quantized + entry * (k < used)[:, None, None]
        return latents + (quantized - latents).detach(), loss / self.num_codebooks

    @torch.no_grad()
    def _update(self, k: int, vectors: Tensor, index: Tensor) -> None:
        """Move codebook k towards ``vectors`` (N, D) assigned to ``index`` (N,)."""
        counts = torch.bincount(index, minlength=self.codebook_size).to(vectors.dtype)
        totals = torch.zeros_like(self.sums[k]).index_add_(0, index, vectors)
        if dist.is_available() and dist.is_initialized():  # the batch is that of all processes
            dist.all_reduce(counts)
            dist.all_reduce(totals)
        self.usage[k].mul_(self.decay).add_(counts, alpha=1 - self.decay)
        self.sums[k].mul_(self.decay).add_(totals, alpha=1 - self.decay)
        dead = self.usage[k] < 0.03
        if dead.any():
            picks = vectors[torch.randint(len(vectors), (int(dead.sum()),), device=vectors.device)]
            self.usage[k][dead] = 0.15
            self.sums[k][dead] = 0.15 * picks
        self.codebooks[k] = self.sums[k] / self.usage[k][:, None]
