"""Units learned by saying the speech again: a VQ-VAE of log-mel frames with one codebook.

Encoder -> nearest entry of the codebook -> decoder -> log-mel.  Afterwards the number of a frame's entry is its unit:
the codebook stands where k-means leaves its centroids.  The decoder isn't kept, for a vocoder speaks the units.

Source: van den Oord et al. 2017 (VQ-VAE, arXiv 1711.00937), the codebook learned by moving averages (appendix A.1).

Letters: B batch, L samples, F frames, D width, M mel values of a frame, N units.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixvoice.speech.codec import ConvNeXtBlock
from pixvoice.speech.quantizer import ResidualVectorQuantizer
from pixvoice.speech.unit_encoder import UnitEncoder

BLOCKS = 3  # of the decoder
COMMITMENT = 0.25  # beta of the source


class SpeechVqVae(nn.Module):
    """An encoder in training, beside the codebook of its units and the decoder that needs both."""

    def __init__(self, encoder: UnitEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        c = encoder.dims
        self.quantizer = ResidualVectorQuantizer(1, c.units, c.width)
        self.blocks = nn.ModuleList([ConvNeXtBlock(c.width, c.kernel_size) for _ in range(BLOCKS)])
        self.out = nn.Linear(c.width, c.n_mels * math.prod(c.strides))

    @property
    def centroids(self) -> Tensor:
        """The codebook (N, D)."""
        return self.quantizer.codebooks[0]

    def mel(self, audio: Tensor) -> Tensor:
        """Audio (B, L) -> the log-mel values that each frame lasts, side by side, about -1 to 2 (B, F, M)."""
        mel: Tensor = ((self.encoder.mel(audio) + 4.0) / 4.0).transpose(1, 2)
        return mel.reshape(mel.shape[0], -1, self.out.out_features)

    def decode(self, quantized: Tensor) -> Tensor:
        """Entries of the codebook (B, F, D) -> log-mel as ``mel`` gives it (B, F, M)."""
        for block in self.blocks:
            quantized = block(quantized)
        mel: Tensor = self.out(quantized)
        return mel

    def forward(self, audio: Tensor) -> dict[str, Tensor]:
        """Audio (B, L) -> ``loss``: the share of the log-mel's variance that is lost, and ``COMMITMENT`` times the mean
        square of what the frames are from their entries.

        The gradient of the first passes the quantizer straight through to the frames.
        """
        latents = self.encoder(audio, layer=self.encoder.dims.layer)
        with torch.autocast(audio.device.type, enabled=False):
            quantized, commitment = self.quantizer(latents.float(), min_codebooks=1)
        target = self.mel(audio)
        lost = F.mse_loss(self.decode(quantized).float(), target) / target.var().clamp(min=1e-6)
        return {"loss": lost + COMMITMENT * commitment}
