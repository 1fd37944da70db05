"""Speech <-> photo retrieval with a text and an acoustic channel side by side, and what the voice feels."""
