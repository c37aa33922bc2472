"""What many engines and many examples cost.

    python -m bench.scale --driver --workers 64 --seconds 2 --parts 100 --json scale.json
    python -m bench.scale --make 10000,100000,1000000 --folder /somewhere/with/15/GB
    python -m bench.scale --stores 10000,100000,1000000 --folder /somewhere/with/15/GB --times 3 --json stores.json

--driver: a number of workers in; the share of their time that engines wait for the driver of a build out. The driver, Ray, the
store and its files are the real ones; only the stages are stand-ins: one that asks a model sleeps as long as an engine works on
a shard, the others give their rows at once. So any number of engines fits on any machine.

--make: numbers of examples in; a finished store of each out, see bench/big_store.py. --stores: numbers of examples in; how
`plan`, a build with nothing stale and the first training step grow out. Stores that are not there are made first, and kept.
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bench.big_store import make_store
from bench.scale_stores import measure_store
from kidcore.config.config import Config
from kidcore.models.backends.facts import EngineFacts
from kidcore.store.graph import Grid, Output, Partition, Stage, Task
from kidcore.store.stages import STAGE_TABLE, built_by
from kidcore.store.store import Store
from pipeline.workers.cluster import connect
from pipeline.workers.jobs import Job
from pipeline.workers.parallel import Crew, ParallelRunner
from pipeline.workers.pool import Kind, WorkerPool
from pipeline.workers.worker import Place

_ROWS = 64
_ROW_BYTES = 64
"""Little, so that writing it does not take the cores of a small machine from the driver."""


@dataclass(frozen=True)
class Sleepers:
    """Stages that take their time and compute nothing."""

    seconds: float

    def open(self) -> "Sleepers":
        return self

    def run(self, job: Job, task: Task) -> Output:
        if STAGE_TABLE[job.cell.stage].model:
            time.sleep(self.seconds)
        rng = np.random.default_rng([task.part.index, task.view, *job.cell.stage.encode()])
        blobs = [rng.bytes(_ROW_BYTES) for _ in range(task.part.rows)]
        return Output(pa.table({"blob": blobs}), {"in": task.part.rows, "out": task.part.rows})

    def take_engine(self) -> tuple[EngineFacts | None, float]:
        return None, 0.0


def graph() -> list[Stage]:
    """The stages of a build under default settings, two views."""
    config = Config()
    stages = []
    for row in (STAGE_TABLE[name] for name in built_by("score")):
        if row.is_wanted(config):
            inputs = row.inputs_of(config)
            stages.append(Stage(row.name, 1, {}, {}, inputs, () if inputs else ("source",), row.num_views(config), _never))
    return stages


def _never(_task: Task) -> Output:
    raise AssertionError("stages run in workers")


def measure_driver(workers: int, seconds: float, parts: int, sql_workers: int) -> dict[str, Any]:
    """Build once; times are of the build without the start of its workers."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        grid = Grid(graph(), [Partition(part, _ROWS, {"source": str(part)}) for part in range(parts)], store)
        place = Place(Path.cwd(), store.root, "", threads=1, neighbours=1, uses_gpu=False)
        places: dict[Kind, Place] = {"engine": place, "sql": place}
        cluster = connect("", verbose=False)
        pool = WorkerPool(places, Sleepers(seconds).open, gpus=0)
        crew = Crew(pool, workers, sql_workers, lambda stage: "teacher" if STAGE_TABLE[stage].model else "")
        runner = ParallelRunner(grid, store, True, crew, lambda _part: (), on_close=cluster.close)
        try:
            # All there before the first shard: starting 64 processes on two cores takes longer than what is measured.
            pool.want("engine", workers)
            pool.want("sql", sql_workers)
            while not all(seat.is_there for seat in pool.seats):
                pool.wait(1.0)
            began, cpu = time.perf_counter(), time.process_time()
            runner.run()
            wall_s, driver_s = time.perf_counter() - began, time.process_time() - cpu
            engines = [seat for seat in pool.seats if seat.kind == "engine"]
            computed, idle = sum(seat.computed_s for seat in engines), sum(seat.idle_s for seat in engines)
            shards = sum(runner.ledger.ran.values())
        finally:
            runner.close()
    return {
        "workers": workers,
        "sql_workers": sql_workers,
        "seconds_a_shard": seconds,
        "shards": shards,
        "engine_shards": sum(seat.shards for seat in engines),
        "wall_s": round(wall_s, 1),
        "engines_waited": round(idle / (idle + computed), 4),
        "driver_cpu_ms_a_shard": round(1000 * driver_s / shards, 2),
        "shards_a_second": round(shards / wall_s, 1),
        "load_average": os.getloadavg()[0],
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--driver", action="store_true", help="how long engines wait for the driver of a build")
    parser.add_argument("--workers", type=int, default=64, help="engines")
    parser.add_argument("--sql-workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0, help="that an engine works on a shard")
    parser.add_argument("--parts", type=int, default=150, help="parts of the data set; each has five shards for engines")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--stores", default="", help="numbers of examples, with commas between")
    parser.add_argument("--make", default="", help="numbers of examples whose stores are to be made, with commas between")
    parser.add_argument("--times", type=int, default=3, help="how often each figure of a store is measured, back to back")
    parser.add_argument("--folder", type=Path, help="where their stores are made and kept")
    given = parser.parse_args(arguments)
    figures: dict[str, Any] = {}
    if given.driver:
        figures = measure_driver(given.workers, given.seconds, given.parts, given.sql_workers)
    elif given.stores and given.folder:
        for rows in map(int, given.stores.split(",")):
            figures[f"{rows} examples"] = measure_store(given.folder, rows, given.times)
    elif given.make and given.folder:
        for rows in map(int, given.make.split(",")):
            began = time.perf_counter()
            make_store(given.folder / str(rows), rows)
            figures[f"{rows} examples"] = {"seconds": round(time.perf_counter() - began, 1), "load_average": os.getloadavg()[0]}
    else:
        parser.error("nothing to measure: --driver, or --make or --stores with --folder")
    print(json.dumps(figures, indent=1))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
