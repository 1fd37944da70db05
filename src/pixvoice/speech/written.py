"""Written captions behind the contract of speech tokens: byte pairs of their letters, which a TTS engine says.

This is the text that every other describer here does without: the line to beat is a captioner that writes, and an
engine that reads what it wrote aloud.

Source of the byte pairs: Sennrich et al. 2016 (arXiv 1508.07909), over bytes, so that no word is unknown.

Letters: V pieces, T steps, L samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pixvoice.audio import SAMPLE_RATE
from pixvoice.contracts import Audio, Codes, SpeechTokenizer
from pixvoice.errors import BundleError
from pixvoice.files import write_bytes_atomically
from pixvoice.speech.synthesizer import Engine, clean_text, find_engine

VOCABULARY = "vocabulary.json"  # in the folder of a run
BYTES = 256  # pieces that every vocabulary has


def has_words(text: str) -> bool:
    """Whether there is something in ``text`` to say."""
    return any(letter.isalnum() for letter in text)


def plain(text: str) -> str:
    """A caption as it is learned: what a TTS engine would get, in lower case.  Raises InputError without a word."""
    return clean_text(text).lower()


class Vocabulary:
    """Text <-> pieces of it, numbered from 0."""

    def __init__(self, pieces: Tokenizer) -> None:
        self._pieces = pieces

    @classmethod
    def learn(cls, texts: Iterable[str], size: int, min_count: int) -> Vocabulary:
        """At most ``size`` pieces: the bytes, and pairs that stand in ``texts`` ``min_count`` times at least.

        Raises InputError for a text without a word.
        """
        pieces = Tokenizer(models.BPE())
        pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        pieces.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            min_frequency=min_count,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            special_tokens=[],
            show_progress=False,
        )
        pieces.train_from_iterator((plain(text) for text in texts), trainer)
        return cls(pieces)

    @property
    def size(self) -> int:
        """How many pieces there are."""
        return int(self._pieces.get_vocab_size())

    def encode(self, text: str) -> Codes:
        """Text -> the pieces (T,) of ``plain(text)``.  Raises InputError for a text without a word."""
        return np.array(self._pieces.encode(plain(text)).ids, dtype=np.int64)

    def decode(self, pieces: Codes) -> str:
        """Pieces (T,) -> text; of pieces that ``encode`` gave, ``plain`` of what it was given."""
        known = [int(piece) for piece in pieces if piece < self.size]
        return str(self._pieces.decode(known, skip_special_tokens=False)).strip()

    def save(self, path: Path) -> None:
        """Write the JSON of Hugging Face's ``tokenizers``.  Raises OutputError."""
        write_bytes_atomically(path, self._pieces.to_str().encode())

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """What ``save`` wrote.  Raises BundleError for a file that isn't there or isn't one."""
        try:
            return cls(Tokenizer.from_str(path.read_bytes().decode()))
        except OSError:
            raise BundleError(f"{path} is not there: give the folder of a finished training of a cascade") from None
        except Exception as error:  # tokenizers raises nothing narrower
            raise BundleError(f"{path}: no vocabulary that can be read ({error}); train the cascade again") from None


def find_voice(engine: str | None, voice: str | None) -> tuple[Engine, str]:
    """The TTS engine of that name, or the first that is installed, and its voice of that name, or its own choice.

    Raises OptionError for an engine or a voice that isn't known, MissingToolError if the engine isn't installed.
    """
    found = find_engine(engine)
    chosen = voice or found.default_voice
    found.check_voice(chosen)
    return found, chosen


class WrittenTokenizer(SpeechTokenizer):
    """Pieces of text as one codebook, said by a TTS engine."""

    def __init__(self, vocabulary: Vocabulary, codebook_size: int, engine: Engine, voice: str) -> None:
        """Raises BundleError for a vocabulary of more pieces than ``codebook_size``."""
        if vocabulary.size > codebook_size:
            raise BundleError(
                f"a vocabulary of {vocabulary.size} pieces for a describer of {codebook_size}: train anew"
            )
        self.vocabulary, self._codebook_size, self.engine, self.voice = vocabulary, codebook_size, engine, voice

    @property
    def sample_rate(self) -> int:
        """Audio samples a second (Hz)."""
        return SAMPLE_RATE

    @property
    def frame_rate(self) -> float:
        """Not a number: pieces of text have no rate."""
        return float("nan")

    @property
    def num_codebooks(self) -> int:
        """K = 1."""
        return 1

    @property
    def codebook_size(self) -> int:
        """V; a vocabulary may have fewer pieces."""
        return self._codebook_size

    def encode(self, audio: Audio) -> Codes:
        """Raises BundleError: nothing here hears speech."""
        raise BundleError("a cascade writes and reads aloud, and hears nothing: its tokens are of text")

    def write(self, codes: Codes) -> str:
        """Pieces (1, T) -> the text that ``decode`` says."""
        return self.vocabulary.decode(codes[0])

    def decode(self, codes: Codes) -> Audio:
        """Pieces (1, T) -> audio (L,), empty where they hold no word.  Raises OutputError if the engine fails."""
        text = self.write(codes)
        return self.engine.speak(text, self.voice) if has_words(text) else np.zeros(0, dtype=np.float32)

    def decode_stream(self, frames: Iterable[Codes]) -> Iterator[Audio]:
        """Pieces of text (1, t) -> the audio, in one piece at the end: engines read whole sentences."""
        audio = self.decode(np.concatenate([np.zeros((1, 0), np.int64), *frames], axis=1))
        if len(audio):
            yield audio
