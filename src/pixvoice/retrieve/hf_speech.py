"""Frozen encoders of speech: Whisper, and HuBERT, wav2vec 2.0 or WavLM.  Recordings of any length, padding masked.

Sources: Radford et al. 2022 (Whisper, arXiv 2212.04356); Hsu et al. 2021 (HuBERT, arXiv 2106.07447); Baevski et al.
2020 (wav2vec 2.0, arXiv 2006.11477); Shih et al. 2022 (SpeechCLIP, arXiv 2210.00705) for the learned sum of layers.

Letters: B batch, L samples, T frames, D width.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    HubertModel,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMModel,
    WhisperFeatureExtractor,
    WhisperModel,
)

from pixvoice.contracts import Audio
from pixvoice.retrieve.hf_load import Frozen, guarded, load_config, load_tower
from pixvoice.retrieve.parts import SpeechPart
from pixvoice.speech.transformers_asr import split_at_pauses

WAVE_TOWERS = {"hubert": HubertModel, "wav2vec2": Wav2Vec2Model, "wavlm": WavLMModel}
TOWERS: dict[str, Any] = {"whisper": WhisperModel, **WAVE_TOWERS}
AT_ONCE = 32  # windows that go through the tower together
WANTED = "Whisper, HuBERT, wav2vec 2.0 or WavLM"


class _WindowedSpeech(SpeechPart):
    """What both share: a recording longer than one window is cut at its quietest places, and its frames are joined."""

    window_s: float  # seconds of audio that the tower hears at once

    @abstractmethod
    def _encode(self, pieces: list[Audio], device: torch.device) -> list[Tensor]:
        """A few pieces (L,) of one window at most -> frames (T, D) of each, those of its audio only."""

    def forward(self, audio: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Audio (B, L), ``lengths`` (B,) in samples -> frames (B, T, D) and mask (B, T), True where there is speech.

        A clip's frames hang on its own samples alone, whatever it is padded with.
        """
        clips = [row[:length] for row, length in zip(audio.float().cpu().numpy(), lengths.tolist(), strict=True)]
        pieces = [split_at_pauses(clip, self.sample_rate, self.window_s) for clip in clips]
        flat = [piece for clip in pieces for piece in clip]
        groups = [flat[start : start + AT_ONCE] for start in range(0, len(flat), AT_ONCE)]
        encoded = iter([piece for group in groups for piece in self._encode(group, audio.device)])
        frames = [torch.cat([next(encoded) for _ in clip]) for clip in pieces]
        counts = torch.tensor([len(clip) for clip in frames], device=audio.device)
        padded = pad_sequence(frames, batch_first=True)
        return padded, torch.arange(padded.shape[1], device=audio.device) < counts[:, None]


class WhisperSpeech(_WindowedSpeech):
    """A frozen Whisper encoder: it hears 30 s at a time, filled up with silence, of which no frame is kept."""

    def __init__(self, encoder: Any, extractor: Any) -> None:
        """A Transformers encoder of Whisper, and its feature extractor."""
        super().__init__()
        self.tower, self.extractor = Frozen(encoder), extractor
        self.frame_dim, self.sample_rate = int(encoder.config.d_model), int(extractor.sampling_rate)
        self.window_s = float(extractor.chunk_length)
        self.frame_samples = int(extractor.n_samples) // int(encoder.config.max_source_positions)

    @classmethod
    def load(cls, checkpoint: str | Path) -> WhisperSpeech:
        """The encoder of a checkpoint, by folder or hub id.

        Raises BundleError if there is no such checkpoint, it is no Whisper, or a file of it is missing or damaged.
        """
        name, wanted = str(checkpoint), "Whisper"
        load_config(name, {"whisper": WhisperModel}, wanted)
        extractor = guarded(name, wanted, lambda: WhisperFeatureExtractor.from_pretrained(name))
        return cls(load_tower(name, WhisperModel, wanted).encoder, extractor)

    def _encode(self, pieces: list[Audio], device: torch.device) -> list[Tensor]:
        features = self.extractor(pieces, sampling_rate=self.sample_rate, return_tensors="pt")["input_features"]
        with torch.no_grad():
            frames = self.tower.model(features.to(device)).last_hidden_state  # (B, 1500, D)
        return [row[: max(1, -(-len(piece) // self.frame_samples))] for row, piece in zip(frames, pieces, strict=True)]


class HubertSpeech(_WindowedSpeech):
    """A frozen HuBERT, wav2vec 2.0 or WavLM; a frame is a learned sum of what its layers give, as in SpeechCLIP."""

    window_s = 30.0

    def __init__(self, tower: Any, extractor: Any) -> None:
        """A Transformers model and its feature extractor."""
        super().__init__()
        self.tower, self.extractor = Frozen(tower), extractor
        config = tower.config
        self.frame_dim, self.sample_rate = int(config.hidden_size), int(extractor.sampling_rate)
        self.layer_weights = nn.Parameter(torch.zeros(int(config.num_hidden_layers) + 1))
        # A group norm over time sees the padding too: such a model hears clips one by one.
        self.one_by_one = config.feat_extract_norm == "group"
        self.shortest = 1  # samples of the first frame
        for kernel, stride in reversed(list(zip(config.conv_kernel, config.conv_stride, strict=True))):
            self.shortest = (self.shortest - 1) * stride + kernel

    @classmethod
    def load(cls, checkpoint: str | Path) -> HubertSpeech:
        """The encoder of a checkpoint, by folder or hub id.

        Raises BundleError if there is no such checkpoint, it is none of the three, or a file is missing or damaged.
        """
        name, wanted = str(checkpoint), "HuBERT, wav2vec 2.0 or WavLM"
        kind = load_config(name, WAVE_TOWERS, wanted).model_type
        extractor = guarded(name, wanted, lambda: Wav2Vec2FeatureExtractor.from_pretrained(name))
        return cls(load_tower(name, WAVE_TOWERS[kind], wanted), extractor)

    def _encode(self, pieces: list[Audio], device: torch.device) -> list[Tensor]:
        pieces = [np.pad(piece, (0, max(0, self.shortest - len(piece)))) for piece in pieces]
        batches = [[piece] for piece in pieces] if self.one_by_one else [pieces]
        return [frames for batch in batches for frames in self._encode_batch(batch, device)]

    def _encode_batch(self, pieces: list[Audio], device: torch.device) -> list[Tensor]:
        inputs = self.extractor(
            pieces, sampling_rate=self.sample_rate, padding=True, return_attention_mask=True, return_tensors="pt"
        )
        mask = None if self.one_by_one else inputs["attention_mask"].to(device)
        with torch.no_grad():
            layers = self.tower.model(
                inputs["input_values"].to(device), attention_mask=mask, output_hidden_states=True
            ).hidden_states
        mixed = torch.einsum("k,kbtd->btd", self.layer_weights.softmax(0), torch.stack(layers))
        counts = self.tower.model._get_feat_extract_output_lengths(torch.tensor([len(piece) for piece in pieces]))
        return [row[:count] for row, count in zip(mixed, counts.tolist(), strict=True)]


def load_speech(checkpoint: str | Path) -> SpeechPart:
    """The speech part of any checkpoint that one of the two classes takes.  Raises BundleError as they do."""
    kind = load_config(str(checkpoint), TOWERS, WANTED).model_type
    return WhisperSpeech.load(checkpoint) if kind == "whisper" else HubertSpeech.load(checkpoint)
