"""What the driver of a build hands to its workers, and what it gets back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kidcore.errors import KidpipeError
from kidcore.sql.datasets import Example
from kidcore.store.graph import Cell, Partition
from kidcore.store.store import Shard


@dataclass(frozen=True)
class Job:
    """A shard to be made."""

    cell: Cell
    part: Partition
    inputs: Mapping[str, Shard]
    line: Mapping[str, object]
    """What is known already of the shard's line in the log."""
    provenance: Mapping[str, object]
    """What its footer is to say of its making."""
    examples: Sequence[Example] = ()
    """Those of the part, for the stage that reads them."""
    source: Shard | None = None
    """What it is derived from, where no model need be asked."""


@dataclass(frozen=True)
class Done:
    """A shard that a worker made and wrote."""

    shard: Shard
    num_out: int
    """Rows that were not set aside."""
    computed_s: float
    """How long the stage ran, an engine's start left out."""
    idle_s: float
    """How long the worker had computed nothing before, its first job left out."""
    said: tuple[tuple[int, str], ...]
    """What was logged meanwhile: level and text."""


@dataclass(frozen=True)
class Damaged:
    """An input that could not be read."""

    shard: Shard
    why: str


@dataclass(frozen=True)
class Failed:
    """A job that came to nothing. A final failure would come again on any worker; another may be an accident."""

    what: str
    where: str
    fix: str
    is_final: bool
    trace: str = ""

    def as_error(self) -> KidpipeError:
        return KidpipeError(self.what, where=self.where, fix=self.fix)


Answer = Done | Damaged | Failed


@dataclass(frozen=True)
class News:
    """How far a worker is with the shard that it computes."""

    cell: Cell | None = None
    """None between two shards."""
    finished: int = 0
    """Rows."""
    under_way: int = 0


@dataclass(frozen=True)
class Greeting:
    """What a worker says once it is there."""

    node: str
    pid: int
    version: str
    sees_store: bool
    """Whether the store's folder is the driver's."""
