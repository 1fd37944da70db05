"""Refuse large files: ``python scripts/check_file_size.py FILE...`` (git keeps every version of each for ever).

Only the shipped weights may be large, and they stay under 100 MB together.
"""

from __future__ import annotations

import sys
from pathlib import Path

MAX_BYTES = 500_000  # bytes of one file
MAX_WEIGHTS_BYTES = 100_000_000  # bytes of the weights together
WEIGHTS = Path("src/pixvoice/weights")


def check(files: list[Path], weights: Path = WEIGHTS) -> list[str]:
    """One line for each fault."""
    faults = [
        f"{file}: {file.stat().st_size:,} bytes; at most {MAX_BYTES:,} may be committed"
        for file in files
        if file.is_file() and weights not in file.parents and file.stat().st_size > MAX_BYTES
    ]
    total = sum(file.stat().st_size for file in weights.rglob("*") if file.is_file())
    if total > MAX_WEIGHTS_BYTES:
        faults.append(f"{weights}: {total:,} bytes together; at most {MAX_WEIGHTS_BYTES:,} may be shipped")
    return faults


if __name__ == "__main__":
    found = check([Path(name) for name in sys.argv[1:]])
    print("\n".join(found), end="\n" if found else "")
    sys.exit(1 if found else 0)
