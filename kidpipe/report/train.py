"""Runs of a store in; their loss, rates and settings side by side out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from kidcore.atomic import read_records
from kidcore.store.store import Store
from kidpipe.report import plots
from kidpipe.report.page import Block, HtmlTable, Section

_STEP = {"loss": "Training loss", "gold_nll": "NLL of gold, training", "divergence": "Divergence from the teacher"}
_SPEED = {"lr": "Learning rate", "grad_norm": "Gradient norm", "examples_per_second": "Examples per second"}
_HELD_OUT = {
    "gold_nll": "NLL of gold, held out",
    "first_choice": "Share of gold tokens that are the student's first choice, held out",
    "stop_nll": "NLL of the end of sequence after gold, held out",
    "top_inside": "Share of the student's likeliest tokens among the teacher's stored ones, held out",
    "mass_inside": "The student's probability of the teacher's stored tokens, held out",
}
_SMOOTHED = 400
"""Points per line; longer logs are averaged over windows."""


def train_section(store: Store, names: Sequence[str]) -> Section:
    """Log and outcome of the runs `names`; a run without a log is left out."""
    logs = {name: log for name in names if (log := read_log(store.root / "runs" / name)) is not None}
    section = Section("Training")
    if not logs:
        section.blocks.append(Block(text="No run here has a log yet: kidpipe train."))
        return section
    section.blocks.append(Block("Runs", table=_table(store, logs)))
    newest, said = plots.drawn(logs, "runs")
    figures = [_lines(title, newest, "step", column) for column, title in (_STEP | _SPEED).items()]
    held_out = [_lines(title, newest, "eval", column) for column, title in _HELD_OUT.items()]
    section.blocks.append(Block("Side by side", said, figures=[figure for figure in (*held_out, *figures) if figure]))
    return section


def read_log(run: Path) -> pl.DataFrame | None:
    """The lines of a run's log.jsonl; None without one. A torn last line is left out."""
    path = run / "log.jsonl"
    if not path.is_file():
        return None
    rows: list[dict[str, Any]] = []
    for row in read_records(path):
        if "kind" in row and "step" in row:
            known, overlap = row.pop("on_gold", None), row.pop("overlap", None)
            rows.append(row | _of(known, "first_choice", "stop_nll") | _of(overlap, "top_inside", "mass_inside"))
    return pl.DataFrame(rows, infer_schema_length=None) if rows else None


def _of(figures: Any, *names: str) -> dict[str, Any]:
    """Some of the figures; none where a log has none."""
    return {name: figures.get(name) for name in names} if isinstance(figures, dict) else {}


def _table(store: Store, logs: dict[str, pl.DataFrame]) -> HtmlTable:
    rows = []
    for name, log in logs.items():
        result = store.known_object(f"runs/{name}/result.json")
        settings = store.known_object(f"runs/{name}/run.json").get("settings", {})
        steps = log.filter(pl.col("kind") == "step")
        state = "finished" if result else "unfinished"
        best = f"{result['best_nll']:.4f}" if result.get("best_nll") is not None else ""
        seconds = f"{steps['seconds'].sum():.0f}" if "seconds" in steps.columns else ""
        said = ", ".join(f"{key} {value}" for key, value in settings.items())
        rows.append((name, state, str(steps["step"].max() or 0), best, seconds, said))
    return HtmlTable(("run", "state", "steps", "best held-out NLL", "seconds", "settings"), rows, frozenset({2, 3, 4}))


def _lines(title: str, logs: dict[str, pl.DataFrame], kind: str, column: str) -> str:
    series = {}
    for name, log in logs.items():
        if column not in log.columns:
            continue
        found = log.filter((pl.col("kind") == kind) & pl.col(column).is_not_null()).select("step", column)
        if found.is_empty():
            continue
        window = max(1, len(found) // _SMOOTHED)
        means = found.with_row_index().group_by(pl.col("index") // window, maintain_order=True).agg(pl.col("step", column).mean())
        series[name] = (means["step"].to_list(), means[column].to_list())
    return plots.lines(title, series, x="step", y=title.lower()) if series else ""
