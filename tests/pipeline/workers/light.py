"""A graph of four stages whose bodies are a hash: builds for the tests of who makes which shard. No model is loaded."""

import hashlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from kidcore.errors import KidpipeError
from kidcore.models.backends.facts import EngineFacts
from kidcore.store.graph import Grid, Output, Partition, Stage, Task
from kidcore.store.store import Store
from pipeline.ledger import Ledger
from pipeline.serial import SerialRunner
from pipeline.workers.jobs import Job
from pipeline.workers.parallel import Crew, ParallelRunner
from pipeline.workers.pool import Kind, WorkerPool
from pipeline.workers.worker import Place

MODELS = {"second": "teacher", "fourth": "teacher"}
"""By stage, the model that it asks."""
ROWS = 3


def compute(stage: str, task: Task) -> Output:
    """Rows that follow from the stage, the part, the view and the inputs, and from nothing else."""
    inputs = [table.column("text").to_pylist() for _, table in sorted(task.tables.items())]
    texts = [f"{stage} {task.part.index} {task.view} {row} {inputs}" for row in range(task.part.rows)]
    digests = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    return Output(pa.table({"text": digests}), {"in": ROWS, "out": ROWS})


def grid_in(store: Store, parts: int = 4, version: int = 1) -> Grid:
    """first -> second (model) and third (2 views) -> fourth (2 views, model)."""

    def stage(name: str, inputs: tuple[str, ...] = (), views: int = 0) -> Stage:
        reads = () if inputs else ("source",)
        return Stage(name, version, {}, {}, inputs, reads, views, lambda task: compute(name, task))

    stages = [
        stage("first"),
        stage("second", ("first",)),
        stage("third", ("first", "second"), views=2),
        stage("fourth", ("second", "third"), views=2),
    ]
    return Grid(stages, [Partition(index, ROWS, {"source": f"{index}"}) for index in range(parts)], store)


@dataclass
class LightBodies:
    """The stages in a worker; `trouble` says what befalls it at a shard, as `stage part view`, whenever it comes to it."""

    sleep_s: float = 0.0
    trouble: Mapping[str, str] = field(default_factory=dict)
    pause: Path | None = None
    """While this file is there, nothing is finished."""

    def open(self) -> "LightBodies":
        return self

    def run(self, job: Job, task: Task) -> Output:
        task.advance(1, ROWS - 1)
        time.sleep(self.sleep_s)
        while self.pause is not None and self.pause.exists():
            time.sleep(0.01)
        trouble = self.trouble.get(f"{job.cell.stage} {job.cell.part} {job.cell.view}", "")
        if trouble == "die":
            os._exit(7)
        if trouble == "refuse":
            raise KidpipeError("this cannot be done", where="the sixth row", fix="type something else")
        if trouble == "bug":
            raise ZeroDivisionError("by nothing")
        return compute(job.cell.stage, task)

    def take_engine(self) -> tuple[EngineFacts | None, float]:
        return None, 0.0


def parallel(grid: Grid, store: Store, bodies: LightBodies, engines: int = 2, progress: bool = False) -> ParallelRunner:
    """The driver, with one SQL worker."""
    place = Place(Path.cwd(), store.root.absolute(), b"", threads=1, neighbours=1, uses_gpu=False)
    places: dict[Kind, Place] = {"engine": place, "sql": place}
    crew = Crew(WorkerPool(places, bodies.open, 0), engines, 1, lambda stage: MODELS.get(stage, ""))
    return ParallelRunner(grid, store, progress, crew, lambda _part: ())


def serial(store: Store, parts: int = 4) -> Ledger:
    """The same build in this process."""
    runner = SerialRunner(grid_in(store, parts), store, False)
    runner.run()
    return runner.ledger


def shards(store: Store) -> dict[str, bytes]:
    """What a store holds, by name."""
    return {path.relative_to(store.root).as_posix(): path.read_bytes() for path in store.root.glob("*/*.parquet")}
