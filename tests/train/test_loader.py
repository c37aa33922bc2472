"""Worker processes change when steps are made, never which: the same sequence for any number, and mistakes come out whole."""

import os
import pickle
import signal
import time
from collections.abc import Callable
from itertools import islice
from multiprocessing import Pipe
from pathlib import Path

import numpy as np
import pytest
import torch

from kidcore.errors import KidpipeError
from tests.forks import start
from tests.train.small import make_examples, write_build
from tests.train.together import config, source_of
from train.data.dataset import Dataset, Source
from train.data.distribute import MicroBatcher, MicroBatches
from train.data.loader import Loader, choose_workers
from train.data.packing import Pack, make_packs

CUTTER = MicroBatcher("tree", 64)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return write_build(tmp_path_factory.mktemp("build"), parts=4, rows=24)


def same_pack(left: Pack, right: Pack) -> bool:
    tensors = ("input_ids_BL", "position_ids_BL")
    targets = ("row_M", "gold_M", "count_M", "ids_MK", "logprobs_MK", "tail_M")
    return all(torch.equal(getattr(left, name), getattr(right, name)) for name in tensors) and all(
        torch.equal(getattr(left.targets, name), getattr(right.targets, name)) for name in targets
    )


def same_share(left: MicroBatches, right: MicroBatches) -> bool:
    return (
        (left.digest, left.counts, left.naive_tokens, left.numbers, left.rounds)
        == (right.digest, right.counts, right.naive_tokens, right.numbers, right.rounds)
        and len(left.packs) == len(right.packs)
        and all(map(same_pack, left.packs, right.packs))
    )


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 3])
def test_the_sequence_is_the_same_for_any_number_of_workers(source: Source, num_workers: int) -> None:
    dataset = Dataset(source, config(buffer_shards=2))
    expected = [CUTTER.cut(examples) for examples in islice(dataset.steps(3), 22)]
    with Loader(num_workers) as loader:
        found = list(loader.steps(dataset, 3, 25, CUTTER.cut))
    assert len(found) == 22
    assert all(map(same_share, found, expected))


@pytest.mark.parametrize("every", [1, 2, 5])
def test_every_nth_step_is_that_step(source: Source, every: int) -> None:
    dataset = Dataset(source, config())
    steps = [[example.example_id for example in step] for step in islice(dataset.steps(2), 21)]
    found = [[example.example_id for example in step] for step in islice(dataset.steps(2, every), len(steps[::every]))]
    assert found == steps[::every]


@pytest.mark.parametrize("layout", ["tree", "none"])
def test_the_shares_of_a_step_are_all_its_packs(layout: str) -> None:
    examples = make_examples(np.random.default_rng(0), 3, 4, 2)
    whole = list(make_packs(examples, layout, 80))
    for world_size in (1, 2, 3, len(whole) + 2):
        shares = [MicroBatcher(layout, 80, rank, world_size).cut(examples) for rank in range(world_size)]
        by_number = {number: pack for share in shares for number, pack in zip(share.numbers, share.packs, strict=True)}
        assert sorted(by_number) == list(range(len(whole)))
        assert all(same_pack(by_number[number], pack) for number, pack in enumerate(whole))
        assert len({(share.digest, share.counts, share.rounds) for share in shares}) == 1
        assert shares[0].rounds == max(len(share.packs) for share in shares)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_mistake_in_the_data_is_the_same_with_and_without_workers(tmp_path: Path, num_workers: int) -> None:
    source = write_build(tmp_path, parts=4, rows=24)
    for files in source.parts:
        for path in files.of("score"):
            path.write_bytes(b"PAR1 and nothing else")
    with Loader(num_workers) as loader, pytest.raises(KidpipeError, match="a shard cannot be read") as caught:
        next(loader.steps(Dataset(source, config()), 0, 5, CUTTER.cut))
    assert caught.value.where.startswith(str(tmp_path))
    assert "kidpipe verify" in caught.value.fix


def children() -> list[int]:
    """Loader workers of this process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            text, line = (folder / "stat").read_text(), (folder / "cmdline").read_text()
        except OSError:
            continue
        if int(text.rpartition(")")[2].split()[1]) == os.getpid() and "train.data.loader" in line:
            found.append(int(folder.name))
    return found


def test_a_worker_that_dies_is_named(source: Source) -> None:
    with Loader(1) as loader:
        stream = loader.steps(Dataset(source, config()), 0, 1000, CUTTER.cut)
        next(stream)
        (worker,) = children()
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(KidpipeError, match="died with exit code -9") as caught:
            list(stream)
    assert "memory" in caught.value.where
    assert "train.loader_workers=0" in caught.value.fix
    assert not children()


def test_what_cannot_be_unpickled_is_an_error_and_no_endless_wait() -> None:
    loader, (here, there) = Loader(0), Pipe()
    loader._workers = [(None, here)]  # type: ignore[list-item]
    there.send_bytes(b"torn")
    loader._receive(1)
    assert isinstance(loader._ready.get_nowait(), pickle.UnpicklingError)


def feed(folder: Path) -> None:
    """A trainer that says who its workers are, and works on."""
    with Loader(2) as loader:
        next(loader.steps(Dataset(source_of(folder), config()), 0, 1000, CUTTER.cut))
        print(*children(), flush=True)
        time.sleep(60)


@pytest.mark.slow
def test_workers_end_with_a_trainer_that_was_killed(source: Source) -> None:
    with start(feed, source.parts[0].files["ingest"][0].parent) as trainer:
        assert within(60, lambda: trainer.out.endswith("\n")), trainer.err
        trainer.kill()
    workers = [int(text) for text in trainer.out.split()]
    assert len(workers) == 2
    assert within(60, lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))


def within(seconds: float, is_so: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if is_so():
            return True
        time.sleep(0.05)
    return False


def test_workers_are_chosen_by_the_cores_that_are_to_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert [choose_workers(-1, processes) for processes in (1, 2, 4, 8)] == [2, 2, 0, 0]
    assert choose_workers(3, 8) == 3
