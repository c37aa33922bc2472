"""A seed and a row's name in, that row's own random generator out: results depend on no layout, order or worker."""

import hashlib

import numpy as np


def row_rng(seed: int, purpose: str, example_id: str, view: int) -> np.random.Generator:
    """A generator that only these four decide."""
    digest = hashlib.sha256(f"{seed}|{purpose}|{example_id}|{view}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
