"""Pretrained towers of Transformers: from safetensors only, with clear errors, frozen, never saved again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.utils import logging

from pixvoice.errors import BundleError, MissingToolError

T = TypeVar("T")
NEVER_USED = {"masked_spec_embed"}
"""Weights that some checkpoints lack and that only a pretraining of theirs would use."""


class Frozen(nn.Module):
    """A tower whose weights stay as they are: no gradient, no dropout, and no place in what a training saves.

    A saved model names the checkpoint; the tower is loaded from there.
    """

    model: Any  # what the Transformers class gives is known to its user only

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        self.register_state_dict_post_hook(_leave_out)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_fill_in)  # type: ignore[no-untyped-call]

    def train(self, mode: bool = True) -> Frozen:
        """Stay in evaluation mode."""
        super().train(False)
        return self


def _leave_out(module: nn.Module, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    for name in [name for name in state if name.startswith(prefix)]:
        del state[name]


def _fill_in(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    assert isinstance(module, Frozen)
    state.update({f"{prefix}model.{name}": tensor for name, tensor in module.model.state_dict().items()})


@contextmanager
def changed_output(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While this is open, ``module`` gives ``change`` of its output."""
    handle = module.register_forward_hook(lambda _module, _inputs, output: change(output))
    try:
        yield
    finally:
        handle.remove()


def load_config(checkpoint: str, kinds: Mapping[str, Any], wanted: str) -> Any:
    """The configuration of a checkpoint of one of the model types ``kinds``.

    Raises BundleError if there is none, or one of another type; ``wanted`` says in words what it should be.
    """
    config = guarded(checkpoint, wanted, lambda: AutoConfig.from_pretrained(checkpoint))
    if config.model_type not in kinds:
        raise BundleError(
            f"{checkpoint} holds a {config.model_type}, which is no {wanted}: use a checkpoint of {', '.join(kinds)}"
        )
    return config


def load_tower(checkpoint: str, tower: Any, wanted: str, **options: Any) -> Any:
    """The model of the Transformers class ``tower``, float32, from safetensors only.

    Raises BundleError if a file or a weight is missing or of another shape.
    """
    _refuse_pickles(Path(checkpoint), wanted)
    model, report = guarded(
        checkpoint,
        wanted,
        lambda: tower.from_pretrained(
            checkpoint, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **options
        ),
    )
    if absent := sorted(key for key in report["missing_keys"] if key.rsplit(".", 1)[-1] not in NEVER_USED):
        raise BundleError(f"{checkpoint} is not a whole {wanted}: {absent[0]} and {len(absent) - 1} more are absent")
    return model


def guarded(checkpoint: str, wanted: str, load: Callable[[], T]) -> T:
    """What ``load`` gives, quietly.  Raises BundleError, or MissingToolError for a package that isn't installed."""
    verbosity = logging.get_verbosity()
    # A whole CLIP has weights of the other tower too: that is no news.
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        return load()
    except ImportError as error:
        raise MissingToolError(
            f"{checkpoint} needs a package that is not installed ({_reason(error)}): pip install 'pixvoice[train]'"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        if Path(checkpoint).exists():
            raise BundleError(
                f"{checkpoint} can't be loaded as a {wanted} ({_reason(error)}): give a folder with config.json,"
                " model.safetensors, and the files of its tokenizer or preprocessor"
            ) from error
        raise BundleError(
            f"{checkpoint} is no folder here, and can't be fetched from the hub ({_reason(error)}): download it where"
            " there is a network, and give its folder"
        ) from error
    finally:
        logging.set_verbosity(verbosity)


def _refuse_pickles(folder: Path, wanted: str) -> None:
    pickles = [path for kind in ("*.bin.index.json", "pytorch_model*.bin") for path in sorted(folder.glob(kind))]
    if pickles and not any(folder.glob("*.safetensors*")):
        raise BundleError(
            f"{folder} holds its {wanted} only as a pickle ({pickles[0].name}), which can run code when it is read;"
            f" turn it into one that can't: pixvoice convert {pickles[0]} -o {folder / 'model.safetensors'}"
        )


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200].strip().rstrip(".: ")
