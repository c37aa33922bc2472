"""A demo's evaluations in; the figures that are kept of them, and their table, out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from kidpipe.commands.session import show_seconds, text_table
from kidpipe.commands.shown_tables import print_table


def kept_figures(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Of an evaluation's summary, what the demo's summary keeps of a model."""
    figures = {metric: evaluation["metrics"][metric]["all"] for metric in ("ex_bag", "ex_set")}
    return {
        **{metric: round(figure["value"], 4) for metric, figure in figures.items()},
        "ex_bag_interval": [round(figures["ex_bag"][side], 4) for side in ("low", "high")],
        "valid_sql": round(evaluation["valid_sql"], 4),
        "questions": evaluation["judged"],
    }


def print_scores(console: Console, names: Mapping[str, str], models: Mapping[str, Any]) -> None:
    """A row a model, called as `names` says."""
    console.print()
    table = text_table("", {"model": "left", "ex_bag": "right", "95% interval": "left", "ex_set": "right", "valid SQL": "right"})
    for name, score in models.items():
        low, high = score["ex_bag_interval"]
        figures = (f"{score['ex_bag']:.1%}", f"{low:.1%} to {high:.1%}", f"{score['ex_set']:.1%}", f"{score['valid_sql']:.1%}")
        table.add_row(names[name], *figures)
    print_table(console, table)


def print_end(console: Console, summary: Mapping[str, Any], file: Path) -> None:
    """How many questions and how long; `file` is the summary's."""
    whole = sum(seconds for name, seconds in summary["seconds"].items() if "." not in name)
    console.print(f"\n{summary['models']['kid']['questions']} held-out questions; {show_seconds(whole)} in all; {file}")
