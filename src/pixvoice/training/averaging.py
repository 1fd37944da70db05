"""Weights averaged over the steps of a training: nearer to where the steps circle around than the last of them is.

Source: Polyak and Juditsky 1992, "Acceleration of stochastic approximation by averaging"; torch.optim.swa_utils.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


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
