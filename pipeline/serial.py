"""A grid in; its missing shards, made in this process one after the other, stage after stage, out."""

import logging
import time
from collections.abc import Callable

from kidcore.allocator import release_free_memory
from kidcore.interrupt import StopRequest
from kidcore.store.graph import Cell, Grid, Stage, Task
from kidcore.store.store import Store
from pipeline.context import Context
from pipeline.derive import derive
from pipeline.ledger import Ledger, made_by
from pipeline.progress import StageProgress

_LOG = logging.getLogger(__name__)


class SerialRunner:
    """Runs a grid to its end with at most one engine, in this process."""

    def __init__(
        self,
        grid: Grid,
        store: Store,
        progress: bool,
        context: Context | None = None,
        check_ingested: Callable[[], None] = lambda: None,
    ) -> None:
        self.grid = grid
        self.ledger = Ledger(grid, store)
        self._store = store
        self._progress = progress
        self._context = context
        self._check_ingested = check_ingested

    def run(self) -> None:
        """Make what is missing. Raises DamagedShard for an input that has to be made anew first."""
        with StageProgress(self._progress) as bar, StopRequest():  # SIGTERM ends what is under way as Ctrl-C does
            if self._context is not None:
                self._context.engine_starting = bar.starting
            for stage in self.grid.stages:
                started = time.perf_counter()
                try:
                    self._run_stage(stage, bar)
                except KeyboardInterrupt:
                    self._say_where(stage)
                    raise
                seconds = self.ledger.seconds
                seconds[stage.name] = seconds.get(stage.name, 0.0) + time.perf_counter() - started
                if stage.name == "ingest":
                    self._check_ingested()

    def close(self) -> None:
        """Nothing is held: the engine is the context's."""

    def _say_where(self, stage: Stage) -> None:
        done = self.ledger.ran[stage.name] + self.ledger.reused[stage.name]
        total = len(self.grid.parts) * len(stage.each_view())
        _LOG.warning(
            "stopped in %s: %d of its %d shards are finished and kept; the same command continues there", stage.name, done, total
        )

    def _run_stage(self, stage: Stage, bar: StageProgress) -> None:
        cells = list(self.grid.cells(stage))
        pending = [cell for cell in cells if cell.state != "done"]
        assert all(cell.state == "stale" for cell in pending), "a stage ran before its inputs"
        for cell in cells:
            if cell.state == "done":
                self.ledger.found(cell)
        to_do, in_all = (sum(map(self.ledger.rows, some)) for some in (pending, cells))
        bar.start(stage.name, to_do, in_all, len(cells) - len(pending), len(cells))
        for cell in pending:
            self._run_cell(stage, cell, bar)
            self.ledger.made(cell)
        bar.finish()

    def _run_cell(self, stage: Stage, cell: Cell, bar: StageProgress) -> None:
        part = self.grid.parts[cell.part]
        started = time.perf_counter()
        inputs, source = self.grid.finished_inputs(stage, part, cell.view), self.grid.source(stage, part, cell.view)
        if source is not None:
            output = derive(self._store, source, stage.resolved, cell.view, lambda name: self._store.read(inputs[name]))
            bar.advance(self.ledger.rows(cell))
        else:
            tables = {name: self._store.read(shard) for name, shard in inputs.items()}
            output = stage.run(Task(part, cell.view, tables, bar.advance))
        engine, start_s = self._context.take_engine() if self._context else (None, 0.0)
        made = made_by(engine, seconds=time.perf_counter() - started, engine_start_s=start_s)
        line = self.ledger.line(stage, cell, source) | made
        provenance = self.grid.provenance(stage, part, cell.view, source).as_json()
        shard = self._store.commit(stage.name, cell.key, output.table, output.counts, line, provenance)
        self.grid.add(shard)
        self.grid.look(stage, part, cell.view)
        release_free_memory()
