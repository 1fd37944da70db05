"""Recipes -> Hugging Face Trainer."""
