"""Task ``retriever``: recordings and photos into one space, on features that are computed once and kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pixvoice.contracts import Floats
from pixvoice.errors import BundleError, InputError, OptionError
from pixvoice.files import write_bytes_atomically
from pixvoice.letter_model import FILE, LetterModel
from pixvoice.manifest import Sample
from pixvoice.retrieve.build import FullConfig, build, config_from_json
from pixvoice.retrieve.losses import Contrast, LossOptions
from pixvoice.retrieve.model import DualChannel, RetrieverConfig, count_parameters
from pixvoice.retrieve.small_parts import PartsConfig, SmallConfig, small_dual_channel
from pixvoice.speech.ctc import LETTERS, CTCConfig, CTCRecognizer, to_letters
from pixvoice.training import processes
from pixvoice.training.averaging import Averaging, averaged, mean_weights
from pixvoice.training.caches import photo_features, photo_numbers, photos_of
from pixvoice.training.loudness import choose_loudness
from pixvoice.training.options import TrainOptions
from pixvoice.training.progress import tell
from pixvoice.training.speech_features import SpeechFeatures
from pixvoice.training.trainer import load_model, save_model, train
from pixvoice.vision.student import ImageStudent, StudentConfig

ROWS = 250  # recordings or photos embedded at once for the dev split
BEST = "best.safetensors"
OTHERS = ("speech.recognizer.", "image.student.")  # weights that are those of other trainings


@dataclass(frozen=True)
class RetrieverRecipe:
    """What ``task: retriever`` takes: manifests with audio, a trained recognizer and image student.

    With ``text``, ``speech`` and ``image`` the model stands on pretrained towers instead, each a folder or a hub id; a
    Whisper as ``speech`` writes the transcripts too.

    Every ``evaluate_every`` steps recall is measured on the ``dev_split`` of the ``dev`` manifests, and the weights
    with the best are kept.  ``transcripts``: ``recognizer``, or ``truth`` for the manifests' texts, or ``both``, where
    training takes the one as often as the other and dev what was heard.  Recordings are heard ``passes`` times,
    disturbed differently each time; 0 is once, undisturbed.

    ``start_from`` is the folder of a finished retriever whose weights this one begins with: what the pipeline variant
    has learned is kept, and the full variant learns to hear beside it, by another recognizer too.  With ``keep_start``
    those weights stay as they are, and only what it lacks is trained.

    With ``average`` over 0 what is measured and kept is the moving average of the weights, of which each step leaves so
    much as it was (0.995, say).  ``loudness`` are factors of what the sound adds to the words: in the end the one with
    the best recall on dev is kept, with the words as the finished model reads them.

    ``soup`` are folders of finished retrievers of the same sizes and start, whose weights are averaged with these in
    the end (Wortsman et al. 2022, "Model soups", arXiv 2203.05482); the loudness is then chosen anew.

    ``spelling`` is the length of the letter n-grams of the manifests' texts that help the recognizer write words when
    the model is used; 0 is none.  While it learns, it takes the best letter of each frame.
    """

    manifests: tuple[Path, ...]
    dev: tuple[Path, ...]
    train: TrainOptions
    recognizer: Path | None = None
    student: Path | None = None
    text: str | None = None
    speech: str | None = None
    image: str | None = None
    model: RetrieverConfig = field(default_factory=RetrieverConfig)
    parts: PartsConfig = field(default_factory=PartsConfig)
    loss: LossOptions = field(default_factory=LossOptions)
    split: str = "train"
    dev_split: str = "dev"
    transcripts: str = "recognizer"
    crops: int = 2
    passes: int = 1
    evaluate_every: int = 200
    cache: Path | None = None
    start_from: Path | None = None
    keep_start: bool = False
    average: float = 0.0
    loudness: tuple[float, ...] = (1.0,)
    soup: tuple[Path, ...] | None = None
    spelling: int = 0


def pairs(samples: Sequence[Sample]) -> tuple[list[Sample], list[Path], npt.NDArray[np.int64]]:
    """The N samples that have a recording, their photos, and which photo each is about (N,).

    Two manifests may name one photo by different paths: it is one photo.

    Raises InputError if no sample has a recording.
    """
    spoken = [s for s in samples if s.audio is not None]
    if not spoken:
        raise InputError("no sample has a recording: make some with `pixvoice synthesize`, and name its manifest")
    images = [s.image for s in spoken]
    photos = photos_of(images)
    return spoken, photos, np.array(photo_numbers(images, photos))


class SpokenPhotos:
    """Recordings with their photos, as features: what the model takes of any of them."""

    def __init__(
        self, samples: Sequence[Sample], recipe: RetrieverRecipe, cache: Path, crops: int, passes: int
    ) -> None:
        """Raises InputError if no sample has a recording, or one has no text where the recipe takes true texts."""
        assert recipe.recognizer is not None and recipe.student is not None  # a rule of recipes
        spoken, photos, self.photo = pairs(samples)
        self.views = 2 + crops
        self.images = photo_features(photos, recipe.student, crops, cache)
        self.speech: SpeechFeatures | None = None
        if recipe.model.hears or recipe.transcripts != "truth":
            recordings = [s.audio for s in spoken if s.audio is not None]
            self.speech = SpeechFeatures(recordings, recipe.recognizer, passes, cache)
        self.passes = self.speech.passes if self.speech else 1
        self._take_texts(spoken, recipe.transcripts, self.speech.texts if self.speech else [])

    def _take_texts(self, spoken: Sequence[Sample], transcripts: str, heard: list[list[str]]) -> None:
        """What was ``heard`` in each pass, the manifests' texts, or both."""
        if transcripts != "recognizer" and any(s.text is None for s in spoken):
            raise InputError("a sample has no text: give manifests with texts, or set transcripts to recognizer")
        truth = [s.text or "" for s in spoken]
        self.texts = [truth] * self.passes if transcripts == "truth" else heard
        self.truth = truth if transcripts == "both" else None

    def spell(self, spelling: LetterModel) -> None:
        """Read what was heard as the finished model will, with the help of ``spelling``."""
        if self.speech is not None and self.texts is self.speech.texts:
            self.speech.spell(spelling)
            self.texts = self.speech.texts

    def pixels(self, photos: npt.NDArray[np.int64], views: npt.NDArray[np.int64]) -> Tensor:
        """The image student's features (B, P, D) of one view of each of B photos."""
        return torch.from_numpy(self.images[photos * self.views + views].astype(np.float32))

    def words(
        self, rows: npt.NDArray[np.int64], passes: npt.NDArray[np.int64], as_written: npt.NDArray[np.bool_] | None
    ) -> list[str]:
        """The texts of recordings ``rows`` (B,), each heard in its own pass, or the manifest's where ``as_written``."""
        texts = [self.texts[n][row] for row, n in zip(rows, passes, strict=True)]
        if self.truth is None or as_written is None:
            return texts
        return [self.truth[row] if true else text for row, text, true in zip(rows, texts, as_written, strict=True)]

    def inputs(
        self,
        rows: npt.NDArray[np.int64],
        passes: npt.NDArray[np.int64],
        model: DualChannel,
        as_written: npt.NDArray[np.bool_] | None = None,
    ) -> dict[str, Any]:
        """What ``model`` takes of recordings ``rows`` (B,); see ``words``."""
        found: dict[str, Any] = {}
        if model.text is not None:
            found["tokens"] = model.text.tokenize(self.words(rows, passes, as_written))
        if model.dims.hears and self.speech is not None:
            frames, mask = self.speech.frames(rows.tolist(), passes.tolist())
            found |= {"frames": torch.from_numpy(frames), "mask": torch.from_numpy(mask)}
        return found


class SpokenBatches(Dataset[Any]):
    """``count`` batches; batch i is the same in every run of the same seed.

    Items are batches, or, where processes train together, their ``processes.shares``, one batch after the other.
    """

    def __init__(self, data: SpokenPhotos, model: DualChannel, options: TrainOptions) -> None:
        self.data, self.model = data, model
        self.size, self.seed, self.count = options.batch_size, options.seed, options.steps
        self.per_epoch = max(1, len(data.photo) // self.size)
        self.shares = processes.shares(options)

    def __len__(self) -> int:
        return self.count * self.shares

    def __getitem__(self, item: int) -> dict[str, Any]:
        i, share = divmod(item, self.shares)
        epoch, number = divmod(i, self.per_epoch)
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.data.photo))
        rows = np.resize(order, max(len(order), self.size))[number * self.size : (number + 1) * self.size]
        rng = np.random.default_rng((self.seed, epoch, number))
        passes = rng.integers(self.data.passes, size=len(rows))
        views = rng.integers(self.data.views, size=len(rows))
        as_written = rng.random(len(rows)) < 0.5
        own = slice(share, None, self.shares)
        photos = self.data.photo[rows[own]]
        inputs = self.data.inputs(rows[own], passes[own], self.model, as_written[own])
        return {"pixels": self.data.pixels(photos, views[own]), "photo": torch.from_numpy(photos), **inputs}


def recalls(speech: Floats, photos: Floats, photo: npt.NDArray[np.int64]) -> dict[str, float]:
    """Recall at 1, 5 and 10 (0 to 100) of recordings (N, D) and photos (P, D); recording n is about ``photo[n]``.

    A photo has found its speech if any of its recordings is among the first.
    """
    similar = speech @ photos.T
    own = similar[np.arange(len(photo)), photo]
    ranks = (similar > own[:, None]).sum(1)
    first = np.full(len(photos), len(speech))
    for n, p in enumerate(photo):
        first[p] = min(first[p], int((similar[:, p] > similar[n, p]).sum()))
    directions = {"speech_to_image": ranks, "image_to_speech": first}
    return {f"{name}_r_at_{k}": 100 * float((r < k).mean()) for name, r in directions.items() for k in (1, 5, 10)}


@torch.inference_mode()
def dev_recalls(model: DualChannel, data: SpokenPhotos) -> dict[str, float]:
    """Recall of ``model`` on the first view of the photos of ``data`` and their recordings' first pass."""
    training, device = model.training, next(model.parameters()).device
    model.eval()
    photos, speech = np.arange(data.photo.max() + 1), np.arange(len(data.photo))
    seen = [model.see(data.pixels(p, np.zeros_like(p)).to(device)) for p in _pieces(photos)]
    heard = []
    for rows in _pieces(speech):
        inputs = _moved(data.inputs(rows, np.zeros_like(rows), model), device)
        if "audio" in inputs and model.speech is not None:
            inputs["frames"], inputs["mask"] = model.speech(inputs["audio"], inputs["lengths"])
        heard.append(model(inputs.get("tokens"), inputs.get("frames"), inputs.get("mask")))
    model.train(training)
    return recalls(torch.cat(heard).float().cpu().numpy(), torch.cat(seen).float().cpu().numpy(), data.photo)


def _moved(inputs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {key: _moved(v, device) if isinstance(v, dict) else v.to(device) for key, v in inputs.items()}


def _pieces(rows: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    return np.split(rows, range(ROWS, len(rows), ROWS))


class KeepBest(TrainerCallback):
    """Measures recall on dev, writes ``dev.jsonl``, and keeps the best weights in ``best.safetensors``.

    The best has the largest sum of recall at 10 over both directions.
    """

    def __init__(self, model: DualChannel, measure: Callable[[], dict[str, float]], every: int, folder: Path) -> None:
        self.model, self.measure, self.every, self.folder = model, measure, every, folder
        self.curve: list[dict[str, float]] = []

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Go on with the measurements up to the checkpoint."""
        file = self.folder / "dev.jsonl"
        entries = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        self.curve = [entry for entry in entries if entry["step"] <= state.global_step]

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Measure, and keep what is best so far."""
        if state.global_step % self.every and state.global_step != state.max_steps:
            return
        entry = {"step": float(state.global_step), **{key: round(v, 2) for key, v in self.measure().items()}}
        better = all(_score(entry) > _score(before) for before in self.curve)
        self.curve.append(entry)
        if not processes.is_main():
            return
        if better:
            temporary = self.folder / f".{BEST}"
            save_file({name: tensor.contiguous() for name, tensor in self.model.state_dict().items()}, temporary)
            temporary.replace(self.folder / BEST)
        text = "".join(f"{json.dumps(e)}\n" for e in self.curve)
        write_bytes_atomically(self.folder / "dev.jsonl", text.encode())
        line = f"step {state.global_step} dev recall at 10: speech to image {entry['speech_to_image_r_at_10']:.1f}"
        tell(f"{line}, image to speech {entry['image_to_speech_r_at_10']:.1f}")


def _score(entry: dict[str, float]) -> float:
    return entry["speech_to_image_r_at_10"] + entry["image_to_speech_r_at_10"]


def load_retriever(folder: Path) -> DualChannel:
    """The dual-channel model that ``run`` wrote, in evaluation mode.  Raises BundleError."""
    return load_model(folder, "retriever", config_from_json, build)


def begin(recipe: RetrieverRecipe) -> tuple[DualChannel, SmallConfig | FullConfig]:
    """The model before its first step, and its sizes.

    Raises BundleError for a recognizer, image student, checkpoint or start that isn't one or has other sizes,
    OptionError for names that are missing, or a start that leaves nothing to train.
    """
    model, config = _untrained(recipe)
    if recipe.start_from is not None:
        learned = load_retriever(recipe.start_from).state_dict()
        start = {name: weight for name, weight in learned.items() if not name.startswith(OTHERS)}
        shapes = {name: weight.shape for name, weight in model.state_dict().items()}
        if any(shapes.get(name) != weight.shape for name, weight in start.items()):
            raise BundleError(f"{recipe.start_from}: its sizes aren't the recipe's; use the sizes in its recipe.yaml")
        model.load_state_dict(start, strict=False)
        if recipe.keep_start:
            _keep(model, start.keys())
            if not count_parameters(model)[0]:
                raise OptionError(f"keep_start: {recipe.start_from} has all that would learn; leave keep_start out")
    return model, config


def _keep(model: DualChannel, names: Collection[str]) -> None:
    """Let no training change the weights with these ``names``, nor what batch normalisation has seen."""
    for name, weight in model.named_parameters():
        weight.requires_grad_(weight.requires_grad and name not in names)
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm1d) and f"{name}.running_mean" in names:
            module.momentum = 0.0


def _untrained(recipe: RetrieverRecipe) -> tuple[DualChannel, SmallConfig | FullConfig]:
    if recipe.image:
        torch.manual_seed(recipe.train.seed)
        full = FullConfig(recipe.model, recipe.image, recipe.text, recipe.speech)
        return build(full), full
    assert recipe.recognizer is not None and recipe.student is not None  # a rule of recipes
    recognizer = load_model(recipe.recognizer, "recognizer", CTCConfig, CTCRecognizer)
    student = load_model(recipe.student, "student", StudentConfig, ImageStudent)
    torch.manual_seed(recipe.train.seed)
    config = SmallConfig(recipe.model, recipe.parts, recognizer.dims, student.dims)
    return small_dual_channel(config, recognizer, student), config


def run(recipe: RetrieverRecipe, output: Path) -> list[dict[str, float]]:
    """Train the dual-channel model of ``recipe`` into ``output`` and return the log.

    Raises InputError if a manifest, photo or recording can't be read, and what ``begin`` and ``mean_weights`` raise.
    """
    from pixvoice.data import load_dataset

    torch.set_num_threads(recipe.train.threads)
    cache = recipe.cache or output / "cache"
    samples = [s for m in recipe.manifests for s in load_dataset(m, recipe.split)]
    dev_samples = [s for m in recipe.dev for s in load_dataset(m, recipe.dev_split)]
    model, config = begin(recipe)
    others = [load_retriever(folder) for folder in recipe.soup or ()]
    mean_weights([model, *others], OTHERS)  # or they are refused before anything is trained
    trained, frozen = count_parameters(model)
    tell(f"trainable {trained:,} of {trained + frozen:,} parameters")
    if isinstance(config, FullConfig):
        from pixvoice.training.spoken_files import SpokenFiles

        dev: SpokenPhotos = SpokenFiles(dev_samples, recipe, cache, 0, 0, model)
        data: SpokenPhotos = SpokenFiles(samples, recipe, cache, recipe.crops, recipe.passes, model)
    else:
        dev = SpokenPhotos(dev_samples, recipe, cache, crops=0, passes=0)
        data = SpokenPhotos(samples, recipe, cache, recipe.crops, recipe.passes)
    batches = SpokenBatches(data, model, recipe.train)
    contrast = Contrast(model, recipe.loss)
    callbacks: list[TrainerCallback] = []
    kept = model
    if recipe.average:
        contrast.average = averaged(model, recipe.average)
        kept = cast(DualChannel, contrast.average.module)
        callbacks.append(Averaging(model, contrast.average))
    callbacks.append(KeepBest(kept, lambda: dev_recalls(kept, dev), recipe.evaluate_every, output))
    options = replace(recipe.train, batch_size=1)
    log = train(contrast, batches, options, output, lambda items: items[0], in_order=True, callbacks=callbacks)
    model.load_state_dict(load_file(output / BEST))
    spelling = learn_spelling(samples, recipe.spelling) if recipe.spelling and processes.is_main() else None
    if recipe.loudness != (1.0,) and spelling is not None:
        dev.spell(spelling)
    _settle_loudness(model, recipe, dev)
    if others:
        model.load_state_dict(mean_weights([model, *others], OTHERS))
        _settle_loudness(model, recipe, dev)
    if spelling is not None:
        write_bytes_atomically(output / FILE, spelling.save())
    save_model(model, config, "retriever", output)
    return log


def _settle_loudness(model: DualChannel, recipe: RetrieverRecipe, dev: SpokenPhotos) -> None:
    if recipe.loudness != (1.0,) and processes.is_main():
        found = choose_loudness(model, recipe.loudness, lambda: _score(dev_recalls(model, dev)))
        tell(f"sum of dev recall at 10 by loudness of the sound: {found}")


def learn_spelling(samples: Sequence[Sample], order: int) -> LetterModel:
    """How the texts of ``samples`` are spelled, in n-grams of ``order`` letters.  Raises OptionError without texts."""
    texts = sorted({sample.text for sample in samples if sample.text})
    return LetterModel.learn(("".join(LETTERS[i] for i in to_letters(text)) for text in texts), LETTERS, order)
