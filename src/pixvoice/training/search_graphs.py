"""What the ONNX files of search compute; one recording at a time, of any length."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixvoice.retrieve.model import DualChannel, fuse
from pixvoice.retrieve.small_parts import SmallTextPart
from pixvoice.runtime import bundle as b


@dataclass(frozen=True)
class Graph:
    """One ONNX file: a module, an example of each input by name, outputs by name, and the axes of any length."""

    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    axes: dict[str, dict[int, str]]


class SearchPhoto(nn.Module):
    """The image student's features (B, P, D) -> embeddings (B, E)."""

    def __init__(self, model: DualChannel) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor) -> Tensor:
        return self.model.see(features)


class SearchSpeech(nn.Module):
    """One recording -> its embedding (1, E).

    Takes the inputs of the channels that the variant has: ``hidden`` (N, W, D) and ``mask`` (N, W), its frames in N
    windows, and ``ngrams`` (words, G), padded with the number of buckets.
    """

    def __init__(self, model: DualChannel) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Tensor:
        heard = self._hear(inputs[0], inputs[1]) if self.model.dims.hears else None
        read = self._read(inputs[-1]) if self.model.dims.reads else None
        return fuse(read, heard)

    def _hear(self, hidden: Tensor, mask: Tensor) -> Tensor:
        vectors, weights = self.model.acoustic.hear(hidden, mask, self.model.prompts)
        return (vectors * weights[:, None]).sum(0, keepdim=True) / weights.sum()

    def _read(self, ngrams: Tensor) -> Tensor:
        text, prompts = self.model.text, self.model.prompts
        assert isinstance(text, SmallTextPart)
        known = (ngrams != text.buckets).float()[:, :, None]
        vectors = F.embedding(ngrams, text.vectors.weight)
        words = (vectors * known).sum(1) / known.sum(1)
        fitted = None if prompts is None else self.model.text_prompts(prompts)
        states, _ = text.gru(text.after_prompts(words[None], fitted))
        read: Tensor = self.model.text_out(text.pool(states))
        return read


def search_graphs(model: DualChannel, features: Tensor) -> dict[str, Graph]:
    """The two files of search; ``features`` (B, P, D) is an example of the image student's."""
    axes: dict[str, dict[int, str]] = {"features": {0: "batch"}, "embedding": {0: "batch"}}
    found = {b.SEARCH_PHOTO: Graph(SearchPhoto(model), {"features": features}, ("embedding",), axes)}
    inputs: dict[str, Tensor] = {}
    axes = {}
    if model.dims.hears and model.speech is not None:
        inputs["hidden"] = torch.zeros(2, 6 * model.dims.stack, model.speech.frame_dim)
        inputs["mask"] = torch.ones(2, 6 * model.dims.stack, dtype=torch.bool)
        axes = {name: {0: "windows", 1: "frames"} for name in inputs}
    if isinstance(model.text, SmallTextPart):
        inputs["ngrams"] = model.text.tokenize(["two words"])["ngrams"][0]
        axes["ngrams"] = {0: "words", 1: "grams"}
    found[b.SEARCH_SPEECH] = Graph(SearchSpeech(model), inputs, ("embedding",), axes)
    return found
