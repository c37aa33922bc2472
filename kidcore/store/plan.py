"""A grid and the last manifest in; what would run, why, and for how long out."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from kidcore.store.graph import Cell, Grid, Stage
from kidcore.store.log import shard_records
from kidcore.store.manifest import Manifest
from kidcore.store.stages import STAGE_TABLE
from kidcore.store.store import Store

# Lines of the shard log that an estimate looks at: recent ones tell most about the machine at hand.
_RECENT_LINES = 2000


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
    """Seconds, from earlier shards of this stage; None where there are none."""

    @property
    def is_stale(self) -> bool:
        return self.stale + self.follows > 0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def make_plan(grid: Grid, store: Store, manifest: Manifest | None) -> list[StagePlan]:
    """One StagePlan a stage, in the order they run. `manifest` is the last build's, if any."""
    rates = seconds_per_row(store)
    plans: list[StagePlan] = []
    stale_stages: set[str] = set()
    rows = {part.index: part.rows for part in grid.parts}
    for stage in grid.stages:
        cells = list(grid.cells(stage))
        states = Counter(cell.state for cell in cells)
        pending = [cell for cell in cells if cell.state != "done"]
        pending_rows = sum(rows[cell.part] for cell in pending)
        reasons = _reasons(stage, pending, grid, manifest, stale_stages) if pending else ()
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
                estimate_s=rate * pending_rows if rate is not None else None,
            )
        )
    return plans


def _reasons(stage: Stage, pending: list[Cell], grid: Grid, manifest: Manifest | None, stale_stages: set[str]) -> tuple[str, ...]:
    before = manifest.stages.get(stage.name) if manifest else None
    followed = tuple(f"follows {name}" for name in stage.inputs if name in stale_stages)
    if manifest is None or before is None:
        return followed or ("never built",)
    reasons = changed_settings(before.settings, stage.resolved)
    if before.version != stage.version:
        reasons.append(f"{stage.name} version {before.version} -> {stage.version}")
    reasons += _changed_parts(stage, pending, grid, manifest)
    if stage.views > before.views:
        reasons.append(f"{STAGE_TABLE[stage.name].views} {before.views} -> {stage.views}")
    if reasons:
        return tuple(reasons)
    return followed or (f"{len(pending)} of its shards are missing",)


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`section.field old -> new` for each setting that differs."""
    names = sorted(before.keys() | now.keys())
    return [f"{name} {_show(before.get(name))} -> {_show(now.get(name))}" for name in names if before.get(name) != now.get(name)]


def _show(value: Any) -> str:
    return "unset" if value is None else str(value)


def _changed_parts(stage: Stage, pending: list[Cell], grid: Grid, manifest: Manifest) -> list[str]:
    reasons = []
    numbers = {cell.part for cell in pending}
    for name in stage.reads:
        before = {part.content.get(name) for part in manifest.parts}
        changed = [part for part in grid.parts if part.index in numbers and part.content[name] not in before]
        if changed:
            noun = "input shards are new or changed" if name == "source" else f"shards read {name} that changed"
            reasons.append(f"{len(changed)} {noun}")
    return reasons


def seconds_per_row(store: Store) -> dict[str, float]:
    """The mean cost of a row by stage, from the log of finished shards."""
    seconds: Counter[str] = Counter()
    rows: Counter[str] = Counter()
    for record in shard_records(store.root, _RECENT_LINES):
        seconds[record["stage"]] += record["seconds"]
        rows[record["stage"]] += record["rows"]
    return {stage: seconds[stage] / rows[stage] for stage in seconds if rows[stage]}
