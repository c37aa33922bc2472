"""The table of stages and a context in; the graph of a build, each stage with the function that runs it, out.

What each stage reads and which settings decide it stands in kidcore/store/stages.py; what it does, in the file of its name here.
"""

from functools import cache
from importlib import import_module
from typing import Any, Protocol

from kidcore.config.config import Config
from kidcore.config.stage_settings import READ_SQL, GenerateSettings, RolloutSettings
from kidcore.errors import KidpipeError
from kidcore.models.sources import ModelSource
from kidcore.models.teachers import require_top_k
from kidcore.store.graph import Output, Stage, Task, settings_of
from kidcore.store.stages import STAGE_TABLE, StageTraits, built_by
from pipeline.context import Context
from pipeline.derivations import derivation_of
from pipeline.model_keys import beside_weights


class Body(Protocol):
    """What `bind(context)` of pipeline/<stage>.py gives: one task in, the rows of its shard out."""

    def __call__(self, task: Task) -> Output: ...


def stages(context: Context, until: str = "score") -> list[Stage]:
    """The stages that a build up to `until` runs, in their order."""
    for answers in {"generate", "rollout"} & set(built_by(until)):
        _require_different_answers(answers, getattr(context.config, answers))
    asked = built_by(until)
    scores = [name for name in asked if STAGE_TABLE[name].model in ("teacher", "predictor") and name != "generate"]
    # Asked of served teachers only: the number takes loading a tokenizer.
    if context.teacher is not None and context.teacher.served is not None and scores:
        require_top_k(context.teacher, min(context.most_top_k, context.teacher.vocab_size))
    return [stage for stage in every_stage(context) if stage.name in asked]


def every_stage(context: Context) -> list[Stage]:
    """The whole graph; without a teacher, what needs none."""
    graph: dict[str, Stage] = {}
    for row in STAGE_TABLE.values():
        has_model = not row.model or _model_of(context, row) is not None
        lacking = {name for name in row.inputs if name not in graph and STAGE_TABLE[name].is_wanted(context.config)}
        if row.is_wanted(context.config) and has_model and not lacking:
            graph[row.name] = _stage(context, row)
    return list(graph.values())


def _stage(context: Context, row: StageTraits) -> Stage:
    config = context.config
    sections: dict[str, Any] = {name: getattr(config, name) for name in row.sections}
    if not row.inputs:
        sections["prompt"] = context.identity()
    if model := _model_of(context, row):
        sections[row.model] = _model_identity(config, row.model, model)
        sections |= beside_weights(context, row, model)
    reads_sql = row.name == "rewrite" or (row.name == "mask" and config.mask.strategy in READ_SQL)
    if reads_sql and context.dialects != ["sqlite"]:
        sections["dialects"] = {"of": context.dialects}
    if row.name == "mask" and config.mask.strategy == "schema" and not context.outline.is_ascii:
        # Up to kidpipe 0.1 the first bytes of a name that begins with a character of several tokens were never masked.
        sections["mask_bytes"] = {"of": "whole characters"}
    identity, resolved = settings_of(**sections)

    @cache
    def body() -> Body:
        return bind(row.name, context)

    return Stage(
        row.name,
        row.version,
        identity,
        resolved,
        inputs=row.inputs_of(config),
        reads=row.reads,
        views=row.num_views(config),
        run=lambda task: body()(task),
        derivation=derivation_of(config, row, sections),
    )


def bind(stage: str, context: Context) -> Body:
    """The function that runs a stage under the settings of `context`."""
    # Here alone: a plan needs no stage's own libraries (sqlglot), and a build only those of what it runs.
    bound: Body = import_module(f"pipeline.{stage}").bind(context)
    return bound


def _model_of(context: Context, row: StageTraits) -> ModelSource | None:
    return {"": None, "teacher": context.teacher, "predictor": context.predictor, "start": context.start}[row.model]


def _require_different_answers(section: str, settings: GenerateSettings | RolloutSettings) -> None:
    if settings.samples > 1 and settings.temperature == 0:
        raise KidpipeError(
            f"{settings.samples} greedy answers per prompt would all be the same",
            where=f"{section}.samples",
            fix=f"set {section}.temperature, such as 0.8",
        )


def _model_identity(config: Config, role: str, model: ModelSource) -> dict[str, Any]:
    """A model's identity: its weights, and the precision they run in; that of a student is in the settings of its stage."""
    identity = {"weights": model.identity}
    is_student = role == "start" or (role == "predictor" and config.predict.is_students)
    if config.teacher.dtype != "auto" and not is_student:
        identity["dtype"] = config.teacher.dtype
    return identity
