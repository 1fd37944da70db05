"""How loud the sound is beside the words: chosen on dev, once both channels are trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from pixvoice.retrieve.model import DualChannel


def choose_loudness(model: DualChannel, choices: Sequence[float], measure: Callable[[], float]) -> dict[float, float]:
    """Multiply what the acoustic channel of ``model`` adds by the choice that measures best; all measures, by choice.

    Words that have seen the training captions many times leave the sound more to say there than it has to say of new
    ones.  Of equals the first is taken.
    """
    out = model.acoustic.out
    learned = [out.weight.detach().clone(), out.bias.detach().clone()]

    @torch.no_grad()
    def turn(factor: float) -> None:
        for parameter, value in zip((out.weight, out.bias), learned, strict=True):
            parameter.copy_(factor * value)

    found = {}
    for factor in choices:
        turn(factor)
        found[factor] = measure()
    turn(max(found, key=lambda factor: found[factor]))
    return found
