"""`kidpipe ask` and `kidpipe prompt`: a question, a database file and a model in; SQL, its rows or the prompt out."""

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.text import Text

from eval.generate import answer_questions
from kidcore.errors import KidpipeError
from kidcore.models.backends.base import Backend
from kidcore.models.backends.select import open_backend
from kidcore.models.prompts import Prompt, PromptBuilder
from kidcore.models.sources import resolve
from kidcore.sql.database import database_of
from kidcore.sql.sandbox.duckdb_values import untagged
from kidcore.sql.sandbox.job import Limits, QueryResult
from kidcore.sql.sandbox.pool import SandboxPool
from kidcore.sql.text_files import visible
from kidpipe.commands.prompts import builder_of_model
from kidpipe.commands.session import Session, text_table
from kidpipe.commands.which_model import find_model

_ROWS_SHOWN = 50


def show_prompt(session: Session, question: str, database: Path, model: str, *, evidence: str, as_json: bool) -> None:
    """Print the prompt of a question, or without one the schema alone: what a system message is to carry."""
    _require_readable(database)
    builder = builder_of_model(session, resolve(find_model(session, model)).path)
    view = builder.view(database, database.stem)
    schema = builder.definition.template.schema(view)
    if not question and not as_json:
        sys.stdout.write(schema)
        return
    prompt = _build(builder, database, question, evidence)
    if as_json:
        messages = [{"role": "system", "content": schema}, {"role": "user", "content": question}]
        session.print_json(
            {
                "text": prompt.text,
                "token_ids": prompt.ids,
                "schema_tokens": prompt.schema_tokens,
                "tables_left_out": list(prompt.left_out),
                "messages": messages,
            }
        )
    else:
        sys.stdout.write(prompt.text)


def ask(
    session: Session, question: str, database: Path, model: str, *, evidence: str, run: bool, as_json: bool
) -> list[dict[str, object]]:
    """Answer one question, or those that are typed until the input ends.

    Raises:
        KidpipeError: the question can't be answered; where several are typed, once all the others are.
    """
    config = session.config
    _require_readable(database)
    _require_text(evidence, "the evidence")
    if question and not question.strip():
        raise KidpipeError("the question is empty", fix="kidpipe ask QUESTION, or without one for questions line by line")
    # The name of a model is one word, and what is too long for a name can't be looked for.
    if not model and len(question.split()) == 1 and len(question) < 200:
        _refuse_model_as_question(session, question, database)
    source = resolve(find_model(session, model), digests=session.store.digests)
    builder = builder_of_model(session, source.path)
    builder.view(database, database.stem)  # a database that can't be read is said before the model loads
    longest = builder.definition.max_prompt_tokens + config.eval.max_new_tokens
    backend = open_backend(
        source.path, config.engine, config.eval.dtype, max_top_k=1, max_length=longest, verbose=session.verbose
    )
    answers: list[dict[str, object]] = []
    unanswered = 0
    try:
        for asked in [question] if question else _typed():
            try:
                sql = _answer(session, backend, builder, database, asked, evidence)
            except KidpipeError as error:
                if question:
                    raise
                unanswered += 1
                answers.append({"question": asked, "error": str(error)})
                if not as_json:
                    session.errors.print(f"error: {error}")
                continue
            result = _execute(session, database, sql) if run else None
            answers.append({"question": asked, "sql": sql, **(_as_json(result) if result else {})})
            if not as_json:
                _show(session, sql, result)
    finally:
        backend.close()
    if not answers:
        raise KidpipeError("no question was given, and the input holds none", fix="kidpipe ask QUESTION --db FILE")
    if as_json:
        session.print_json(answers[0] if question else answers)
    if unanswered:
        raise KidpipeError(f"{unanswered} of {len(answers)} questions could not be answered")
    return answers


def _require_readable(path: Path) -> None:
    """Refuse a file that isn't there or is no database, in the words of the option that named it."""
    fault = database_of(path).fault
    if fault:
        raise KidpipeError(fault.what, where=str(path), fix="name a SQLite or DuckDB file: --db FILE")


def _refuse_model_as_question(session: Session, text: str, database: Path) -> None:
    """A run or a model folder where the question belongs: the newest run would answer its name."""
    places = (session.store.root / "runs" / text, Path(text))
    if any((place / name).exists() for place in places for name in ("config.json", "best")):
        given = shlex.join([text, "--db", str(database)])
        raise KidpipeError(
            f"{text} is a model, and the question stands before it",
            fix=f"kidpipe ask QUESTION {given}, or kidpipe ask '' {given} for questions line by line",
        )


def _typed() -> Iterator[str]:
    """The lines of the input; a prompt sign where a person types them."""
    while True:
        try:
            line = input("question> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        if line.strip():
            yield line.strip()


def _answer(session: Session, backend: Backend, builder: PromptBuilder, database: Path, question: str, evidence: str) -> str:
    prompt = _build(builder, database, question, evidence, backend.max_length - 1)
    longest, dialect = session.config.eval.max_new_tokens, database_of(database).dialect
    (sql,) = answer_questions(backend, builder.tokenizer, [prompt.ids], longest, dialect)
    return sql


def _build(builder: PromptBuilder, database: Path, question: str, evidence: str, longest: int = 1 << 30) -> Prompt:
    _require_text(question, "the question")
    _require_text(evidence, "the evidence")
    limit = min(builder.definition.max_prompt_tokens, longest)
    prompt = builder.build(database, database.stem, question, evidence, limit=limit)
    if len(prompt.ids) > limit:
        raise KidpipeError(
            f"the prompt has {len(prompt.ids)} tokens, the model was trained on up to {limit}",
            where=str(database),
            fix="train with a larger ingest.max_prompt_tokens, or with ingest.fit = 'tables'",
        )
    return prompt


def _require_text(text: str, name: str) -> None:
    """Refuse bytes of another encoding, which Python keeps as halves of characters and no tokenizer takes."""
    if visible(text) != text:
        raise KidpipeError(f"{name} is not UTF-8 text", where=visible(text)[:80], fix="give it in UTF-8")


def _execute(session: Session, database: Path, sql: str) -> QueryResult:
    sandbox = session.config.sandbox
    limits = Limits(timeout_s=sandbox.timeout_s, memory_mib=sandbox.memory_mib, max_steps=session.config.eval.max_steps)
    with SandboxPool(limits, workers=1) as pool:
        return pool.execute(database_of(database).job(sql))


def _as_json(result: QueryResult) -> dict[str, object]:
    if not result.is_ok:
        return {"outcome": result.kind.value, "message": result.message}
    return {
        "outcome": "ok",
        "columns": [visible(name) for name in result.columns],
        "rows": [[_plain(untagged(value)) for value in row] for row in result.rows],
    }


def _plain(value: object) -> object:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value if value is None or isinstance(value, (int, float, str)) else str(value)


def _show(session: Session, sql: str, result: QueryResult | None) -> None:
    print(sql)
    if not sql:
        session.errors.print("the model's answer holds no SQL")
        return
    if result is None:
        return
    if not result.is_ok:
        session.errors.print(f"{result.kind.value}: {result.message}")
        return
    table = text_table("", {})
    for name in result.columns:
        table.add_column(Text(visible(name)), overflow="fold")
    for row in result.rows[:_ROWS_SHOWN]:
        table.add_row(*(Text("NULL" if value is None else str(untagged(value))) for value in row))
    session.console.print(table)
    more = f", the first {_ROWS_SHOWN} shown" if result.num_rows > _ROWS_SHOWN else ""
    session.console.print(f"{result.num_rows} row{'s' if result.num_rows != 1 else ''}{more}")
