"""`kidpipe init`: options in, a call of the command's body out. `cli` puts it among the others."""

from pathlib import Path
from typing import Annotated

import typer

from kidcore.errors import KidpipeError
from kidpipe.cli_options import DataOption, JsonOption, LayoutOption, StudentOption, TeacherOption, load_body


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("init")(init)


def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("kidpipe.toml"),
    force: Annotated[bool, typer.Option("--force", help="Write over what is there.")] = False,
    teacher: TeacherOption = None,
    student: StudentOption = None,
    data: DataOption = None,
    layout: LayoutOption = None,
    preset: Annotated[str, typer.Option("--preset", help="Settings for a machine: laptop, gpu-8gb or gpu-24gb.")] = "",
    questions: Annotated[
        str | None,
        typer.Option("--questions", help="Your questions with SQL: csv, json, jsonl, parquet, or a Hugging Face data set."),
    ] = None,
    database: Annotated[
        Path | None, typer.Option("--database", help="The SQLite or DuckDB file that --questions are about, or a folder of them.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Data folder to make from --questions.")] = Path("data"),
    dev_share: Annotated[float, typer.Option("--dev-share", min=0, max=0.9, help="Share of --questions to hold out.")] = 0.1,
    question_column: Annotated[str, typer.Option("--question-column", help="Column of the question; default guessed.")] = "",
    sql_column: Annotated[str, typer.Option("--sql-column", help="Column of the gold SQL; default guessed.")] = "",
    db_column: Annotated[str, typer.Option("--db-column", help="Column of the database's name; default guessed.")] = "",
    evidence_column: Annotated[str, typer.Option("--evidence-column", help="Column of hints; default guessed.")] = "",
    schema_column: Annotated[
        str, typer.Option("--schema-column", help="Without --database: column of CREATE TABLE statements; default guessed.")
    ] = "",
    id_column: Annotated[str, typer.Option("--id-column", help="Column of ids; default guessed.")] = "",
    json: JsonOption = False,
) -> None:
    """Write a commented kidpipe.toml and, from your own questions and databases, the data folder it names.

    Example: kidpipe init --data spider --teacher Qwen/Qwen2.5-Coder-7B --student Qwen/Qwen2.5-Coder-0.5B

    Example: kidpipe init --questions q.csv --database shop.sqlite
    """
    if questions is None and database is not None:
        raise KidpipeError(
            "--questions is missing: questions and the databases they are about go together",
            fix="kidpipe init --questions q.csv --database shop.sqlite",
        )
    if database is not None and schema_column:
        raise KidpipeError("--database names databases, --schema-column has them made", fix="leave one of them out")
    if questions is not None and (data or layout):
        raise KidpipeError("--data and --layout name data that is there; --questions makes a folder", fix="leave one of them out")
    flags = {"teacher.model": teacher, "train.student": student, "data.path": data, "data.layout": layout}
    # Another project's kidpipe.toml, or a broken one that --force is to replace, has no say in a new one.
    session = load_body("commands.session.open_session")(None, [], {}, use_file=False)
    own = None
    if questions is not None:
        columns = {"question": question_column, "sql": sql_column, "db": db_column, "evidence": evidence_column}
        columns |= {"id": id_column, "schema": schema_column}
        own = load_body("commands.init.OwnData")(questions, database, columns, dev_share, out)
    given = {name: value for name, value in flags.items() if value is not None}
    load_body("commands.init.init")(session, path, given, force=force, preset=preset, own=own, as_json=json)
