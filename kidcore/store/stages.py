"""The table of stages: what each reads and writes, which settings decide it, and whether a model runs in it.

Imports nothing heavy.

source --> ingest --+--> gold_score ------------------------------+
                    |        | (hard, easy)                       |
                    +--> mask --> predict [--> verify] --> rewrite +--> score
                    |                            +--> outcome (statistics)
                    +--> generate (for method seqkd only) --> generate_outcome (statistics)
                    +--> rollout (a student's answers) --> rollout_score (for method opd), rollout_outcome (statistics)

A stage is added in two places: a row here, and a file pipeline/<name>.py whose `bind` gives the function that runs it. (One
with settings of its own has a section of the configuration, too.) The order, the graph, plan, a comparison's sections, query's
tables and the trainer's files follow from the row.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from kidcore.config.config import Config


@dataclass(frozen=True)
class StageTraits:
    """A row of the table."""

    name: str
    columns: tuple[str, ...]
    """Of its shards, `name type` each, `[type]` for lists, `?` where it may be null. Text, because Arrow takes a tenth of a
    second to load and `kidpipe status` reads this table without it; kidcore/store/schemas.py makes Arrow's schema of it."""
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
    switch_value: str = ""
    """The value at which the switch does not leave it out; empty = any that is true."""
    is_on_request: bool = False
    """Whether it runs only when it is named: no other stage needs it."""
    comes_along: bool = False
    """Whether it runs, on request, with the stages that it reads: it costs no model, and its statistics are worth having."""

    def num_views(self, config: Config) -> int:
        """Shards for each part; 0 for a stage without views."""
        return int(_setting(config, self.views)) if self.views else 0

    def is_wanted(self, config: Config) -> bool:
        """Whether the configuration does not leave it out."""
        if not self.switch:
            return True
        value = _setting(config, self.switch)
        return value == self.switch_value if self.switch_value else bool(value)

    def inputs_of(self, config: Config) -> tuple[str, ...]:
        """The stages whose shards it reads under `config`."""
        if self.name == "mask" and config.mask.strategy not in ("hard", "easy"):
            # Only these two look at the teacher's confidence in the gold tokens.
            return tuple(name for name in self.inputs if name != "gold_score")
        wanted = tuple(name for name in self.inputs if STAGE_TABLE[name].is_wanted(config))
        # Proposals that the teacher verified are read in the place of what was predicted.
        return tuple(name for name in wanted if name != "predict") if self.name == "rewrite" and "verify" in wanted else wanted


# One row is one example (ingest, gold_score) or one (example, view) (the others). Token columns are single-level lists, and
# top-K columns are flat: `topk_count` says how many of `topk_ids` belong to each position, because lists of lists read 8 to
# 12 times slower. Positions are those of the SQL with its EOS: 0 is the first SQL token. Stored SQL is without EOS; the
# scored sequence is prompt + SQL + EOS. A row with a `reason` is set aside: it keeps its id, and its token columns are empty.
_EXAMPLE = ("example_id string", "db_id string")
_VIEW = (*_EXAMPLE, "view int16")
_TOKENS = ("prompt_ids [int32]", "gold_ids [int32]")
_TOPK = ("topk_count [int16]", "topk_ids [int32]", "topk_logprobs [float16]", "tail [float32]", "actual_logprob [float32]")
# gold_logprob is NaN where the gold token is neither the actual one nor among the engine's top K. Of a rollout, whose length
# is another than gold's, it is that of its own tokens.
_SCORED = (*_VIEW, *_TOKENS, "imperfect_ids [int32]", "masked [int32]", *_TOPK, "gold_logprob [float32]")
_EXECUTED = (*_VIEW, "executes bool", "same_result bool")

_ROWS = (
    StageTraits(
        "ingest",
        # gold_starts: the character of gold_sql at which each gold token starts; schema masking finds identifiers with it.
        (
            *_EXAMPLE,
            *("question string", "gold_sql string", "schema_tokens int32"),
            *_TOKENS,
            *("gold_starts [int32]", "reason string?"),
        ),
        version=1,
        reads=("source", "databases"),
        sections=("ingest",),
    ),
    StageTraits(
        "gold_score",
        (*_EXAMPLE, *_TOKENS, *_TOPK),
        version=1,
        inputs=("ingest",),
        sections=("score",),
        model="teacher",
    ),
    StageTraits(
        "mask",
        (*_VIEW, "strategy string", "masked [int32]"),
        version=1,
        inputs=("ingest", "gold_score"),
        sections=("mask",),
        views="mask.views",
    ),
    StageTraits(
        "predict",
        # The holes' columns are the predictor's best k at each masked position, flat, k to a hole.
        (*_VIEW, "masked [int32]", "filled_ids [int32]", "hole_ids [int32]", "hole_logprobs [float32]"),
        version=2,
        inputs=("ingest", "mask"),
        sections=("predict",),
        model="predictor",
        views="mask.views",
    ),
    StageTraits(
        "verify",
        # The holes' columns are the teacher's best, behind the proposals of the student.
        (*_VIEW, "masked [int32]", "filled_ids [int32]", "accepted [bool]", "hole_ids [int32]", "hole_logprobs [float32]"),
        version=1,
        inputs=("ingest", "predict"),
        sections=("verify",),
        model="teacher",
        views="mask.views",
        switch="predict.fill",
        switch_value="verify",
    ),
    StageTraits(
        "rewrite",
        (
            *_VIEW,
            *("strategy string", "masked [int32]", "imperfect_ids [int32]", "imperfect_sql string"),
            *("num_masked int32", "num_rewritten int32", "rewritten float32", "parses bool"),
        ),
        version=1,
        inputs=("ingest", "mask", "predict", "verify"),
        views="mask.views",
    ),
    StageTraits(
        "outcome",
        _EXECUTED,
        version=1,
        inputs=("ingest", "rewrite"),
        reads=("databases",),
        sections=("outcome",),
        views="mask.views",
        switch="outcome.execute",
    ),
    StageTraits(
        "score",
        _SCORED,
        version=1,
        inputs=("gold_score", "rewrite"),
        sections=("score",),
        model="teacher",
        views="mask.views",
    ),
    StageTraits(
        "generate",
        (*_VIEW, "prompt_ids [int32]", "generated_ids [int32]", "generated_sql string", "reason string?"),
        version=1,
        inputs=("ingest",),
        sections=("generate",),
        model="teacher",
        views="generate.samples",
        is_on_request=True,
    ),
    StageTraits(
        "generate_outcome",
        _EXECUTED,
        version=1,
        inputs=("ingest", "generate"),
        reads=("databases",),
        sections=("outcome",),
        views="generate.samples",
        switch="outcome.execute",
        is_on_request=True,
    ),
    StageTraits(
        "rollout",
        # Under the names of an imperfect query: an answer is scored and taught as one, with nothing masked. One that does not
        # end by itself is taught up to where it was cut.
        (*_VIEW, "masked [int32]", "imperfect_ids [int32]", "imperfect_sql string", "parses bool", "ends bool"),
        version=1,
        inputs=("ingest",),
        sections=("rollout",),
        model="start",
        views="rollout.samples",
        is_on_request=True,
    ),
    StageTraits(
        "rollout_outcome",
        _EXECUTED,
        version=1,
        inputs=("ingest", "rollout"),
        reads=("databases",),
        sections=("outcome",),
        views="rollout.samples",
        switch="outcome.execute",
        is_on_request=True,
        comes_along=True,
    ),
    StageTraits(
        "rollout_score",
        _SCORED,
        version=1,
        inputs=("gold_score", "rollout"),
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


def targets_of(until: str) -> tuple[str, ...]:
    """The stages that `until` names, with commas between where there are several."""
    return tuple(until.split(","))


def built_by(until: str) -> tuple[str, ...]:
    """The stages that a build up to `until` runs: all before it in the order, or its own inputs where it runs on request.

    What comes along does where all that it reads is built. Several names are built together.
    """
    together = {stage for target in targets_of(until) for stage in _leading_to(target)}
    return tuple(name for name in STAGES if name in together)


def _leading_to(target: str) -> set[str]:
    if STAGE_TABLE[target].is_on_request:
        chain = made_from([target])
        return {*chain, *(row.name for row in _ROWS if row.comes_along and chain >= set(row.inputs))}
    return {name for name in STAGES[: STAGES.index(target) + 1] if not STAGE_TABLE[name].is_on_request}


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
