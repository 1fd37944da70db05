"""Spoken captions from text: the TTS engines found on this machine, behind one small class.

Each engine is a program that reads a text and writes a WAV file.  Whatever it writes is checked, brought to 16 kHz
mono, and trimmed of the silence that engines put around an utterance.
"""

from __future__ import annotations

import io
import re
import shlex
import shutil
import string
import subprocess
import tempfile
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import soundfile as sf

from pixvoice.audio import SAMPLE_RATE, read_audio, trim_silence, wav_bytes, write_bytes_atomically
from pixvoice.contracts import Audio
from pixvoice.errors import InputError, MissingToolError, OptionError, OutputError
from pixvoice.manifest import nearest

FORMATS = (".wav", ".flac")
LIMIT_S = 120  # how long an engine may take for one utterance
_PLACEHOLDERS = ("text", "text_file", "voice", "out")

_REPLACED = str.maketrans(
    {"\u201c": '"', "\u201d": '"', "\u2018": "'", "\u2019": "'", "\u2013": "-", "\u2014": "-"}
    | {"&": " and ", "<": " ", ">": " "}
)


class Engine(ABC):
    """One TTS program.  ``programs`` must all be on the path; ``favourites`` are the voices tried first as default."""

    name: str
    programs: tuple[str, ...]
    install: str
    favourites: tuple[str, ...] = ()
    encoding = "utf-8"

    @property
    def installed(self) -> bool:
        """Whether all of its programs are on the path."""
        return all(shutil.which(program) for program in self.programs)

    def voices(self) -> tuple[str, ...]:
        """Names that ``synthesize`` takes as ``voice``; empty for a command template, which takes any."""
        return self._voices

    @property
    def default_voice(self) -> str:
        """The voice to take when none is asked for.  Raises MissingToolError when the engine has no voice."""
        voices = self.voices()
        if not voices:
            raise MissingToolError(f"{self.name} has no voices; to install some: {self.install}")
        return next((voice for voice in self.favourites if voice in voices), voices[0])

    def check_voice(self, voice: str) -> None:
        """Raises OptionError, listing the voices, when the engine has no such voice."""
        voices = self.voices()
        if voice not in voices:
            some = ", ".join(voices[:30] or ("no voices",)) + (", ..." if len(voices) > 30 else "")
            raise OptionError(f"no voice {voice!r} in {self.name}{nearest(voice, voices)}; it has {some}")

    def speak(self, text: str, voice: str) -> Audio:
        """Text -> audio (L,), 16 kHz mono in [-1, 1], with at most 0.1 s of silence on either side.

        Raises:
            InputError: the text has no word in it.
            OptionError: the engine has no such voice.
            OutputError: the engine failed, or what it wrote isn't speech.
        """
        self.check_voice(voice)
        words = clean_text(text)
        with tempfile.TemporaryDirectory(prefix="pixvoice-") as folder:
            text_file, out = Path(folder, "text.txt"), Path(folder, "speech.wav")
            text_file.write_bytes(_encode(words, self.encoding) + b"\n")
            self._run(self.command(words, text_file, voice, out), voice)
            try:
                audio = read_audio(out)
            except InputError:
                raise OutputError(f"{self.name} (voice {voice}) wrote no sound for {words[:60]!r}") from None
        spoken = trim_silence(audio)
        if not spoken.size:
            raise OutputError(f"{self.name} (voice {voice}) wrote only silence for {words[:60]!r}")
        return spoken

    def synthesize(self, text: str, voice: str, path: str | Path) -> float:
        """Write ``text`` as 16-bit 16 kHz mono WAV or FLAC (by the suffix); returns the speech's length in seconds.

        Raises what ``speak`` raises, and OutputError when the file can't be written; no half file is left.
        """
        suffix = Path(path).suffix.lower()
        if suffix not in FORMATS:
            raise OptionError(f"{path}: speech is written as {' or '.join(FORMATS)}; give such a name")
        audio = self.speak(text, voice)
        write_bytes_atomically(path, wav_bytes(audio) if suffix == ".wav" else _flac_bytes(audio))
        return len(audio) / SAMPLE_RATE

    @abstractmethod
    def command(self, text: str, text_file: Path, voice: str, out: Path) -> list[str]:
        """The words of the command that speaks ``text`` (also in ``text_file``) into ``out``."""

    @cached_property
    def _voices(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self._list_voices()))

    @abstractmethod
    def _list_voices(self) -> Sequence[str]: ...

    def _run(self, command: list[str], voice: str) -> None:
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            raise OutputError(f"{self.name} (voice {voice}) took longer than {LIMIT_S} s; try another engine") from None
        except (OSError, ValueError) as error:
            raise MissingToolError(f"{command[0]} can't be run ({error}); install it: {self.install}") from None
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
            raise OutputError(f"{self.name} (voice {voice}) failed with status {done.returncode}: {said[-1][:200]}")

    def _ask(self, *words: str) -> str:
        """What the engine's program prints; nothing when it fails."""
        try:
            done = subprocess.run([*words], stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout.decode(errors="replace")


class Pico(Engine):
    """SVOX Pico, one voice a language."""

    name, programs = "pico2wave", ("pico2wave",)
    install = "apt install libttspico-utils"

    def command(self, text: str, text_file: Path, voice: str, out: Path) -> list[str]:
        return ["pico2wave", "-l", voice, "-w", str(out), text]

    def _list_voices(self) -> Sequence[str]:
        return "en-US", "en-GB", "de-DE", "es-ES", "fr-FR", "it-IT"


class Flite(Engine):
    """CMU Flite.  It speaks with another voice when it doesn't know the one asked for, so names are checked before."""

    name, programs = "flite", ("flite",)
    install = "apt install flite (macOS: brew install flite)"
    favourites = ("rms", "slt")
    encoding = "ascii"

    def command(self, text: str, text_file: Path, voice: str, out: Path) -> list[str]:
        return ["flite", "-voice", voice, "-f", str(text_file), "-o", str(out)]

    def _list_voices(self) -> Sequence[str]:
        names = self._ask("flite", "-lv").partition(":")[2].split()
        return [name for name in names if name != "awb_time"]  # it says nothing but the time of day


class Festival(Engine):
    """Festival, through its ``text2wave``."""

    name, programs = "festival", ("festival", "text2wave")
    install = "apt install festival festvox-us-slt-hts (macOS: brew install festival)"
    favourites = ("cmu_us_slt_arctic_hts", "kal_diphone")
    encoding = "latin-1"

    def command(self, text: str, text_file: Path, voice: str, out: Path) -> list[str]:
        return ["text2wave", "-eval", f"(voice_{voice})", str(text_file), "-o", str(out)]

    def _list_voices(self) -> Sequence[str]:
        return re.findall(r"[\w-]+", self._ask("festival", "-b", "(print (voice.list))"))


class Espeak(Engine):
    """eSpeak NG.  A voice may carry a variant, such as ``en-us+f3``; MBROLA's are called ``mb-us1`` and the like."""

    name, programs = "espeak-ng", ("espeak-ng",)
    install = "apt install espeak-ng (macOS: brew install espeak-ng)"
    favourites = ("en-us", "en-gb")

    def check_voice(self, voice: str) -> None:
        language, plus, variant = voice.partition("+")
        if plus and variant not in self._variants:
            raise OptionError(f"no variant {variant!r} in espeak-ng; list them with: espeak-ng --voices=variant")
        super().check_voice(language)

    def command(self, text: str, text_file: Path, voice: str, out: Path) -> list[str]:
        return ["espeak-ng", "-b", "1", "-v", voice, "-w", str(out), "-f", str(text_file)]

    def _list_voices(self) -> Sequence[str]:
        names = [line.split()[1] for line in self._ask("espeak-ng", "--voices").splitlines()[1:] if line.strip()]
        return names + re.findall(r"\smb/(mb-\S+)", self._ask("espeak-ng", "--voices=mb"))

    @cached_property
    def _variants(self) -> frozenset[str]:
        return frozenset(re.findall(r"!v/(\S+)", self._ask("espeak-ng", "--voices=variant")))


class Template(Engine):
    """Any other program: a command with the placeholders {text} or {text_file}, {out}, and {voice} if it has several.

    It is split into words as a shell would, and run without one.
    """

    def __init__(self, template: str) -> None:
        self._words, used = _parse_template(template)
        self.takes_voice = "voice" in used
        self.name = Path(self._words[0]).name
        self.programs = (self._words[0],)
        self.install = "give the path of its program, or install it"

    @property
    def default_voice(self) -> str:
        if self.takes_voice:
            raise OptionError(f"the command of {self.name} has {{voice}}; say which with --voice NAME")
        return "default"

    def check_voice(self, voice: str) -> None:
        if not self.takes_voice and voice != "default":
            raise OptionError(f"the command of {self.name} has no {{voice}} for {voice!r}; add it, or give no --voice")

    def command(self, text: str, text_file: Path, voice: str, out: Path) -> list[str]:
        values = {"text": text, "text_file": str(text_file), "voice": voice, "out": str(out)}
        return [word.format_map(values) for word in self._words]

    def _list_voices(self) -> Sequence[str]:
        return ()


ENGINES: tuple[type[Engine], ...] = (Flite, Pico, Festival, Espeak)  # the order of preference


def find_engine(name: str | None = None) -> Engine:
    """The engine called ``name``, or made of a command template; without a name, the first that is installed.

    Raises:
        OptionError: no engine has that name, or the template is faulty.
        MissingToolError: the engine isn't installed; the message says how to install it, and which engines are.
    """
    engines = {kind.name: kind() for kind in ENGINES}
    if name is None:
        found = next((engine for engine in engines.values() if engine.installed), None)
        if found is None:
            raise MissingToolError(f"no TTS engine is installed; to get one: {Flite.install}")
        return found
    if "{" in name or " " in name:
        engine: Engine = Template(name)
    elif name in engines:
        engine = engines[name]
    else:
        known = ", ".join(engines)
        raise OptionError(f"no engine {name!r}{nearest(name, engines)}; give {known}, or 'PROGRAM {{text}} {{out}}'")
    if not engine.installed:
        here = ", ".join(each.name for each in engines.values() if each.installed) or "none"
        raise MissingToolError(f"{engine.name} isn't installed: {engine.install}; installed engines: {here}")
    return engine


def clean_text(text: str) -> str:
    """A caption as an engine should get it: no blanks before marks, no marks of markup, no line breaks.

    Raises InputError when no letter or digit is left.
    """
    plain = unicodedata.normalize("NFC", text).translate(_REPLACED)
    plain = "".join(char if char.isprintable() else " " for char in plain)
    plain = re.sub(r"\s+([.,;:!?)\]]|n't\b|'(?:s|m|re|ve|ll|d|t)\b)", r"\1", plain)
    plain = re.sub(r"([(\[#])\s+", r"\1", plain)
    plain = re.sub(r'"\s*([^"]*?)\s*"', r'"\1"', plain)
    plain = " ".join(plain.split()).lstrip("-'. ")  # a leading - would read as an option
    if not any(char.isalnum() for char in plain):
        raise InputError(f"the caption {text[:60]!r} has no word to speak; give a text with words")
    return plain


def _encode(text: str, encoding: str) -> bytes:
    """Bytes in the engine's encoding; a letter that it lacks loses its accent, or is left out."""
    try:
        return text.encode(encoding)
    except UnicodeEncodeError:
        return unicodedata.normalize("NFKD", text).encode(encoding, "ignore")


def _flac_bytes(audio: Audio) -> bytes:
    buffer = io.BytesIO()
    sf.write(buffer, audio, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _parse_template(template: str) -> tuple[list[str], set[str]]:
    """A command template -> its words, and the placeholders in them.  Raises OptionError."""
    try:
        words = shlex.split(template)
        parsed = [part for word in words for part in string.Formatter().parse(word)]
    except ValueError as error:
        raise OptionError(f"the command {template!r} can't be read ({error}); close quotes and braces") from None
    used = {field for _, field, _, _ in parsed if field is not None}
    if unknown := sorted(used - set(_PLACEHOLDERS)):
        hint = nearest(unknown[0], _PLACEHOLDERS)
        raise OptionError(f"the command {template!r} has {{{unknown[0]}}}{hint}; allowed: {_braced(_PLACEHOLDERS)}")
    if any(form or conversion for _, _, form, conversion in parsed):
        raise OptionError(f"the command {template!r} has : or ! in its braces; write them as {_braced(_PLACEHOLDERS)}")
    if "out" not in used or not used & {"text", "text_file"}:
        raise OptionError(f"the command {template!r} needs {{out}}, and {{text}} or {{text_file}}; add what is missing")
    return words, used


def _braced(names: Sequence[str]) -> str:
    return " ".join(f"{{{name}}}" for name in names)
