"""The options that commands share, and how they become a session; imports nothing heavy."""

import atexit
import gc
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from kidpipe.commands.session import Session

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="Configuration file; default kidpipe.toml here or above.")
]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Any setting, as section.field=value; repeatable.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Let vLLM and transformers speak too.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
DataOption = Annotated[str | None, typer.Option("--data", help="Folder of the data set.")]
LayoutOption = Annotated[str | None, typer.Option("--layout", help="spider, spider-syn, bird or jsonl.")]
TeacherOption = Annotated[
    str | None,
    typer.Option("--teacher", help="Hugging Face name, local folder, or URLs of vLLM servers (with teacher.tokenizer)."),
]
StudentOption = Annotated[str | None, typer.Option("--student", help="Hugging Face name or local folder.")]
RayOption = Annotated[
    str | None, typer.Option("--ray", help="Ray cluster to work on: HOST:PORT, or auto for the one at hand (engine.ray).")
]
StartOption = Annotated[
    str | None, typer.Option("--student", help="The start of later runs, whose own answers or proposals the build may store.")
]
BackendOption = Annotated[str | None, typer.Option("--backend", help="auto, vllm or transformers.")]
PredictorOption = Annotated[str | None, typer.Option("--predictor", help="Who fills the holes: teacher or student.")]
UntilOption = Annotated[
    str,
    typer.Option(
        "--until",
        help="Last stage to run: score, one before it, generate (for seqkd) or rollout_score (for opd); commas between several.",
    ),
]


def open_command(config: Path | None, settings: list[str] | None, verbose: bool = False, **flags: Any) -> "Session":
    """The session of a command; `section__field=value` are its named options, None where one is not given."""
    # The command line is quick because nothing of ours loads before a command is known.
    from kidpipe.commands.session import open_session

    return open_session(config, settings or [], {name.replace("__", "."): value for name, value in flags.items()}, verbose)


def load_body(place: str) -> Callable[..., Any]:
    """The body of a command, `module.function` below kidpipe.

    Here alone: bodies load torch, Arrow and the like, only the one that is asked for, and once its session is open (which
    quietens those libraries and names a mistake in a setting first).
    """
    module, _, name = place.rpartition(".")
    body: Callable[..., Any] = getattr(_imported(f"kidpipe.{module}"), name)
    return body


def _imported(module: str) -> ModuleType:
    """What is imported lives as long as the process, yet the collector would look through it again and again: for a quarter of
    the seconds that torch and transformers take, and later whenever it looks at everything."""
    is_on = gc.isenabled()
    if module in sys.modules or not is_on:
        return import_module(module)
    gc.disable()
    try:
        found = import_module(module)
        gc.freeze()
    finally:
        gc.enable()
    # Libraries that count their objects at the end would say that they leak.
    atexit.register(gc.unfreeze)
    return found
