"""A grid in; its missing shards, made by several engines side by side, out. The driver of a build on Ray."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kidcore.errors import KidpipeError
from kidcore.interrupt import StopRequest
from kidcore.sql.datasets import Example
from kidcore.store.footers import FooterCounts
from kidcore.store.graph import Cell, Grid, Partition
from kidcore.store.store import DamagedShard, Store
from pipeline.ledger import Ledger
from pipeline.progress import ManyStagesProgress
from pipeline.workers.jobs import Damaged, Done, Failed, Job
from pipeline.workers.pool import IN_FLIGHT, Answered, Died, Kind, Seat, WorkerPool
from pipeline.workers.schedule import Name, Schedule, name_of

_LOG = logging.getLogger(__name__)
MOST_STRIKES = 3
"""Times that a shard may fail, or take its worker with it."""
_WAIT_S = 1.0
_ASK_S = 2.0
"""How often workers are asked how far they are with a shard."""


@dataclass(frozen=True)
class Crew:
    """Who works: the pool, how many of each kind it is to have, and the model that a stage asks (empty for none)."""

    pool: WorkerPool
    engines: int
    sql_workers: int
    model_of: Callable[[str], str]


class ParallelRunner:
    """Runs a grid to its end with workers: it plans, hands out, settles and counts, and computes nothing itself.

    Args:
        examples: of a part, for the stages that read them.
        on_close: called when the workers are gone.
    """

    def __init__(
        self,
        grid: Grid,
        store: Store,
        progress: bool,
        crew: Crew,
        examples: Callable[[Partition], Sequence[Example]],
        check_ingested: Callable[[], None] = lambda: None,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self.grid = grid
        self.ledger = Ledger(grid, store)
        self._store, self._is_shown, self._crew, self._pool = store, progress, crew, crew.pool
        self._examples, self._check_ingested, self._on_close = examples, check_ingested, on_close
        self._stages = {stage.name: stage for stage in grid.stages}
        self._strikes: Counter[Name] = Counter()
        self._suspects: set[Name] = set()
        """What was under way when a worker died: made again with nothing beside it, so that the next death has one cause."""

    def run(self) -> None:
        """Make what is missing. Raises DamagedShard for an input that has to be made anew first; workers stay for that."""
        with ManyStagesProgress(self._is_shown) as bar, StopRequest():  # after Ray, which has handlers of its own
            underway = {name_of(job.cell) for seat in self._pool.seats for job in seat.jobs.values()}
            schedule = Schedule(self.grid, self._crew.model_of, self.ledger.found, underway)
            for name, stage in self._stages.items():
                bar.add(name, *self._rows(name), schedule.unfinished[name], len(self.grid.parts) * len(stage.each_view()))
            self._hold_back(schedule)
            try:
                self._drive(schedule, bar)
            except KeyboardInterrupt:
                left = {name: count for name, count in schedule.unfinished.items() if count}
                said = ", ".join(f"{count} of {name}" for name, count in left.items())
                _LOG.warning("stopped; shards left: %s; what is finished is kept, and the same command continues there", said)
                raise
            bar.finish(self._pool.seats)
            self.ledger.seconds |= bar.seconds

    def close(self) -> None:
        """End the workers, and Ray where it was started here."""
        self._pool.close()
        self._on_close()
        self._store.remove_temporaries()

    def _rows(self, stage: str) -> tuple[int, int]:
        """Rows of a stage that are to be made, and all of them."""
        cells = list(self.grid.cells(self._stages[stage]))
        return sum(self.ledger.rows(cell) for cell in cells if cell.state != "done"), sum(map(self.ledger.rows, cells))

    def _hold_back(self, schedule: Schedule) -> None:
        """Let nothing but ingest begin until it has let an example through: no engine is to start for nothing."""
        first = self.grid.stages[0]
        if not schedule.unfinished[first.name]:
            self._check_ingested()
            return
        footers = FooterCounts(self._store)
        ready = (cell.shard for cell in self.grid.cells(first) if cell.shard is not None)
        schedule.is_held = not any(footers.of(shard)["out"] for shard in ready)

    def _drive(self, schedule: Schedule, bar: ManyStagesProgress) -> None:
        asked = time.monotonic()
        while not schedule.is_finished:
            self._hand_out(schedule, bar)
            for event in self._pool.wait(_WAIT_S):
                if isinstance(event, Died):
                    self._mourn(event, schedule, bar)
                else:
                    self._receive(event, schedule, bar)
            if self._is_shown and time.monotonic() - asked >= _ASK_S:
                self._pool.ask()
                asked = time.monotonic()
            bar.show(self._under_way())
            bar.tick(self._pool.seats)

    def _under_way(self) -> dict[str, tuple[int, int]]:
        """By stage: rows finished of shards that are not, and rows begun, as far as it was told."""
        found: dict[str, tuple[int, int]] = {}
        for seat in self._pool.seats:
            cell = seat.news.cell
            if cell is not None and any(job.cell == cell for job in seat.jobs.values()):
                finished, begun = found.get(cell.stage, (0, 0))
                found[cell.stage] = finished + seat.news.finished, begun + seat.news.under_way
        return found

    def _hand_out(self, schedule: Schedule, bar: ManyStagesProgress) -> None:
        if schedule.ready(""):
            self._pool.want("sql", min(self._crew.sql_workers, sum(schedule.unfinished.values())))
        if schedule.models():
            left = sum(count for name, count in schedule.unfinished.items() if self._crew.model_of(name))
            self._pool.want("engine", min(self._crew.engines, left))
        kinds: tuple[Kind, ...] = ("sql", "engine")
        for kind in kinds:
            for held in range(IN_FLIGHT):  # no worker gets a second job while another has none
                for seat in self._pool.holding(kind, held):
                    self._give_one(seat, schedule, bar)

    def _give_one(self, seat: Seat, schedule: Schedule, bar: ManyStagesProgress) -> None:
        if any(name_of(job.cell) in self._suspects for job in seat.jobs.values()):
            return
        if seat.kind == "engine":
            seat.model = self._model_for(seat, schedule)
        cell = schedule.take(seat.model) if seat.model or seat.kind == "sql" else None
        if cell is None:
            return
        if name_of(cell) in self._suspects and seat.jobs:
            schedule.put_back(cell)
            return
        bar.start(cell.stage)
        self._pool.give(seat, self._job(cell))

    def _model_for(self, seat: Seat, schedule: Schedule) -> str:
        """The model that it holds, while there is work for it; another one costs an engine's start."""
        if seat.model and (schedule.ready(seat.model) or seat.jobs):
            return seat.model
        holders = Counter(other.model for other in self._pool.seats if other is not seat)
        for model in schedule.models():
            if not seat.model or not holders[model] or schedule.ready(model) > 2 * holders[model]:
                return model
        return seat.model

    def _job(self, cell: Cell) -> Job:
        stage, part = self._stages[cell.stage], self.grid.parts[cell.part]
        inputs = self.grid.finished_inputs(stage, part, cell.view)
        assert len(inputs) == len(stage.inputs), "a shard ran before its inputs"
        examples = self._examples(part) if "source" in stage.reads else ()
        source = self.grid.source(stage, part, cell.view)
        provenance = self.grid.provenance(stage, part, cell.view, source).as_json()
        line = self.ledger.line(stage, cell, source)
        return Job(cell, part, inputs, line, provenance, examples, source)

    def _receive(self, event: Answered, schedule: Schedule, bar: ManyStagesProgress) -> None:
        answer, cell, seat = event.answer, event.job.cell, event.seat
        if isinstance(answer, Done):
            self._settle(event.seat, cell, answer, schedule, bar)
        elif isinstance(answer, Damaged):
            schedule.put_back(cell)
            self._look_at(answer, cell)
        else:
            if answer.is_final:
                raise answer.as_error()
            _LOG.debug("%s: %s\n%s", seat, answer.what, answer.trace)
            # Whatever happened to it, its engine is not to be trusted.
            for job in self._pool.replace(seat):
                schedule.put_back(job.cell)
            self._strike(cell, answer, schedule)

    def _settle(self, seat: Seat, cell: Cell, done: Done, schedule: Schedule, bar: ManyStagesProgress) -> None:
        for level, text in done.said:
            _LOG.log(level, "%s", text)
        self._suspects.discard(name_of(cell))
        if schedule.finish(cell, done.shard):
            self._count(cell, schedule, bar)
        seat.rows, seat.shards = seat.rows + self.ledger.rows(cell), seat.shards + 1
        seat.computed_s, seat.idle_s = seat.computed_s + done.computed_s, seat.idle_s + done.idle_s
        if cell.stage == self.grid.stages[0].name:
            if not schedule.unfinished[cell.stage]:
                self._check_ingested()
            schedule.is_held = schedule.is_held and not done.num_out

    def _count(self, cell: Cell, schedule: Schedule, bar: ManyStagesProgress) -> None:
        self.ledger.made(cell)
        bar.advance(cell.stage, self.ledger.rows(cell), is_last=not schedule.unfinished[cell.stage])

    def _mourn(self, death: Died, schedule: Schedule, bar: ManyStagesProgress) -> None:
        """A worker died: what it finished is found in the store, the rest is made again, by another."""
        self._store.remove_temporaries()
        for place, job in enumerate(death.jobs):
            shard = self._store.scan(job.cell.stage).get(job.cell.key)
            if shard is not None:
                if schedule.finish(job.cell, shard):
                    self._count(job.cell, schedule, bar)
                continue
            self._suspects.add(name_of(job.cell))
            if place:
                schedule.put_back(job.cell)
            else:
                failed = Failed(f"its worker died: {death.reason}", "", "", is_final=False)
                self._strike(job.cell, failed, schedule)

    def _strike(self, cell: Cell, failed: Failed, schedule: Schedule) -> None:
        name = name_of(cell)
        self._strikes[name] += 1
        view = f", view {cell.view}" if self._stages[cell.stage].views else ""
        where = f"{cell.stage}, part {cell.part}{view}"
        if self._strikes[name] >= MOST_STRIKES:
            raise KidpipeError(
                f"a shard failed {MOST_STRIKES} times: {failed.what}",
                where=f"{where}{f' ({failed.where})' if failed.where else ''}",
                fix=failed.fix or "what is finished is kept; mend the reason and run the same command again",
            )
        _LOG.warning("%s failed and is made again: %s", where, failed.what)
        schedule.put_back(cell)

    def _look_at(self, damaged: Damaged, cell: Cell) -> None:
        """Whether a shard that a worker could not read is damaged for us too; if not, it was an accident on its way there."""
        self._store.read(damaged.shard)
        name = name_of(cell)
        self._strikes[name] += 1
        if self._strikes[name] >= MOST_STRIKES:
            raise DamagedShard(damaged.shard, damaged.why)
