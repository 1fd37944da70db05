"""What a service is told at its start; nothing of it changes while it runs."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from pixvoice.errors import OptionError

MIB = 1 << 20  # bytes


@dataclass(frozen=True)
class Settings:
    """Where to listen, what to search, and every limit of a request.  Raises OptionError for a value out of range."""

    photos: Path | None = None  # folder of the photos that can be found; without, there is no search
    host: str = "127.0.0.1"
    port: int = 8080  # 0: any that is free
    token: str | None = None  # required of clients wherever others than this machine can reach the service
    max_bytes: int = 20 * MIB  # of one upload
    max_pixels: int = 50_000_000  # of one photo
    queue_size: int = 64  # requests that wait for the models; more are told to come back
    batch: int = 8  # photos described together at most
    timeout_s: float = 30.0  # seconds from a request's place in the queue to its result
    upload_s: float = 20.0  # seconds for a request's body to arrive
    threads: int | None = None  # processor cores; 2 at most unless told
    bundle: Path | None = None  # folder of the weights; without, those that ship

    def __post_init__(self) -> None:
        """Refuse what can't be served with."""
        if not 0 <= self.port <= 65_535:
            raise OptionError(f"--port {self.port}: give 1 to 65535, or 0 for any that is free")
        for name in ("max_bytes", "max_pixels", "queue_size", "batch", "timeout_s", "upload_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise OptionError(f"{name} {getattr(self, name)}: give a number above 0")
        if not self.is_local and not self.token:
            raise OptionError(
                f"--host {self.host}: other machines could use the service; give --token-file FILE with a secret in it"
            )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the service."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
