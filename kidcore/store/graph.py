"""Stages, parts and the store in; which shards are done, stale or waiting out.

The graph is a grid: a *part* is a run of source examples and flows through all stages by itself; a stage with views has
one shard a part and view. A shard's key hashes the stage, its version, its identity settings and the *content* of what it
reads, so an input that comes out with the same rows stops the staleness there.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from kidcore.advance import Advance
from kidcore.config.settings import Section
from kidcore.store.provenance import Provenance, key_start, shard_key
from kidcore.store.store import Shard, Store

if TYPE_CHECKING:
    import pyarrow as pa

State = Literal["done", "stale", "follows"]
Values = Mapping[str, Any]
"""Identity settings by name, `section.field`."""


@dataclass(frozen=True)
class Partition:
    """A run of source examples. `content` maps what stages may read (`source`, `databases`) to its digest."""

    index: int
    rows: int
    content: Mapping[str, str]


@dataclass(frozen=True)
class Task:
    """What a stage function gets: the part, the view (0 for stages without views), and its input tables by stage."""

    part: Partition
    view: int
    tables: "Mapping[str, pa.Table]"
    advance: Advance
    """To be called with the number of rows just finished, for the progress bar."""


@dataclass(frozen=True)
class Output:
    """What a stage function returns. `counts` has `in`, `out` and what it set aside by reason, and its statistics."""

    table: "pa.Table"
    counts: Mapping[str, Any]


@dataclass(frozen=True)
class Derivation:
    """How shards of a stage are made without its model from those that it made under other values of some settings."""

    settings: tuple[str, ...]
    """Names of the settings whose values may be others."""
    usable: Callable[[Sequence[Values]], Sequence[Values]]
    """Of the values that shards were made with, those that this stage's can be made from, best first."""
    identity_at: Callable[[Values], Mapping[str, Any]]
    """Stage.identity as it would be with these values."""
    how: str
    """For a person: what is done."""


@dataclass(frozen=True)
class Stage:
    """A node of the graph. Source code is not in the key: `version` is raised by hand when results change."""

    name: str
    version: int
    identity: Mapping[str, Any]
    """Identity settings away from their default, as `section.field`: they go into the key."""
    resolved: Mapping[str, Any]
    """All identity settings with their values: for showing what changed."""
    inputs: tuple[str, ...]
    reads: tuple[str, ...]
    """Names in Partition.content whose digests go into the key."""
    views: int
    """Number of views, 0 for a stage without."""
    run: Callable[[Task], Output] = field(compare=False)
    derivation: Derivation | None = field(default=None, compare=False)
    """None: every shard asks the model, if the stage has one."""

    def each_view(self) -> Sequence[int]:
        return range(max(self.views, 1))


def settings_of(**sections: Section | Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(identity, resolved) of a stage from its sections; a mapping adds resolved inputs such as a model's digest."""
    identity: dict[str, Any] = {}
    resolved: dict[str, Any] = {}
    for name, section in sections.items():
        if isinstance(section, Section):
            identity |= {f"{name}.{key}": value for key, value in section.identity().items()}
            resolved |= {f"{name}.{key}": value for key, value in section.all_identity().items()}
        else:
            identity |= {f"{name}.{key}": value for key, value in section.items()}
            resolved |= {f"{name}.{key}": value for key, value in section.items()}
    return identity, resolved


@dataclass(frozen=True)
class Cell:
    """One shard of the plan; `shard` is set when it is done, `key` when its inputs are."""

    stage: str
    part: int
    view: int
    state: State
    key: str = ""
    shard: Shard | None = None


class Grid:
    """The finished shards of a graph, and the keys that follow from them."""

    def __init__(self, stages: Sequence[Stage], parts: Sequence[Partition], store: Store, known: "Grid | None" = None) -> None:
        """`known` is a grid of some of the stages that nothing was added to since: of a large store, looking takes seconds."""
        self.stages = list(stages)
        self.parts = list(parts)
        seen: dict[str, dict[str, Shard]] = {} if known is None else known._finished
        self._finished: dict[str, dict[str, Shard]] = {
            stage.name: seen[stage.name] if stage.name in seen else store.scan(stage.name) for stage in stages
        }
        self._by_name = {stage.name: stage for stage in stages}
        self._key_starts = {s.name: key_start(s.name, s.version, s.identity) for s in stages}
        self._done: dict[tuple[str, int, int], Shard] = {} if known is None else dict(known._done)
        self._store = store
        self._usable: dict[str, Sequence[Values]] = {}
        self._starts_at: dict[tuple[str, str], str] = {}
        for part in self.parts:
            for stage in self.stages:
                for view in stage.each_view():
                    self.look(stage, part, view)

    def look(self, stage: Stage, part: Partition, view: int) -> Cell:
        """The state of one shard, from what is finished by now."""
        if known := self._done.get((stage.name, part.index, view)):
            return Cell(stage.name, part.index, view, "done", known.key, known)
        key = _key(self._key_starts[stage.name], stage, part, view, self.inputs(stage, part, view))
        if key is None:
            return Cell(stage.name, part.index, view, "follows")
        shard = self._finished[stage.name].get(key)
        if shard is None:
            return Cell(stage.name, part.index, view, "stale", key)
        self._done[stage.name, part.index, view] = shard
        return Cell(stage.name, part.index, view, "done", key, shard)

    def inputs(self, stage: Stage, part: Partition, view: int) -> list[Shard | None]:
        """The shards that this one is made from, None for those not finished."""
        names = ((name, view if self._by_name[name].views else 0) for name in stage.inputs)
        return [self._done.get((name, part.index, number)) for name, number in names]

    def finished_inputs(self, stage: Stage, part: Partition, view: int) -> dict[str, Shard]:
        """Those of `inputs` that are finished, by stage."""
        inputs = zip(stage.inputs, self.inputs(stage, part, view), strict=True)
        return {name: shard for name, shard in inputs if shard is not None}

    def source(self, stage: Stage, part: Partition, view: int) -> Shard | None:
        """A finished shard of the same rows that this one can be made from without a model, if there is one."""
        found = (self.finished_at(stage, part, view, values) for values in self.usable_values(stage))
        return next((shard for shard in found if shard is not None), None)

    def finished_at(self, stage: Stage, part: Partition, view: int, values: Values) -> Shard | None:
        """As `look` finds a finished shard, but under other values, in what it is made from as well."""
        inputs = self.inputs_at(stage, part, view, values)
        key = _key(self.start_at(stage, values), stage, part, view, list(inputs.values()))
        return None if key is None else self._finished[stage.name].get(key)

    def inputs_at(self, stage: Stage, part: Partition, view: int, values: Values | None) -> dict[str, Shard | None]:
        """As `inputs`, by stage, but under other values where the input has those settings too; None: as they are."""
        inputs = zip((self._by_name[name] for name in stage.inputs), self.inputs(stage, part, view), strict=True)
        return {
            other.name: shard if values is None or not _shares(stage, other) else self.finished_at(other, part, view, values)
            for other, shard in inputs
        }

    def start_at(self, stage: Stage, values: Values | None) -> str:
        """What the keys of a stage have in common under other values; None: under its own."""
        if values is None:
            return self._key_starts[stage.name]
        name = (stage.name, repr(values))
        if name not in self._starts_at:
            assert stage.derivation is not None
            self._starts_at[name] = key_start(stage.name, stage.version, stage.derivation.identity_at(values))
        return self._starts_at[name]

    def usable_values(self, stage: Stage) -> Sequence[Values]:
        """Values that shards of the stage were made with and that its own can be made from."""
        if stage.derivation is None:
            return []
        if stage.name not in self._usable:
            used = self._store.values_used(stage.name, stage.derivation.settings)
            self._usable[stage.name] = stage.derivation.usable(used)
        return self._usable[stage.name]

    def provenance(self, stage: Stage, part: Partition, view: int, source: Shard | None = None) -> Provenance:
        """What a shard whose inputs are finished is made from; `source` is the one that it is derived from, if it is."""
        return Provenance(
            stage=stage.name,
            version=stage.version,
            view=view if stage.views else None,
            settings=stage.resolved,
            in_key=tuple(stage.identity),
            inputs={name: shard.digest for name, shard in self.finished_inputs(stage, part, view).items()},
            reads={name: part.content[name] for name in stage.reads},
            cut_from=source.file if source else "",
        )

    def num_finished(self, stage: Stage) -> int:
        """Shards of a stage in the store, of this configuration or any other."""
        return len(self._finished[stage.name])

    def some_finished(self, stage: Stage, most: int | None = None) -> list[Shard]:
        """At most so many of them; all where no number is given."""
        return list(islice(self._finished[stage.name].values(), most))

    def add(self, shard: Shard) -> None:
        """Take note of a shard just finished."""
        self._finished[shard.stage][shard.key] = shard

    def drop(self, shard: Shard) -> None:
        """Forget a shard that turned out damaged."""
        self._finished.get(shard.stage, {}).pop(shard.key, None)
        # What was made from it is looked at anew: it may come out with other bytes.
        self._done = {}

    def is_finished(self, stage: Stage) -> bool:
        """Whether every shard of a stage is done."""
        return all(cell.state == "done" for cell in self.cells(stage))

    def asks(self, stage: Stage) -> bool:
        """Whether a shard of a stage is to be made, and not derived from another."""
        pending = (cell for cell in self.cells(stage) if cell.state != "done")
        return any(self.source(stage, self.parts[cell.part], cell.view) is None for cell in pending)

    def cells(self, stage: Stage) -> Iterator[Cell]:
        """Every shard of a stage."""
        for part in self.parts:
            for view in stage.each_view():
                yield self.look(stage, part, view)


def _shares(stage: Stage, other: Stage) -> bool:
    """Whether the settings that a stage may be derived under are those of another stage too."""
    assert stage.derivation is not None
    return other.derivation is not None and other.derivation.settings == stage.derivation.settings


def _key(start: str, stage: Stage, part: Partition, view: int, inputs: Sequence[Shard | None]) -> str | None:
    """The key of a shard made from `inputs`; None where one of them is not finished."""
    digests = [shard.digest for shard in inputs if shard is not None]
    if len(digests) < len(inputs):
        return None
    digests += [part.content[name] for name in stage.reads]
    return shard_key(start, view if stage.views else None, digests)
