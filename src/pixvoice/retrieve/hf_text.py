"""The text towers of CLIP and SigLIP, with learned prompts among their tokens and no limit to the words.

Sources: Radford et al. 2021 (CLIP, arXiv 2103.00020); Zhai et al. 2023 (SigLIP, arXiv 2303.15343); Khattak et al. 2023
(MaPLe, arXiv 2210.03117), at depth 1, for the prompts.

Letters: B batch, W windows of a text, N tokens of a window, M prompts, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoTokenizer, CLIPTextModelWithProjection, SiglipTextModel

from pixvoice.errors import BundleError, OptionError
from pixvoice.retrieve.hf_load import Frozen, changed_output, guarded, load_config, load_tower
from pixvoice.retrieve.parts import TextPart

TOWERS = {
    "clip": CLIPTextModelWithProjection,
    "clip_text_model": CLIPTextModelWithProjection,
    "siglip": SiglipTextModel,
    "siglip_text_model": SiglipTextModel,
}
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model")
WANTED = "CLIP or SigLIP with a text tower"


class ClipText(TextPart):
    """A frozen text tower of CLIP or SigLIP.

    The prompts stand right after the start token (SigLIP has none: there they come first) and move the words that many
    positions on.  Words that don't fit beside them fill further windows; a text's vector is the mean of its windows',
    each weighing as much as it has tokens.
    """

    def __init__(self, tower: Any, tokenizer: Any, prompts: int = 0) -> None:
        """A Transformers tower, its tokenizer, and the most prompts M that ``forward`` will be given.

        Raises OptionError if so many prompts leave no room for words, BundleError if the tokenizer is another model's.
        """
        super().__init__()
        self.tower, self.tokenizer, self.most_prompts = Frozen(tower), tokenizer, prompts
        config = tower.config
        clip = isinstance(tower, CLIPTextModelWithProjection)
        self.embed_dim = int(config.projection_dim if clip else config.projection_size)
        self.prompt_dim = int(config.hidden_size)
        self.positions = int(config.max_position_embeddings)
        self.fills_up = not clip  # SigLIP takes its vector from the last position, padding or not
        *self.start, self.end = tokenizer("").input_ids
        self.pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.end
        self.room = self.positions - prompts - len(self.start) - 1
        if self.room < 1:
            raise OptionError(f"prompts: {prompts} leave no room for words in {self.positions} positions; take fewer")
        ends = {self.end} if config.eos_token_id == 2 or self.fills_up else {config.eos_token_id}
        if self.end not in ends or max(self.end, self.pad, *self.start, 0) >= config.vocab_size:
            raise BundleError(
                f"the tokenizer ends a text with token {self.end}, the tower with {config.eos_token_id} of"
                f" {config.vocab_size}: they belong to two models; put the files of one into the folder"
            )

    @classmethod
    def load(cls, checkpoint: str | Path, prompts: int = 0) -> ClipText:
        """The text tower of a checkpoint, by folder or hub id.

        Raises:
            BundleError: there is no such checkpoint, it is no CLIP or SigLIP, or a file of it is missing or damaged.
            MissingToolError: its tokenizer needs a package that isn't installed.
            OptionError: so many prompts leave no room for words.
        """
        name = str(checkpoint)
        config = load_config(name, TOWERS, WANTED)
        if Path(name).is_dir() and not any((Path(name) / file).is_file() for file in TOKENIZER_FILES):
            raise BundleError(f"{name} has no tokenizer: put {' or '.join(TOKENIZER_FILES)} of the model into it")
        tokenizer = guarded(name, WANTED, lambda: AutoTokenizer.from_pretrained(name))
        return cls(load_tower(name, TOWERS[config.model_type], WANTED), tokenizer, prompts)

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Texts (B of them, any length) -> ``ids`` (B, W, N) int64 and ``weights`` (B, W), which sum to 1.

        A window of weight 0 fills up the batch.
        """
        batch = [list(self._windows(text)) for text in texts]
        count = max((len(windows) for windows in batch), default=1)
        longest = max((len(window) for windows in batch for window in windows), default=0)
        longest += len(self.start) + 1
        ids = torch.full((len(batch), count, longest), self.pad)
        weights = torch.zeros(len(batch), count)
        for row, windows in enumerate(batch):
            for place, window in enumerate(windows):
                whole = [*self.start, *window, self.end]
                ids[row, place, : len(whole)] = torch.tensor(whole)
                weights[row, place] = len(window) or 1
        return {"ids": ids, "weights": weights / weights.sum(1, keepdim=True)}

    def forward(self, tokens: dict[str, Tensor], prompts: Tensor | None) -> Tensor:
        """``ids`` (B, W, N), ``weights`` (B, W) and prompts (M, prompt_dim) -> vectors (B, D), not normalised."""
        weights = tokens["weights"]
        used = weights > 0
        vectors = self._embed(tokens["ids"][used], prompts)
        weighted = vectors * weights[used][:, None].to(vectors.dtype)
        return vectors.new_zeros(len(weights), self.embed_dim).index_add(0, used.nonzero()[:, 0], weighted)

    def _embed(self, ids: Tensor, prompts: Tensor | None) -> Tensor:
        """Windows (B', N) -> vectors (B', D).

        Tokens hold the prompts' places, and their embeddings are exchanged for the prompts: positions, the causal mask
        and the place of the end token are then the tower's own affair.
        """
        tower = self.tower.model
        count, first = 0 if prompts is None else len(prompts), len(self.start)
        assert count <= self.most_prompts, f"{count} prompts given, room left for {self.most_prompts}"
        if self.fills_up:
            ids = F.pad(ids, (0, self.positions - count - ids.shape[1]), value=self.pad)
        if prompts is None:
            return self._pooled(tower(input_ids=ids))
        holder = self.start[0] if self.start else self.pad  # an end token would be taken for the text's end
        ids = torch.cat([ids[:, :first], ids.new_full((len(ids), count), holder), ids[:, first:]], dim=1)

        def put_in(embedded: Tensor) -> Tensor:
            shared = prompts.to(embedded.dtype).expand(len(embedded), -1, -1)
            return torch.cat([embedded[:, :first], shared, embedded[:, first + count :]], dim=1)

        with changed_output(tower.get_input_embeddings(), put_in):
            return self._pooled(tower(input_ids=ids))

    def _pooled(self, output: Any) -> Tensor:
        vectors: Tensor = output.pooler_output if self.fills_up else output.text_embeds
        return vectors

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return ids

    def _windows(self, text: str) -> Iterator[list[int]]:
        """The tokens of a text, ``room`` at most at a time; a cut lies between words unless one word is longer."""
        whole = self._ids(text)
        if len(whole) <= self.room:
            yield whole
            return
        window: list[int] = []
        for word in text.split():
            tokens = self._ids(word)
            if window and len(window) + len(tokens) > self.room:
                yield window
                window = []
            window += tokens
            while len(window) > self.room:
                yield window[: self.room]
                window = window[self.room :]
        if window:
            yield window
