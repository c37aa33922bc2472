"""The commands that look at a store: options in, a call of the command's body out. `cli` puts them among the others."""

from pathlib import Path
from typing import Annotated

import typer

from kidpipe.cli_options import ConfigOption, JsonOption, SetOption, load_body, open_command


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("status")(status)
    app.command("verify")(verify)
    app.command("gc")(gc)
    app.command("pin")(pin)
    app.command("inspect")(inspect)
    app.command("query")(query)
    app.command("report")(report)


def status(config: ConfigOption = None, settings: SetOption = None, json: JsonOption = False) -> None:
    """Show what is finished: shards by stage, the manifest, runs.

    Example: kidpipe status
    """
    session = open_command(config, settings)
    load_body("commands.store.status")(session, as_json=json)


def verify(
    deep: Annotated[bool, typer.Option("--deep", help="Hash every byte.")] = False,
    config: ConfigOption = None,
    settings: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Check the shards; broken ones are set aside, and the next build makes just those anew.

    Example: kidpipe verify --deep
    """
    session = open_command(config, settings)
    load_body("commands.store.verify")(session, deep=deep, as_json=json)


def gc(
    delete: Annotated[bool, typer.Option("--delete", help="Really delete; without it, only say what could go.")] = False,
    config: ConfigOption = None,
    settings: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Show the shards that nothing refers to any more, with which settings they were made, and what they cost a model.

    What the latest manifest, pins, runs and comparisons read stays, and so does a model's work that this configuration reaches.

    Example: kidpipe gc
    """
    session = open_command(config, settings)
    load_body("commands.gc.gc")(session, delete=delete, as_json=json)


def pin(config: ConfigOption = None, settings: SetOption = None, json: JsonOption = False) -> None:
    """Keep the shards of the latest manifest from gc.

    Example: kidpipe pin
    """
    session = open_command(config, settings)
    load_body("commands.store.pin")(session, as_json=json)


def inspect(
    example_id: Annotated[str, typer.Argument(help="Its place in the data (train:17), its id, or how that begins.")] = "",
    view: Annotated[int, typer.Option("--view", help="Which view, from 0.")] = 0,
    shard: Annotated[
        Path | None, typer.Option("--shard", help="Show instead what this shard was made from: a file <store>/<stage>/*.parquet.")
    ] = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Show one example: gold, masked, imperfect, and the predictor's best three at each hole.

    Example: kidpipe inspect train:17 --view 1
    """
    if (shard is None) == (not example_id):
        raise typer.BadParameter("name one example, as train:0, or one shard: --shard FILE")
    session = open_command(config, settings)
    if shard is not None:
        load_body("commands.provenance.inspect_shard")(session, shard, as_json=json)
    else:
        load_body("commands.inspect.inspect")(session, example_id, view, as_json=json)


def query(
    sql: Annotated[
        str, typer.Argument(help="SQL with the stages as tables (ingest, mask, ...), and verdicts, runs, steps, comparisons.")
    ],
    out: Annotated[Path | None, typer.Option("--out", help="Write the rows to this .csv or .parquet file.")] = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Run SQL over the artifacts with DuckDB.

    Example: kidpipe query "select strategy, avg(rewritten) from rewrite group by strategy"

    Example: kidpipe query "select evaluation, kind, count(*) from verdicts group by all" --out verdicts.csv
    """
    session = open_command(config, settings)
    load_body("commands.inspect.query")(session, sql, as_json=json, out=out)


def report(
    kind: Annotated[str, typer.Argument(help="all, build, train, eval or compare.")] = "all",
    names: Annotated[list[str] | None, typer.Argument(help="Runs, evaluations or comparisons; default all.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="File to write; default report.html in the store.")] = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Write one HTML page of what the store holds: figures, examples to read and search; works offline.

    Example: kidpipe report

    Example: kidpipe report compare sft-1d02 kid-4f1c22aa --out flipped.html
    """
    session = open_command(config, settings)
    load_body("commands.report.report")(session, kind, names or [], out, as_json=json)
