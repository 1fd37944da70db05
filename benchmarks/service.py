"""What the benchmarks of the service share: ``pixvoice serve`` as a process on this machine, and how to ask it."""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from describe_speed import THREADS, environment

START_S = 120.0  # seconds that a start may take before the benchmark gives up
WAV_HEADER = 44  # bytes
_LINE = re.compile(r"listens on http://([\d.]+):(\d+)/")


class Service:
    """``pixvoice serve`` with some options, on a free port."""

    def __init__(self, *options: str) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by __exit__)
        self.command = [sys.executable, "-m", "pixvoice", "serve", "--port", "0", *options]
        begun = time.perf_counter()
        self.process = subprocess.Popen(self.command, env=environment(), stderr=self._log)
        self.host, self.port = self._wait(begun)
        self.start_s = time.perf_counter() - begun  # from the process's start to the first /readyz that says yes

    def connect(self) -> http.client.HTTPConnection:
        """A connection of its own."""
        return http.client.HTTPConnection(self.host, self.port, timeout=60)

    def rss_mb(self) -> float:
        """The process's resident memory (MB)."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def kill(self) -> None:
        """``kill -9``."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM -> exit status."""
        self.process.terminate()
        return self.process.wait(START_S)

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.stop()
        self._log.close()

    def _wait(self, begun: float) -> tuple[str, int]:
        """Where it listens, once it is ready."""
        place: tuple[str, int] | None = None
        while time.perf_counter() - begun < START_S and self.process.poll() is None:
            if place is None:
                self._log.seek(0)
                found = _LINE.search(self._log.read())
                place = (found[1], int(found[2])) if found else None
            if place is not None and self._ready(*place):
                return place
            time.sleep(0.01)
        self.process.kill()
        self._log.seek(0)
        sys.exit(f"error: the service didn't start: {self._log.read()[-500:]}")

    def _ready(self, host: str, port: int) -> bool:
        connection = http.client.HTTPConnection(host, port, timeout=5)
        try:
            return ask(connection, "GET", "/readyz").status == 200
        except OSError:
            return False
        finally:
            connection.close()


@dataclass
class Answer:
    """A status, the body, and when its first byte of audio (behind a WAV header) came, in seconds from the request."""

    status: int
    headers: Any
    body: bytes
    first_s: float
    total_s: float


def ask(connection: http.client.HTTPConnection, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
    """One request; header names with _ for -."""
    begun = time.perf_counter()
    connection.request(method, path, body or None, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    data, first_s = b"", 0.0
    while piece := response.read1(1 << 20):
        data += piece
        if not first_s and len(data) > WAV_HEADER:
            first_s = time.perf_counter() - begun
    response.close()  # read1 leaves an answer of known length open, and its connection can't be used again
    return Answer(response.status, response.headers, data, first_s, time.perf_counter() - begun)


def two_cores() -> None:
    """Keep this process, and all that it starts, on as many cores as the figures are for."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
