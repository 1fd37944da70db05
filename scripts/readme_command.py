"""Print the commands of the fenced block that follows ``<!-- NAME-command -->`` in the README.

    python scripts/readme_command.py test [README.md]

Lines are joined with ``&&``, so that what runs the output stops at the first that fails.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def read_command(readme: str, name: str) -> str:
    """The block's commands as one line of shell; KeyError if the README has no such block."""
    block = re.search(rf"<!-- {re.escape(name)}-command -->\s*```\w*\n(.*?)```", readme, re.DOTALL)
    if block is None:
        raise KeyError(name)
    lines = block[1].replace("\\\n", " ").splitlines()
    commands = (line.removeprefix("$ ").strip() for line in lines)
    return " && ".join(command for command in commands if command and not command.startswith("#"))


def main(arguments: list[str]) -> int:
    name, readme = arguments[0], Path(arguments[1] if len(arguments) > 1 else "README.md")
    try:
        print(read_command(readme.read_text(encoding="utf-8"), name))
    except KeyError:
        print(f"error: {readme} has no block after <!-- {name}-command -->", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
