"""Show and speak: the frames of a log-mel spectrogram straight from the photo, with no tokens or units in between.

An LSTM hears the frames before and weighs the photo's positions; a second one tells the next frames, several a step,
and whether they are the last.  A postnet mends the whole.

Source: Wang et al. 2021, "Show and Speak" (arXiv 2010.12267), which stands on Tacotron 2 (Shen et al. 2018).  Here the
positions of our image student stand for the source's 36 detected regions.  They have no order along which an attention
could move, so each position knows how often it was looked at, and not its neighbours.  The postnet's blocks are our
codec's, and the LSTMs are half as wide.

Letters: B batch, P positions, T steps, R frames of a step, M mel channels, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixvoice.speech.codec import ConvNeXtBlock


@dataclass(frozen=True)
class SasConfig:
    """Sizes of the describer, and what its training is told; saved beside its weights.

    ``sampled`` is the share of steps that hear, in training, what the model itself said before; ``agreement`` the
    weight of the loss that a photo and its own spectrogram should meet.
    """

    n_mels: int = 80
    frames_per_step: int = 4
    image_dim: int = 1024
    width: int = 256
    lstm_width: int = 512
    attention_width: int = 128
    postnet_width: int = 128
    postnet_blocks: int = 3
    max_steps: int = 80
    dropout: float = 0.1
    prenet_dropout: float = 0.5
    sampled: float = 0.025
    agreement: float = 0.5

    @property
    def step_width(self) -> int:
        """R M, the numbers that one step says."""
        return self.frames_per_step * self.n_mels


@dataclass(frozen=True)
class SasRunConfig:
    """A describer, and the folders of the image student and the codec that it stands on; saved beside its weights."""

    model: SasConfig
    student: Path
    codec: Path

    @classmethod
    def from_json(cls, model: dict[str, Any], student: str, codec: str) -> SasRunConfig:
        """From what ``dataclasses.asdict`` and JSON made of it."""
        return cls(SasConfig(**model), Path(student), Path(codec))


class SasState(NamedTuple):
    """What goes from one step to the next.

    Hidden and cell of the two LSTMs, ``heard`` and ``said``, each (B, D); what was ``seen`` last (B, D); ``looks``
    (B, P, 2), each position's weight in the last step and in all of them; the ``positions`` (B, P, D) and their
    ``keys`` (B, P, A).
    """

    heard: tuple[Tensor, Tensor]
    said: tuple[Tensor, Tensor]
    seen: Tensor
    looks: Tensor
    positions: Tensor
    keys: Tensor


class Spoken(NamedTuple):
    """One spectrogram: ``mel`` (T R, M), ``looks`` (T, P), and the mean log-probability of going on, and of ending."""

    mel: Tensor
    looks: Tensor
    log_prob: float


class ShowAndSpeak(nn.Module):
    """Image features -> log-mel frames, on the scale of ``CodecEncoder.scaled``."""

    def __init__(self, config: SasConfig) -> None:
        super().__init__()
        self.dims = c = config
        self.image_norm = nn.LayerNorm(c.image_dim)
        self.read = nn.ModuleList([nn.Linear(c.image_dim, 2 * c.width), nn.Linear(2 * c.width, c.width)])
        self.prenet = nn.ModuleList([nn.Linear(c.step_width, c.width), nn.Linear(c.width, c.width)])
        self.hearing = nn.LSTMCell(2 * c.width, c.lstm_width)
        self.key = nn.Linear(c.width, c.attention_width)
        self.query = nn.Linear(c.lstm_width, c.attention_width, bias=False)
        self.past = nn.Linear(2, c.attention_width, bias=False)
        self.score = nn.Linear(c.attention_width, 1, bias=False)
        self.saying = nn.LSTMCell(c.lstm_width + c.width, c.lstm_width)
        self.frames = nn.Linear(c.lstm_width + c.width, c.step_width)
        self.ending = nn.Linear(c.lstm_width + c.width, 1)
        self.widen = nn.Linear(c.n_mels, c.postnet_width)
        self.blocks = nn.ModuleList([ConvNeXtBlock(c.postnet_width) for _ in range(c.postnet_blocks)])
        self.narrow = nn.Linear(c.postnet_width, c.n_mels)
        self.dropout = nn.Dropout(c.dropout)

    def see(self, features: Tensor) -> Tensor:
        """Image features (B, P, image_dim) -> positions (B, P, D)."""
        seen: Tensor = self.image_norm(features)
        for layer in self.read:
            seen = self.dropout(F.relu(layer(seen)))
        return seen

    def hear(self, frames: Tensor) -> Tensor:
        """Frames of steps (..., R M) -> (..., D).  Its dropout works when the model speaks too, as the source's."""
        for layer in self.prenet:
            frames = F.dropout(F.relu(layer(frames)), self.dims.prenet_dropout, training=True)
        return frames

    def start(self, positions: Tensor) -> SasState:
        """Positions (B, P, D) -> the state before the first step."""
        batch, count, width = positions.shape
        empty = positions.new_zeros(batch, self.dims.lstm_width)
        looks = positions.new_zeros(batch, count, 2)
        pair = (empty, empty)
        return SasState(pair, pair, positions.new_zeros(batch, width), looks, positions, self.key(positions))

    def look(self, hidden: Tensor, state: SasState) -> tuple[Tensor, Tensor]:
        """The first LSTM's hidden state (B, D) -> what is seen (B, D), and the weight of each position in it (B, P)."""
        past = self.past(state.looks)
        scores = self.score(torch.tanh(self.query(hidden)[:, None] + state.keys + past))[..., 0]
        weights = scores.float().softmax(-1)
        return (weights.to(state.positions.dtype)[:, None] @ state.positions)[:, 0], weights

    def step(self, heard: Tensor, state: SasState) -> tuple[Tensor, Tensor, SasState]:
        """The last step's frames after ``hear`` (B, D) -> frames (B, R M), logits of ending with them (B,), the state.

        The weights of the positions are ``looks[..., 0]`` of the state.
        """
        hidden, cell = self.hearing(torch.cat([heard, state.seen], dim=-1), state.heard)
        hidden = self.dropout(hidden)
        seen, weights = self.look(hidden, state)
        told, told_cell = self.saying(torch.cat([hidden, seen], dim=-1), state.said)
        told = self.dropout(told)
        known = torch.cat([told, seen], dim=-1)
        looks = torch.stack([weights, state.looks[..., 1] + weights], dim=-1)
        after = state._replace(heard=(hidden, cell), said=(told, told_cell), seen=seen, looks=looks)
        return self.frames(known), self.ending(known)[:, 0], after

    def follow(self, positions: Tensor, mel: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Positions (B, P, D), a recording's steps (B, T, R M) -> frames, logits of ending, weights of the positions.

        They are (B, T, R M) before the postnet, (B, T) and (B, T, P).  Each step hears the recording's frames before
        it; in training a share of ``sampled`` hears what was said in their place.
        """
        state = self.start(positions)
        heard = self.hear(F.pad(mel, (0, 0, 1, 0))[:, :-1])
        steps: list[tuple[Tensor, Tensor, Tensor]] = []
        for number, last in enumerate(heard.unbind(1)):
            if self.training and self.dims.sampled and number:
                own = torch.rand(len(last), 1, device=last.device) < self.dims.sampled
                last = torch.where(own, self.hear(steps[-1][0].detach()).to(last.dtype), last)
            frames, ending, state = self.step(last, state)
            steps.append((frames, ending, state.looks[..., 0]))
        said, endings, weights = (torch.stack(parts, dim=1) for parts in zip(*steps, strict=True))
        return said, endings, weights

    def attention(self, features: Tensor, mel: Tensor) -> Tensor:
        """Features (B, P, image_dim) and steps (B, T, R M) -> the weight of each position at each step (B, T, P)."""
        return self.follow(self.see(features), mel)[2]

    def mend(self, steps: Tensor, known: Tensor | None = None) -> Tensor:
        """Frames of steps (B, T, R M) -> mended (B, T, R M); ``known`` (B, T) is False where one is padded."""
        frames = steps.reshape(len(steps), -1, self.dims.n_mels)
        mask = frames.new_ones(frames.shape[:2]) if known is None else known.to(frames.dtype)
        mask = mask.repeat_interleave(frames.shape[1] // mask.shape[1], dim=1)[:, :, None]
        x = self.widen(frames)
        for block in self.blocks:
            x = block(x * mask)
        mended: Tensor = frames + self.narrow(x)
        return mended.reshape(steps.shape)

    @torch.inference_mode()
    def speak(self, features: Tensor, min_steps: int = 1, max_steps: int = 1_000_000, end_bias: float = 0.0) -> Spoken:
        """Features (1, P, image_dim) -> what is said of the photo.

        It ends where ending is likelier than going on, after ``min_steps`` to ``max_steps``, or the model's own limit;
        ``end_bias`` is added to the logit of ending.
        """
        most = min(max_steps, self.dims.max_steps)
        state, frames = self.start(self.see(features)), features.new_zeros(1, self.dims.step_width)
        said: list[Tensor] = []
        looks: list[Tensor] = []
        chances: list[Tensor] = []
        ended = False
        while not ended and len(said) < most:
            frames, ending, state = self.step(self.hear(frames), state)
            said.append(frames)
            looks.append(state.looks[0, :, 0])
            biased = ending[0] + end_bias
            ended = len(said) >= min_steps and bool(biased > 0)
            chances.append(F.logsigmoid(biased if ended else -biased))
        mel = self.mend(torch.stack(said, dim=1))[0].reshape(-1, self.dims.n_mels)
        return Spoken(mel, torch.stack(looks), float(torch.stack(chances).mean()))


class SasLoss(nn.Module):
    """A describer in training, with what tells whether a photo and a spectrogram belong together."""

    def __init__(self, describer: ShowAndSpeak) -> None:
        super().__init__()
        width = describer.dims.width
        self.describer = describer
        self.listen = nn.Conv1d(describer.dims.step_width, width, 5, stride=2, padding=2)
        self.of_speech, self.of_photo = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, features: Tensor, mel: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        """The ``loss`` of image features (B, P, image_dim) and recordings (B, T, R M) of ``lengths`` (B,) steps.

        The squared error of the frames before and after the postnet, the cross-entropy of ending, and ``agreement``
        times that of finding the batch's spectrograms by its photos and its photos by its spectrograms.
        """
        known = torch.arange(mel.shape[1], device=mel.device) < lengths[:, None]
        positions = self.describer.see(features)
        said, endings, _ = self.describer.follow(positions, mel)
        mended = self.describer.mend(said * known[..., None], known)
        missed = ((said.float() - mel)[known].square() + (mended.float() - mel)[known].square()).mean()
        last = torch.arange(mel.shape[1], device=mel.device) == lengths[:, None] - 1
        ending = F.binary_cross_entropy_with_logits(endings.float()[known], last[known].float())
        apart = self.agreement(positions, mel, lengths)
        return {"loss": missed + ending + self.describer.dims.agreement * apart}

    def agreement(self, positions: Tensor, mel: Tensor, lengths: Tensor) -> Tensor:
        """How badly photos (B, P, D) and spectrograms (B, T, R M) of a batch find each other, both ways, in nats."""
        heard = F.relu(self.listen(mel.transpose(1, 2))).transpose(1, 2)
        known = torch.arange(heard.shape[1], device=mel.device) * 2 < lengths[:, None]
        mean = (heard * known[..., None]).sum(1) / known.sum(1, keepdim=True).clamp(min=1)
        photos = self.of_photo(positions.mean(1))
        scores = (photos @ self.of_speech(mean).T).float()
        own = torch.arange(len(scores), device=scores.device)
        return F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)
