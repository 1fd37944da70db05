"""``pixvoice serve`` under load: right answers, steady memory, both cores, and up again after ``kill -9``.

    python benchmarks/serve_load.py --photos FOLDER [--requests 10000] [--limit 360] [--json]

Needs the ``serve`` and ``search`` extras.  Starts the service on an index of copies of the folder's first photos, on
two cores that it shares with the clients, and measures in one run, in about 9 minutes:

* throughput: answers a second with 8 clients against one, in turns of ``--turn`` seconds, for the mix of the load and
  for streamed descriptions alone.
* load: ``--clients`` clients send a mix of ten requests in turn (2 streamed descriptions, 1 as JSON, 6 spoken searches,
  1 by photo), as many as ``--requests`` in all or until ``--limit`` seconds are over.  Who is told 429 comes back after
  what Retry-After says; a 429 counts as an answer.  Every description and every search is compared with what the
  library itself says (a sample of the audio may be off by 2 of 32,768, a score by 0.001).
* memory: the service's resident set after the first and after the last tenth of those answers.
* ``kill -9`` under load, and the seconds until the service is ready again with the same answers.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import itertools
import json
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from describe_speed import THREADS, note
from service import WAV_HEADER, Answer, Service, ask, two_cores

BAR_THROUGHPUT, BAR_GROWTH, BAR_RESTART_S = 1.5, 0.10, 3.0
MANY = 8  # clients that are held against one
ASKED = 5  # photos that are described, and whose descriptions are the spoken queries
TOP = 5
PATIENCE_S = 5.0  # seconds that a client waits at most after a 429, whatever it is told
MIX = ("speech", "stream", "speech", "json", "speech", "photo", "speech", "stream", "speech", "speech")
SAMPLES_OFF, SCORE_OFF = 2, 0.001


@dataclass
class Request:
    """What is sent, and how to tell whether an answer is the right one."""

    path: str
    body: bytes
    headers: dict[str, str]
    right: Callable[[bytes], bool]


@dataclass
class Tally:
    """What all clients saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    broken: int = 0  # connections that ended without an answer
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, kind: str, request: Request, answer: Answer) -> int:
        """Count an answer -> how many there are now."""
        right = answer.status != 200 or request.right(answer.body)
        with self.lock:
            self.statuses[answer.status] += 1
            self.wrong[kind] += not right
            return self.statuses.total()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos; copies of the first are used")
    parser.add_argument("--count", type=int, default=200, help="photos that are copied and indexed")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=10_000, help="answers in all, 429 included")
    parser.add_argument("--limit", type=float, default=360.0, help="seconds that the load lasts at most")
    parser.add_argument(
        "--queue", type=int, default=48, help="the service's queue: less than the clients, so that it fills"
    )
    parser.add_argument("--turn", type=float, default=12.0, help="seconds of each of the four turns of throughput")
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of the table")
    options = parser.parse_args()
    found = sorted(options.photos.rglob("*.jpg"))[: options.count]
    if len(found) < ASKED:
        parser.error(f"--photos {options.photos}: give a folder with at least {ASKED} .jpg photos")
    two_cores()
    with tempfile.TemporaryDirectory(prefix="pixvoice-benchmark-") as folder:
        for photo in found:
            shutil.copy(photo, Path(folder) / photo.name)
        result = measure(Path(folder), options)
    print(json.dumps(result) if options.json else table(result))


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All four, on one index."""
    arguments = ("--photos", str(folder), "--queue", str(options.queue))
    with Service(*arguments) as service:
        note(f"indexed and ready after {service.start_s:.1f} s; asking the library for the right answers")
        requests = right_answers(folder)
        result: dict[str, Any] = {
            "clients": options.clients, "threads": THREADS, "photos": len(list(folder.glob("*.jpg"))),
            "throughput": {
                name: throughput(service, requests, kinds, options.turn)
                for name, kinds in (("mix", MIX), ("stream", ("stream",)))
            },
        }  # fmt: skip
        result["load"] = load(service, requests, options)
        note("kill -9 under load")
        result["killed"] = {"statuses": killed(service, requests, options.clients)}
    with Service(*arguments) as service:
        note(f"ready again after {service.start_s:.1f} s")
        tally = Tally()
        drive(
            service, requests, [kind for kind in MIX if kind != "stream"], 1, tally, lambda: tally.statuses.total() < 20
        )
        result["killed"] |= {"restart_s": service.start_s, "restart_bar_s": BAR_RESTART_S}
        result["killed"] |= {"after": dict(tally.statuses), "wrong_after": tally.wrong.total()}
        result["stop_status"] = service.stop()
    return result


def right_answers(folder: Path) -> dict[str, list[Request]]:
    """Kind of request -> one for each of a few photos, with what the library itself says of them."""
    import pixvoice
    from pixvoice.audio import pcm16_bytes, wav_bytes
    from pixvoice.images import read_image

    describer, searcher = pixvoice.load(threads=THREADS), pixvoice.load_searcher(folder, threads=THREADS)
    requests: dict[str, list[Request]] = {kind: [] for kind in dict.fromkeys(MIX)}
    jpeg, wav = {"Content-Type": "image/jpeg"}, {"Content-Type": "audio/wav"}
    for path in sorted(folder.glob("*.jpg"))[:ASKED]:
        data = path.read_bytes()
        photo = read_image(data, at_least=512)
        streamed = b"".join(pcm16_bytes(piece) for piece in describer.stream(photo, strategy="greedy"))
        best = describer.describe(photo)
        spoken = wav_bytes(best.audio, best.sample_rate)
        by_photo = searcher.search_photo(photo, TOP)
        query = searcher.hear(spoken)
        search, describe = f"/v1/search?top={TOP}", "/v1/describe"
        requests["stream"].append(Request(describe, data, {**jpeg, "Accept": "audio/wav"}, same_audio(streamed)))
        requests["json"].append(
            Request(describe, data, {**jpeg, "Accept": "application/json"}, same_json(spoken[WAV_HEADER:]))
        )
        requests["speech"].append(Request(search, spoken, wav, same_photos(query.text, searcher.search(query, TOP))))
        requests["photo"].append(Request(search, data, jpeg, same_photos(None, by_photo)))
    return requests


def same_audio(pcm: bytes) -> Callable[[bytes], bool]:
    """Whether a WAV holds these samples, all but exactly."""
    expected = np.frombuffer(pcm, "<i2").astype(np.int32)

    def right(body: bytes) -> bool:
        if body[WAV_HEADER:] == pcm:
            return True
        found = np.frombuffer(body[WAV_HEADER:], "<i2").astype(np.int32)
        return len(found) == len(expected) and int(np.abs(found - expected).max()) <= SAMPLES_OFF

    return right


def same_json(pcm: bytes) -> Callable[[bytes], bool]:
    """Whether a JSON answer holds a WAV of these samples."""
    right = same_audio(pcm)
    return lambda body: right(base64.b64decode(json.loads(body)["audio"]))


def same_photos(heard: str | None, matches: list[Any]) -> Callable[[bytes], bool]:
    """Whether a search found these photos in this order, and heard this."""
    expected = [(match.path.name, match.score) for match in matches]

    def right(body: bytes) -> bool:
        answer = json.loads(body)
        found = [(one["name"], one["score"]) for one in answer["results"] if not one["missing"]]
        return (
            answer["heard"] == heard
            and len(found) == len(expected)
            and all(
                name == other and abs(score - close) <= SCORE_OFF
                for (name, score), (other, close) in zip(found, expected, strict=True)
            )
        )

    return right


def drive(
    service: Service,
    requests: dict[str, list[Request]],
    kinds: Sequence[str],
    clients: int,
    tally: Tally,
    going_on: Callable[[], bool],
    seen: Callable[[int], None] = lambda count: None,
) -> float:
    """Let clients send requests until ``going_on`` says no -> seconds."""
    numbers: Iterator[int] = itertools.count()  # next() of it is atomic

    def client() -> None:
        connection = service.connect()
        while going_on():
            number = next(numbers)
            kind = kinds[number % len(kinds)]
            request = requests[kind][number // len(kinds) % ASKED]
            while going_on():
                try:
                    answer = ask(connection, "POST", request.path, request.body, **request.headers)
                except (OSError, http.client.HTTPException):
                    connection.close()
                    with tally.lock:
                        tally.broken += 1
                    time.sleep(0.2)
                    continue
                seen(tally.add(kind, request, answer))
                if answer.status != 429:
                    break
                time.sleep(min(PATIENCE_S, float(answer.headers["Retry-After"])))
        connection.close()

    begun = time.perf_counter()
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begun


def throughput(
    service: Service, requests: dict[str, list[Request]], kinds: Sequence[str], turn_s: float
) -> dict[str, Any]:
    """Answers a second of one client and of eight, in turns."""
    done, seconds, wrong = {1: 0, MANY: 0}, {1: 0.0, MANY: 0.0}, 0
    for clients in (1, MANY, 1, MANY):
        note(f"throughput of {'/'.join(dict.fromkeys(kinds))}, {clients} client{'s' * (clients > 1)}")
        end = time.perf_counter() + turn_s
        tally = Tally()
        seconds[clients] += drive(service, requests, kinds, clients, tally, lambda end=end: time.perf_counter() < end)  # type: ignore[misc]
        done[clients] += tally.statuses[200]
        wrong += tally.wrong.total() + tally.statuses.total() - tally.statuses[200]
    rates = {clients: done[clients] / seconds[clients] for clients in done}
    return {
        "one_a_s": rates[1], f"{MANY}_a_s": rates[MANY], "ratio": rates[MANY] / rates[1], "bar": BAR_THROUGHPUT,
        "wrong": wrong,
    }  # fmt: skip


def load(service: Service, requests: dict[str, list[Request]], options: argparse.Namespace) -> dict[str, Any]:
    """Many clients, many requests; memory after the first tenth and after the last."""
    tally, first = Tally(), max(1, options.requests // 10)
    rss: dict[int, float] = {}
    end = time.perf_counter() + options.limit

    def seen(count: int) -> None:
        if count % first == 0:
            rss[count] = service.rss_mb()
            note(f"{count} answers, {rss[count]:.0f} MB, {dict(tally.statuses)}")

    def going_on() -> bool:
        return tally.statuses.total() < options.requests and time.perf_counter() < end

    seconds = drive(service, requests, MIX, options.clients, tally, going_on, seen)
    last = service.rss_mb()
    before = rss.get(first, last)
    return {
        "answers": tally.statuses.total(), "seconds": seconds, "statuses": dict(tally.statuses),
        "wrong": tally.wrong.total(), "broken": tally.broken,
        "rss_mb": {"first": before, "last": last, "all": rss}, "growth": last / before - 1, "growth_bar": BAR_GROWTH,
    }  # fmt: skip


def killed(service: Service, requests: dict[str, list[Request]], clients: int) -> dict[int, int]:
    """``kill -9`` when each client could have had an answer -> the statuses before."""
    tally, over = Tally(), threading.Event()

    def seen(count: int) -> None:
        if count >= clients and not over.is_set():
            over.set()
            service.kill()

    drive(service, requests, MIX, clients, tally, lambda: not over.is_set(), seen)
    return dict(tally.statuses)


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    load, killed, lines = result["load"], result["killed"], []
    for name, speed in result["throughput"].items():
        rates = f"{speed['one_a_s']:.1f} answers a second with one client, {speed[f'{MANY}_a_s']:.1f} with {MANY}"
        lines.append(f"{name:8}{rates}: {speed['ratio']:.2f} times (bar: {BAR_THROUGHPUT}); {speed['wrong']} wrong")
    told = ", ".join(f"{count} x {status}" for status, count in sorted(load["statuses"].items()))
    lines.append(f"{'load':8}{load['answers']} answers in {load['seconds']:.0f} s: {told}; {load['wrong']} wrong")
    rss = load["rss_mb"]
    lines.append(
        f"{'memory':8}{rss['first']:.0f} MB after the first tenth, {rss['last']:.0f} after the last: "
        f"{100 * load['growth']:+.1f} % (bar: {100 * BAR_GROWTH:.0f})"
    )
    lines.append(
        f"{'kill -9':8}ready again after {killed['restart_s']:.1f} s (bar: {BAR_RESTART_S:.0f}), then "
        f"{sum(killed['after'].values())} answers, {killed['wrong_after']} wrong"
    )
    return "\n".join([*lines, f"{result['clients']} clients, {result['threads']} cores, {result['photos']} photos"])


if __name__ == "__main__":
    sys.exit(main())
