"""The commands that judge: options in, a call of the command's body out. `cli` puts them among the others."""

from pathlib import Path
from typing import Annotated, Any

import typer

from kidcore.errors import KidpipeError
from kidpipe.cli_options import (
    BackendOption,
    ConfigOption,
    DataOption,
    JsonOption,
    LayoutOption,
    SetOption,
    VerboseOption,
    load_body,
    open_command,
)


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("eval")(evaluate)
    app.command("eval-compare")(compare_evaluations)
    app.command("fuzz-suite")(fuzz_suite)


def evaluate(
    model: Annotated[
        list[str] | None, typer.Argument(help="A run or its method, a folder or a Hugging Face name; default the newest run.")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Name of the result; default the model's or the file's.")] = "",
    predictions: Annotated[Path | None, typer.Option("--predictions", help="Judge this file's SQL instead of a model's.")] = None,
    suite: Annotated[Path | None, typer.Option("--suite", help="Further databases, <db_id>/*.sqlite, for ts_bag.")] = None,
    samples: Annotated[int | None, typer.Option("--samples", help="SQL texts per question; the majority decides.")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="Of sampling; only with --samples.")] = None,
    exposure: Annotated[
        bool, typer.Option("--exposure", help="ExAccErr too; loads the teacher for what is not stored of its scores.")
    ] = False,
    split: Annotated[str, typer.Option("--split", help="dev, the held-out questions, or train.")] = "dev",
    strip_distinct: Annotated[bool, typer.Option("--strip-distinct", help="As most published numbers are.")] = False,
    soft_f1: Annotated[bool, typer.Option("--soft-f1", help="BIRD's Soft-F1 too.")] = False,
    r_ves: Annotated[bool, typer.Option("--r-ves", help="BIRD's R-VES too: times each correct prediction 100 times.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 where any row can't be judged; for CI.")] = False,
    data: DataOption = None,
    layout: LayoutOption = None,
    backend: BackendOption = None,
    limit: Annotated[
        int | None, typer.Option("--limit", help="Use only the first n held-out examples; the result has a name of its own.")
    ] = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    verbose: VerboseOption = False,
    json: JsonOption = False,
) -> None:
    """Generate SQL for the held-out questions, execute it, and compare with gold.

    `kidpipe eval compare A B` is `kidpipe eval-compare A B`.

    Example: kidpipe eval kid-4f1c22aa --samples 8 --temperature 0.8

    Example: kidpipe eval --predictions predicted.sql --suite test_suite_database --strip-distinct
    """
    generating: dict[str, Any] = {
        "--samples": samples,
        "--temperature": temperature,
        "--backend": backend,
        "--exposure": exposure or None,
    }
    judging: dict[str, Any] = {
        "--name": name or None,
        "--predictions": predictions,
        "--suite": suite,
        "--data": data,
        "--layout": layout,
        "--split": split if split != "dev" else None,
    }
    judging |= {
        "--strict": strict or None,
        "--limit": limit,
        "--strip-distinct": strip_distinct or None,
        "--soft-f1": soft_f1 or None,
    }
    judging |= {"--r-ves": r_ves or None, "--verbose": verbose or None}
    if model and len(model) > 1:
        _refuse_given(generating | judging, "comparing two evaluations")
        _compare_words(model, config, settings, json)
        return
    if predictions is not None:
        _refuse_given(generating, "predictions made elsewhere")
    flags: dict[str, Any] = {"data__path": data, "data__layout": layout, "engine__backend": backend, "eval__limit": limit}
    flags |= {"eval__samples": samples, "eval__sample_temperature": temperature}
    flags |= {"eval__keep_distinct": False if strip_distinct else None}
    flags |= {"eval__soft_f1": soft_f1 or None, "eval__r_ves": r_ves or None}
    session = open_command(config, settings, verbose, **flags)
    if temperature is not None and session.config.eval.samples == 1:
        raise KidpipeError("--temperature has no effect on greedy decoding", fix="add --samples n, such as --samples 8")
    more: dict[str, Any] = {"predictions_file": predictions, "suite": suite, "with_exposure": exposure, "split": split}
    more["strict"] = strict
    load_body("commands.evaluate.evaluate")(session, model[0] if model else "", name=name, as_json=json, **more)


def _refuse_given(options: dict[str, Any], task: str) -> None:
    """Refuse options that would have no effect on `task`."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise KidpipeError(f"{', '.join(given)} {'have' if given[1:] else 'has'} no effect on {task}", fix="leave it out")


def _compare_words(words: list[str], config: Path | None, settings: list[str] | None, json: bool) -> None:
    if words[0] != "compare" or len(words) != 3:
        raise KidpipeError(f"one model at a time, not {len(words)}: {' '.join(words)}", fix="kidpipe eval compare A B")
    compare_evaluations(words[1], words[2], config=config, settings=settings, json=json)


def compare_evaluations(
    first: Annotated[str, typer.Argument(help="Name of an evaluation in the store, or its folder.")],
    second: Annotated[str, typer.Argument(help="The one to compare with it.")],
    rows: Annotated[int, typer.Option("--rows", help="How many flipped rows to show.")] = 20,
    config: ConfigOption = None,
    settings: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Compare two evaluations: paired difference with interval, McNemar's p, and the rows that flipped.

    Example: kidpipe eval-compare sft-1d02 kid-4f1c22aa
    """
    session = open_command(config, settings)
    load_body("commands.compare_evaluations.compare_evaluations")(session, first, second, rows=rows, as_json=json)


def fuzz_suite(
    out: Annotated[Path, typer.Option("--out", help="Folder of the suite.")],
    variants: Annotated[int, typer.Option("--variants", min=1, help="At most so many for a database.")] = 20,
    seed: Annotated[int, typer.Option("--seed", help="The same seed makes the same contents.")] = 0,
    data: DataOption = None,
    layout: LayoutOption = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Use only the first n held-out examples.")] = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Make a test suite: variants of each database on which SQL that is right by chance is found out.

    Example: kidpipe fuzz-suite --out suite --data spider
    """
    session = open_command(config, settings, data__path=data, data__layout=layout, eval__limit=limit)
    load_body("commands.fuzz.fuzz_suite")(session, out, variants=variants, seed=seed, as_json=json)
