"""Builds on a real Ray cluster of this machine: the same shards as in one process, whatever dies meanwhile."""

import contextlib
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kidcore.errors import KidpipeError
from kidcore.store.log import shard_records
from kidcore.store.store import DamagedShard, Store
from pipeline.progress import ManyStagesProgress
from pipeline.workers.parallel import ParallelRunner
from pipeline.workers.pool import IN_FLIGHT
from tests.conftest import configure
from tests.forks import start
from tests.pipeline.running import build_with, run_build
from tests.pipeline.test_interruption import assert_equal_stores
from tests.pipeline.workers.light import LightBodies, grid_in, parallel, serial, shards

pytestmark = pytest.mark.engine
Record = dict[str, object]


@pytest.fixture(scope="module", autouse=True)
def address() -> Iterator[str]:
    """One cluster for all of them; its workers have no use for a token."""
    before = os.environ.get("RAY_AUTH_MODE")
    os.environ["RAY_AUTH_MODE"] = "disabled"
    ray = pytest.importorskip("ray")
    from pipeline.workers.cluster import connect

    handler = signal.getsignal(signal.SIGTERM)
    cluster = connect("", verbose=False)
    assert signal.getsignal(signal.SIGTERM) is handler
    yield ray.get_runtime_context().gcs_address
    cluster.close()
    assert not ray.is_initialized()
    del os.environ["RAY_AUTH_MODE"]
    if before is not None:
        os.environ["RAY_AUTH_MODE"] = before


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("serial"))
    serial(store)
    return store


@pytest.fixture
def over() -> Iterator[threading.Event]:
    """Ends the threads of a test, however that ends."""
    event = threading.Event()
    yield event
    event.set()


def run(runner: ParallelRunner) -> None:
    try:
        runner.run()
    finally:
        runner.close()


def worker_of(record: Record) -> int:
    """The process that made a shard."""
    found = re.search(r"process (\d+)", str(record["worker"]))
    assert found
    return int(found[1])


def when_logged(store: Store, stage: str, over: threading.Event, act: Callable[[Record], None]) -> threading.Thread:
    """Act once a shard of this stage is in the log."""

    def look() -> None:
        while not over.wait(0.01):
            if records := [record for record in shard_records(store.root) if record["stage"] == stage]:
                return act(records[0])
        return None

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    return thread


def kill_worker(record: Record) -> None:
    with contextlib.suppress(ProcessLookupError):  # on a busy machine it may have come to its end
        os.kill(worker_of(record), signal.SIGKILL)


def test_three_engines_of_which_one_is_killed_with_the_sql_worker(tmp_path: Path, expected: Store, over: threading.Event) -> None:
    store = Store(tmp_path)
    killers = [when_logged(store, stage, over, kill_worker) for stage in ("first", "second")]
    runner = parallel(grid_in(store), store, LightBodies(sleep_s=0.05), engines=3)
    run(runner)
    assert [killer.join(10) for killer in killers] == [None, None]
    assert shards(store) == shards(expected)
    assert runner.ledger.ran == {"first": 4, "second": 4, "third": 8, "fourth": 8}
    assert len(shard_records(store.root)) <= 24 + 2 * IN_FLIGHT, "what was finished is not made again"
    assert not list(store.root.glob("*/.tmp-*"))


def test_rows_of_a_shard_that_is_not_finished_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, pause = Store(tmp_path / "store"), tmp_path / "pause"
    pause.touch()
    shown: list[dict[str, tuple[int, int]]] = []

    def show(_bar: ManyStagesProgress, under_way: dict[str, tuple[int, int]]) -> None:
        shown.append(under_way)
        if under_way:
            pause.unlink(missing_ok=True)

    monkeypatch.setattr("pipeline.workers.parallel._ASK_S", 0.01)
    monkeypatch.setattr(ManyStagesProgress, "show", show)
    late = threading.Timer(30, pause.unlink, kwargs={"missing_ok": True})
    late.start()
    run(parallel(grid_in(store), store, LightBodies(pause=pause), progress=True))
    late.cancel()
    assert next(filter(None, shown)) == {"first": (1, 2)}
    assert not shown[-1]


def test_a_shard_that_kills_its_worker_three_times_stops_the_build(tmp_path: Path) -> None:
    store = Store(tmp_path)
    bodies = LightBodies(trouble={"second 1 0": "die"})
    with pytest.raises(KidpipeError, match="a shard failed 3 times: its worker died: its process was killed or crashed") as error:
        run(parallel(grid_in(store), store, bodies, engines=1))
    assert error.value.where == "second, part 1"
    made = [record for record in shard_records(store.root) if record["stage"] == "second"]
    assert {record["part"] for record in made} <= {0, 2, 3}


def test_a_damaged_input_is_made_again_and_a_refusal_comes_as_it_was(tmp_path: Path, expected: Store) -> None:
    store = Store(tmp_path)
    serial(store)
    whole = shards(store)
    for path in [*store.root.glob("second/*"), *store.root.glob("fourth/*")]:
        path.unlink()
    grid = grid_in(store)
    shard = next(grid.cells(grid.stages[0])).shard
    assert shard is not None
    damaged = store.path(shard)
    damaged.write_bytes(b"no Parquet")
    runner = parallel(grid, store, LightBodies(trouble={"fourth 0 1": "refuse"}), engines=1)
    try:
        with pytest.raises(DamagedShard) as damage:
            runner.run()
        assert store.path(damage.value.shard) == damaged
        store.set_aside(damage.value.shard)
        runner.grid.drop(damage.value.shard)
        with pytest.raises(KidpipeError) as refusal:
            runner.run()
    finally:
        runner.close()
    error = refusal.value
    assert (error.what, error.where, error.fix) == ("this cannot be done", "the sixth row", "type something else")
    assert shards(store).items() < whole.items() == shards(expected).items()
    assert damaged.read_bytes() == whole[f"first/{damaged.name}"]


@pytest.mark.engine(seconds=30)
def test_a_build_whose_engine_and_whose_driver_are_killed_is_finished_without_ray(
    settings: dict[str, object], tmp_path: Path, address: str, over: threading.Event
) -> None:
    settings |= {"ingest.shard_rows": 6, "engine.device": "cpu"}
    store = Store(Path(str(settings["store.path"])))
    with start(build_with, settings | {"engine.workers": 1, "engine.ray": address}) as driver:

        def kill_both(record: Record) -> None:
            # One after the other: the engine may come to predict first.
            kill_worker(record)
            when_logged(store, "predict", over, lambda _record: driver.kill())

        engine = when_logged(store, "gold_score", over, kill_both)
        # Two engines start, one after the other: minutes each where the machine has other work.
        assert driver.wait(900) in (-signal.SIGKILL, 0), driver.err
        engine.join()
        assert driver.out == "", "standard output is for results"
    result = run_build(configure(settings))
    # Not always one of gold_score: a shard's line in the log comes before the shard, and the worker may have died in between.
    assert sum(result.reused.values()) > 0
    expected = Store(tmp_path / "plain")
    run_build(configure(settings, store__path=str(expected.root)))
    store.remove_temporaries()  # the last build may have begun while workers of the first were still dying
    assert_equal_stores(store, expected)
