"""Column names and rows in, which column holds what out: named by the user, or guessed from the usual names and shown."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kidcore.errors import KidpipeError
from kidpipe.own_data.rows import Row

# The usual names, likeliest first; letter case and punctuation are of no account.
USUAL: Mapping[str, tuple[str, ...]] = {
    "question": (
        "question", "nlquestion", "naturallanguagequestion", "nl", "utterance", "nlquery", "naturallanguage", "userquestion",
        "questiontext", "naturallanguagequery", "sqlprompt", "text", "prompt", "input", "instruction", "request", "usermessage",
    ),
    "sql": (
        "query", "sql", "goldsql", "sqlquery", "sqlstatement", "sqlcode", "groundtruthsql", "correctsql", "gold", "goldquery",
        "groundtruth", "target", "answer", "output", "completion", "response", "label", "assistantmessage",
    ),
    "db": ("dbid", "database", "databaseid", "databasename", "dbname", "db", "schemaid"),
    "evidence": ("evidence", "hint", "externalknowledge", "knowledge"),
    "id": ("questionid", "exampleid", "id"),
}  # fmt: skip
REQUIRED = ("question", "sql")
CREATES = re.compile(r"\bCREATE\s+TABLE\b", re.IGNORECASE)
"""Where the statements of a schema begin."""
_LOOKED_AT = 100
"""Rows that tell which column holds schemas."""


@dataclass(frozen=True)
class Columns:
    """The name of the column of each thing; empty where there is none."""

    question: str
    sql: str
    db: str = ""
    evidence: str = ""
    id: str = ""
    schema: str = ""
    """CREATE TABLE statements, told by what it holds, not by its name."""


Ask = Callable[[str, Sequence[str]], str]
"""What is wanted and the columns there are in, a column's name out."""


def choose_columns(rows: Sequence[Row], named: Mapping[str, str], ask: Ask | None = None) -> Columns:
    """Pick the columns.

    Args:
        named: what the user says, by `question`, `sql`, `db`, `evidence`, `id`, `schema`; empty texts are guessed.
        ask: asks for what cannot be guessed; None where nobody is there to answer.

    Raises:
        KidpipeError: a named column is not there, or question or SQL cannot be guessed.
    """
    known = list(dict.fromkeys(name for row in rows for name in row))
    chosen = {what: name for what, name in named.items() if name}
    for what, name in chosen.items():
        if name not in known:
            raise KidpipeError(f"there is no column {name!r}", where=f"--{what}-column", fix=f"columns: {', '.join(known)}")
    chosen.setdefault("schema", _schemas(rows, [name for name in known if name not in chosen.values()]))
    for what, usual in USUAL.items():
        if what in chosen:
            continue
        plain = {_plain(name): name for name in reversed(known) if name not in chosen.values()}
        chosen[what] = next((plain[name] for name in usual if name in plain), "")
        if not chosen[what] and what in REQUIRED and ask is not None and known:
            chosen[what] = ask("SQL" if what == "sql" else what, known)
        elif not chosen[what] and what in REQUIRED:
            raise KidpipeError(
                f"no column looks like the {'SQL' if what == 'sql' else what}",
                where=f"columns: {', '.join(known) or 'none'}",
                fix=f"name it: --{what}-column NAME",
            )
    return Columns(**chosen)


def _schemas(rows: Sequence[Row], names: Sequence[str]) -> str:
    """The column that holds CREATE TABLE statements in most of the first rows; empty where none does."""
    first = rows[:_LOOKED_AT]
    return next((name for name in names if 2 * sum(bool(CREATES.search(str(row.get(name)))) for row in first) > len(first)), "")


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).lower()
