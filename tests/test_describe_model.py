"""The describer's language model: causal, step by step as at once, and its loss as it is written down."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the describer's training form needs torch (the train extra)")
pytest.importorskip("transformers", reason="training needs transformers (the train extra)")

from pixvoice.describe.model import IGNORE, PixVoxConfig, PixVoxLM  # noqa: E402
from pixvoice.patterns import make_pattern  # noqa: E402
from pixvoice.training.describer import inputs_and_labels  # noqa: E402

SIZES = {
    "num_codebooks": 3, "codebook_size": 10, "width": 16, "layers": 2, "heads": 2, "image_dim": 6, "max_steps": 20,
    "dropout": 0.0,
}  # fmt: skip
PATTERNS = ("parallel", "delay")


def model_of(pattern: str = "delay", **sizes: object) -> PixVoxLM:
    torch.manual_seed(0)
    model = PixVoxLM(PixVoxConfig(pattern=pattern, **{**SIZES, **sizes}))  # type: ignore[arg-type]
    for parameter in model.parameters():  # far from the start, where all logits are nearly zero
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model.eval()


def photo_and_tokens(steps: int, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(batch, 5, 6, generator=generator)
    return features, torch.randint(11, (batch, 3, steps), generator=generator)


@torch.inference_mode()
def test_step_by_step_equals_all_at_once() -> None:
    model = model_of()
    features, tokens = photo_and_tokens(12)
    cross = model.start(features)
    assert cross.shape == (2, 2, 2, 2, 5, 8)  # layers, keys and values, B, heads, P, d
    past = cross.new_zeros((2, 2, 2, 2, 0, 8))
    steps = []
    for s in range(12):
        logits, past = model.step(tokens[:, :, s], past, cross)
        assert logits.shape == (2, 3, 11) and past.shape[4] == s + 1
        steps.append(logits)
    whole = model.logits(features, tokens).permute(1, 0, 2, 3)  # (B, K, S, V + 1)
    np.testing.assert_allclose(torch.stack(steps, dim=2), whole, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("step", [0, 4, 9])
def test_future_tokens_do_not_matter_and_past_ones_do(step: int) -> None:
    model = model_of()
    features, tokens = photo_and_tokens(10)
    before = model.logits(features, tokens)
    changed = tokens.clone()
    changed[:, 1, step] = (changed[:, 1, step] + 1) % 11
    after = model.logits(features, changed)
    assert torch.equal(before[:, :, :step], after[:, :, :step])
    assert (before[:, :, step:] != after[:, :, step:]).any(dim=(0, 1, 3)).all()


@torch.inference_mode()
def test_where_it_looks_is_what_it_weighs_the_photo_by() -> None:
    model = model_of(layers=1)
    features, tokens = photo_and_tokens(6)
    weights = model.attention(features, tokens)
    assert weights.shape == (2, 6, 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 6))
    (layer,) = model.decoder_layers()
    layer.cross_attention.out.weight.data[:] = torch.eye(16)
    layer.cross_attention.out.bias.data.zero_()
    key, value = layer.cross_attention.keys_values(model.see(features))
    value[:] = torch.arange(5.0)[:, None]  # the number of the patch: what comes out is the mean place, by heads
    x = layer.recall(model.embed(tokens) + model.positions.weight[:6])
    seen = layer.cross_attention(layer.cross_norm(x), key, value)
    torch.testing.assert_close(seen.mean(-1), weights @ torch.arange(5.0))


@torch.inference_mode()
def test_every_patch_and_codebook_is_seen() -> None:
    model = model_of()
    features, tokens = photo_and_tokens(4)
    before = model.logits(features, tokens)
    for patch in range(5):
        other = features.clone()
        other[:, patch, 0] += 1  # a change that the norm over the features doesn't take away
        assert not torch.allclose(model.logits(other, tokens), before)
    for k in range(3):
        changed = tokens.clone()
        changed[:, k, 0] = (changed[:, k, 0] + 1) % 11
        assert not torch.allclose(model.logits(features, changed), before)


@torch.inference_mode()
def test_rows_of_a_batch_do_not_mix() -> None:
    model = model_of()
    features, tokens = photo_and_tokens(7, batch=3)
    together = model.logits(features, tokens)
    for row in range(3):
        alone = model.logits(features[row : row + 1], tokens[row : row + 1])
        np.testing.assert_allclose(alone[:, 0], together[:, row], atol=1e-5)


@torch.inference_mode()
def test_loss_is_the_cross_entropy_over_codebooks_and_steps() -> None:
    """Minus the log probability of each label: the mean over the steps that count, then over the codebooks."""
    model = model_of()
    features, tokens = photo_and_tokens(9)
    labels = torch.randint(11, (2, 3, 9), generator=torch.Generator().manual_seed(2))
    labels[0, 1, :3] = labels[1, 2, 6:] = labels[:, 0, 8] = IGNORE
    probabilities = model.logits(features, tokens).double().softmax(-1)
    codebooks = []
    for k in range(3):
        terms = [
            -np.log(float(probabilities[k, b, s, labels[b, k, s]]))
            for b in range(2)
            for s in range(9)
            if labels[b, k, s] != IGNORE
        ]
        codebooks.append(sum(terms) / len(terms))
    loss = model(features, tokens, labels)["loss"]
    assert loss.item() == pytest.approx(sum(codebooks) / 3, rel=1e-5)


def test_inputs_and_labels_in_parallel() -> None:
    codes = np.array([[1, 2, 3], [4, 5, 6]])
    inputs, labels = inputs_and_labels(codes, make_pattern("parallel", 2), special=9)
    assert inputs.tolist() == [[9, 1, 2, 3], [9, 4, 5, 6]]
    assert labels.tolist() == [[1, 2, 3, 9], [4, 5, 6, IGNORE]]  # codebook 0 alone tells the end


def test_inputs_and_labels_with_delay() -> None:
    codes = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 0]])
    inputs, labels = inputs_and_labels(codes, make_pattern("delay", 3), special=9)
    assert inputs.tolist() == [
        [9, 1, 2, 3, 9, 9],
        [9, 9, 4, 5, 6, 9],
        [9, 9, 9, 7, 8, 0],
    ]
    assert labels.tolist() == [
        [1, 2, 3, 9, IGNORE, IGNORE],
        [IGNORE, 4, 5, 6, IGNORE, IGNORE],
        [IGNORE, IGNORE, 7, 8, 0, IGNORE],
    ]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_an_utterance_without_frames_is_its_end(pattern: str) -> None:
    inputs, labels = inputs_and_labels(np.zeros((2, 0), dtype=np.int64), make_pattern(pattern, 2), special=9)
    assert inputs.tolist() == [[9], [9]] and labels.tolist() == [[9], [IGNORE]]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_tiny_model_learns_one_caption_by_heart(pattern: str) -> None:
    torch.manual_seed(0)
    model = PixVoxLM(PixVoxConfig(pattern=pattern, **SIZES))  # type: ignore[arg-type]
    codes = np.random.default_rng(0).integers(10, size=(3, 8))
    layout = make_pattern(pattern, 3)
    inputs, labels = (torch.from_numpy(x)[None] for x in inputs_and_labels(codes, layout, special=10))
    features = torch.randn(1, 5, 6)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = model(features, inputs, labels)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    with torch.inference_mode():
        best = model.eval().logits(features, inputs).argmax(-1)[:, 0].numpy()  # (K, S + 1)
    np.testing.assert_array_equal(layout.undo(best[:, : layout.steps(8)]), codes)
    assert best[0, 8] == 10  # the end, after the last frame
