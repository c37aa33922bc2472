"""A grid and the last manifest in; what would run, why, and for how long out."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from kidcore.store.graph import Cell, Grid, Stage
from kidcore.store.log import shard_records
from kidcore.store.manifest import Manifest
from kidcore.store.stages import STAGE_TABLE
from kidcore.store.store import Store

# Lines of the shard log that an estimate looks at: recent ones tell most about the machine at hand.
_RECENT_LINES = 2000
_SIZED_SHARDS = 64


@dataclass(frozen=True)
class StagePlan:
    """What a build would do in one stage."""

    stage: str
    done: int
    stale: int
    follows: int
    rows: int
    """Rows of the shards that would run."""
    reasons: tuple[str, ...]
    estimate_s: float | None
    """Seconds without the engine's start, from earlier shards of this stage; None where there are none."""
    estimate_bytes: int | None
    """Bytes of the shards that would be written, from earlier ones of this stage; None where there are none."""
    is_at_most: bool
    """Whether less may run: what it follows may come out with the bytes it had, and then nothing of this is to do."""
    cut: int = 0
    """Of the shards that would run, those that are cut from ones with more ids a position: no model is asked for them."""

    @property
    def asks(self) -> bool:
        """Whether a shard would run that is not cut from another."""
        return self.stale + self.follows > self.cut

    @property
    def is_stale(self) -> bool:
        return self.stale + self.follows > 0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def make_plan(
    grid: Grid, store: Store, manifest: Manifest | None, changed: Callable[[str], str | None] = lambda _name: None
) -> list[StagePlan]:
    """One StagePlan a stage, in the order they run.

    Args:
        manifest: the last build's, if any.
        changed: says which of what a stage reads of the data (`source`, `databases`) changed since; None where that is not known.
    """
    rates = seconds_per_row(store)
    plans: list[StagePlan] = []
    stale_stages: set[str] = set()
    rows = {part.index: part.rows for part in grid.parts}
    for stage in grid.stages:
        cells = list(grid.cells(stage))
        states = Counter(cell.state for cell in cells)
        pending = [cell for cell in cells if cell.state != "done"]
        pending_rows = sum(rows[cell.part] for cell in pending)
        cut = [cell for cell in pending if grid.source(stage, grid.parts[cell.part], cell.view) is not None]
        asked_rows = pending_rows - sum(rows[cell.part] for cell in cut)
        reasons = _reasons(stage, pending, len(cells), grid, manifest, stale_stages, changed) if pending else ()
        if cut and stage.derivation:
            reasons += (f"{len(cut)} {stage.derivation.how}",)
        if pending:
            stale_stages.add(stage.name)
        rate = rates.get(stage.name)
        plans.append(
            StagePlan(
                stage=stage.name,
                done=states["done"],
                stale=states["stale"],
                follows=states["follows"],
                rows=pending_rows,
                reasons=reasons,
                estimate_s=rate * asked_rows if rate is not None else None,
                estimate_bytes=_bytes(grid, store, stage, pending_rows) if pending else None,
                is_at_most=states["follows"] > 0 and asked_rows > 0 and grid.num_finished(stage) > 0,
                cut=len(cut),
            )
        )
    return plans


def _bytes(grid: Grid, store: Store, stage: Stage, rows: int) -> int | None:
    shards = grid.some_finished(stage, _SIZED_SHARDS)
    known = sum(shard.rows for shard in shards)
    return round(sum(store.size(shard) for shard in shards) / known * rows) if known else None


def _reasons(
    stage: Stage,
    pending: list[Cell],
    total: int,
    grid: Grid,
    manifest: Manifest | None,
    stale_stages: set[str],
    changed: Callable[[str], str | None],
) -> tuple[str, ...]:
    before = manifest.stages.get(stage.name) if manifest else None
    followed = tuple(f"follows {name}" for name in stage.inputs if name in stale_stages)
    begun = total - len(pending)
    if manifest is None or before is None:
        return (f"unfinished: {begun} of {total} shards are there",) if begun else followed or ("never built",)
    reasons = changed_settings(before.settings, stage.resolved, stage.identity)
    if before.version != stage.version:
        reasons.append(f"{stage.name} version {before.version} -> {stage.version}")
    reasons += _changed_parts(stage, pending, grid, manifest, changed)
    if stage.views > before.views:
        reasons.append(f"{STAGE_TABLE[stage.name].views} {before.views} -> {stage.views}")
    if reasons:
        return tuple(reasons)
    return followed or (f"{len(pending)} of its shards are missing",)


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any], identity: Mapping[str, Any] | None = None) -> list[str]:
    """`section.field old -> new` for each setting that differs.

    With `identity` (what of `now` goes into keys), a setting that `before` does not know and that is at its default now is no
    change: it came with a later kidpipe.
    """
    names = sorted(before.keys() | now.keys())
    if identity is not None:
        names = [name for name in names if name in before or name in identity]
    return [f"{name} {_show(before.get(name))} -> {_show(now.get(name))}" for name in names if before.get(name) != now.get(name)]


def _show(value: Any) -> str:
    return "unset" if value is None else str(value)


def _changed_parts(
    stage: Stage, pending: list[Cell], grid: Grid, manifest: Manifest, changed: Callable[[str], str | None]
) -> list[str]:
    reasons = []
    numbers = {cell.part for cell in pending}
    for name in stage.reads:
        before = {part.content.get(name) for part in manifest.parts}
        parts = [part for part in grid.parts if part.index in numbers and part.content[name] not in before]
        if parts:
            which = changed(name)
            names = f": {which}" if which else ""
            if name == "source":
                reasons.append(f"{len(parts)} input shards are new or changed{names}")
            elif which != "":  # with other questions a shard reads other databases, though none of them changed
                reasons.append(f"{len(parts)} shards read {name} that changed{names}")
    return reasons


def seconds_per_row(store: Store) -> dict[str, float]:
    """The mean cost of a row by stage without engine starts, from the log of finished shards."""
    seconds: Counter[str] = Counter()
    rows: Counter[str] = Counter()
    for record in shard_records(store.root, _RECENT_LINES):
        if "cut_from" in record:
            continue
        seconds[record["stage"]] += max(0.0, record["seconds"] - _start_s(record))
        rows[record["stage"]] += record["rows"]
    return {stage: seconds[stage] / rows[stage] for stage in seconds if rows[stage]}


def engine_start_s(store: Store) -> float | None:
    """Seconds that an engine took to start, in the mean of those in the log; None where none is."""
    starts = [start for record in shard_records(store.root, _RECENT_LINES) if (start := _start_s(record)) > 0]
    return sum(starts) / len(starts) if starts else None


def _start_s(record: Mapping[str, Any]) -> float:
    """Of a shard in whose making an engine started; logs of earlier versions do not tell."""
    value = record.get("engine_start_s", 0.0)
    return float(value) if isinstance(value, (int, float)) else 0.0
