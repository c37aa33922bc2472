"""The commands that put a question to a model: options in, a call of the command's body out. `cli` puts them among the others."""

from pathlib import Path
from typing import Annotated

import typer

from kidpipe.cli_options import BackendOption, ConfigOption, JsonOption, SetOption, VerboseOption, load_body, open_command

_DatabaseOption = Annotated[Path, typer.Option("--db", help="A SQLite or DuckDB file.")]
_ModelArgument = Annotated[
    str, typer.Argument(help="A run, a local folder or a Hugging Face name; default the newest finished run.")
]
_EvidenceOption = Annotated[str, typer.Option("--evidence", help="A hint for the question, as BIRD has them.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("ask")(ask)
    app.command("prompt")(prompt)


def ask(
    db: _DatabaseOption,
    question: Annotated[
        str, typer.Argument(help="The question; without one, or with '', lines are read and answered one by one.")
    ] = "",
    model: _ModelArgument = "",
    evidence: _EvidenceOption = "",
    run: Annotated[bool, typer.Option("--run", help="Execute the SQL in the sandbox, read-only, and show its rows.")] = False,
    backend: BackendOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    verbose: VerboseOption = False,
    json: JsonOption = False,
) -> None:
    """Ask a student (or any model) about a database: SQL, and its rows with --run.

    Example: kidpipe ask "How many singers are there?" --db concert.sqlite --run
    """
    # One question is not worth an engine's start unless it is asked for.
    session = open_command(config, settings, verbose, engine__backend=backend or "transformers")
    load_body("commands.ask.ask")(session, question, db, model, evidence=evidence, run=run, as_json=json)


def prompt(
    db: _DatabaseOption,
    question: Annotated[str, typer.Argument(help="The question; without one, the schema alone is printed.")] = "",
    model: _ModelArgument = "",
    evidence: _EvidenceOption = "",
    config: ConfigOption = None,
    settings: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Print the prompt of a question as a model was trained with it; with --json its token ids and chat messages too.

    Example: kidpipe prompt "How many singers are there?" --db concert.sqlite
    """
    session = open_command(config, settings)
    load_body("commands.ask.show_prompt")(session, question, db, model, evidence=evidence, as_json=json)
