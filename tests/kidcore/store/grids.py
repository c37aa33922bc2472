"""Graphs of three small stages, and finished shards that are files with a name and nothing in them: planning reads no more."""

from collections.abc import Mapping
from typing import Any

from kidcore.store.graph import Cell, Grid, Output, Partition, Stage, Task
from kidcore.store.store import Shard, Store


def never(_task: Task) -> Output:
    raise AssertionError("a plan runs no stage")


def stage(name: str, *inputs: str, views: int = 0, reads: tuple[str, ...] = (), version: int = 1, **settings: Any) -> Stage:
    """A stage whose settings are all away from their default."""
    named = {key.replace("__", "."): value for key, value in settings.items()}
    return Stage(name, version, named, named, inputs, reads, views, never)


def graph(ratio: float = 0.2, views: int = 2, **changes: Mapping[str, Any]) -> list[Stage]:
    """ingest -> mask (with views) -> rewrite (with views); `changes` replace arguments of a stage."""
    return [
        stage("ingest", reads=("source", "databases"), **changes.get("ingest", {})),
        stage("mask", "ingest", **{"views": views, "mask__ratio": ratio} | changes.get("mask", {})),
        stage("rewrite", "ingest", "mask", views=views, **changes.get("rewrite", {})),
    ]


def parts(*sources: str, rows: int = 10) -> list[Partition]:
    return [Partition(index, rows, {"source": source, "databases": "db"}) for index, source in enumerate(sources)]


def put(store: Store, cell: Cell, rows: int = 10, digest: str = "") -> Shard:
    """The shard of a cell that is stale, as if it had been made; its bytes follow from its key unless `digest` says else."""
    assert cell.state == "stale", cell
    shard = Shard(cell.stage, cell.key, rows, digest or cell.key[::-1])
    store.path(shard).parent.mkdir(parents=True, exist_ok=True)
    store.path(shard).write_bytes(b"x" * 100)
    return shard


def make_all(grid: Grid, store: Store) -> list[Shard]:
    """Finish every shard of a grid, stage after stage; what was made is returned."""
    made = []
    for one in grid.stages:
        for cell in list(grid.cells(one)):
            if cell.state != "done":
                shard = put(store, cell)
                grid.add(shard)
                grid.look(one, grid.parts[cell.part], cell.view)
                made.append(shard)
    return made


def states(grid: Grid) -> dict[str, list[str]]:
    """By stage, the state of each shard."""
    return {one.name: [cell.state for cell in grid.cells(one)] for one in grid.stages}
