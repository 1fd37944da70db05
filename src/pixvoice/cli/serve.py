"""``pixvoice serve``: describe and search over HTTP, and as a page for people."""

from __future__ import annotations

import os
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pixvoice.errors import InputError, MissingToolError, OptionError, OutputError

if TYPE_CHECKING:
    from pixvoice.runtime.describer import Describer
    from pixvoice.runtime.searcher import Searcher
    from pixvoice.serving.settings import Settings

MAX_TOKEN_BYTES = 4096
_GRACE_S = 10  # seconds that a request may take beyond its own time limit when the service stops


def serve(
    photos: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Photos that can be searched; indexed at the start.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Where to listen; beyond this machine only with --token-file.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 for any that is free.")] = 8080,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with the secret that clients must send.")
    ] = None,
    index: Annotated[
        bool, typer.Option("--index/--no-index", help="Bring the index up to date first, or take it as it is.")
    ] = True,
    queue: Annotated[int, typer.Option(help="Requests that may wait; others are told to come back.")] = 64,
    timeout: Annotated[float, typer.Option(help="Seconds that one request may take.")] = 30.0,
    max_mb: Annotated[int, typer.Option("--max-mb", help="Size of an upload, in MiB.")] = 20,
    bundle: Annotated[Path | None, typer.Option(help="Folder of a bundle; without it, the one that ships.")] = None,
    threads: Annotated[int | None, typer.Option(help="Processor cores to use; 2 at most unless told.")] = None,
) -> None:
    """Serve descriptions and search over HTTP, and a page that people can use, until it is stopped.

    Examples: pixvoice serve --photos photos/; pixvoice serve --host 0.0.0.0 --token-file secret.txt
    """
    import asyncio

    from pixvoice.serving.settings import MIB, Settings

    settings = Settings(
        photos=photos, host=host, port=port, token=None if token_file is None else _token(token_file),
        max_bytes=max_mb * MIB, queue_size=queue, timeout_s=timeout, threads=threads, bundle=bundle,
    )  # fmt: skip
    with _listen(settings) as listener:
        try:
            describer, searcher = _load(settings, index)
        except ModuleNotFoundError as error:
            raise MissingToolError(
                f"the service needs {error.name}; to install it type: pip install 'pixvoice[serve]'"
            ) from None
        asyncio.run(_serve(settings, listener, describer, searcher))


def _load(settings: Settings, index: bool) -> tuple[Describer, Searcher | None]:
    """The describer, and the searcher of the photos if there are any; packages are imported meanwhile."""
    import uvicorn  # noqa: F401

    import pixvoice

    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(pixvoice.load, settings.bundle, settings.threads)
        import pixvoice.serving.app

        searcher = _searcher(settings, index)
        return loading.result(), searcher


def _token(file: Path) -> str:
    """The secret in a file.  Raises InputError."""
    from pixvoice.files import read_bytes

    _, data = read_bytes(file, "token", MAX_TOKEN_BYTES)
    token = data.decode("ascii", errors="replace").strip()
    if not token.isprintable() or not token.isascii() or not token or " " in token:
        raise InputError(f"{file}: no token; write one line of letters and digits into it")
    if len(token) < 16:
        raise InputError(f"{file}: a token of {len(token)} characters; give at least 16, as from: openssl rand -hex 16")
    return token


def _listen(settings: Settings) -> socket.socket:
    """The socket, bound before anything is loaded, so that a port in use is said at once."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OptionError(f"--host {settings.host}: {reason}; give an address of this machine") from None
    try:
        if os.name == "posix":  # elsewhere it would let two services share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        where = f"--host {settings.host} --port {settings.port}"
        raise OptionError(f"{where}: {error.strerror}; give another, or --port 0 for any that is free") from None
    return listener


def _searcher(settings: Settings, index: bool) -> Searcher | None:
    """The searcher of the photos, with its index up to date if that's wanted and nobody else is at it."""
    if settings.photos is None:
        return None
    import pixvoice
    from pixvoice.cli.index import listening
    from pixvoice.serving.engine import warm_searcher

    searcher = pixvoice.load_searcher(settings.photos, bundle=settings.bundle, threads=settings.threads)
    if index:
        try:
            with listening() as listener:
                searcher.index(listener=listener)
        except OutputError as error:
            if not searcher.store.exists():
                raise
            typer.echo(f"note: {error}; the index is searched as it is", err=True)
    if not searcher.store.count("photos"):
        raise InputError(f"{settings.photos}: there is no photo in its index; type: pixvoice index {settings.photos}")
    warm_searcher(searcher)
    return searcher


async def _serve(settings: Settings, listener: socket.socket, describer: Describer, searcher: Searcher | None) -> None:
    """Serve until SIGTERM (exit status 0) or Ctrl+C (130); what has begun is finished first."""
    import uvicorn

    from pixvoice.serving.app import create_app
    from pixvoice.serving.engine import Engine

    engine = Engine(settings, describer, searcher)
    await engine.start()
    config = uvicorn.Config(
        create_app(settings, engine),
        http="h11",
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,  # addresses and queries are the clients' own business
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=round(settings.timeout_s) + _GRACE_S,
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # what uvicorn raises again when it has stopped
    listener.listen(config.backlog)  # so that whoever reads the next line can connect
    address, port = listener.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    typer.echo(f"PixVoice listens on http://{shown}:{port}/ (Ctrl+C stops it)", err=True)
    await uvicorn.Server(config).serve(sockets=[listener])
