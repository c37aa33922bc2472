"""Token sequences with common beginnings, run through a model once."""
