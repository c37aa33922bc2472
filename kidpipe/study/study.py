"""`kidpipe compare`: a grid of methods, seeds and settings in; builds, runs, one Parquet and a table with intervals out."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from eval.evaluate import sandbox_limits
from kidcore.atomic import replacing
from kidcore.config import processes
from kidcore.config.config import Config, DataSettings, SandboxSettings
from kidcore.config.config_load import Loaded
from kidcore.config.settings import fingerprint
from kidcore.errors import KidpipeError
from kidcore.locks import hold
from kidcore.method.methods import require_objective
from kidcore.models.sources import resolve
from kidcore.sql.datasets import read
from kidcore.store.manifest import Manifest
from kidcore.store.stages import needs_start
from kidcore.store.store import Store
from kidpipe.commands.gc import STUDY_MANIFESTS
from kidpipe.commands.session import Session
from kidpipe.commands.shown_tables import print_table
from kidpipe.commands.train import prepare_run
from kidpipe.study.grid import ARM, SEED, Trial, make_arm_cells, make_cells
from kidpipe.study.runs import Run, run_all
from kidpipe.study.table import groups_of, rows_of, table_of
from kidpipe.study.trial import RESULT
from pipeline.build import build, finished_manifest, is_finished
from pipeline.context import Context, open_context
from pipeline.outline import Outline, split_parts
from train.student.student import check_student

ROWS, SUMMARY = "runs.parquet", "summary.json"
_RUNS = "runs"
"""Beside the comparisons, a folder for the runs of them all."""


def compare_grid(
    open_with: Callable[[Mapping[str, Any]], Session],
    axes: Mapping[str, Sequence[Any]],
    *,
    arms: Mapping[str, Mapping[str, Any]] | None = None,
    name: str,
    jobs: int,
    checkpoint: str,
    seed_masks: bool,
    only_finished: bool,
    as_json: bool,
) -> dict[str, Any]:
    """Run what is not finished, and write `compare/<name>/` in the store.

    Args:
        open_with: settings that are changed -> a session.
        axes: `section.field` -> values.
        arms: by name, settings of recipes that are no grid; of `axes` only the seeds count then.
        name: of the comparison.
        jobs: runs at a time.
        checkpoint: which of a run's two models is judged, best or last.
        seed_masks: let the seed draw masks and fills too.
        only_finished: train nothing; leave out what is not finished.

    Raises:
        KidpipeError: before anything runs, for what no run could go on with; after the table, where runs failed.
    """
    session = open_with({})
    files = Store(session.folder_of("compare", name))
    if name == _RUNS:
        raise KidpipeError(f"the runs of all comparisons lie in {_RUNS}", where="--name", fix="give the comparison another name")

    def resolve_settings(changes: Mapping[str, Any]) -> Config:
        return open_with(changes).config

    if arms is None:
        cells = make_cells(resolve_settings, axes, seed_masks=seed_masks)
    else:
        cells = make_arm_cells(resolve_settings, arms, axes[SEED])
    _check(session.store, cells, only_finished)
    # Of two under one name the first to end would drop the reference to what the other has yet to read. Looking waits for nobody.
    busy = "another comparison goes on under this name (--name gives this one its own)"
    with nullcontext() if only_finished else hold(files.root / ".lock", session.store.lock_kind, busy):
        runs = _run(session, files, cells, checkpoint, jobs, only_finished)
        if arms is not None:
            # They ran seed by seed; the first arm is the one that comes first in the file, whatever its seeds.
            order = list(arms)
            runs.sort(key=lambda run: order.index(run.cell.axes[ARM]))
        return _report(session, runs, files.root, as_json)


def _run(session: Session, files: Store, cells: Sequence[Trial], checkpoint: str, jobs: int, only_finished: bool) -> list[Run]:
    """Build and train what is not finished, or leave it out; every run with its result or error."""
    manifests = _find_all(session, cells) if only_finished else _build_all(session, files, cells)
    runs = _runs(session.store, cells, manifests, checkpoint, jobs)
    if only_finished:
        runs = _finished(runs)
    for one, other in _alike(runs):
        said = f"{one.cell.describe()} and {other.cell.describe()} are one run: what sets them apart decides no result of it"
        session.errors.print(f"{said}, and its seconds and memory are those of the first", soft_wrap=True)
    run_all(runs, jobs, lambda line: session.errors.print(line, soft_wrap=True))
    if not only_finished and all(run.result for run in runs):
        # What finished runs read, they refer to themselves.
        (files.root / STUDY_MANIFESTS).unlink(missing_ok=True)
    return runs


def _check(store: Store, cells: Sequence[Trial], only_finished: bool) -> None:
    """Open what each distinct build and run starts from, before the first expensive second."""
    for cell in cells:
        if not cell.config.train.student:
            raise KidpipeError("no student is named", where="train.student", fix="kidpipe compare --student MODEL")
        require_objective(cell.config.train)
    for settings in {(x.student, x.lora_rank, x.lora_targets): x for x in (cell.config.train for cell in cells)}.values():
        check_student(resolve(settings.student).path, settings)
    for cell in _builds(cells).values():
        _open(cell).close()
    for data in {cell.config.data for cell in cells}:
        read(data, "dev")
    if not only_finished:
        with store.lock():  # another build would fail every run of this comparison
            pass


def _builds(cells: Sequence[Trial]) -> dict[str, Trial]:
    return {cell.build: cell for cell in cells}


def _open(cell: Trial, **how: bool) -> Context:
    return open_context(cell.config, need_teacher=cell.until != "ingest", need_start=needs_start(cell.until), **how)


def _find_all(session: Session, cells: Sequence[Trial]) -> dict[str, tuple[str, str]]:
    """As `_build_all`, of builds that are finished. Holds no store, so that a comparison under way can be looked at."""
    found = {}
    for key, cell in _builds(cells).items():
        try:
            with closing(_open(cell, verbose=session.verbose)) as context:
                manifest = finished_manifest(context, session.store, cell.until)
            found[key] = (manifest.digest, "") if manifest else ("", "build: not finished")
        except KidpipeError as error:
            found[key] = ("", f"build: {error.what}")
    return found


def _build_all(session: Session, files: Store, cells: Sequence[Trial]) -> dict[str, tuple[str, str]]:
    """By build: the digest of its manifest, or what went wrong. Builds share their stages through the store.

    Args:
        files: the folder of the comparison, where it refers to the manifests of its runs before they start.
    """

    def keep(manifest: Manifest) -> None:
        known: list[str] = files.read_json(STUDY_MANIFESTS) or []
        files.write_json(STUDY_MANIFESTS, sorted({*known, manifest.digest}))

    builds = _builds(cells)
    found: dict[str, tuple[str, str]] = {}
    for number, (key, cell) in enumerate(builds.items(), start=1):
        with closing(_open(cell, may_ask=True, verbose=session.verbose)) as context:
            try:
                # A grid of finished builds would be a page of stages that are reused.
                progress = not session.is_silent and not is_finished(context, session.store, cell.until)
                result = build(context, session.store, until=cell.until, progress=progress, is_latest=False, keep=keep)
            except KidpipeError as error:
                found[key] = ("", f"build: {error.what}")
                continue
        found[key] = (result.manifest.digest, "")
        made, reused = sum(result.ran.values()), sum(result.reused.values())
        session.errors.print(f"build {number}/{len(builds)}  {made} shards made, {reused} reused", soft_wrap=True)
    return found


def _runs(
    store: Store, cells: Sequence[Trial], manifests: Mapping[str, tuple[str, str]], checkpoint: str, jobs: int
) -> list[Run]:
    """The request of every run. Its key names all that its figures follow from, so another comparison can use them."""
    digests = store.digests
    # Held-out questions may be an axis: runs of one student that are asked others are not one run.
    questions: dict[DataSettings, list[dict[str, Any]]] = {}
    runs = []
    for cell in cells:
        manifest, error = manifests[cell.build]
        name, identity = "", cell.describe()
        try:
            if not error:
                prepared = prepare_run(Session(Loaded(cell.config, {}), verbose=False), manifest)
                name, identity = prepared.name, fingerprint(prepared.identity)
        except KidpipeError as wrong:
            error = wrong.what
        if (data := cell.config.data) not in questions:
            asked = read(data, "dev")
            questions[data] = [dict(part.content) for part in split_parts(asked, Outline.of(asked.examples, 512), digests)]
        judged = [questions[data], cell.config.eval.identity(), cell.config.eval.limit, *_unusual_limits(cell.config)]
        key = fingerprint([identity, checkpoint, *judged], 16)
        request = {
            "config": _with_shared_cores(cell.config, jobs).model_dump(),
            "manifest": manifest,
            "run": name,
            "evaluation": f"{name}-{key[:6]}",
            "checkpoint": checkpoint,
        }
        runs.append(Run(cell, store.root / "compare" / _RUNS / key, {} if error else request, error))
    return runs


def _unusual_limits(config: Config) -> list[dict[str, Any]]:
    """Of the sandbox, those that decide verdicts and are not the default: with these, keys are what they always were."""
    usual = sandbox_limits(SandboxSettings())
    limits = {name: value for name, value in sandbox_limits(config.sandbox).items() if value != usual[name]}
    return [limits] if limits else []


def _alike(runs: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Rows that are one run, each with the first such: they differ in how it is computed alone, as with train.packing."""
    first: dict[Path, Run] = {}
    return [(one, run) for run in runs if not run.error and (one := first.setdefault(run.folder, run)) is not run]


def _finished(runs: Sequence[Run]) -> list[Run]:
    found = [run for run in runs if (run.folder / RESULT).is_file()]
    if not found:
        raise KidpipeError(f"none of these {len(runs)} runs is finished", where="--finished", fix="leave --finished out")
    return found


def _with_shared_cores(config: Config, jobs: int) -> Config:
    """Processes for each run's SQL, and loader workers, only as many as fit beside the other runs."""
    share = max(1, processes.usable_cores() // jobs)
    sql = {"workers": config.sandbox.workers or share}
    loader = {"loader_workers": 0} if config.train.loader_workers < 0 and share < 4 else {}
    update = {"sandbox": config.sandbox.model_copy(update=sql), "train": config.train.model_copy(update=loader)}
    return config.model_copy(update=update)


def _report(session: Session, runs: list[Run], out: Path, as_json: bool) -> dict[str, Any]:
    rows = rows_of(runs, session.store)
    groups = groups_of(runs, rows, session.store)
    _write_parquet(rows, out / ROWS)
    failed = [{"run": run.cell.describe(), "error": run.error, "log": str(run.folder)} for run in runs if run.error]
    summary = {"rows": str(out / ROWS), "runs": len(runs), "failed": failed, "groups": groups}
    Store(out).write_json(SUMMARY, summary)
    if as_json:
        session.print_json(summary)
    else:
        print_table(session.console, table_of(groups))
        session.console.print(f"{len(runs)} runs: {out / ROWS}")
    if failed:
        shown = "; ".join(f"{item['run']}: {item['error']}" for item in failed[:3])
        raise KidpipeError(
            f"{len(failed)} of {len(runs)} runs failed: {shown}",
            where=failed[0]["log"],
            fix="mend that and run the same command again: it does only what is missing",
        )
    return summary


def _write_parquet(rows: list[dict[str, Any]], path: Path) -> None:
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: _of_one_kind([row.get(name) for row in rows]) for name in names}
    with replacing(path) as temporary:
        pq.write_table(pa.table(columns), temporary, compression="zstd")


def _of_one_kind(values: list[Any]) -> list[Any]:
    """The values of a column, as text where it holds several kinds: a setting may be a number, true or "auto"."""
    kinds = {float if isinstance(value, int) and not isinstance(value, bool) else type(value) for value in values} - {type(None)}
    return values if len(kinds) < 2 else [None if value is None else str(value) for value in values]
