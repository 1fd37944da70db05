"""Decoding that leans on the photo: tokens that it makes likelier count more.

Beside the photo's log-probabilities p stand those of features that are all zero, q, of the same tokens so far; what is
chosen among is p + g (p - q).  Any ``SpeechDecoder`` can be guided so, and none has to be trained for it.

Source: Ho and Salimans 2022, "Classifier-free diffusion guidance" (arXiv 2207.12598); Sanchez et al. 2023, "Stay on
topic with classifier-free guidance" (arXiv 2306.17806: language models; one that wasn't trained to go without).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pixvoice.contracts import Codes, Floats, SpeechDecoder

PLAUSIBLE = 6.0
"""Nats: a token that the photo makes less likely than the likeliest by more isn't chosen, whatever is gained."""


class GuidedState(NamedTuple):
    """Two states of the decoder behind: given the photos, and given features of zeros."""

    seeing: Any
    blind: Any


class GuidedDecoder(SpeechDecoder):
    """``decoder`` with a ``guidance`` g over 0; a step costs two of the decoder's."""

    def __init__(self, decoder: SpeechDecoder, guidance: float) -> None:
        self.decoder, self.guidance = decoder, guidance

    @property
    def num_codebooks(self) -> int:
        """K."""
        return self.decoder.num_codebooks

    @property
    def codebook_size(self) -> int:
        """V."""
        return self.decoder.codebook_size

    @property
    def max_steps(self) -> int:
        """S."""
        return self.decoder.max_steps

    def start(self, features: Floats) -> GuidedState:
        """Features (B, P, D) -> the states before the first step."""
        blind = self.decoder.start(np.zeros_like(features[:1]))
        if len(features) > 1:
            blind = self.decoder.select(blind, np.zeros(len(features), np.int64))
        return GuidedState(self.decoder.start(features), blind)

    def step(self, tokens: Codes, state: GuidedState) -> tuple[Floats, GuidedState]:
        """Tokens (B, K) -> logits (B, K, V + 1) that lean on the photo, and the next states.

        The special token is always left to choose: it may be all that a pattern allows.
        """
        logits, seeing = self.decoder.step(tokens, state.seeing)
        without, blind = self.decoder.step(tokens, state.blind)
        given, prior = _log_softmax(logits), _log_softmax(without)
        leaning = given + np.float32(self.guidance) * (given - prior)
        said = given[..., : self.codebook_size]
        leaning[..., : self.codebook_size][said < said.max(axis=-1, keepdims=True) - PLAUSIBLE] = -np.inf
        return leaning, GuidedState(seeing, blind)

    def select(self, state: GuidedState, rows: npt.NDArray[np.int64]) -> GuidedState:
        """The states of ``rows`` (B',)."""
        return GuidedState(self.decoder.select(state.seeing, rows), self.decoder.select(state.blind, rows))


def _log_softmax(logits: Floats) -> Floats:
    shifted: Floats = logits - logits.max(axis=-1, keepdims=True)
    normalised: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return normalised
