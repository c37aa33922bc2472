"""Memory that a step freed goes back to the system behind it, whatever the sizes were."""

import os
from pathlib import Path

import pytest
import torch

from kidcore.allocator import flat_memory, keep_few_products, release_free_memory


def resident_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def test_what_steps_of_many_sizes_freed_is_given_back() -> None:
    sizes = [(3 << 20) + 70_001 * number for number in range(1, 9)]
    with flat_memory():
        before = resident_mib()
        for shift in range(3):
            kept = [torch.ones(size + shift * 9_001) for size in sizes]
            del kept[::2], kept
            release_free_memory()
        held = torch.ones(1 << 20)
        release_free_memory()
        assert resident_mib() - before < 4 + 16
    assert float(held.sum()) == 1 << 20


def test_compiled_products_are_few_unless_somebody_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    own, pytorchs = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"
    monkeypatch.setenv(own, "7")
    monkeypatch.delenv(pytorchs, raising=False)
    keep_few_products()
    assert (os.environ[own], os.environ[pytorchs]) == ("7", "128")
    monkeypatch.delenv(own)
    with flat_memory():
        assert os.environ[own] == "128"
