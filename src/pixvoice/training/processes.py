"""The processes that train one model together, as ``accelerate launch`` or ``torchrun`` starts them; else one.

They share each batch of the recipe: the global batch, and so the loss, is that of one process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from pixvoice.errors import OptionError

if TYPE_CHECKING:
    from accelerate import PartialState

    from pixvoice.training.options import TrainOptions

LONGEST = timedelta(days=1)  # that processes wait for one another: the first may have a data set to encode


@contextmanager
def together() -> Iterator[None]:
    """The time in which processes train together; afterwards they part in an orderly way."""
    yield
    _state().destroy_process_group()


def count() -> int:
    """How many processes train together."""
    return int(_state().num_processes)


def is_main() -> bool:
    """Whether this is the process that writes the run folder and says how far it is."""
    return bool(_state().is_main_process)


@contextmanager
def main_first() -> Iterator[None]:
    """What the main process does in here is done when the others begin with it: they find its files.

    Every process must come by, in the same order.  If the main one fails, the launcher ends those that wait.
    """
    with _state().main_process_first():
        yield


def wait() -> None:
    """Go on when every process is here."""
    _state().wait_for_everyone()


def shares(options: TrainOptions) -> int:
    """Into how many parts a batch is cut: each process takes ``train.accumulate`` of them, one after the other."""
    return count() * options.accumulate


def check_shares(options: TrainOptions, samples: int) -> None:
    """Raise OptionError if there is nothing for a process to do, or a batch can't be cut into equal shares."""
    processes, cut = count(), shares(options)
    if processes > samples:
        raise OptionError(f"{processes} processes, but only {samples} samples: start {samples} at most")
    if options.batch_size % cut:
        each = "" if options.accumulate == 1 else f" in {options.accumulate} parts each (train.accumulate)"
        raise OptionError(
            f"train.batch_size: {options.batch_size} can't be shared by {processes} processes{each};"
            f" give a multiple of {cut}, or start another number of processes"
        )
    if options.fsdp and _kind() in ("NO", "MULTI_CPU"):
        raise OptionError(
            "train.fsdp: a model is sharded over processes with a GPU each; start them with: accelerate launch"
        )


def _kind() -> str:
    """Accelerate's name for what the processes compute on; NO for a single one."""
    return str(_state().distributed_type.value)


def _state() -> PartialState:
    """What Accelerate knows of the processes; the first call of several makes them meet."""
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available(), timeout=LONGEST)
