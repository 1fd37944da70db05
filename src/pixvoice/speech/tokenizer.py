"""Our codec in PyTorch behind the ``SpeechTokenizer`` contract."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from pixvoice.contracts import Audio, Codes, SpeechTokenizer
from pixvoice.errors import OptionError
from pixvoice.speech.codec import Codec, CodecConfig


class CodecTokenizer(SpeechTokenizer):
    """A trained ``Codec``, or the folder of its training, in evaluation mode."""

    def __init__(self, codec: Codec | str | Path, num_codebooks: int | None = None) -> None:
        """``num_codebooks`` takes the first so many codebooks of the codec; None takes all.

        Raises:
            BundleError: the folder holds no codec.
            OptionError: the codec has fewer codebooks.
        """
        if not isinstance(codec, Codec):
            from pixvoice.training.trainer import load_model

            codec = load_model(Path(codec), "codec", CodecConfig, Codec)
        largest = codec.dims.num_codebooks
        chosen = largest if num_codebooks is None else num_codebooks
        if not 1 <= chosen <= largest:
            raise OptionError(f"{chosen} codebooks are not between 1 and the codec's {largest}")
        self.codec, self._num_codebooks = codec.eval(), chosen

    @property
    def sample_rate(self) -> int:
        """Audio samples a second (Hz)."""
        return self.codec.dims.sample_rate

    @property
    def frame_rate(self) -> float:
        """Token frames a second (Hz)."""
        return self.codec.dims.frame_rate

    @property
    def num_codebooks(self) -> int:
        """K."""
        return self._num_codebooks

    @property
    def codebook_size(self) -> int:
        """V."""
        return self.codec.dims.codebook_size

    @torch.inference_mode()
    def encode(self, audio: Audio) -> Codes:
        """Audio (L,) -> codes (K, T), the end padded with zeros to a whole frame."""
        if not len(audio):
            return np.zeros((self.num_codebooks, 0), dtype=np.int64)
        codes: Codes = self.codec.encode(torch.from_numpy(np.asarray(audio, dtype=np.float32))[None])[0].numpy()
        return codes[: self.num_codebooks]

    @torch.inference_mode()
    def decode(self, codes: Codes) -> Audio:
        """Codes (K', T) with K' <= K -> audio (L,), L = T frames of samples."""
        if not codes.shape[1]:
            return np.zeros(0, dtype=np.float32)
        audio: Audio = self.codec.decode(torch.from_numpy(codes)[None])[0].numpy()
        return audio

    def decode_stream(self, frames: Iterable[Codes]) -> Iterator[Audio]:
        """Pieces of codes (K', t) -> pieces of audio (l,).

        A frame's audio is certain once the decoder's ``lookahead`` frames after it are known; of the past, only its
        ``context`` frames are kept.
        """
        decoder, samples = self.codec.decoder, self.codec.dims.frame_length
        window: Codes | None = None  # the context and the frames that are not spoken yet
        spoken = 0  # frames of the window whose audio has been given
        for piece in frames:
            window = piece if window is None else np.concatenate([window, piece], axis=1)
            certain = window.shape[1] - decoder.lookahead
            if certain > spoken:
                yield self.decode(window)[spoken * samples : certain * samples]
                old = max(0, certain - decoder.context)
                window, spoken = window[:, old:], certain - old
        if window is not None and window.shape[1] > spoken:
            yield self.decode(window)[spoken * samples :]
