"""What users can do wrong, one small tree.

PixVoiceError
 +-- InputError        a file, photo, recording or manifest that can't be used     (exit code 1 in a batch, 2 alone)
 +-- OptionError       an option or recipe value that isn't allowed                (exit code 2)
 +-- BundleError       weights that are missing, damaged or of another shape       (exit code 2)
 +-- MissingToolError  a program or optional package that isn't installed          (exit code 2)
 +-- OutputError       a result that can't be written                              (exit code 1)

Every message is one line: what was given, what is allowed, and what to do next.
"""

from __future__ import annotations


class PixVoiceError(Exception):
    """Base of every error that a user can mend."""


class InputError(PixVoiceError):
    """A file that can't be used as what it was given for."""


class OptionError(PixVoiceError):
    """An option or recipe value that isn't allowed."""


class BundleError(PixVoiceError):
    """Weights that are missing, damaged, or of another shape than the model."""


class MissingToolError(PixVoiceError):
    """A program or optional package that isn't installed."""


class OutputError(PixVoiceError):
    """A result that can't be written."""
