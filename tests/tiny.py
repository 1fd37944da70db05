"""Tiny untrained models and their bundle, made once a test run: real files, real sessions, two seconds."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pixvoice.describe.model import PixVoxConfig, PixVoxLM
from pixvoice.speech.codec import Codec, CodecConfig
from pixvoice.speech.ctc import CTCConfig, CTCRecognizer
from pixvoice.training.export import export_bundle
from pixvoice.training.trainer import save_model
from pixvoice.vision.student import ImageStudent, StudentConfig

K, V = 4, 32
FRAME_LENGTH = 320  # samples
STUDENT = StudentConfig(image_size=64, widths=(8, 8, 16, 16), blocks=(1, 1, 1, 1), embed_dim=16)
CODEC = CodecConfig(
    hop_length=80, n_fft=240, n_mels=20, num_codebooks=K + 2, codebook_size=V, latent_dim=8, width=16, token_width=24,
    encoder_blocks=1, token_blocks=1, decoder_blocks=2,
)  # fmt: skip
DESCRIBER = PixVoxConfig(num_codebooks=K, codebook_size=V, width=32, layers=2, heads=2, image_dim=16, max_steps=40)
RECOGNIZER = CTCConfig(n_mels=16, width=16, blocks=1)
TASKS = ("describer", "codec", "student", "recognizer")

_folder = tempfile.TemporaryDirectory(prefix="pixvoice-tests-")  # removed when the process ends


def loud(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights so large that an untrained model has opinions."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "decoder" not in name:
                parameter.normal_(std=0.4)
        for name, buffer in model.named_buffers():
            if name.endswith("codebooks"):
                buffer.normal_()
    return model.eval()


def models(pattern: str = "delay") -> dict[str, tuple[nn.Module, Any]]:
    """Task -> untrained model and its sizes; the same at every call."""
    describer = PixVoxConfig(**{**vars(DESCRIBER), "pattern": pattern})
    return {
        "describer": (loud(PixVoxLM(describer)), describer),
        "codec": (loud(Codec(CODEC)), CODEC),
        "student": (loud(ImageStudent(STUDENT)), STUDENT),
        "recognizer": (loud(CTCRecognizer(RECOGNIZER)), RECOGNIZER),
    }


def runs(pattern: str = "delay") -> dict[str, Path]:
    """Task -> folder as training leaves it.  Don't change what is in there."""
    root = Path(_folder.name) / f"runs-{pattern}"
    if not root.exists():
        for task, (model, sizes) in models(pattern).items():
            save_model(model, sizes, task, root / task)
    return {task: root / task for task in TASKS}


def bundle(pattern: str = "delay", dtype: str = "fp32") -> Path:
    """Folder of a bundle with all parts.  Don't change what is in there: take ``copy_of_bundle``."""
    folder = Path(_folder.name) / f"bundle-{pattern}-{dtype}"
    if not folder.exists():
        run = runs(pattern)
        export_bundle(*(run[task] for task in TASKS), folder, name="tiny", dtype=dtype)  # type: ignore[arg-type]
    return folder


def copy_of_bundle(folder: Path, **changes: Any) -> Path:
    """A bundle of its own in ``folder``, with ``changes`` to bundle.json: ``image={"patches": 5}`` changes one."""
    shutil.copytree(bundle(), folder)
    info = json.loads((folder / "bundle.json").read_text())
    for key, value in changes.items():
        info[key] = {**info[key], **value} if isinstance(value, dict) and key != "decoding" else value
    (folder / "bundle.json").write_text(json.dumps(info))
    return folder
