"""`kidpipe compare`: options in, a call of the command's body out. `cli` puts it among the others."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kidcore.errors import KidpipeError
from kidpipe.cli_options import (
    BackendOption,
    ConfigOption,
    DataOption,
    JsonOption,
    LayoutOption,
    SetOption,
    StudentOption,
    TeacherOption,
    VerboseOption,
    open_command,
)

if TYPE_CHECKING:
    from kidpipe.commands.session import Session


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("compare")(compare)


def compare(
    methods: Annotated[str, typer.Option("--methods", help="Values of train.method, commas between.")] = "sft,rkd,kid",
    seeds: Annotated[str, typer.Option("--seeds", help="Values of train.seed: order of examples, dropout, holdout.")] = "0,1,2",
    strategies: Annotated[str, typer.Option("--strategies", help="Values of mask.strategy.")] = "",
    ratios: Annotated[str, typer.Option("--ratios", help="Values of mask.ratio.")] = "",
    grid: Annotated[Path | None, typer.Option("--grid", help="TOML file of further axes: section.field = [values].")] = None,
    arms: Annotated[
        Path | None, typer.Option("--arms", help="TOML file of named recipes, a table of settings each, instead of a grid.")
    ] = None,
    seed_masks: Annotated[bool, typer.Option("--seed-masks", help="Let each seed draw its own masks and fills too.")] = False,
    checkpoint: Annotated[str, typer.Option("--checkpoint", help="Judge each run's best or last model.")] = "best",
    finished: Annotated[bool, typer.Option("--finished", help="Train nothing: report the runs that are finished.")] = False,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Runs at a time; they share the cores.")] = 1,
    name: Annotated[str, typer.Option("--name", help="Name of the comparison.")] = "comparison",
    student: StudentOption = None,
    teacher: TeacherOption = None,
    data: DataOption = None,
    layout: LayoutOption = None,
    backend: BackendOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    verbose: VerboseOption = False,
    json: JsonOption = False,
) -> None:
    """Train and judge a student for every combination, sharing what can be shared; report means and intervals over seeds.

    Example: kidpipe compare --methods sft,rkd,kid --seeds 0,1,2,3,4 --jobs 4

    Example: kidpipe compare --methods kid --ratios 0.1,0.2,0.3,0.5 --name ratios

    Example: kidpipe compare --arms recipes.toml --seeds 0,1,2
    """
    from kidpipe.study.grid import METHOD, SEED, parse_list, read_arms, read_grid
    from kidpipe.study.study import compare_grid

    if checkpoint not in ("best", "last"):
        raise KidpipeError(f"no such checkpoint: {checkpoint}", where="--checkpoint", fix="best or last")
    if arms and (grid or strategies or ratios or seed_masks):
        raise KidpipeError(
            "an arm names all of its settings", where="--arms", fix="leave out --grid, --strategies, --ratios and --seed-masks"
        )
    axes = {METHOD: parse_list("--methods", methods)}
    for option, setting, text in (("--strategies", "mask.strategy", strategies), ("--ratios", "mask.ratio", ratios)):
        if text:
            axes[setting] = parse_list(option, text)
    further = read_grid(grid) if grid else {}
    seed_axis = {SEED: parse_list("--seeds", seeds)}
    if twice := sorted(further.keys() & (axes | seed_axis).keys()):
        raise KidpipeError(f"{twice[0]} is an axis already", where=str(grid), fix="leave it out of the file; it has an option")
    flags: dict[str, Any] = {"train.student": student, "teacher.model": teacher, "data.path": data, "data.layout": layout}
    flags["engine.backend"] = backend

    def open_with(changes: Mapping[str, Any]) -> "Session":
        return open_command(config, settings, verbose, **{**flags, **changes})

    body: dict[str, Any] = {"name": name, "jobs": jobs, "checkpoint": checkpoint, "seed_masks": seed_masks, "as_json": json}
    body |= {"only_finished": finished, "arms": read_arms(arms) if arms else None}
    compare_grid(open_with, axes | further | seed_axis, **body)
