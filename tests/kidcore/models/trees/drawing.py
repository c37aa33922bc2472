"""Drawn trees, and where the tests of GPU code run."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch

from kidcore.models.trees import flex
from kidcore.models.trees.tree import Int32, Tree, build_tree

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU"))


def draw_tree(seed: int, sequences: int, alphabet: int, longest: int) -> Tree:
    """Sequences over a small alphabet, so that they branch early and often, after a shared beginning."""
    rng = np.random.default_rng(seed)
    schema = rng.integers(alphabet, size=rng.integers(0, 30))
    parts = [rng.integers(alphabet, size=rng.integers(1, longest)) for _ in range(sequences)]
    return build_tree([np.concatenate([schema, part]).astype(np.int32) for part in parts])


def draw_schema_tree(seed: int, databases: int, questions: int, schema: int, question: int) -> Tree:
    """A few long shared beginnings, each with many short ends: the shape of real packs. Sizes are upper bounds."""
    rng = np.random.default_rng(seed)
    schemas = [rng.integers(50, size=rng.integers(1, schema)) for _ in range(databases)]
    ends = [rng.integers(5, size=rng.integers(1, question)) for _ in range(databases * questions)]
    return build_tree([np.concatenate([schemas[i % databases], end]).astype(np.int32) for i, end in enumerate(ends)])


def flex_on(device: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """FlexAttention on a device, compiled anew for one test; on a CPU without kernels, which have no backward pass there."""
    torch._dynamo.reset()
    compiled = flex.compiled
    if device == "cpu":
        monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)
        function = compiled("aot_eager")
        monkeypatch.setattr(flex, "compiled", lambda: function)
    yield torch.device(device)
    torch._dynamo.reset()
    compiled.cache_clear()


def tree_tokens(sequences: Sequence[Int32]) -> int:
    """Rows of the prefix tree of some sequences: their distinct beginnings."""
    return len({tokens[: end + 1].tobytes() for tokens in sequences for end in range(len(tokens))})
