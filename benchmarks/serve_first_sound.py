"""How soon a photo is heard: ``pixvoice serve`` over loopback HTTP beside the cascade that people run, in one run.

    python benchmarks/serve_first_sound.py [PHOTO] [--repeats 20] [--json]

Needs the ``serve`` extra, and ``train`` for the cascade (see ``cascade.py``: BLIP-base, then VITS, random weights;
1.2 GB of disk, removed afterwards).  One client, warm, each request on a connection of its own; both sides on the same
two cores and two threads.

* first sound: the median seconds from a request to the first bytes of audio.
* whole: the median seconds from the same requests to the end of the waveform.
* the cascade has no sound before its end: its time is the median seconds of one description inside its own process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from describe_speed import HERE, THREADS, note, run
from service import Service, ask, two_cores

BAR_SHARE, BAR_SOONER = 1 / 3, 15.0
UNMEASURED = 3  # requests before the first that counts


def main() -> None:
    """Measure both, or with ``--only`` one of them, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", nargs="?", type=Path, default=HERE.parent / "examples" / "moose.jpg")
    parser.add_argument("--repeats", type=int, default=20, help="requests in each of two turns; the median counts")
    parser.add_argument("--only", choices=("pixvoice", "cascade"), help="measure one side, without their ratio")
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of the table")
    options = parser.parse_args()
    if not options.photo.is_file():
        parser.error(f"{options.photo}: no such photo")
    if options.repeats < 1:
        parser.error(f"--repeats {options.repeats}: give 1 or more")
    systems = [options.only] if options.only else ["pixvoice", "cascade"]
    result = measure(options.photo.resolve(), options.repeats, systems)
    print(json.dumps(result) if options.json else table(result))


def measure(photo: Path, repeats: int, systems: list[str]) -> dict[str, Any]:
    """Each side twice, turn by turn so that a busy moment meets both."""
    two_cores()
    first: list[float] = []
    whole: list[float] = []
    cascade: list[float] = []
    with tempfile.TemporaryDirectory(prefix="pixvoice-benchmark-") as folder:
        if "cascade" in systems:
            note("building the cascade with random weights")
            run([sys.executable, str(HERE / "cascade.py"), "build", folder])
        for turn in (1, 2):
            if "pixvoice" in systems:
                note(f"pixvoice, turn {turn} of 2")
                pairs = listen(photo, repeats)
                first += [pair[0] for pair in pairs]
                whole += [pair[1] for pair in pairs]
            if "cascade" in systems:
                note(f"cascade, turn {turn} of 2")
                few = max(2, repeats // 4)  # it takes seconds, and varies little
                command = [sys.executable, str(HERE / "cascade.py"), "warm", folder, str(photo), str(few)]
                cascade += json.loads(run(command))
    result: dict[str, Any] = {"photo": photo.name, "threads": THREADS, "requests": len(first)}
    if first:
        result |= {"first_sound_s": statistics.median(first), "whole_s": statistics.median(whole)}
        result |= {"share": result["first_sound_s"] / result["whole_s"], "share_bar": BAR_SHARE}
    if cascade:
        result["cascade_s"] = statistics.median(cascade)
    if first and cascade:
        result |= {"sooner": result["cascade_s"] / result["first_sound_s"], "sooner_bar": BAR_SOONER}
    return result


def listen(photo: Path, repeats: int) -> list[tuple[float, float]]:
    """Seconds to the first sound and to the end of each request."""
    data, found = photo.read_bytes(), []
    with Service() as service:
        for _ in range(UNMEASURED + repeats):
            connection = service.connect()
            answer = ask(connection, "POST", "/v1/describe", data, Content_Type="image/jpeg", Accept="audio/wav")
            connection.close()
            assert answer.status == 200 and answer.first_s, answer
            found.append((answer.first_s, answer.total_s))
    return found[UNMEASURED:]


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = []
    if "whole_s" in result:
        lines.append(f"{'first sound':14}{1000 * result['first_sound_s']:8.0f} ms")
        share = f"{result['share']:.2f} of it (bar: under {BAR_SHARE:.2f})"
        lines.append(f"{'whole speech':14}{1000 * result['whole_s']:8.0f} ms   the first sound is after {share}")
    if "cascade_s" in result:
        sooner = f"   {result['sooner']:.0f} times sooner (bar: {BAR_SOONER:.0f})" if "sooner" in result else ""
        lines.append(f"{'cascade':14}{1000 * result['cascade_s']:8.0f} ms{sooner}")
    return "\n".join([*lines, f"{result['photo']}, {result['threads']} threads, {result['requests']} requests"])


if __name__ == "__main__":
    main()
