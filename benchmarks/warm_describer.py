"""Seconds of each description after the first in one process: ``python warm_describer.py PHOTO REPEATS`` -> JSON."""

from __future__ import annotations

import json
import sys
import time

import pixvoice


def main(photo: str, repeats: int) -> None:
    """Load once, describe once unmeasured, then measure each description with reading the photo."""
    describer = pixvoice.load()
    describer.describe(photo)
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        describer.describe(photo)
        seconds.append(time.perf_counter() - begun)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
