"""The cascade that people run today, at its real size with random weights: BLIP-base says 12 tokens, VITS speaks them.

    python cascade.py build FOLDER               saves both as safetensors
    python cascade.py warm FOLDER PHOTO REPEATS  prints a JSON list of seconds
    python cascade.py cold FOLDER PHOTO OUT.wav  loads, describes, writes

Time and memory don't depend on what the weights are, but for two lengths, which are therefore fixed.  BLIP is made to
generate exactly 12 tokens.  VITS draws the duration of each letter, so its speaking rate is set once, when it is built,
to where a caption of 50 letters lasts 3 s with the seed that every run uses.  What a user's cascade does
besides (both tokenizers) is left out, in the cascade's favour.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessorPil, VitsConfig, VitsModel

NEW_TOKENS = 12
LETTERS = 50  # of a caption of about 12 words
SPEECH_S = 3.0
THREADS = 2


def build(folder: Path) -> None:
    """Save BLIP-base and VITS in their standard configurations."""
    torch.manual_seed(0)
    BlipForConditionalGeneration(BlipConfig()).save_pretrained(folder / "blip")
    BlipImageProcessorPil().save_pretrained(folder / "blip")
    vits = VitsModel(VitsConfig()).eval()
    slow, fast = 0.05, 50.0
    for _ in range(20):
        vits.speaking_rate = (slow * fast) ** 0.5
        seconds = duration_s(vits)
        if abs(seconds - SPEECH_S) < 0.05:
            break
        slow, fast = (slow, vits.speaking_rate) if seconds < SPEECH_S else (vits.speaking_rate, fast)
    vits.config.speaking_rate = vits.speaking_rate
    vits.save_pretrained(folder / "vits")
    print(f"VITS speaks {seconds:.2f} s at speaking rate {vits.speaking_rate:.3f}", file=sys.stderr)


def duration_s(vits: Any) -> float:
    """Seconds that VITS speaks."""
    return speak(vits).shape[-1] / float(vits.config.sampling_rate)


@torch.inference_mode()
def speak(vits: Any) -> Any:
    """A caption's letters, with a blank before and after each as the tokenizer puts them -> waveform (1, L)."""
    torch.manual_seed(0)
    ids = torch.zeros(1, 2 * LETTERS + 1, dtype=torch.long)
    ids[0, 1::2] = torch.arange(LETTERS) % (vits.config.vocab_size - 1) + 1
    return vits(input_ids=ids).waveform


@torch.inference_mode()
def describe(parts: tuple[Any, Any, Any], photo: str) -> Any:
    """Photo -> waveform (1, L)."""
    from PIL import Image

    processor, blip, vits = parts
    with Image.open(photo) as image:
        pixels = processor(image.convert("RGB"), return_tensors="pt")["pixel_values"]
    words = blip.generate(
        pixel_values=pixels, min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS, num_beams=1, do_sample=False
    )
    assert words.shape == (1, 1 + NEW_TOKENS), words.shape  # the first begins the sentence
    return speak(vits)


def load(folder: Path) -> tuple[Any, Any, Any]:
    """Image processor, BLIP, VITS."""
    return (
        BlipImageProcessorPil.from_pretrained(folder / "blip"),
        BlipForConditionalGeneration.from_pretrained(folder / "blip", use_safetensors=True).eval(),
        VitsModel.from_pretrained(folder / "vits", use_safetensors=True).eval(),
    )


def warm(folder: Path, photo: str, repeats: int) -> None:
    """Load once, describe once unmeasured, then measure."""
    parts = load(folder)
    describe(parts, photo)
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        describe(parts, photo)
        seconds.append(time.perf_counter() - begun)
    print(json.dumps(seconds))


def cold(folder: Path, photo: str, out: str) -> None:
    """Load, describe, write."""
    import soundfile

    parts = load(folder)
    soundfile.write(out, describe(parts, photo)[0].numpy(), parts[2].config.sampling_rate)


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    verb, folder, *rest = sys.argv[1:]
    if verb == "build":
        build(Path(folder))
    elif verb == "warm":
        warm(Path(folder), rest[0], int(rest[1]))
    else:
        cold(Path(folder), rest[0], rest[1])
