"""A grid in; the shards that can be made right now out, without a barrier between stages: a part goes on as soon as it can."""

import heapq
from collections.abc import Callable, Collection, Iterator

from kidcore.store.graph import Cell, Grid, Stage
from kidcore.store.store import Shard

Name = tuple[str, int, int]
"""Stage, part, view."""


def name_of(cell: Cell) -> Name:
    return cell.stage, cell.part, cell.view


class Schedule:
    """What can be made, by the model that it takes (none for most stages): earlier parts first, and of a part its earlier stages.

    So one part after the other goes its way to the end, and there is work for engines before everything is ingested.

    Args:
        model_of: the model that a stage asks; empty for none.
        underway: what is being made already.
        found: told of each shard that is there without being made.
    """

    def __init__(
        self, grid: Grid, model_of: Callable[[str], str], found: Callable[[Cell], None], underway: Collection[Name] = ()
    ) -> None:
        self._grid, self._model_of, self._found = grid, model_of, found
        self._order = {stage.name: place for place, stage in enumerate(grid.stages)}
        self._readers = {stage.name: [reader for reader in grid.stages if stage.name in reader.inputs] for stage in grid.stages}
        self._ready: dict[str, list[tuple[int, int, int, Cell]]] = {}
        self._known: set[Name] = set(underway)
        self._done: set[Name] = set()
        self.unfinished = {stage.name: len(grid.parts) * len(stage.each_view()) for stage in grid.stages}
        """Shards of each stage that are not there yet."""
        self.is_held = False
        """Whether nothing but the first stage may begin."""
        for stage in grid.stages:
            for cell in grid.cells(stage):
                self._look(cell)

    @property
    def is_finished(self) -> bool:
        return not any(self.unfinished.values())

    def ready(self, model: str) -> int:
        """How many shards that take this model can be made now."""
        return 0 if self.is_held and model else len(self._ready.get(model, ()))

    def models(self) -> list[str]:
        """Models that shards wait for which can be made now; most of them first."""
        return sorted((model for model in self._ready if model and self.ready(model)), key=lambda it: -self.ready(it))

    def take(self, model: str) -> Cell | None:
        """The next shard that takes this model; None where there is none."""
        heap = self._ready.get(model, [])
        if self.is_held:
            allowed = [entry for entry in heap if not self._order[entry[-1].stage]]
            if not allowed:
                return None
            heap.remove(min(allowed))
            heapq.heapify(heap)
            return min(allowed)[-1]
        return heapq.heappop(heap)[-1] if heap else None

    def put_back(self, cell: Cell) -> None:
        """What was taken is to be made after all."""
        self._known.discard(name_of(cell))
        self._look(self._grid.look(self._stage(cell.stage), self._grid.parts[cell.part], cell.view))

    def finish(self, cell: Cell, shard: Shard) -> bool:
        """Take note of a shard that was made, and of what can be made from it.

        Returns whether it is the one that is wanted: while it was made an input may have been found damaged, and have come
        out with other bytes.
        """
        self._grid.add(shard)
        self._known.discard(name_of(cell))
        now = self._grid.look(self._stage(cell.stage), self._grid.parts[cell.part], cell.view)
        self._look(now, is_made=True)
        return now.state == "done"

    def _look(self, cell: Cell, is_made: bool = False) -> None:
        name = name_of(cell)
        if cell.state == "done" and name not in self._done:
            self._done.add(name)
            self.unfinished[cell.stage] -= 1
            if not is_made:
                self._found(cell)
            for reader, view in self._reading(cell):
                self._look(self._grid.look(reader, self._grid.parts[cell.part], view))
        elif cell.state == "stale" and name not in self._known:
            self._known.add(name)
            entry = (cell.part, self._order[cell.stage], cell.view, cell)
            heapq.heappush(self._ready.setdefault(self._model_for(cell), []), entry)

    def _model_for(self, cell: Cell) -> str:
        """The model that a shard takes: none where it is cut from one that is there."""
        is_derived = self._grid.source(self._stage(cell.stage), self._grid.parts[cell.part], cell.view) is not None
        return "" if is_derived else self._model_of(cell.stage)

    def _reading(self, cell: Cell) -> Iterator[tuple[Stage, int]]:
        """The shards that are made from this one."""
        has_views = self._stage(cell.stage).views > 0
        for reader in self._readers[cell.stage]:
            for view in reader.each_view():
                # As in Grid.inputs: a stage without views reads the first one.
                if not has_views or view == cell.view:
                    yield reader, view

    def _stage(self, name: str) -> Stage:
        return self._grid.stages[self._order[name]]
