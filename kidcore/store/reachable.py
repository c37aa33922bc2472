"""A grid in; the shards that its build finds finished, derives others from, or may find once more of it has run, out.

A build that was stopped, or whose first stages run again, has a model's work behind shards that are not there now. They may come
out with the bytes that they had, and then that work is found by its key: to delete it would be to pay for it twice.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from kidcore.errors import KidpipeError
from kidcore.store.graph import Cell, Grid, Stage
from kidcore.store.provenance import Provenance, key_start
from kidcore.store.stages import MODEL_STAGES
from kidcore.store.store import Shard, Store


def found(grid: Grid) -> set[str]:
    """Files of what is finished, and of what a shard that is not will be derived from."""
    shards: list[Shard] = []
    for stage in grid.stages:
        for cell in grid.cells(stage):
            shards += [cell.shard] if cell.shard is not None else _sources(grid, stage, cell)
    return {shard.file for shard in shards}


def behind(grid: Grid, store: Store) -> set[str]:
    """Files of a model's work that waits for inputs: of its stage, settings and view, from the inputs that are known by now.

    A shard that does not say what it was made from (kidpipe 0.1, or damage) is taken for such.
    """
    files: set[str] = set()
    for stage in grid.stages:
        waiting = [cell for cell in grid.cells(stage) if cell.state == "follows"]
        if waiting and stage.name in MODEL_STAGES:
            files |= {shard.file for shard in _waiting(grid, store, stage, waiting)}
    return files


def _sources(grid: Grid, stage: Stage, cell: Cell) -> list[Shard]:
    """The shard that this one will be derived from, with what that is known by: shards made under the same values."""
    part, known = grid.parts[cell.part], list[Shard]()
    for values in grid.usable_values(stage):
        source = grid.finished_at(stage, part, cell.view, values)
        others = grid.inputs_at(stage, part, cell.view, values)
        known_by = [shard for shard in others.values() if shard is not None]
        if source is not None:
            return [source, *known_by]
        if cell.state == "follows":  # which of them is the source will be seen when the inputs are there
            known += known_by
    return known


def _waiting(grid: Grid, store: Store, stage: Stage, cells: Sequence[Cell]) -> Iterator[Shard]:
    # By what keys begin with and the inputs that are known: the views and digests that a shard must have of them.
    wanted: dict[tuple[str, tuple[str, ...]], set[tuple[int | None, tuple[str, ...]]]] = defaultdict(set)
    for values in (None, *grid.usable_values(stage)):
        start = grid.start_at(stage, values)
        for cell in cells:
            inputs = grid.inputs_at(stage, grid.parts[cell.part], cell.view, values)
            known = {name: shard.digest for name, shard in inputs.items() if shard is not None}
            wanted[start, tuple(known)].add((cell.view if stage.views else None, tuple(known.values())))
    for shard in grid.some_finished(stage):
        try:
            made = Provenance.from_json(store.provenance(shard))
            start = key_start(made.stage, made.version, {name: made.settings[name] for name in made.in_key})
        except (KidpipeError, LookupError, TypeError):
            yield shard
            continue
        for (begins, names), of_cells in wanted.items():
            if begins == start and (made.view, tuple(made.inputs.get(name, "") for name in names)) in of_cells:
                yield shard
                break
