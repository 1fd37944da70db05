"""One training run through the Hugging Face Trainer: resumable at any moment, safetensors and JSON at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from pixvoice.errors import BundleError, OutputError
from pixvoice.files import write_bytes_atomically
from pixvoice.training import processes
from pixvoice.training.options import TrainOptions
from pixvoice.training.progress import RunProgress, loss_curve

C = TypeVar("C")
M = TypeVar("M", bound=nn.Module)


def checkpoint_step(checkpoint: Path) -> int:
    """The step at which a checkpoint was written; 0 if it wasn't written to its end.

    Trainer writes ``trainer_state.json`` last.
    """
    try:
        return int(json.loads((checkpoint / "trainer_state.json").read_text())["global_step"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in ``folder`` that was written to its end."""
    newest = max(folder.glob("checkpoint-*"), key=checkpoint_step, default=None)
    return newest if newest and checkpoint_step(newest) else None


def train(
    model: nn.Module,
    dataset: Dataset[Any],
    options: TrainOptions,
    output: Path,
    collate: Callable[[list[Any]], dict[str, Any]] | None = None,
    in_order: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
) -> list[dict[str, float]]:
    """Train ``model`` (its forward returns a dict with ``loss``) and return the loss curve.

    Items are shuffled, unless the data set has an order of its own (``in_order``): its items are then whole batches,
    or, one after the other, their ``processes.shares``.
    A run that was killed goes on from its last complete checkpoint in ``output``, and ends with the same curve and
    weights if an item of ``dataset`` is a function of its number alone and checkpoints fall on log entries.

    Raises OutputError if ``output`` can't be written.
    """
    torch.set_num_threads(options.threads)
    arguments = TrainingArguments(
        output_dir=str(output / "checkpoints"),
        max_steps=options.steps,
        per_device_train_batch_size=1 if in_order else options.batch_size // processes.shares(options),
        gradient_accumulation_steps=options.accumulate,
        learning_rate=options.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=options.warmup_steps,
        weight_decay=options.weight_decay,
        max_grad_norm=options.clip_norm,
        adam_beta2=0.98,
        bf16=options.in_bf16(),
        fsdp=True if options.fsdp else None,  # type: ignore[arg-type]  # its text is out of use
        use_cpu=not torch.cuda.is_available(),
        save_steps=options.save_every,
        save_total_limit=2,
        logging_steps=options.log_every,
        train_sampling_strategy="sequential" if in_order else "random",
        seed=options.seed,
        data_seed=options.seed,
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=dataset, data_collator=collate)
    trainer.remove_callback(PrinterCallback)
    for callback in (*([RunProgress(output)] if processes.is_main() else []), *callbacks):
        trainer.add_callback(callback)
    checkpoint = last_complete_checkpoint(output / "checkpoints")
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{output}: the training stopped ({error}); mend that, and give the command again") from error
    processes.wait()
    return loss_curve(trainer.state.log_history)


def save_model(model: nn.Module, config: Any, task: str, output: Path) -> None:
    """Write ``model.safetensors`` and ``config.json`` (a dataclass of sizes, and the task).

    Every process that trained comes by; the main one writes.  Raises OutputError if ``output`` can't be written.
    """
    weights = {name: whole(tensor).contiguous() for name, tensor in model.state_dict().items()}
    if not processes.is_main():
        return
    output.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(output / "model.safetensors", save(weights))
    text = json.dumps({"task": task, "config": asdict(config)}, indent=2, default=str)  # a path as text
    write_bytes_atomically(output / "config.json", text.encode())


def whole(tensor: Tensor) -> Tensor:
    """A weight of which each process may hold a part: all of it, put together by all processes."""
    return tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor


def trained_task(folder: Path) -> str | None:
    """The task whose model ``save_model`` wrote into ``folder``; None if there is none, or it can't be read."""
    try:
        task = json.loads((folder / "config.json").read_bytes())["task"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return task if isinstance(task, str) else None


def load_model(folder: Path, task: str, config_type: Callable[..., C], model_type: Callable[[C], M]) -> M:
    """The model that ``save_model`` wrote, in evaluation mode.

    Raises BundleError if files are missing, of another task, or of another shape.
    """
    try:
        saved = json.loads((folder / "config.json").read_text())
        if saved["task"] != task:
            raise BundleError(f"{folder} holds a {saved['task']}, not a {task}")
        config = {k: tuple(v) if isinstance(v, list) else v for k, v in saved["config"].items()}
        with torch.random.fork_rng(devices=[]):  # a training draws the same numbers whether or not it loads a model
            model = model_type(config_type(**config))
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except OSError as error:
        reason = f"{Path(error.filename or folder / 'model.safetensors').name}: {error.strerror or 'not there'}"
        raise BundleError(f"no trained {task} in {folder} ({reason}): give the folder of a finished training") from None
    except (RuntimeError, TypeError, ValueError, KeyError, SafetensorError) as error:
        raise BundleError(f"{folder} is not a usable {task}: {str(error).splitlines()[0]}") from None
    return model.eval()
