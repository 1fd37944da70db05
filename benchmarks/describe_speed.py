"""How fast and how small: ``pixvoice describe`` beside the cascade that people run today, in one run, as ratios.

    python benchmarks/describe_speed.py [PHOTO] [--repeats 5] [--json]

Needs the ``train`` extra for the cascade (see ``cascade.py``: BLIP-base, then VITS) and 1.2 GB of disk for its weights,
which are random and are removed afterwards.  Every process gets the same photo, the same two CPU cores and two threads.

* warm: the median seconds of one description in a process that has already made one.
* cold: the median seconds from the start of a process to its end, with the WAV written; files are in the page cache.
* peak memory: the largest resident set of those cold processes.

This file imports nothing large, because a process starts with the peak memory of the one that started it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
THREADS = 2
BARS = {"warm_s": (10.0, "times faster"), "cold_s": (8.0, "times faster"), "peak_mb": (3.0, "times smaller")}


def main() -> None:
    """Measure both, or with ``--only`` one of them, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", nargs="?", type=Path, default=HERE.parent / "examples" / "moose.jpg")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each measure; the median counts")
    parser.add_argument("--only", choices=("pixvoice", "cascade"), help="measure one side, without ratios")
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of the table")
    options = parser.parse_args()
    if not options.photo.is_file():
        parser.error(f"{options.photo}: no such photo")
    if options.repeats < 1:
        parser.error(f"--repeats {options.repeats}: give 1 or more")
    result = measure(
        options.photo.resolve(), options.repeats, [options.only] if options.only else ["pixvoice", "cascade"]
    )
    print(json.dumps(result) if options.json else table(result))


def measure(photo: Path, repeats: int, systems: list[str]) -> dict[str, Any]:
    """Warm, cold and peak memory of each system, turn by turn so that a busy moment meets both."""
    if hasattr(os, "sched_setaffinity"):  # inherited by every process started here
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    with tempfile.TemporaryDirectory(prefix="pixvoice-benchmark-") as folder:
        warm, cold = commands(photo, Path(folder), repeats)
        if "cascade" in systems:
            note("building the cascade with random weights")
            run([sys.executable, str(HERE / "cascade.py"), "build", folder])
        values: dict[str, dict[str, float]] = {"warm_s": {}, "cold_s": {}, "peak_mb": {}}
        for system in systems:
            note(f"{system}: warm")
            values["warm_s"][system] = statistics.median(json.loads(run(warm[system])))
        runs: dict[str, list[tuple[float, float]]] = {system: [] for system in systems}
        for turn in range(repeats):
            for system in systems:
                note(f"{system}: cold, {turn + 1} of {repeats}")
                runs[system].append(start_to_end(cold[system], Path(folder) / f"{system}.wav"))
        for system, pairs in runs.items():
            values["cold_s"][system] = statistics.median(seconds for seconds, _ in pairs)
            values["peak_mb"][system] = max(megabytes for _, megabytes in pairs)
    for key, value in values.items():
        if len(value) == 2:
            value["ratio"] = value["cascade"] / value["pixvoice"]
            value["bar"] = BARS[key][0]
    return {"photo": photo.name, "threads": THREADS, "repeats": repeats, **values}


def commands(photo: Path, folder: Path, repeats: int) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The command lines of each system: warm (prints a JSON list of seconds) and cold (writes SYSTEM.wav)."""
    cascade = [sys.executable, str(HERE / "cascade.py")]
    warm = {
        "pixvoice": [sys.executable, str(HERE / "warm_describer.py"), str(photo), str(repeats)],
        "cascade": [*cascade, "warm", str(folder), str(photo), str(repeats)],
    }
    cold = {
        "pixvoice": [sys.executable, "-m", "pixvoice", "describe", str(photo), "-o", str(folder / "pixvoice.wav")],
        "cascade": [*cascade, "cold", str(folder), str(photo), str(folder / "cascade.wav")],
    }
    return warm, cold


def run(command: list[str]) -> str:
    """What a command prints; its errors end the benchmark."""
    done = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"error: {' '.join(command[1:4])} ... failed with status {done.returncode}")
    return done.stdout


def start_to_end(command: list[str], wav: Path) -> tuple[float, float]:
    """Seconds and peak memory (MB) of a command that writes ``wav``."""
    wav.unlink(missing_ok=True)
    begun = time.perf_counter()
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or not wav.is_file():
        sys.exit(f"error: {' '.join(command[1:4])} ... wrote no {wav.name} (status {process.returncode})")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    return seconds, usage.ru_maxrss * unit / 1e6


def environment() -> dict[str, str]:
    """The environment of every process: two threads, and no network for a hub."""
    return {**os.environ, "OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = [f"{'':22}{'pixvoice':>10}{'cascade':>10}   ratio"]
    names = {"warm_s": "warm, s a photo", "cold_s": "cold start, s", "peak_mb": "peak memory, MB"}
    for key, name in names.items():
        value, digits = result[key], 0 if key == "peak_mb" else 2
        cells = [f"{value[system]:.{digits}f}" if system in value else "-" for system in ("pixvoice", "cascade")]
        ratio = f"{value['ratio']:.1f} {BARS[key][1]} (bar: {value['bar']:.0f})" if "ratio" in value else "-"
        lines.append(f"{name:22}{cells[0]:>10}{cells[1]:>10}   {ratio}")
    return "\n".join([*lines, f"{result['photo']}, {result['threads']} threads, {result['repeats']} repeats"])


def note(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
