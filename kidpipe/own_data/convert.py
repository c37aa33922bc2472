"""Rows, columns and databases in; a data folder in kidpipe's `jsonl` layout out, and what was found on the way."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kidcore.errors import KidpipeError
from kidcore.progress import WorkProgress
from kidcore.sql.answers import read_answer
from kidcore.sql.database import database_in, database_of
from kidcore.sql.sandbox.pool import SandboxPool
from kidcore.sql.statements import begins_statement
from kidpipe.own_data.columns import Columns
from kidpipe.own_data.databases import copy_databases, kind_of
from kidpipe.own_data.rows import Row
from kidpipe.own_data.split import split_rows

TRAIN, DEV, DATABASES = "train.jsonl", "dev.jsonl", "databases"


@dataclass(frozen=True)
class Converted:
    """What lies in the data folder now."""

    train: int
    dev: int
    databases: tuple[str, ...]
    left_out: Mapping[str, int]
    """Rows that are not in it, by reason."""
    failing: int
    """Gold SQL that does not execute: ingest will set those rows aside."""
    first_failure: str
    unwrapped: int
    """Gold SQL that stood in a code block or behind a label."""


def convert(
    rows: Sequence[Row], columns: Columns, databases: Mapping[str, Path], folder: Path, dev_share: float, bar: WorkProgress
) -> Converted:
    """Write `folder`: train.jsonl, dev.jsonl and databases/.

    Raises:
        KidpipeError: no row is of any use, with what the first ones lack.
    """
    faults = _faults(databases, bar)
    kept, left_out, unwrapped = _examples(rows, columns, databases, faults)
    if not kept:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "there are none"
        fix = "copy the database from its source again" if len(faults) == len(databases) else _fix(columns, left_out)
        raise KidpipeError(
            f"none of {len(rows)} rows can be used: {reasons}", where=f"databases: {', '.join(databases)}", fix=fix
        )
    used = sorted({row["db_id"] for row in kept})
    for name in bar.each("copy", used, len(used), "database"):
        copy_databases(databases, [name], folder / DATABASES)
    train, dev = split_rows(kept, dev_share)
    for name, part in ((TRAIN, train), (DEV, dev)):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part)
        (folder / name).write_bytes(text.encode("utf-8", "replace"))
    failures = _failures(kept, folder / DATABASES, bar)
    first = failures[0] if failures else ""
    return Converted(len(train), len(dev), tuple(used), dict(left_out), len(failures), first, unwrapped)


def _fix(columns: Columns, left_out: Counter[str]) -> str:
    reason = next((reason for reason, _count in left_out.most_common(1)), "")
    if found := re.match(r"with(?:out)? (?:a )?(SQL|question)\b", reason):
        what = found[1].lower()
        return f"column {getattr(columns, what)!r} was read; a column of plain texts is wanted: --{what}-column NAME"
    if columns.db:
        return f"column {columns.db!r} names the database of a row; name another with --db-column, or --database the folder"
    return "name the column that says which database a row is about: --db-column NAME"


def _examples(
    rows: Sequence[Row], columns: Columns, databases: Mapping[str, Path], faults: Mapping[str, str]
) -> tuple[list[Row], Counter[str], int]:
    only = next(iter(databases)) if len(databases) == 1 else ""
    left_out: Counter[str] = Counter()
    # A column names a database by its file as well as by the id that is made of the file's name.
    ids = {name: db_id for db_id, path in databases.items() for name in (path.name, path.stem)} | {x: x for x in databases}
    kept: list[Row] = []
    unwrapped = 0
    for row in rows:
        question, sql = _text(row, columns.question), _text(row, columns.sql)
        # With one database a column of that kind may hold anything, such as the name of a server.
        db_id = only or ids.get(named := _text(row, columns.db), named)
        texts = {"a question": columns.question, "SQL": columns.sql}
        odd = next((what for what, name in texts.items() if isinstance(row.get(name), list | dict)), "")
        reason = f"with {odd} that is a list or an object, not a text" if odd else ""
        reason = reason or ("without a question" if not question else "without SQL" if not sql else "")
        if not reason and db_id not in databases:
            reason = f"about a database that is not there ({db_id})" if db_id else "without the name of a database"
        elif not reason and db_id in faults:
            reason = f"about a database that can't be used ({faults[db_id]})"
        if reason:
            left_out[reason] += 1
            continue
        if not begins_statement(sql) and (inner := read_answer(sql)):
            unwrapped += inner != sql
            sql = inner
        example = {"question": question, "query": sql.rstrip("; \t\r\n"), "db_id": db_id}
        extras = {"evidence": _text(row, columns.evidence), "id": _text(row, columns.id)}
        kept.append(example | {name: value for name, value in extras.items() if value})
    doubles = [name for name, count in Counter(row["id"] for row in kept if "id" in row).items() if count > 1]
    if doubles:
        # An id that occurs twice is none.
        kept = [{name: value for name, value in row.items() if name != "id"} for row in kept]
    return kept, left_out, unwrapped


def _faults(databases: Mapping[str, Path], bar: WorkProgress) -> dict[str, str]:
    """What is wrong with those files that are no databases, or damaged ones, as a download that broke off leaves."""
    faults = {}
    for db_id, path in bar.each("databases", databases.items(), len(databases), "database"):
        try:
            # DuckDB's, which another program may have open, are copied unseen.
            if kind_of(path) == "sqlite":
                database_of(path).schema()
        except KidpipeError as error:
            faults[db_id] = error.what
    return faults


def _text(row: Row, name: str) -> str:
    value = row.get(name) if name else None
    # NaN is what columns of numbers have where there is nothing.
    return "" if value is None or value != value else str(value).strip()


def _failures(rows: Sequence[Row], databases: Path, bar: WorkProgress) -> list[str]:
    """Messages for gold SQL that does not execute."""
    jobs = []
    for db_id, sql in dict.fromkeys((row["db_id"], row["query"]) for row in rows):
        jobs.append(database_in(databases, db_id).job(sql, sql))
    with SandboxPool() as pool:
        results = bar.each("gold SQL", pool.run(jobs), len(jobs), "statement")
        return [f"{result.message or result.kind.value}: {result.key}" for result in results if not result.is_ok]
