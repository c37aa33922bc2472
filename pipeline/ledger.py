"""Shards that a build made or found in; its counts by stage, and what the store's log says of them, out."""

from collections import Counter

from kidcore.config.processes import peak_memory_mib
from kidcore.config.settings import fingerprint
from kidcore.models.backends.facts import EngineFacts
from kidcore.store.graph import Cell, Grid, Stage
from kidcore.store.makers import this_maker
from kidcore.store.store import Shard, Store


class Ledger:
    """What a build keeps count of; a repair that goes over the grid again counts nothing twice."""

    def __init__(self, grid: Grid, store: Store) -> None:
        self.ran: Counter[str] = Counter()
        self.reused: Counter[str] = Counter()
        self.seconds: dict[str, float] = {}
        """Wall time by stage; stages that ran side by side share it."""
        self._store = store
        self._rows = {part.index: part.rows for part in grid.parts}
        self._settled: set[tuple[str, int, int]] = set()
        self._noted: set[str] = set()

    def found(self, cell: Cell) -> None:
        """Count a shard that was there already."""
        if self._settle(cell):
            self.reused[cell.stage] += 1

    def made(self, cell: Cell) -> None:
        """Count a shard that was made just now."""
        self._settle(cell)
        self.ran[cell.stage] += 1

    def rows(self, cell: Cell) -> int:
        """Source examples that a shard is about."""
        return self._rows[cell.part]

    def line(self, stage: Stage, cell: Cell, source: Shard | None = None) -> dict[str, object]:
        """What the log of shards is to say of one before it is made; the settings of its stage are kept beside it.

        Args:
            source: the shard that it is derived from, if it is.
        """
        return {
            "stage": stage.name,
            "part": cell.part,
            "view": cell.view,
            "key": cell.key,
            "rows": self.rows(cell),
            "settings": self._remember_settings(stage),
            **({"cut_from": source.key} if source else {}),
        }

    def _settle(self, cell: Cell) -> bool:
        """Whether this shard is counted for the first time."""
        name = (cell.stage, cell.part, cell.view)
        is_new = name not in self._settled
        self._settled.add(name)
        return is_new

    def _remember_settings(self, stage: Stage) -> str:
        """Write a stage's settings once, so that gc can say what a shard was made with."""
        name = fingerprint([stage.name, stage.version, dict(stage.resolved)], 16)
        if name not in self._noted:
            self._store.remember_settings(name, stage.name, stage.resolved)
        self._noted.add(name)
        return name


def made_by(engine: EngineFacts | None, *, seconds: float, engine_start_s: float) -> dict[str, object]:
    """What the log of shards says of how this process made one."""
    return {
        "seconds": round(seconds, 4),
        "made": this_maker(engine).as_json(),
        "engine_start_s": round(engine_start_s, 4),
        "peak_memory_mib": peak_memory_mib(),
    }
