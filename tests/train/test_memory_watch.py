"""A run keeps what its steps need again and gives back the rest; one that leaves hardly any memory says so once."""

import logging
import os
from pathlib import Path

import pytest
import torch

from kidcore.allocator import flat_memory, release_free_memory
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


def test_what_a_step_freed_is_kept_up_to_what_it_was_expected_to_take() -> None:
    size = 200 << 20
    with flat_memory():
        took(size)
        held = resident()
        MemoryWatch(held + size, CPU).look(1)
        assert resident() > held - size // 4, "the next step uses it again"
        MemoryWatch(held - size // 4, CPU).look(1)
        assert resident() < held - size // 2
        took(size)
        MemoryWatch(0, CPU).look(1)
        assert resident() < held - size // 2, "nobody knows what a step should take"


def test_nothing_is_kept_where_little_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 200 << 20
    with flat_memory():
        took(size)
        held = resident()
        monkeypatch.setattr(memory_watch, "free_bytes", lambda _device: held // 20)
        MemoryWatch(held + size, CPU).look(1)
        assert resident() < held - size // 2


def test_from_the_tenth_step_on_a_run_holds_hardly_more_than_until_then() -> None:
    size = 200 << 20
    with flat_memory():
        watch = MemoryWatch(1 << 40, CPU)
        for step in range(10):
            watch.look(step)
        before = resident()
        took(size)
        watch.look(11)
        assert resident() < before + size // 4


@pytest.mark.parametrize(
    ("expected", "held", "given_back"),
    [
        (1000, [990, 990, 990], []),
        # The estimate was too low: what the second step takes behind the first is what steps take.
        (500, [990, 990, 1000, 1030, 1050, 990], [1, 5]),
        # Longer packs than the first ten steps had: all is given back once, not at each of them.
        (9000, [*[800] * 10, 900, 900, 910, 930, 800, 900], [11]),
        # What is not needed again goes, as often as it gathers.
        (500, [*[400] * 10, 480, 400, 460, 400, 470], [11, 13, 15]),
    ],
)
def test_pages_are_given_back_again_only_where_more_gathers_than_a_step_takes(
    expected: int, held: list[int], given_back: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, found = MemoryWatch(expected, CPU), list[int]()
    for step, bytes_held in enumerate(held, 1):
        monkeypatch.setattr(watch, "_taken", lambda now=bytes_held: (now, now))
        monkeypatch.setattr(memory_watch, "release_free_memory", lambda at=step: found.append(at))
        watch.look(step)
    assert found == given_back


def took(size: int) -> None:
    """What a step takes within."""
    block = torch.ones(size, dtype=torch.uint8)
    del block


def resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")
