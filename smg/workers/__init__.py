"""The workers of a model, and how one is chosen."""
