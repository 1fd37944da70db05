"""One command, one table: trains what isn't trained, evaluates every row, and writes what came out as a report."""
