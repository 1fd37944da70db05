"""EnCodec through Hugging Face Transformers behind the ``SpeechTokenizer`` contract.

Source: Défossez et al. 2022, "High Fidelity Neural Audio Compression" (arXiv 2210.13438).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import EncodecModel
from transformers.models.encodec.modeling_encodec import EncodecConv1d

from pixvoice.contracts import Audio, Codes, SpeechTokenizer
from pixvoice.errors import BundleError, MissingToolError, OptionError


class EncodecTokenizer(SpeechTokenizer):
    """A mono EnCodec checkpoint, by hub id or folder, at one of its bandwidths."""

    def __init__(self, checkpoint: str | Path, bandwidth: float | None = None) -> None:
        """``bandwidth`` in kbit/s sets K; None takes the checkpoint's smallest.

        Raises:
            BundleError: no EnCodec in safetensors is in the folder, or one whose codes alone make no waveform.
            MissingToolError: no such folder, and the hub can't be reached.
            OptionError: the checkpoint doesn't have this bandwidth.
        """
        self.model = _load(str(checkpoint))
        config = self.model.config
        if config.audio_channels != 1 or config.normalize or config.chunk_length_s:
            raise BundleError(
                f"{checkpoint} is an EnCodec of music (stereo, or a loudness kept beside its codes); give a mono one"
                " such as facebook/encodec_24khz"
            )
        allowed = [float(value) for value in config.target_bandwidths]
        self._bandwidth = allowed[0] if bandwidth is None else float(bandwidth)
        if self._bandwidth not in allowed:
            raise OptionError(
                f"bandwidth {bandwidth:g} kbit/s is not one of {checkpoint}: use {', '.join(f'{b:g}' for b in allowed)}"
            )

    @property
    def sample_rate(self) -> int:
        """Audio samples a second (Hz)."""
        return int(self.model.config.sampling_rate)

    @property
    def frame_rate(self) -> float:
        """Token frames a second (Hz)."""
        return self.sample_rate / int(self.model.config.hop_length)

    @property
    def num_codebooks(self) -> int:
        """K at this bandwidth."""
        return int(self.model.quantizer.get_num_quantizers_for_bandwidth(self._bandwidth))

    @property
    def codebook_size(self) -> int:
        """V."""
        return int(self.model.config.codebook_size)

    @torch.inference_mode()
    def encode(self, audio: Audio) -> Codes:
        """Audio (L,) -> codes (K, T), T the frames begun."""
        if not len(audio):
            return np.zeros((self.num_codebooks, 0), dtype=np.int64)
        samples = torch.from_numpy(np.asarray(audio, dtype=np.float32))[None, None]
        codes: Codes = self.model.encode(samples, bandwidth=self._bandwidth).audio_codes[0, 0].numpy()
        return codes

    @torch.inference_mode()
    def decode(self, codes: Codes) -> Audio:
        """Codes (K', T) with K' <= K -> audio (L,), L = T frames of samples."""
        if not codes.shape[1]:
            return np.zeros(0, dtype=np.float32)
        audio: Audio = self.model.decode(torch.from_numpy(codes)[None, None], [None]).audio_values[0, 0].numpy()
        return audio

    def decode_stream(self, frames: Iterable[Codes]) -> Iterator[Audio]:
        """Pieces of codes (K', t) -> pieces of audio (l,).

        The decoder's convolutions look back only, but reflect the first frames to its left, and its LSTM remembers all
        of the past: no sound is certain before every convolution has its reflection, and after that all of it is.
        Each piece decodes the whole past anew, the simplest form that equals ``decode``; the cost grows with the
        square of the length.  A checkpoint whose convolutions look ahead is decoded at the end.
        """
        codes = np.zeros((self.num_codebooks, 0), dtype=np.int64)
        given = 0
        for piece in frames:
            codes = np.concatenate([codes[: len(piece)], piece], axis=1)
            if self._causal and codes.shape[1] >= self._first_frames and piece.shape[1]:
                audio = self.decode(codes)
                yield audio[given:]
                given = len(audio)
        rest = self.decode(codes)[given:]
        if len(rest):
            yield rest

    @property
    def _causal(self) -> bool:
        config = self.model.config
        return bool(config.use_causal_conv and config.trim_right_ratio == 1.0 and config.norm_type == "weight_norm")

    @property
    def _first_frames(self) -> int:
        """Frames after which no convolution's reflected padding changes; later layers have more samples a frame."""
        convolutions = [part for part in self.model.decoder.modules() if isinstance(part, EncodecConv1d)]
        return 1 + max(int(part.padding_total) for part in convolutions)


def _load(checkpoint: str) -> Any:
    try:
        loaded: Any = EncodecModel.from_pretrained(checkpoint, use_safetensors=True, output_loading_info=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".: ")
        if Path(checkpoint).exists():
            raise BundleError(
                f"{checkpoint} can't be loaded as an EnCodec checkpoint ({reason}): give a folder with config.json and"
                " model.safetensors"
            ) from error
        raise MissingToolError(
            f"{checkpoint} is no local folder and can't be fetched from the hub ({reason}): download it once where"
            " there is a network, and give its folder"
        ) from error
    model, report = loaded
    if absent := sorted(report["missing_keys"]):
        raise BundleError(
            f"{checkpoint} is not a whole EnCodec checkpoint: {absent[0]} and {len(absent) - 1} more absent"
        )
    return model.eval()
