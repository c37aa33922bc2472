"""A run that leaves hardly any memory says so once, by what it takes within its steps."""

import logging

import pytest
import torch

from kidcore.allocator import release_free_memory
from train import memory_watch
from train.memory_watch import MemoryWatch

CPU = torch.device("cpu")


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_little_left_is_said_once_with_what_was_expected(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = MemoryWatch(3_000_000_000, CPU)
    free = {"bytes": 1 << 40}
    monkeypatch.setattr(memory_watch, "free_bytes", lambda _device: free["bytes"])
    watch.look(1)
    assert said(caplog) == []
    free["bytes"] = 1 << 20
    watch.look(2)
    watch.look(3)
    (text,) = said(caplog)
    assert text.startswith("by step 2 the run took up to ")
    assert "(3.0 GB were expected)" in text
    assert "train.pack_tokens" in text


def test_what_was_taken_within_a_step_counts_and_what_was_before_the_run_does_not(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 300 << 20
    before = torch.ones(size, dtype=torch.uint8)
    del before
    release_free_memory()
    watch = MemoryWatch(0, CPU)
    monkeypatch.setattr(memory_watch, "free_bytes", lambda _device: size)
    watch.look(1)
    assert said(caplog) == [], "all that is free was left"
    within = torch.ones(size, dtype=torch.uint8)
    del within
    release_free_memory()
    watch.look(2)
    (text,) = said(caplog)
    assert "expected" not in text
