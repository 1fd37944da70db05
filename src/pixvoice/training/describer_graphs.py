"""What a describer's two ONNX files compute: what it keeps of a photo, and one step."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixvoice.describe.model import DecoderLayer, PixVoxLM
from pixvoice.describe.sat import ShowAttendTell
from pixvoice.runtime import bundle as b
from pixvoice.training.search_graphs import Graph

Step = tuple[Tensor, Tensor, Tensor]
"""Logits (B, 1, V + 1), and the hidden and cell (B, D) after them."""


def _joined(linears: Iterable[nn.Module], scales: Iterable[float]) -> nn.Linear:
    """Linear maps of one input as one map, each times its scale."""
    states = [(linear.state_dict(), scale) for linear, scale in zip(linears, scales, strict=True)]
    weight, bias = (torch.cat([state[name] * scale for state, scale in states]) for name in ("weight", "bias"))
    joined = nn.Linear(weight.shape[1], weight.shape[0])
    joined.load_state_dict({"weight": weight, "bias": bias})
    return joined


class StepLayer(nn.Module):
    """``DecoderLayer.step`` in a quarter of the ONNX nodes: one map for query, key and value, and fixed shapes."""

    def __init__(self, layer: DecoderLayer) -> None:
        super().__init__()
        self.layer, self.heads = layer, layer.self_attention.heads
        own, cross = layer.self_attention, layer.cross_attention
        self.width = own.query.in_features
        scale = (self.width // self.heads) ** -0.5
        self.query_key_value = _joined([own.query, own.key_value], [scale, 1.0])
        self.cross_query = _joined([cross.query], [scale])

    def forward(self, x: Tensor, past: Tensor, cross: Tensor) -> tuple[Tensor, Tensor]:
        """One step x (B, D); past (2, B, heads, S, d); cross (2, B, heads, P, d) -> x and past with S + 1."""
        layer, head_width = self.layer, self.width // self.heads
        mixed = self.query_key_value(layer.self_norm(x)).reshape(-1, 3, self.heads, 1, head_width)
        past = torch.cat([past, mixed[:, 1:].transpose(0, 1)], dim=3)
        x = x + layer.self_attention.out(self._attend(mixed[:, 0], past))
        query = self.cross_query(layer.cross_norm(x)).reshape(-1, self.heads, 1, head_width)
        x = x + layer.cross_attention.out(self._attend(query, cross))
        return layer.mlp(x), past

    def _attend(self, query: Tensor, seen: Tensor) -> Tensor:
        """Scaled queries (B, heads, 1, d) over keys and values (2, B, heads, S, d) -> (B, D)."""
        key, value = seen.unbind(0)
        return ((query @ key.transpose(-1, -2)).softmax(-1) @ value).reshape(-1, self.width)


class StepGraph(nn.Module):
    """``PixVoxLM.step`` with the K embeddings in one table and the K heads in one map."""

    table: Tensor
    offsets: Tensor

    def __init__(self, model: PixVoxLM) -> None:
        super().__init__()
        self.codebooks, self.size = model.dims.num_codebooks, model.dims.codebook_size + 1
        self.positions, self.norm = model.positions, model.norm
        self.register_buffer("table", torch.cat([embed.state_dict()["weight"] for embed in model.embeddings]))
        self.register_buffer("offsets", torch.arange(self.codebooks) * self.size)
        self.layers = nn.ModuleList([StepLayer(layer) for layer in model.layers if isinstance(layer, DecoderLayer)])
        self.head = _joined(model.heads, [1.0] * self.codebooks)

    def forward(self, tokens: Tensor, past: Tensor, cross: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, K), past (layers, 2, B, heads, S, d), cross -> logits (B, K, V + 1), past with S + 1."""
        x = F.embedding(tokens + self.offsets, self.table).sum(1) + self.positions.weight[past.shape[4]]
        pasts = []
        for layer, own, seen in zip(self.layers, past.unbind(0), cross.unbind(0), strict=True):
            x, longer = layer(x, own, seen)
            pasts.append(longer)
        return self.head(self.norm(x)).reshape(-1, self.codebooks, self.size), torch.stack(pasts)


class Start(nn.Module):
    """Features (B, P, D) -> what a describer keeps of the photos: cross keys and values, or an LSTM's state."""

    def __init__(self, model: PixVoxLM | ShowAttendTell) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.model.start(features)


def describer_graphs(lm: PixVoxLM, features: Tensor) -> dict[str, Graph]:
    """The files of a transformer; ``features`` (B, P, D) are those of some photos."""
    cross = lm.start(features)
    layers, two, batch, heads, _, width = cross.shape
    inputs = {
        "tokens": torch.zeros(batch, lm.dims.num_codebooks, dtype=torch.int64),
        "past": torch.zeros(layers, two, batch, heads, 3, width),
        "cross": cross,
    }
    axes = {"tokens": {0: "batch"}, "logits": {0: "batch"}, "cross": {2: "photos"}}
    axes |= {"past": {2: "batch", 4: "steps"}, "next_past": {2: "batch", 4: "next_steps"}}
    begun = {"features": {0: "batch"}, "cross": {2: "batch"}}
    return {
        b.DESCRIBER_START: Graph(Start(lm), {"features": features}, ("cross",), begun),
        b.DESCRIBER_STEP: Graph(StepGraph(lm), inputs, ("logits", "next_past"), axes),
    }


class SatStepGraph(nn.Module):
    """``ShowAttendTell.step`` with all maps of one input joined, and what the LSTM takes of each unit in a table."""

    table: Tensor

    def __init__(self, model: ShowAttendTell) -> None:
        super().__init__()
        self.score, self.head = model.score, model.head
        self.say_hidden, self.say_seen = model.say_hidden, model.say_seen
        lstm, width = model.lstm, model.dims.width
        self.sizes = [model.dims.attention_width, width, 4 * width]
        of_unit, of_seen = torch.split(lstm.weight_ih, width, dim=1)
        embedded = model.embedding.weight
        self.register_buffer("table", torch.cat([embedded, embedded @ of_unit.T], dim=1))
        self.of_seen = _linear(of_seen)
        recalled = _linear(lstm.weight_hh, lstm.bias_hh + lstm.bias_ih)
        self.of_hidden = _joined([_linear(model.query.weight), model.gate, recalled], [1.0] * 3)

    def forward(self, tokens: Tensor, hidden: Tensor, cell: Tensor, patches: Tensor, keys: Tensor) -> Step:
        """Tokens (B, 1), hidden, cell (B, D), patches (B or 1, P, D), keys (B or 1, P, A) -> logits, the next state."""
        embedded, of_unit = torch.split(F.embedding(tokens[:, 0], self.table), self.sizes[1:], dim=-1)
        query, gate, recalled = torch.split(self.of_hidden(hidden), self.sizes, dim=-1)
        weights = self.score(torch.tanh(keys + query[:, None])).transpose(1, 2).softmax(-1)
        seen = torch.sigmoid(gate) * (weights @ patches)[:, 0]
        let_in, let_go, new, let_out = (of_unit + recalled + self.of_seen(seen)).chunk(4, dim=-1)
        cell = torch.sigmoid(let_go) * cell + torch.sigmoid(let_in) * torch.tanh(new)
        hidden = torch.sigmoid(let_out) * torch.tanh(cell)
        logits = self.head(embedded + self.say_hidden(hidden) + self.say_seen(seen))
        return logits[:, None], hidden, cell


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A linear map of given weights (out, in), with a bias of zeros unless given."""
    made = nn.Linear(weight.shape[1], weight.shape[0])
    made.load_state_dict({"weight": weight, "bias": torch.zeros(len(weight)) if bias is None else bias})
    return made


def sat_graphs(sat: ShowAttendTell, features: Tensor) -> dict[str, Graph]:
    """The files of show, attend and tell; ``features`` (B, P, D) are those of some photos."""
    state, row, photo = sat.start(features), {0: "batch"}, {0: "photos"}
    begun = dict.fromkeys(("features", *state._fields), row)
    inputs = {"tokens": torch.zeros(len(features), 1, dtype=torch.int64), **state._asdict()}
    outputs = ("logits", "next_hidden", "next_cell")
    axes = dict.fromkeys((*inputs, *outputs), row) | {"patches": photo, "keys": photo}
    return {
        b.DESCRIBER_START: Graph(Start(sat), {"features": features}, state._fields, begun),
        b.DESCRIBER_STEP: Graph(SatStepGraph(sat), inputs, outputs, axes),
    }
