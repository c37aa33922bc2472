"""A worker without Ray: what it answers, good and bad, and that one computes while the next is read."""

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from kidcore.locks import LockKind
from kidcore.models.backends.base import EngineDied
from kidcore.store.graph import Cell, Output, Task
from kidcore.store.log import SHARDS, append, shard_records
from kidcore.store.store import Shard, Store
from pipeline.workers.jobs import Answer, Damaged, Done, Failed, Job, News
from pipeline.workers.worker import Place, Worker
from tests.pipeline.workers.light import LightBodies, grid_in

LINE = {"stage": "first", "key": "0" * 32, "rows": 3, "settings": "none"}
MADE_FROM = {"settings": {"first.seed": 0}}
pytestmark = pytest.mark.usefixtures("surroundings")


@pytest.fixture
def surroundings() -> Iterator[None]:
    """A worker has a process of its own, and arranges it."""
    environment, folder, threads = dict(os.environ), Path.cwd(), pa.cpu_count()
    yield
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    pa.set_cpu_count(threads)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def worker(store: Store, bodies: LightBodies, lock: str = "") -> Worker:
    place = Place(Path.cwd(), store.root, lock, threads=1, neighbours=1, uses_gpu=False)
    return Worker(place, bodies.open)


def first_job(store: Store) -> Job:
    grid = grid_in(store)
    cell = next(iter(grid.cells(grid.stages[0])))
    return Job(cell, grid.parts[0], {}, LINE, MADE_FROM)


def test_the_shard_is_written_and_told_of(store: Store) -> None:
    answer = worker(store, LightBodies()).make(first_job(store))
    assert isinstance(answer, Done)
    assert store.path(answer.shard).is_file()
    assert store.provenance(answer.shard)["settings"] == MADE_FROM["settings"]
    assert answer.num_out == 3
    (record,) = shard_records(store.root)
    assert f"process {os.getpid()} on " in record["worker"]
    assert answer.idle_s == 0


def test_how_far_it_is_can_be_asked_while_it_computes(store: Store) -> None:
    told: list[News] = []

    class Counting(LightBodies):
        def run(self, job: Job, task: Task) -> Output:
            for _ in range(2):
                task.advance(1, 2)
                told.append(one.tell())
            return super().run(job, task)

    one, job = worker(store, Counting()), first_job(store)
    assert one.tell() == News()
    one.make(job)
    assert told == [News(job.cell, 1, 2), News(job.cell, 2, 2)]
    assert one.tell() == News()


def test_a_worker_on_another_machine_has_a_log_of_its_own(store: Store) -> None:
    place = Place(Path.cwd(), store.root, b"", threads=1, neighbours=1, uses_gpu=False, host="the driver's")
    assert isinstance(Worker(place, LightBodies().open).make(first_job(store)), Done)
    (log,) = (store.root / "log").iterdir()
    assert log.name == f"shards-{os.uname().nodename}.jsonl"
    append(store.root / SHARDS, {**LINE, "seconds": 1})
    assert [record.get("worker", "") == "" for record in shard_records(store.root)] == [False, True]
    assert len(shard_records(store.root, last=1)) == 1


@pytest.mark.parametrize(("trouble", "is_final"), [("refuse", True), ("bug", False)])
def test_a_refusal_is_final_and_an_accident_is_not(store: Store, trouble: str, is_final: bool) -> None:
    answer = worker(store, LightBodies(trouble={"first 0 0": trouble})).make(first_job(store))
    assert isinstance(answer, Failed)
    assert answer.is_final == is_final
    if is_final:
        assert (answer.what, answer.where, answer.fix) == ("this cannot be done", "the sixth row", "type something else")
        assert str(answer.as_error()).startswith("this cannot be done\n  where: the sixth row")
    else:
        assert answer.what == "ZeroDivisionError: by nothing"
        assert "light.py" in answer.trace


def test_an_engine_that_died_is_an_accident(store: Store) -> None:
    class Dying(LightBodies):
        def run(self, job: Job, task: Task) -> Output:
            del job, task
            raise EngineDied("it was killed", where="the model", fix="again")

    answer = worker(store, Dying()).make(first_job(store))
    assert isinstance(answer, Failed)
    assert not answer.is_final


def test_an_input_that_is_gone_or_broken_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.workers.worker._UNSEEN_S", (0.0, 0.001))
    there = first_job(store)
    answers: list[Answer] = []
    lost = Shard("first", "0" * 32, 3, "1" * 32)
    broken = Shard("first", "2" * 32, 3, "1" * 32)
    (store.root / "first").mkdir(parents=True)
    store.path(broken).write_bytes(b"no Parquet")
    for shard in (lost, broken):
        job = Job(Cell("second", 0, 0, "stale", "3" * 32), there.part, {"first": shard}, LINE, MADE_FROM)
        answers.append(worker(store, LightBodies()).make(job))
    assert [answer.shard for answer in answers if isinstance(answer, Damaged)] == [lost, broken]


def test_what_is_logged_travels_with_the_answer(store: Store) -> None:
    class Talking(LightBodies):
        def run(self, job: Job, task: Task) -> Output:
            logging.getLogger("kidcore.models").warning("slower than %s", "usual")
            return super().run(job, task)

    one = worker(store, Talking())
    answer = one.make(first_job(store))
    assert isinstance(answer, Done)
    assert answer.said == ((logging.WARNING, "slower than usual"),)


def test_two_jobs_are_taken_and_one_computes_at_a_time(store: Store) -> None:
    class Alone(LightBodies):
        inside = 0

        def run(self, job: Job, task: Task) -> Output:
            self.inside += 1
            assert self.inside == 1, "two stages at once"
            output = super().run(job, task)
            self.inside -= 1
            return output

    grid = grid_in(store)
    jobs = [Job(cell, grid.parts[cell.part], {}, LINE, MADE_FROM) for cell in grid.cells(grid.stages[0])]
    one = worker(store, Alone(sleep_s=0.002))
    with ThreadPoolExecutor(2) as calls:
        answers = list(calls.map(one.make, jobs))
    assert all(isinstance(answer, Done) for answer in answers)


@pytest.mark.parametrize("kind", ["flock", "file"])
def test_a_worker_says_whether_the_store_is_the_drivers(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: LockKind
) -> None:
    monkeypatch.setattr("pipeline.workers.worker._UNSEEN_S", (0.0,))
    store, other = Store(store.root, kind), Store(tmp_path / "other", kind)
    with store.lock():
        assert store.lock_mark
        assert worker(store, LightBodies(), store.lock_mark).greet().sees_store
        assert not worker(other, LightBodies(), store.lock_mark).greet().sees_store
        assert not worker(store, LightBodies(), "another's").greet().sees_store
