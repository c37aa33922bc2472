"""`kidpipe init`: a commented kidpipe.toml, and a data folder made from a table of questions and its databases."""

import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.prompt import Prompt

from kidcore.config.config import DataSettings
from kidcore.config.config_load import find_file, template
from kidcore.errors import KidpipeError
from kidcore.progress import WorkProgress
from kidcore.sql.datasets import locate, refuse_file
from kidpipe.commands.session import Session
from kidpipe.own_data.columns import Columns, choose_columns
from kidpipe.own_data.convert import Converted, convert
from kidpipe.own_data.databases import find_databases
from kidpipe.own_data.rows import Row, read_rows
from kidpipe.own_data.schemas import NAME, make_databases

_NEW_PROJECT: dict[str, object] = {"ingest.chat": "auto"}
"""Away from the defaults, which older stores were built with."""
# Estimated from the memory of a step (weights, gradients, two moments, activations per token), not measured on each machine.
PRESETS: Mapping[str, Mapping[str, object]] = {
    "laptop": {
        "ingest.max_prompt_tokens": 1024,
        "mask.views": 1,
        "score.top_k": 32,
        "train.batch_size": 16,
        "train.pack_tokens": 1024,
    },
    "gpu-8gb": {
        "train.lora_rank": 16,
        "train.pack_tokens": 2048,
        "train.gradient_checkpointing": True,
        "engine.gpu_memory": 0.8,
    },
    "gpu-24gb": {"train.pack_tokens": 8192, "engine.batch_tokens": 16384},
}


@dataclass(frozen=True)
class OwnData:
    """Where a user's own data lies, as the options say it."""

    questions: str
    database: Path | None
    """None: a column holds the CREATE TABLE statements of each row's."""
    columns: Mapping[str, str]
    """Column names by `question`, `sql`, `db`, `evidence`, `id`, `schema`; empty ones are guessed."""
    dev_share: float
    folder: Path
    """The data folder to make."""


def init(
    session: Session,
    path: Path,
    flags: Mapping[str, object],
    *,
    force: bool,
    preset: str = "",
    own: OwnData | None = None,
    as_json: bool = False,
) -> None:
    """Write `path`; with `own` data, its folder first.

    Raises:
        KidpipeError: something would be written over, or the data is of no use; nothing is written then.
    """
    if path.is_dir():
        raise KidpipeError(f"{path} is a folder, and init writes a file", fix=f"kidpipe init --data {path}, for a folder of data")
    if path.exists() and not force:
        raise KidpipeError(f"{path} exists", fix="kidpipe init --force writes over it")
    if data := flags.get("data.path"):
        refuse_file(Path(str(data)).expanduser())
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = dict(_preset(preset)) | {name: _from(path.parent, value) for name, value in flags.items()}
    if own is None:
        path.write_text(template(settings), encoding="utf-8")
        warning = _lacking(flags)
        said = {"settings": str(path), "next": _next(path, settings)} | ({"warning": warning} if warning else {})
        _say(session, said, as_json, [*([f"warning     {warning}"] if warning else []), _written(path, settings)])
        return
    if own.folder.exists() and any(own.folder.iterdir()) and not force:
        raise KidpipeError(f"{own.folder} is there already", where="--out", fix="name another folder, or --force writes into it")
    rows, origin = read_rows(own.questions)
    if not rows:
        raise KidpipeError("there are no questions: not one row", where=origin, fix="a row needs a question and its SQL")
    columns = choose_columns(rows, own.columns, _ask if sys.stdin.isatty() and not as_json else None)
    with session.progress() as bar:
        made, columns, empty = _make(rows, columns, own, bar)
    settings |= {"data.path": _below(own.folder, path.parent), "data.layout": "jsonl"}
    path.write_text(template(settings), encoding="utf-8")
    report: dict[str, object] = {
        "settings": str(path),
        "data": str(own.folder),
        "read": origin,
        "columns": asdict(columns),
        "empty_databases": empty,
        **asdict(made),
    }
    _say(
        session,
        report | {"next": _next(path, settings)},
        as_json,
        [*_lines(own, origin, columns, made, empty), _written(path, settings)],
    )


def _lacking(flags: Mapping[str, object]) -> str:
    """What the folder of data lacks for its layout, if it is there already; building would say so first."""
    data = {name.removeprefix("data."): value for name, value in flags.items() if name.startswith("data.")}
    if "path" not in data or not Path(str(data["path"])).expanduser().is_dir():
        return ""
    try:
        locate(DataSettings.model_validate(data), "train")
    except KidpipeError as error:
        return f"{error.what}; {error.fix}"
    return ""


def _make(rows: Sequence[Row], columns: Columns, own: OwnData, bar: WorkProgress) -> tuple[Converted, Columns, int]:
    """The data folder; with it the columns that were read, and how many databases have no rows."""
    if own.database is not None:
        databases = find_databases(own.database.expanduser())
        with _all_or_nothing(own.folder):
            return convert(rows, columns, databases, own.folder, own.dev_share, bar), replace(columns, schema=""), 0
    if not columns.schema:
        raise KidpipeError(
            "--database is missing, and no column holds CREATE TABLE statements to make databases of",
            where="--questions",
            fix="kidpipe init --questions q.csv --database shop.sqlite, or --schema-column NAME",
        )
    with TemporaryDirectory(prefix="kidpipe-init-") as place, _all_or_nothing(own.folder):
        found = make_databases(rows, columns.schema, Path(place), bar)
        made = convert(found.rows, replace(columns, db=NAME), found.databases, own.folder, own.dev_share, bar)
    return replace(made, left_out={**found.left_out, **made.left_out}), replace(columns, db=""), found.empty


@contextmanager
def _all_or_nothing(folder: Path) -> Iterator[None]:
    """A folder to fill; where that fails it is not left behind to refuse the next try, unless it was there before."""
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _ask(what: str, columns: Sequence[str]) -> str:
    return Prompt.ask(f"Which column holds the {what}?", choices=list(columns))


def _preset(name: str) -> Mapping[str, object]:
    if name and name not in PRESETS:
        raise KidpipeError(f"there is no preset {name}", where="--preset", fix=f"one of {', '.join(PRESETS)}")
    return PRESETS.get(name, {})


def _from(base: Path, value: object) -> object:
    """A folder that was named from here, as the settings file names it: paths in that file are relative to it."""
    here = Path(str(value)).expanduser()
    return _below(here, base) if here.exists() and not here.is_absolute() else value


def _below(folder: Path, base: Path) -> str:
    """The folder as the settings file says it: relative to where that file lies, if it lies below."""
    whole, start = folder.absolute(), base.absolute()
    return str(whole.relative_to(start)) if whole.is_relative_to(start) else str(whole)


def _lines(own: OwnData, origin: str, columns: Columns, made: Converted, empty: int) -> list[str]:
    guessed = [f"{what} from column {name!r}" for what, name in asdict(columns).items() if name and not own.columns.get(what)]
    lines = [f"read        {origin}"]
    if guessed:
        lines.append(f"guessed     {', '.join(guessed)} (--question-column, --sql-column and the like name others)")
    databases = "1 database" if len(made.databases) == 1 else f"{len(made.databases)} databases"
    lines.append(f"data        {own.folder}: {made.train:,} to train on, {made.dev:,} held out; {databases}")
    lines += [f"left out    {count:,} rows {reason}" for reason, count in made.left_out.items()]
    if empty:
        lines.append(
            f"databases   {empty:,} have no rows: there wrong SQL gives gold's empty result too, and verdicts say little"
        )
    if made.unwrapped:
        lines.append(f"gold SQL    {made.unwrapped:,} texts were read out of code blocks or from behind labels")
    if made.failing:
        lines.append(f"gold SQL    {made.failing:,} texts do not execute and will be set aside, such as: {made.first_failure}")
    if not made.dev:
        lines.append("held out    nothing: kidpipe eval will have no questions (--dev-share 0.1)")
    return lines


def _written(path: Path, settings: Mapping[str, object]) -> str:
    missing = [name for name in ("teacher.model", "train.student", "data.path") if not settings.get(name)]
    first = f"wrote {path}" + (f": set {', '.join(missing)}" if missing else "")
    return f"{first}\nnext        {_next(path, settings)}"


def _next(path: Path, settings: Mapping[str, object]) -> str:
    teacher = "" if settings.get("teacher.model") else " --teacher MODEL"
    found = find_file()
    # A file of another name, or in another folder, is not found by itself.
    config = "" if found is not None and found.resolve() == path.resolve() else f" --config {shlex.quote(str(path))}"
    return f"kidpipe build-imperfect{config}{teacher}"


def _say(session: Session, report: Mapping[str, object], as_json: bool, lines: list[str]) -> None:
    if as_json:
        session.print_json(report)
        return
    for text in lines:
        session.console.print(text, soft_wrap=True)
