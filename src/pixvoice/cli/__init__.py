"""The ``pixvoice`` command: one file a verb, each named below on one line.

A verb's file imports what is heavy inside its function, so that ``pixvoice --help`` is quick.  Results go to standard
output, notes to standard error.  Exit status: 0 done, 1 a result couldn't be written or a file of a batch failed,
2 the input or an option can't be used, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from pixvoice.cli import (
    bench,
    complete,
    convert,
    describe,
    encode,
    evaluate,
    evaluate_complete,
    evaluate_emotion,
    evaluate_storage,
    export,
    index,
    manifest,
    models,
    search,
    serve,
    synthesize,
    train,
    unpack,
)
from pixvoice.errors import OutputError, PixVoiceError

app = typer.Typer(
    name="pixvoice",
    help="Pictures that speak: a photo goes in, a spoken description comes out. Try: pixvoice describe PHOTO --play",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

app.command("complete")(complete.complete)
app.command("convert")(convert.convert)
app.command("describe")(describe.describe)
app.command("encode")(encode.encode)
app.command("export")(export.export)
app.command("index")(index.index)
app.command("models")(models.models)
app.command("search")(search.search)
app.command("serve")(serve.serve)
app.command("synthesize")(synthesize.synthesize)
app.command("train")(train.train)
app.command("unpack")(unpack.unpack)
evaluate.app.command("complete")(evaluate_complete.complete)
evaluate.app.command("emotion")(evaluate_emotion.emotion)
evaluate.app.command("storage")(evaluate_storage.storage)
app.add_typer(bench.app, name="bench")
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(manifest.app, name="manifest")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pixvoice {version('pixvoice')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """What comes before the verb."""


def main() -> None:
    """Run the command line and exit with its status; what a user can mend is said in one line on standard error."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run the command line ``arguments`` and return the exit status."""
    try:
        status = app(arguments, prog_name="pixvoice", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except PixVoiceError as error:
        return _say(str(error), 1 if isinstance(error, OutputError) else 2)
    except typer.TyperException as error:  # an unknown option, a value that isn't allowed, a missing argument
        message = error.format_message()  # empty where the help has been shown instead
        return _say(f"{message} (see {_help_command(error)})", error.exit_code) if message else error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:  # the reader of our output went away: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _help_command(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path if context else 'pixvoice'} --help"


def _say(message: str, status: int) -> int:
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    return status
