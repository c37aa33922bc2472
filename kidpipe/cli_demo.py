"""`kidpipe demo`: options in, a call of one of its two bodies out. `cli` puts it among the others."""

from pathlib import Path
from typing import Annotated

import typer

from kidcore.errors import KidpipeError
from kidpipe.cli_options import BackendOption, JsonOption, VerboseOption, load_body


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(demo)


def demo(
    folder: Annotated[Path, typer.Argument(help="Where everything goes.")] = Path("artifacts/demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Only show that every step works; scores mean nothing.")] = False,
    teacher: Annotated[str | None, typer.Option("--teacher", help="Folder of a pre-trained teacher.")] = None,
    student: Annotated[str | None, typer.Option("--student", help="Folder of a pre-trained student with its tokenizer.")] = None,
    backend: BackendOption = None,
    verbose: VerboseOption = False,
    json: JsonOption = False,
) -> None:
    """Distil a teacher into a student on data made on the spot: no download, about ten minutes on two cores.

    With --teacher and --student, two pre-trained models tell the same story, those of 1.5 and 0.5 billion weights in about half
    an hour on two cores that multiply bfloat16. Nothing is fetched: both are folders.

    Example: kidpipe demo
    """
    if teacher is None and student is None:
        load_body("commands.demo.demo")(folder, quick=quick, backend=backend or "auto", verbose=verbose, as_json=json)
        return
    if teacher is None or student is None:
        raise KidpipeError("the demo on pre-trained models takes two", fix="kidpipe demo --teacher FOLDER --student FOLDER")
    # Its models are in use for minutes only, and its prompts share most of what they say.
    run = load_body("commands.demo_real.demo_real")
    run(folder, teacher, student, quick=quick, backend=backend or "transformers", verbose=verbose, as_json=json)
