"""The whole graph on one page: what each stage reads, and which settings decide its result.

source --> ingest --+--> gold_score ------------------------------+
                    |        | (hard, easy)                       |
                    +--> mask --> predict --> rewrite ------------+--> score
                    +--> generate (for method seqkd only)
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from kidcore.config.config import Config
from kidcore.errors import KidpipeError
from kidcore.models.sources import ModelSource
from kidcore.models.tokenizers import special_ids
from kidcore.sql.datasets import Example
from kidcore.store.graph import Output, Stage, Task, settings_of
from kidcore.store.manifest import STAGES
from pipeline.context import Context


def stages(context: Context, until: str = "score") -> list[Stage]:
    """The stages that `until` takes, itself the last, in the order they run. Only `generate` takes `generate`."""
    if until == "generate":
        _require_different_answers(context.config)
        return [stage for stage in every_stage(context) if stage.name in ("ingest", "generate")]
    last = STAGES.index(until)
    return [stage for stage in every_stage(context) if STAGES.index(stage.name) <= last]


def every_stage(context: Context) -> list[Stage]:
    """The whole graph; without a teacher, what needs none."""
    config = context.config
    views = config.mask.views
    graph = [_ingest(context)]
    if context.teacher is not None:
        graph += [
            _gold_score(context, context.teacher),
            _mask(config, views),
            _predict(context, views),
            _rewrite(context, views),
            *([_outcome(context, views)] if config.outcome.execute else []),
            _score(context, context.teacher, views),
            _generate(context, context.teacher),
        ]
    return graph


def _stage(name: str, version: int, sections: dict[str, Any], run: Callable[[Task], Output], **wiring: Any) -> Stage:
    identity, resolved = settings_of(**sections)
    inputs, reads, views = wiring.get("inputs", ()), wiring.get("reads", ()), wiring.get("views", 0)
    return Stage(name, version, identity, resolved, inputs=inputs, reads=reads, views=views, run=run)


def _ingest(context: Context) -> Stage:
    @cache
    def stage() -> Callable[[Task, Sequence[Example]], Output]:
        from pipeline.ingest import IngestStage

        settings = context.config.ingest
        return IngestStage(settings, context.dataset, context.encoder, context.pool(settings.max_steps), context.max_length)

    def run(task: Task) -> Output:
        return stage()(task, context.examples(task.part))

    sections = {"ingest": context.config.ingest, "prompt": context.identity()}
    return _stage("ingest", 1, sections, run, reads=("source", "databases"))


def _gold_score(context: Context, teacher: ModelSource) -> Stage:
    def run(task: Task) -> Output:
        from pipeline.score import gold_score

        return gold_score(context.config.score, context.tokens, context.engines.open(teacher), task)

    sections = {"score": context.config.score, "teacher": _model(context.config, teacher)}
    return _stage("gold_score", 1, sections, run, inputs=("ingest",))


def _mask(config: Config, views: int) -> Stage:
    by_confidence = config.mask.strategy in ("hard", "easy")

    def run(task: Task) -> Output:
        from pipeline.mask import mask

        output = mask(config.mask, task.tables["ingest"], task.tables.get("gold_score"), task.view)
        task.advance(output.table.num_rows)
        return output

    inputs = ("ingest", "gold_score") if by_confidence else ("ingest",)
    return _stage("mask", 1, {"mask": config.mask}, run, inputs=inputs, views=views)


def _predict(context: Context, views: int) -> Stage:
    predictor = context.predictor
    assert predictor is not None

    def run(task: Task) -> Output:
        from pipeline.predict import predict

        return predict(context.config.predict, context.tokens, context.engines.open(predictor), task)

    sections = {"predict": context.config.predict, "predictor": _model(context.config, predictor)}
    return _stage("predict", 2, sections, run, inputs=("ingest", "mask"), views=views)


def _rewrite(context: Context, views: int) -> Stage:
    def run(task: Task) -> Output:
        from pipeline.rewrite import rewrite

        return rewrite(context.decode, task)

    return _stage("rewrite", 1, {}, run, inputs=("ingest", "mask", "predict"), views=views)


def _outcome(context: Context, views: int) -> Stage:
    settings = context.config.outcome

    def run(task: Task) -> Output:
        from pipeline.outcome import OutcomeStage

        return OutcomeStage(context.dataset.database, context.pool(settings.max_steps))(task)

    return _stage("outcome", 1, {"outcome": settings}, run, inputs=("ingest", "rewrite"), reads=("databases",), views=views)


def _score(context: Context, teacher: ModelSource, views: int) -> Stage:
    def run(task: Task) -> Output:
        from pipeline.score import score

        return score(context.config.score, context.tokens, lambda: context.engines.open(teacher), task)

    sections = {"score": context.config.score, "teacher": _model(context.config, teacher)}
    return _stage("score", 1, sections, run, inputs=("gold_score", "rewrite"), views=views)


def _generate(context: Context, teacher: ModelSource) -> Stage:
    settings = context.config.generate

    def run(task: Task) -> Output:
        from pipeline.generate import generate

        engine, stops = context.engines.open(teacher), sorted({context.tokens.eos_id, *special_ids(context.tokenizer)})
        return generate(settings, stops, context.longest, context.decode, engine, task)

    sections = {"generate": settings, "teacher": _model(context.config, teacher)}
    return _stage("generate", 1, sections, run, inputs=("ingest",), views=settings.samples)


def _require_different_answers(config: Config) -> None:
    if config.generate.samples > 1 and config.generate.temperature == 0:
        raise KidpipeError(
            f"{config.generate.samples} greedy answers a prompt would all be the same",
            where="generate.samples",
            fix="set generate.temperature, such as 0.8",
        )


def _model(config: Config, model: ModelSource) -> dict[str, Any]:
    """A model's identity: its weights, and the precision they run in."""
    identity = {"weights": model.identity}
    if config.teacher.dtype != "auto":
        identity["dtype"] = config.teacher.dtype
    return identity
