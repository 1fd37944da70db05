"""Weights averaged over the steps of a training, nearer to where they circle around than the last are, or over several.

Source: Polyak and Juditsky 1992, "Acceleration of stochastic approximation by averaging"; torch.optim.swa_utils.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pixvoice.errors import BundleError


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of ``model`` that an ``Averaging`` keeps as the moving average of its weights and statistics.

    Each step keeps ``decay`` of what was there, at most (1 + n) / (10 + n) after n steps, so that the untrained weights
    are soon forgotten.  Register it in the module that is trained: then checkpoints hold it.
    """

    def move(average: Tensor, weight: Tensor, steps: Tensor | int) -> Tensor:
        if not average.is_floating_point():
            return weight
        return average.lerp(weight, 1 - min(decay, (1 + float(steps)) / (10 + float(steps))))

    copy = AveragedModel(model, avg_fn=move, use_buffers=True)
    return copy.requires_grad_(False)


class Averaging(TrainerCallback):
    """Moves ``average`` after each step of ``model``; give it before whatever looks at the average."""

    def __init__(self, model: nn.Module, average: AveragedModel) -> None:
        self.model, self.average = model, average

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Move the average."""
        self.average.update_parameters(self.model)


def mean_weights(models: Sequence[nn.Module], apart: tuple[str, ...]) -> dict[str, Tensor]:
    """The mean of the weights of ``models``; counters, and what is called as ``apart``, are the first's.

    Source: Wortsman et al. 2022, "Model soups" (arXiv 2203.05482).  Raises BundleError if they aren't of one size.
    """
    states = [model.state_dict() for model in models]
    sizes = [{name: weight.shape for name, weight in state.items()} for state in states]
    if any(other != sizes[0] for other in sizes):
        raise BundleError("soup: not all of its retrievers have the recipe's sizes; train them with its model keys")
    own = [n for n, weight in states[0].items() if weight.is_floating_point() and not n.startswith(apart)]
    return states[0] | {name: torch.stack([state[name] for state in states]).mean(0) for name in own}
