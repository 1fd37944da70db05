"""Photo -> speech tokens: the models that describe."""
