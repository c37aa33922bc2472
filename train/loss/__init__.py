"""Divergences, and the LM head that computes them."""
