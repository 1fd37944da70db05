"""Photo <-> image units: what a tokenizer of photos gives, whichever it is.

Letters: B batch, K codebooks, P patches, D width, V codebook size.
"""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from pixvoice.packed import bits_of


class ImageTokenizer(nn.Module):
    """Pixels -> K ids a patch, and ids -> the features that a describer reads, for which no photo is needed."""

    @property
    @abstractmethod
    def image_size(self) -> int:
        """Height and width of the pixels taken (pixels)."""

    @property
    @abstractmethod
    def patches(self) -> int:
        """P, the patches of one photo, row by row from the top left; a square number."""

    @property
    @abstractmethod
    def num_codebooks(self) -> int:
        """K, ids of one patch."""

    @property
    @abstractmethod
    def codebook_size(self) -> int:
        """V, the values that one id takes."""

    @property
    @abstractmethod
    def embed_dim(self) -> int:
        """D, the width of one patch's feature."""

    @property
    def bits(self) -> int:
        """Bits of one view of a photo."""
        return self.patches * self.num_codebooks * bits_of(self.codebook_size)

    @abstractmethod
    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [0, 1] -> codes (B, K, P)."""

    @abstractmethod
    def embed(self, codes: Tensor) -> Tensor:
        """Codes (B, K, P) -> features (B, P, D)."""
