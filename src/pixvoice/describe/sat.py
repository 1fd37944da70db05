"""Show, attend and tell, with speech units in the place of words: an LSTM that looks at the photo anew at every step.

The LSTM's state weighs the patches of the photo.  Their mean by those weights, let through a gate, goes into the LSTM
beside the unit that was said last, and out of it comes the next unit.

Sources: Xu et al. 2015 (arXiv 1502.03044: soft attention, the gate, the deep output and the loss that leaves no patch
out); Hsu et al. 2021 (SAT, ACL 2021.acl-long.411: merged units in place of words).

Letters: B batch, S steps, P patches, D width, A width of the attention, V units.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pixvoice.describe.model import IGNORE, token_loss
from pixvoice.speech.pretrained import SpeechParts

TUNED = "student"  # the folder of a run that holds the image student that was tuned with its describer


@dataclass(frozen=True)
class SatConfig:
    """Sizes of the describer, and the weight of the loss that leaves no patch out; saved beside its weights."""

    codebook_size: int = 200
    width: int = 576
    attention_width: int = 256
    image_dim: int = 1024
    max_steps: int = 160
    dropout: float = 0.1
    coverage: float = 1.0

    @property
    def num_codebooks(self) -> int:
        """K: units are one codebook."""
        return 1

    @property
    def pattern(self) -> str:
        """The order of one codebook."""
        return "parallel"

    @property
    def special(self) -> int:
        """The special token: begins every sequence and ends the utterance."""
        return self.codebook_size


@dataclass(frozen=True)
class SatRunConfig:
    """A describer and what it stands on; saved beside its weights.

    ``student`` is the folder of the image student; None for one that was tuned with the describer, which lies in the
    folder ``student`` of the run.
    """

    model: SatConfig
    speech: SpeechParts
    student: Path | None

    @classmethod
    def from_json(cls, model: dict[str, Any], speech: dict[str, Any], student: str | None) -> SatRunConfig:
        """From what ``dataclasses.asdict`` and JSON made of it."""
        return cls(SatConfig(**model), SpeechParts.from_json(**speech), None if student is None else Path(student))


class SatState(NamedTuple):
    """The LSTM's ``hidden`` and ``cell`` (B, D); the ``patches`` (B or 1, P, D) and their ``keys`` (B or 1, P, A)."""

    hidden: Tensor
    cell: Tensor
    patches: Tensor
    keys: Tensor

    def pick(self, rows: Tensor) -> SatState:
        """The state of ``rows`` (B',); one photo's patches and keys serve all its rows."""
        one_photo = len(self.patches) == 1
        photo = (self.patches, self.keys) if one_photo else (self.patches[rows], self.keys[rows])
        return SatState(self.hidden[rows], self.cell[rows], *photo)


class ShowAttendTell(nn.Module):
    """Image features and units -> logits of the next unit, and where it looked for it."""

    accepts_loss_kwargs = True  # the Trainer says how many labels the whole batch has

    def __init__(self, config: SatConfig) -> None:
        super().__init__()
        self.dims = c = config
        self.image_norm = nn.LayerNorm(c.image_dim)
        self.image_projection = nn.Linear(c.image_dim, c.width)
        self.first_hidden = nn.Linear(c.width, c.width)
        self.first_cell = nn.Linear(c.width, c.width)
        self.embedding = nn.Embedding(c.codebook_size + 1, c.width)
        self.key = nn.Linear(c.width, c.attention_width)
        self.query = nn.Linear(c.width, c.attention_width, bias=False)
        self.score = nn.Linear(c.attention_width, 1, bias=False)
        self.gate = nn.Linear(c.width, c.width)
        self.lstm = nn.LSTMCell(2 * c.width, c.width)
        self.say_hidden = nn.Linear(c.width, c.width)
        self.say_seen = nn.Linear(c.width, c.width)
        self.head = nn.Linear(c.width, c.codebook_size + 1)
        self.dropout = nn.Dropout(c.dropout)
        nn.init.normal_(self.embedding.weight, std=0.1)

    def start(self, features: Tensor) -> SatState:
        """Image features (B, P, image_dim) -> the state before the first step."""
        patches = self.image_projection(self.image_norm(features))
        mean = patches.mean(1)
        return SatState(
            torch.tanh(self.first_hidden(mean)), torch.tanh(self.first_cell(mean)), patches, self.key(patches)
        )

    def look(self, state: SatState) -> tuple[Tensor, Tensor]:
        """What is seen of the photo (B, D), and the weight of each patch in it (B, P), which sum to 1."""
        scores = self.score(torch.tanh(state.keys + self.query(state.hidden)[:, None]))[..., 0]
        weights = scores.float().softmax(-1)
        seen = (weights.to(state.patches.dtype)[:, None] @ state.patches)[:, 0]
        return torch.sigmoid(self.gate(state.hidden)) * seen, weights

    def advance(self, embedded: Tensor, state: SatState) -> tuple[Tensor, Tensor, SatState]:
        """The embedded last unit (B, D) -> what is seen (B, D), the weights (B, P), and the state after it."""
        seen, weights = self.look(state)
        hidden, cell = self.lstm(torch.cat([embedded, seen], dim=-1), (state.hidden, state.cell))
        return seen, weights, state._replace(hidden=hidden, cell=cell)

    def say(self, embedded: Tensor, hidden: Tensor, seen: Tensor) -> Tensor:
        """The last unit, the state and what is seen, each (..., D) -> logits (..., V + 1)."""
        logits: Tensor = self.head(self.dropout(embedded + self.say_hidden(hidden) + self.say_seen(seen)))
        return logits

    def attend(self, features: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, P, image_dim), inputs (B, 1, S) -> logits (1, B, S, V + 1), weights of the patches (B, S, P)."""
        state, steps = self.start(features), []
        embedded = self.dropout(self.embedding(tokens[:, 0]))
        for last in embedded.unbind(1):
            seen, weights, state = self.advance(last, state)
            steps.append((state.hidden, seen, weights))
        hidden, seen, weights = (torch.stack(parts, dim=1) for parts in zip(*steps, strict=True))
        return self.say(embedded, hidden, seen)[None], weights

    def logits(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Image features (B, P, image_dim) and inputs (B, 1, S) -> logits (1, B, S, V + 1)."""
        return self.attend(features, tokens)[0]

    def attention(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Image features (B, P, image_dim) and inputs (B, 1, S) -> the weight of each patch at each step (B, S, P)."""
        return self.attend(features, tokens)[1]

    def forward(
        self, features: Tensor, tokens: Tensor, labels: Tensor, num_items_in_batch: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Loss of ``labels`` (B, 1, S) given inputs ``tokens`` of the same shape.

        The cross-entropy of ``token_loss``, and ``coverage`` times how unevenly the patches were looked at over an
        utterance: the mean square of 1 - P times a patch's share (Xu et al., equation 14, where an utterance has as
        many steps as patches), long utterances weighing more.
        """
        logits, weights = self.attend(features, tokens)
        said = (labels[:, 0] != IGNORE).float()
        steps = said.sum(1)
        shares = (weights * said[:, :, None]).sum(1) / steps.clamp(min=1.0)[:, None]
        uneven = (1.0 - shares * shares.shape[-1]).square().mean(1)
        labelled = steps.sum() if num_items_in_batch is None else num_items_in_batch
        loss = token_loss(logits, labels, num_items_in_batch)
        return {"loss": loss + self.dims.coverage * (uneven * steps).sum() / labelled}

    def step(self, tokens: Tensor, state: SatState) -> tuple[Tensor, SatState]:
        """Tokens (B, 1) and a state -> logits (B, 1, V + 1) and the state after it."""
        embedded = self.embedding(tokens[:, 0])
        seen, _, state = self.advance(embedded, state)
        return self.say(embedded, state.hidden, seen)[:, None], state


class SeeingSat(nn.Module):
    """A describer and the image encoder that learns with it: the form in which the encoder is tuned."""

    accepts_loss_kwargs = True

    def __init__(self, encoder: nn.Module, describer: ShowAttendTell) -> None:
        """``encoder``: pixels (B, 3, H, W) -> features (B, P, image_dim)."""
        super().__init__()
        self.encoder, self.describer = encoder.eval().requires_grad_(True), describer

    def train(self, mode: bool = True) -> SeeingSat:
        """The encoder keeps the means and variances of its own training: a batch here is too much alike."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(
        self, pixels: Tensor, tokens: Tensor, labels: Tensor, num_items_in_batch: Tensor | None = None
    ) -> dict[str, Tensor]:
        """As ``ShowAttendTell.forward``, from pixels (B, 3, H, W)."""
        found: dict[str, Tensor] = self.describer(self.encoder(pixels), tokens, labels, num_items_in_batch)
        return found
