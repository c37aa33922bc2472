"""A comparison's rows in; quality against cost, and against strategy and ratio, with intervals over seeds, out."""

from pathlib import Path
from statistics import mean

import polars as pl

from kidpipe.report import plots
from kidpipe.report.page import Block, HtmlTable, Section
from kidpipe.report.plots import Point
from kidpipe.study.intervals import mean_interval

_NOT_AXES = frozenset({"seed", "error", "run", "manifest", "evaluation", "checkpoint"})
_COST = "train_seconds"


def study_section(name: str, rows: Path) -> Section:
    """Figures 1 and 2 (quality against cost) and 4 and 5 (by strategy, by ratio) of the paper, for the comparison's own runs."""
    frame = pl.read_parquet(rows, glob=False)
    section = Section(f"Comparison {name}")
    finished = frame.filter(pl.col("error").is_null()) if "error" in frame.columns else frame
    if finished.is_empty() or "ex_bag" not in finished.columns:
        section.blocks.append(Block(text=f"None of its {len(frame)} runs is finished."))
        return section
    axes = [column for column in frame.columns[: _first_figure(frame)] if column not in _NOT_AXES]
    found = (
        [(_label(axes, key), group) for key, group in finished.group_by(axes, maintain_order=True)]
        if axes
        else [("all", finished)]
    )
    section.blocks.append(Block("Means over seeds", table=_table(found)))
    figures = [
        plots.points(
            "Quality against cost", [_point(label, group) for label, group in found], x="training seconds", y="ex_bag, %"
        )
    ]
    for axis, title in (("mask.strategy", "By masking strategy"), ("mask.ratio", "By masking ratio")):
        if axis in axes:
            figures.append(_by_axis(finished, axis, title))
    section.blocks.append(Block("Figures", figures=figures))
    return section


def _first_figure(frame: pl.DataFrame) -> int:
    """Axes stand first; the error column ends them."""
    return frame.columns.index("error") if "error" in frame.columns else len(frame.columns)


def _label(axes: list[str], key: tuple[object, ...]) -> str:
    return ", ".join(
        str(value) if axis == "method" else f"{axis} {value}" for axis, value in zip(axes, key, strict=True) if value is not None
    )


def _values(group: pl.DataFrame, column: str) -> list[float]:
    return [float(value) for value in group[column].to_list() if value is not None] if column in group.columns else []


def _point(label: str, group: pl.DataFrame) -> Point:
    interval = mean_interval([100 * value for value in _values(group, "ex_bag")])
    cost = _values(group, _COST)
    assert interval is not None
    return Point(label, mean(cost) if cost else 0.0, interval.mean, interval.low, interval.high)


def _by_axis(frame: pl.DataFrame, axis: str, title: str) -> str:
    values: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    for (value,), group in frame.group_by([axis], maintain_order=True):
        point = _point(str(value), group)
        values[point.label] = point.y
        if point.low is not None and point.high is not None:
            intervals[point.label] = (point.low, point.high)
    return plots.bars(title, values, unit="ex_bag, %", intervals=intervals)


def _table(found: list[tuple[str, pl.DataFrame]]) -> HtmlTable:
    rows = []
    for label, group in found:
        point = _point(label, group)
        interval = "" if point.low is None or point.high is None else f"{point.low:.1f} to {point.high:.1f}"
        rows.append((label, str(len(group)), f"{point.y:.1f}", interval, f"{point.x:.0f}"))
    return HtmlTable(("runs", "seeds", "ex_bag", "95% over seeds", "training seconds"), rows, frozenset({1, 2, 4}))
