"""`kidpipe eval`: a model in, execution accuracy on the held-out questions out."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from kidpipe.commands.session import Session
from kidpipe.config import IngestSettings
from kidpipe.digests import FileDigests
from kidpipe.errors import KidpipeError
from kidpipe.readers import DataSet, read

if TYPE_CHECKING:
    from eval.generate import Predictions


def evaluate(session: Session, model: str, *, name: str, as_json: bool, quiet: bool = False) -> dict[str, Any]:
    """Generate, execute, compare; verdicts and summary go to eval/<name> in the store."""
    from eval.databases import Databases
    from eval.evaluate import evaluate as judge
    from eval.report import tables

    folder = find_model(session, model)
    config = session.config
    dataset = read(config.data, "dev")
    out = session.store.root / "eval" / (name or _name_of(session, folder))
    with Progress(
        TextColumn("{task.description:<11}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=session.errors,
        disable=as_json or not session.errors.is_terminal,
        transient=True,
    ) as bar:
        predictions = _generate(session, folder, dataset, _ticker(bar, "generate"))
        result = judge(
            dataset.examples,
            predictions.sql,
            Databases(dataset.database),
            config.eval,
            out,
            reasons=predictions.reasons,
            notes={"model": str(folder), "data": config.data.path},
            progress=_ticker(bar, "execute"),
        )
    if as_json:
        session.print_json(result.summary | {"folder": str(out)})
    elif not quiet:
        for table in tables(result.summary, f"{folder} on {len(result.verdicts)} questions"):
            session.console.print(table)
        session.console.print(f"verdicts    {out / 'verdicts.parquet'}")
    return result.summary


def _generate(session: Session, folder: str, dataset: DataSet, tick: Callable[[int, int], None]) -> "Predictions":
    from eval.generate import generate
    from kidpipe.backends.select import open_backend
    from kidpipe.models import resolve
    from kidpipe.tokenizers import load

    source = resolve(folder, digests=FileDigests(session.store.root / "digests.json"))
    settings, config = ingest_settings(session, source.path), session.config
    examples = dataset.examples[: config.eval.limit] if config.eval.limit else dataset.examples
    longest = settings.max_prompt_tokens + config.eval.max_new_tokens
    backend = open_backend(
        source.path, config.engine, config.train.dtype, max_top_k=1, max_length=longest, verbose=session.verbose
    )
    try:
        return generate(
            backend, load(source.path), examples, dataset.database, settings, config.eval.max_new_tokens, progress=tick
        )
    finally:
        backend.close()


def find_model(session: Session, model: str) -> str:
    """The folder or Hub name that `model` means: a run of this store, a folder, a Hub name, or the newest finished run."""
    runs = session.store.root / "runs"
    if model:
        return str(runs / model / "best") if (runs / model / "best").is_dir() else model
    finished = sorted(runs.glob("*/best"), key=lambda path: path.stat().st_mtime_ns)
    if not finished:
        raise KidpipeError("no model is named, and no run here is finished", fix="kidpipe eval MODEL")
    return str(finished[-1])


def _name_of(session: Session, folder: str) -> str:
    path = Path(folder)
    known = path.parent.name if path.name in ("best", "last") and path.parent.parent == session.store.root / "runs" else folder
    return re.sub(r"[^\w.-]+", "-", known).strip("-.")


def ingest_settings(session: Session, model: Path) -> IngestSettings:
    """How the model's prompts were made: as its run's manifest says, else as the configuration does."""
    run = session.store.read_json(f"runs/{model.parent.name}/manifest.json")
    manifest = session.store.read_json(f"manifests/{run['digest']}.json") if run else None
    if manifest is None:
        return session.config.ingest
    recorded = manifest["stages"]["ingest"]["settings"]
    return IngestSettings.model_validate(
        {key.removeprefix("ingest."): value for key, value in recorded.items() if key.startswith("ingest.")}
    )


def _ticker(bar: Progress, name: str) -> Callable[[int, int], None]:
    """A (done, total) callback that moves a line of its own."""
    task = bar.add_task(name, total=None)
    return lambda done, total: bar.update(task, completed=done, total=total)
