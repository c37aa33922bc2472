"""A context in, finished shards and a manifest out; whatever is finished already is reused."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kidcore.atomic import replacing
from kidcore.errors import KidpipeError
from kidcore.method.knowledge import GoldKnowledge
from kidcore.models.backends.select import require_known
from kidcore.models.sources import ModelSource
from kidcore.models.tokenizers import no_row
from kidcore.store.footers import FooterCounts
from kidcore.store.graph import Grid, Stage
from kidcore.store.kept_knowledge import keep_knowledge
from kidcore.store.knowledge import teacher_knowledge
from kidcore.store.makers import mixtures, read_summary, write_summary
from kidcore.store.manifest import Facts, Manifest, TeacherRecord, make_manifest, write_manifest
from kidcore.store.model_names import remember_model
from kidcore.store.prompts import prompt_folder
from kidcore.store.stages import STAGE_TABLE, needs_start
from kidcore.store.store import DamagedShard, Store
from pipeline.changed_inputs import remember_databases
from pipeline.context import Context
from pipeline.ledger import Ledger
from pipeline.serial import SerialRunner
from pipeline.stages import every_stage, stages
from pipeline.workers.wanted import engines_here, require_ray

_LOG = logging.getLogger(__name__)
# A shard found damaged while it is read is made again; the same one once more after that is the disk's fault, not an accident.
_MOST_REPAIRS = 2


@dataclass(frozen=True)
class BuildResult:
    """What a build did: `ran` and `reused` count shards by stage, `seconds` is wall time by stage."""

    manifest: Manifest
    ran: Mapping[str, int]
    reused: Mapping[str, int]
    seconds: Mapping[str, float]
    knowledge: GoldKnowledge | None
    """What the teacher thinks of gold; None where it did not score it."""


def build(
    context: Context,
    store: Store,
    *,
    until: str = "score",
    progress: bool = True,
    is_latest: bool = True,
    keep: Callable[[Manifest], None] | None = None,
) -> BuildResult:
    """Run what is stale, stage after stage, and write the manifest last.

    Args:
        is_latest: make it the manifest that training takes unless told otherwise.
        keep: called with the manifest while the store is still held, to refer to it before `gc` can look.

    Raises:
        KidpipeError: another driver holds the store, the disk is full, or an engine refuses; what is finished is kept.
    """
    graph = stages(context, until)
    with store.lock():
        store.remove_temporaries()
        _save_tokenizer(context, store)
        _save_prompts(context, store, graph[0])
        grid = Grid(graph, context.parts, store)
        _require_known_models(context, grid)
        # Where ingest is all that was asked for, its shards are listed all the same: people look there for reasons.
        check = (lambda: None) if until == "ingest" else (lambda: _require_rows(context, store, grid))
        with closing(_runner(grid, store, progress, context, check)) as runner:
            repairs: Counter[tuple[str, str]] = Counter()
            while True:
                try:
                    runner.run()
                    listed, manifest, knowledge = _take_stock(runner, context, store, is_latest=is_latest)
                    break
                except DamagedShard as damage:
                    _repair(store, runner.grid, damage, repairs)
        write_manifest(store, manifest, is_latest=is_latest)
        _remember_models(context, store, until)
        if keep is not None:
            keep(manifest)
        if is_latest:
            keep_knowledge(store, manifest, knowledge)
            remember_databases(context, store, manifest.digest)
            for mixture in _remember_makers(listed, store, manifest.digest, is_same=not runner.ledger.ran.total()):
                _LOG.warning("%s (kidpipe status)", mixture)
    if until == "ingest":
        _require_rows(context, store, grid)
    ledger = runner.ledger
    return BuildResult(manifest, dict(ledger.ran), dict(ledger.reused), dict(ledger.seconds), knowledge)


def is_finished(context: Context, store: Store, until: str) -> bool:
    """Whether a build up to this stage has nothing to make. Reads alone: another may hold the store."""
    return _finished_grid(context, store, until) is not None


def finished_manifest(context: Context, store: Store, until: str) -> Manifest | None:
    """What a build up to this stage would refer to, if nothing of it is missing. Reads alone: another may hold the store."""
    grid = _finished_grid(context, store, until)
    return None if grid is None else make_manifest(grid, store, _facts(context))


def _finished_grid(context: Context, store: Store, until: str) -> Grid | None:
    grid = Grid(stages(context, until), context.parts, store)
    return grid if all(map(grid.is_finished, grid.stages)) else None


def _repair(store: Store, grid: Grid, damage: DamagedShard, repairs: Counter[tuple[str, str]]) -> None:
    """Set a damaged shard aside, so that it is made anew; `repairs` counts how often each was. Raises KidpipeError."""
    shard = damage.shard
    store.set_aside(shard)
    grid.drop(shard)
    repairs[shard.stage, shard.key] += 1
    if repairs[shard.stage, shard.key] > _MOST_REPAIRS:
        raise KidpipeError(
            f"a shard is damaged as fast as it is made: {damage.why}", where=str(store.path(shard)), fix="check the disk"
        )


def _require_known_models(context: Context, grid: Grid) -> None:
    """Refuse a kind of model that the engine does not know, or a token that it has no row for, before ingest, not behind it."""
    models = {"teacher": context.teacher, "predictor": context.predictor, "start": context.start}
    asking = [(stage.name, role) for stage in grid.stages if (role := STAGE_TABLE[stage.name].model) and grid.asks(stage)]
    for role in sorted({role for _name, role in asking}):
        if (model := models[role]) is not None:
            require_known(model, context.config.engine)
            end, mask = context.end_and_mask
            _require_row(context, model, end, "eos_token in tokenizer_config.json")
            if ("predict", role) in asking:
                _require_row(context, model, mask, "predict.mask_token")


def _require_row(context: Context, model: ModelSource, index: int, setting: str) -> None:
    # A server's tokenizer is what says how many rows its model has.
    if model.served is None and index >= model.vocab_size:
        raise no_row(context.tokenizer, index, model.vocab_size, setting)


class _Runner(Protocol):
    """What makes the missing shards of a grid."""

    grid: Grid
    ledger: Ledger

    def run(self) -> None: ...

    def close(self) -> None: ...


def _take_stock(
    runner: _Runner, context: Context, store: Store, *, is_latest: bool
) -> tuple[Grid, Manifest, GoldKnowledge | None]:
    """Of what is finished: what is listed, its manifest, and what the teacher thinks of gold. Raises DamagedShard."""
    # A comparison's names what its runs read, whatever else was built before: the same for the same command.
    # What was made meanwhile may have been made twice, and the store says which of two is taken.
    known = None if runner.ledger.ran.total() else runner.grid
    listed = _finished(context, store, known) if is_latest else runner.grid
    manifest = make_manifest(listed, store, _facts(context))
    return listed, manifest, teacher_knowledge(store, manifest)


def _remember_models(context: Context, store: Store, until: str) -> None:
    for model in (context.teacher, context.predictor, context.start if needs_start(until) else None):
        if model is not None:
            remember_model(store, model.identity, model.name)


def _runner(grid: Grid, store: Store, progress: bool, context: Context, check: Callable[[], None]) -> _Runner:
    engine = context.config.engine
    stale = [stage for stage in grid.stages if not grid.is_finished(stage)]  # without any there is nothing to start for
    is_served = context.teacher is not None and context.teacher.served is not None
    asks_models = not is_served and any(STAGE_TABLE[stage.name].model and grid.asks(stage) for stage in stale)
    if not stale or (not engine.ray and engines_here(engine, asks_models=asks_models) == 1):
        return SerialRunner(grid, store, progress, context, check)
    require_ray(engine.ray, verbose=context.verbose)
    # Ray is optional, and takes a third of a second to load.
    from pipeline.workers.crew import parallel_runner

    return parallel_runner(grid, store, progress, context, check)


def _require_rows(context: Context, store: Store, grid: Grid) -> None:
    """Refuse to go on where ingest set every example aside: no engine is to start for nothing."""
    footers = FooterCounts(store)
    reasons: Counter[str] = Counter()
    for cell in grid.cells(grid.stages[0]):
        assert cell.shard is not None, "ingest is not finished"
        counts = footers.of(cell.shard)
        if counts["out"]:
            return
        reasons.update(counts.get("set_aside", {}))
    said = ", ".join(f"{number:,} {reason}" for reason, number in reasons.most_common())
    data = context.config.data
    raise KidpipeError(
        f"all {reasons.total():,} examples were set aside: {said}",
        where=f"examples of {Path(data.path)}, databases of {context.dataset.databases}",
        fix="mend what the reasons name; kidpipe build-imperfect --until ingest, then "
        'kidpipe query "select example_id, reason from ingest" shows each',
    )


def _finished(context: Context, store: Store, known: Grid | None) -> Grid:
    """What the manifest names: every stage that is finished under this configuration, whichever build finished it.

    So a build that stops early, or makes the teacher's answers only, leaves the rest where its readers find it.
    """
    whole = Grid(every_stage(context), context.parts, store, known)
    return Grid([stage for stage in whole.stages if whole.is_finished(stage)], context.parts, store, whole)


def _remember_makers(listed: Grid, store: Store, digest: str, *, is_same: bool) -> list[str]:
    """Keep what made the manifest's shards, unless these `is_same` as before and it is kept; what is to be said of it."""
    if is_same and (kept := read_summary(store, digest)):
        return mixtures(kept)
    shards = {
        stage.name: [cell.shard for cell in listed.cells(stage) if cell.shard is not None and cell.state == "done"]
        for stage in listed.stages
    }
    return write_summary(store, digest, shards)


def _facts(context: Context) -> Facts:
    teacher = context.teacher
    eos_id, mask_id = context.end_and_mask
    return Facts(
        eos_id=eos_id,
        mask_id=mask_id,
        tokenizer=context.identity()["tokenizer"],
        max_tokens=context.longest,
        views=context.config.mask.views,
        teacher=TeacherRecord(teacher.identity, teacher.vocab_size) if teacher else None,
    )


def _save_tokenizer(context: Context, store: Store) -> None:
    """Keep the tokenizer beside the shards: training checks the student's against it without the teacher."""
    folder = store.root / "tokenizers" / context.identity()["tokenizer"]
    if not folder.exists():
        with replacing(folder) as temporary:
            context.tokenizer.save_pretrained(temporary)


def _save_prompts(context: Context, store: Store, ingest: Stage) -> None:
    """Keep the definition of the prompts: a student is saved with it, so that it is asked as it was trained."""
    folder = prompt_folder(store, ingest.resolved)
    if not folder.exists():
        with replacing(folder) as temporary:
            context.prompts.save(temporary)
