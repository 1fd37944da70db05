"""Units that know of photos: an encoder that predicts what it can't hear, and tells its photo from the others.

The published visually grounded units are codebooks inside a ResDAVEnet that learned from photos and speech alone.  Here
the photo only joins in: beside the masked frames' loss, a crop of speech must lie nearer to its own photo than to the
others of the batch, so that the frames that are clustered afterwards have learned both.

Sources: Hsu et al. 2021 (SAT, ACL 2021.acl-long.411: units by visual grounding); van den Oord et al. 2018 (InfoNCE).

Letters: B batch, L samples, F frames, D width, D' width of the image student.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixvoice.retrieve.losses import info_nce, of_all
from pixvoice.speech.unit_encoder import MaskedUnits, UnitEncoder

SHARED = 256  # width of the space in which speech and photo meet
TEMPERATURE = 0.07


class GroundedUnits(nn.Module):
    """Masked units in training, and the photos that the speech is about."""

    def __init__(self, masked: MaskedUnits, image_dim: int, weight: float) -> None:
        """``image_dim`` D'; ``weight`` of the photos' loss beside the masked frames'."""
        super().__init__()
        self.masked, self.weight = masked, weight
        self.photo_norm = nn.BatchNorm1d(2 * image_dim)
        self.photo = nn.Linear(2 * image_dim, SHARED)
        self.speech = nn.Linear(2 * masked.encoder.dims.width, SHARED)

    @property
    def encoder(self) -> UnitEncoder:
        """The encoder that learns."""
        return self.masked.encoder

    def forward(self, audio: Tensor, seen: Tensor, photo: Tensor) -> dict[str, Tensor]:
        """Audio (B, L), the photos' mean and largest features ``seen`` (B, 2 D') and their numbers (B,) -> ``loss``.

        The masked frames' cross-entropy, and ``weight`` times the symmetric InfoNCE of speech and photos, in nats.
        """
        frames, predicted = self.masked.predict(audio)
        heard = of_all(self.speech(torch.cat([frames.mean(1), frames.amax(1)], dim=-1)))
        shown, photo = of_all(self.photo(self.photo_norm(seen))), of_all(photo)
        same = photo[:, None] == photo[None]
        near = info_nce(F.normalize(heard.float(), dim=-1), F.normalize(shown.float(), dim=-1), same, TEMPERATURE)
        return {"loss": predicted + self.weight * near}
