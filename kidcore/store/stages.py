"""The table of stages: what each reads, which settings decide it, and whether a model runs in it. Imports nothing heavy.

source --> ingest --+--> gold_score ------------------------------+
                    |        | (hard, easy)                       |
                    +--> mask --> predict --> rewrite ------------+--> score
                    |                            +--> outcome (statistics)
                    +--> generate (for method seqkd only)
                    +--> rollout (a student's answers) --> rollout_score (for method opd), rollout_outcome (statistics)

A stage is added here, with a section of the configuration where it has settings of its own, a schema in
kidcore/store/schemas.py (its name in capitals) and a file pipeline/<name>.py whose `bind` gives the function that runs it.
The order, the graph, plan, a comparison's sections, query's tables and the trainer's files follow from the row.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from kidcore.config.config import Config

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class StageTraits:
    """A row of the table."""

    name: str
    version: int
    """Raised by hand when results change: source code is not in a shard's key."""
    inputs: tuple[str, ...] = ()
    """Stages whose shards it may read; `inputs_of` leaves out what a configuration has no use for."""
    reads: tuple[str, ...] = ()
    """What it reads of the data set itself: `source` (the examples), `databases` (their files)."""
    sections: tuple[str, ...] = ()
    """Sections of the configuration whose identity settings go into its keys."""
    model: Literal["", "teacher", "predictor", "start"] = ""
    """The model that runs in it, whose weights and precision go into its keys."""
    views: str = ""
    """The setting that says how many shards it has for each part; empty = one."""
    switch: str = ""
    """The setting that leaves it out; empty = always there."""
    is_on_request: bool = False
    """Whether it runs only when it is named: no other stage needs it."""

    @property
    def schema(self) -> "pa.Schema":
        """The columns of its shards."""
        # Arrow takes a tenth of a second to load, and `kidpipe status` reads this table without it.
        from kidcore.store import schemas

        schema: pa.Schema = getattr(schemas, self.name.upper())
        return schema

    def num_views(self, config: Config) -> int:
        """Shards for each part; 0 for a stage without views."""
        return int(_setting(config, self.views)) if self.views else 0

    def is_wanted(self, config: Config) -> bool:
        """Whether the configuration does not leave it out."""
        return not self.switch or bool(_setting(config, self.switch))

    def inputs_of(self, config: Config) -> tuple[str, ...]:
        """The stages whose shards it reads under `config`."""
        if self.name == "mask" and config.mask.strategy not in ("hard", "easy"):
            # Only these two look at the teacher's confidence in the gold tokens.
            return tuple(name for name in self.inputs if name != "gold_score")
        return self.inputs


_ROWS = (
    StageTraits("ingest", 1, reads=("source", "databases"), sections=("ingest",)),
    StageTraits("gold_score", 1, ("ingest",), sections=("score",), model="teacher"),
    StageTraits("mask", 1, ("ingest", "gold_score"), sections=("mask",), views="mask.views"),
    StageTraits("predict", 2, ("ingest", "mask"), sections=("predict",), model="predictor", views="mask.views"),
    StageTraits("rewrite", 1, ("ingest", "mask", "predict"), views="mask.views"),
    StageTraits(
        "outcome",
        1,
        ("ingest", "rewrite"),
        reads=("databases",),
        sections=("outcome",),
        views="mask.views",
        switch="outcome.execute",
    ),
    StageTraits("score", 1, ("gold_score", "rewrite"), sections=("score",), model="teacher", views="mask.views"),
    StageTraits(
        "generate",
        1,
        ("ingest",),
        sections=("generate",),
        model="teacher",
        views="generate.samples",
        is_on_request=True,
    ),
    StageTraits("rollout", 1, ("ingest",), sections=("rollout",), model="start", views="rollout.samples", is_on_request=True),
    StageTraits(
        "rollout_outcome",
        1,
        ("ingest", "rollout"),
        reads=("databases",),
        sections=("outcome",),
        views="rollout.samples",
        switch="outcome.execute",
        is_on_request=True,
    ),
    StageTraits(
        "rollout_score",
        1,
        ("gold_score", "rollout"),
        sections=("score",),
        model="teacher",
        views="rollout.samples",
        is_on_request=True,
    ),
)
STAGE_TABLE = {row.name: row for row in _ROWS}
STAGES = tuple(STAGE_TABLE)
"""Every stage, in the order they run."""
MODEL_STAGES = frozenset(row.name for row in _ROWS if row.model)
"""Stages in which a model runs: what their shards hold is expensive."""


def made_from(stages: Iterable[str]) -> frozenset[str]:
    """The stages, and all that their shards may be made from."""
    found: set[str] = set()
    pending = list(stages)
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending += STAGE_TABLE[name].inputs
    return frozenset(found)


def built_by(until: str) -> tuple[str, ...]:
    """The stages that a build up to `until` runs: all before it in the order, or its own inputs where it runs on request.

    What costs no model and follows from those inputs comes along: the statistics of answers are worth having.
    """
    if STAGE_TABLE[until].is_on_request:
        chain = made_from([until])
        free = {row.name for row in _ROWS if row.is_on_request and not row.model and chain >= set(row.inputs)}
        return tuple(name for name in STAGES if name in chain | free)
    return tuple(name for name in STAGES[: STAGES.index(until) + 1] if not STAGE_TABLE[name].is_on_request)


def needs_start(until: str) -> bool:
    """Whether a build up to `until` asks the student whose answers are stored."""
    return any(STAGE_TABLE[name].model == "start" for name in built_by(until))


def sections_of(stages: Iterable[str]) -> frozenset[str]:
    """Sections of the configuration that decide the shards of the stages, the models' own included."""
    rows = [STAGE_TABLE[name] for name in made_from(stages)]
    # The section teacher names the teacher and the precision in which a predictor runs too.
    return frozenset(section for row in rows for section in (*row.sections, *(["teacher"] if row.model else [])))


def _setting(config: Config, name: str) -> Any:
    section, _, field = name.partition(".")
    return getattr(getattr(config, section), field)
