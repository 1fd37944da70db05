"""What the service tells of itself, for Prometheus: counts and times, nothing of what was asked."""

from __future__ import annotations

from pixvoice.errors import MissingToolError

try:
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
except ImportError:
    raise MissingToolError(
        "the service needs its packages; to install them type: pip install 'pixvoice[serve]'"
    ) from None

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 12.0, 30.0)
_TOGETHER = (1, 2, 4, 8, 16, 32)


class Metrics:
    """One service's figures, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        self._requests = Counter("pixvoice_requests", "Requests answered.", ("endpoint", "status"), registry=r)
        self._first_sound = Histogram(
            "pixvoice_first_sound_seconds", "From a request to its first piece of sound.", registry=r, buckets=_SECONDS
        )
        self._total = Histogram(
            "pixvoice_total_seconds", "From a request to all of its answer.", ("kind",), registry=r, buckets=_SECONDS
        )
        self._batch = Histogram(
            "pixvoice_batch_size", "Requests that a worker took at once.", ("kind",), registry=r, buckets=_TOGETHER
        )
        self.queue_depth = Gauge("pixvoice_queue_depth", "Requests that wait for a worker.", registry=r)
        self.ready = Gauge("pixvoice_ready", "1 when requests are taken, else 0.", registry=r)

    def request(self, endpoint: str, status: int) -> None:
        """Count an answer; ``endpoint`` is a route of the service (never a path that a client made up)."""
        self._requests.labels(endpoint, str(status)).inc()

    def batch(self, kind: str, size: int) -> None:
        """Note how many requests a worker took at once."""
        self._batch.labels(kind).observe(size)

    def first_sound(self, seconds: float) -> None:
        """Note how long a client waited for the first piece of a stream (seconds)."""
        self._first_sound.observe(seconds)

    def total(self, kind: str, seconds: float) -> None:
        """Note how long an answer took as a whole (seconds)."""
        self._total.labels(kind).observe(seconds)

    def render(self) -> bytes:
        """The figures in the text format that ``CONTENT_TYPE`` names."""
        return generate_latest(self.registry)
