"""Photo -> features."""
