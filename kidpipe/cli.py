"""The command line: options in, a call of the command's body out. Bodies and heavy libraries load only when called."""

import logging
import os
import sys
from typing import Annotated

import typer

from kidcore.config import processes
from kidcore.errors import KidpipeError
from kidpipe import cli_ask, cli_compare, cli_demo, cli_eval, cli_init, cli_store, own_packages, surroundings
from kidpipe.cli_options import (
    BackendOption,
    ConfigOption,
    DataOption,
    JsonOption,
    LayoutOption,
    PredictorOption,
    RayOption,
    SetOption,
    StartOption,
    StudentOption,
    TeacherOption,
    UntilOption,
    VerboseOption,
    load_body,
    open_command,
)

own_packages.claim()
app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def kidpipe(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Distil an expensive text-to-SQL teacher into a cheap student: imperfect data made once, any number of students."""
    if version:
        from kidcore.version import kidpipe_version  # reading package metadata takes 20 ms

        print(f"kidpipe {kidpipe_version()}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


cli_init.register(app)


@app.command()
def config(config: ConfigOption = None, settings: SetOption = None, json: JsonOption = False) -> None:
    """Print every setting, its value and where it comes from.

    Example: kidpipe config --set mask.ratio=0.3
    """
    from kidpipe.commands.settings import show_config

    show_config(open_command(config, settings), as_json=json)


cli_demo.register(app)


@app.command("build-imperfect")
def build_imperfect(
    teacher: TeacherOption = None,
    data: DataOption = None,
    layout: LayoutOption = None,
    student: StartOption = None,
    predictor: PredictorOption = None,
    backend: BackendOption = None,
    until: UntilOption = "score",
    ray: RayOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    verbose: VerboseOption = False,
    json: JsonOption = False,
) -> None:
    """Make imperfect training data: ingest, mask, predict, rewrite, score. Only what is stale runs.

    Example: kidpipe build-imperfect --teacher Qwen/Qwen2.5-Coder-7B --data spider
    """
    flags = {"teacher__model": teacher, "data__path": data, "data__layout": layout}
    flags |= {"predict__predictor": predictor, "engine__backend": backend, "engine__ray": ray, "train__student": student}
    session = open_command(config, settings, verbose, **flags)
    load_body("commands.build.build_imperfect")(session, until=until, as_json=json)


@app.command()
def train(
    student: StudentOption = None,
    method: Annotated[
        str | None, typer.Option("--method", help="sft, seqkd, fkd, rkd, f-distill, opd, imitkd, gkd, kid or kid-online.")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Name of the run; default made from its settings.")] = "",
    manifest: Annotated[str, typer.Option("--manifest", help="Digest of the build to train on; default the latest.")] = "",
    teacher: TeacherOption = None,
    data: DataOption = None,
    layout: LayoutOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    verbose: VerboseOption = False,
    json: JsonOption = False,
) -> None:
    """Train a student on the stored shards. An interrupted run continues.

    sft needs no teacher; imitkd, gkd and kid-online load it during training; no other method does.

    Example: kidpipe train --student Qwen/Qwen2.5-Coder-0.5B --method kid
    """
    flags = {"train__student": student, "train__method": method, "teacher__model": teacher}
    flags |= {"data__path": data, "data__layout": layout}
    session = open_command(config, settings, verbose, **flags)
    load_body("commands.train.train")(session, name=name, as_json=json, digest=manifest, is_teacher_asked=teacher is not None)


@app.command()
def teacher(
    teacher: TeacherOption = None,
    full: Annotated[bool, typer.Option("--full", help="Train all weights instead of LoRA adapters.")] = False,
    no_eval: Annotated[bool, typer.Option("--no-eval", help="Do not judge it on the held-out questions afterwards.")] = False,
    name: Annotated[str, typer.Option("--name", help="Name of the run; default made from its settings.")] = "",
    data: DataOption = None,
    layout: LayoutOption = None,
    backend: BackendOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    verbose: VerboseOption = False,
    json: JsonOption = False,
) -> None:
    """Fine-tune a teacher on the training questions (method sft, LoRA), judge it, and say how to build with it.

    For a teacher that a build warns of. The settings of [train] hold, train.seed among them.

    Example: kidpipe teacher --teacher Qwen/Qwen2.5-Coder-7B
    """
    flags = {"teacher__model": teacher, "data__path": data, "data__layout": layout, "engine__backend": backend}
    session = open_command(config, settings, verbose, **flags)
    load_body("commands.teacher.teacher")(session, name=name, full=full, with_eval=not no_eval, as_json=json)


cli_eval.register(app)
cli_ask.register(app)
cli_compare.register(app)


@app.command()
def plan(
    why: Annotated[bool, typer.Option("--why", help="Say because of which change.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 when something is stale.")] = False,
    until: UntilOption = "score",
    teacher: TeacherOption = None,
    data: DataOption = None,
    layout: LayoutOption = None,
    student: StartOption = None,
    predictor: PredictorOption = None,
    backend: BackendOption = None,
    ray: RayOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    verbose: VerboseOption = False,
    json: JsonOption = False,
) -> None:
    """Show what a build would run, and how long that took before. Takes the options of build-imperfect.

    Example: kidpipe plan --why --set predict.fill=sample
    """
    flags = {"teacher__model": teacher, "data__path": data, "data__layout": layout}
    flags |= {"predict__predictor": predictor, "engine__backend": backend, "engine__ray": ray, "train__student": student}
    session = open_command(config, settings, verbose, **flags)
    load_body("commands.build.plan")(session, why=why, as_json=json, check=check, until=until)


cli_store.register(app)


@app.command()
def push(
    repository: Annotated[str, typer.Argument(help="Where on the Hub: OWNER/NAME; made where it is not there.")],
    model: Annotated[str, typer.Argument(help="A run or a folder; default the newest finished run.")] = "",
    data: Annotated[bool, typer.Option("--data", help="Upload the shards of the latest build as a data set instead.")] = False,
    public: Annotated[bool, typer.Option("--public", help="A new repository is for all to see; default private.")] = False,
    config: ConfigOption = None,
    settings: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Upload a student with its card and scores, or imperfect data, to the Hugging Face Hub.

    The data holds the questions, the gold SQL and the schemas that it was made of.

    Example: kidpipe push ada/concert-sql kid-4f1c22aa

    Example: kidpipe push ada/imperfect-concerts --data
    """
    session = open_command(config, settings)
    load_body("commands.push.push")(session, repository, model, data=data, public=public, as_json=json)


def main() -> None:
    """The console script: people's mistakes end with a message and exit code 1."""
    # Waiting OpenMP threads spin for milliseconds by default. Measured on two cores, 150 steps of a small model: 9 s alone but
    # minutes beside another busy process; with this 11 s alone and 15 s beside one.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "500")
    surroundings.prepare_streams()
    try:
        try:
            app()
        finally:
            surroundings.flush_output()
    except KidpipeError as error:
        if processes.is_first_to_fail():
            print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted: what is finished is kept; the same command continues", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        # A disk or a right that no command has thought of; with -v where it happened, too.
        logging.getLogger("kidpipe").debug("", exc_info=True)
        if processes.is_first_to_fail():
            print(f"error: {surroundings.refusal(error)}", file=sys.stderr)
        sys.exit(1)
    except Exception:
        if processes.is_first_to_fail():
            raise
        sys.exit(1)


if __name__ == "__main__":
    main()
