"""Numbers in, inline SVG out: figures that follow the page's light or dark theme and need no script.

matplotlib draws them. Colours of text and lines are replaced by CSS variables of the page, so that one figure serves both
themes and print. The same numbers give the same bytes.
"""

import io
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TypeVar

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

T = TypeVar("T")
# Okabe and Ito's palette, readable for colour-blind eyes on white and on black.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
# Colours that occur nowhere else: they stand for the page's own until the SVG is written.
_INK, _LINE = "#010203", "#0a0b0c"
_STYLE = {
    # Names of runs and databases are people's own: a $ in them begins no formula.
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "kidpipe",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.5,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "figure.facecolor": "none",
    "legend.frameon": False,
}
# A cache of fonts is made at the first import on a machine, and matplotlib says so.
logging.getLogger("matplotlib").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Point:
    """A figure with its interval; `low` and `high` are None where there is none."""

    label: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None


def bars(
    title: str, values: Mapping[str, float], *, unit: str = "", intervals: Mapping[str, tuple[float, float]] | None = None
) -> str:
    """Horizontal bars, the first on top; `intervals` are (low, high) by name."""
    with _figure(title, rows=len(values)) as (axes, svg):
        names = list(values)
        drawn = axes.barh(names, [values[name] for name in names], color=COLOURS[0], height=0.65)
        for name, (low, high) in (intervals or {}).items():
            axes.hlines(names.index(name), low, high, color=_INK, linewidth=1.2)
        axes.bar_label(drawn, fmt="%.3g", padding=4, color=_INK)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(unit)
    return svg()


def drawn(series: Mapping[str, T], what: str) -> tuple[dict[str, T], str]:
    """The last of the series, as many as there are colours to tell them apart, and what to say where these are not all."""
    last = dict(list(series.items())[-len(COLOURS) :])
    return last, f"The figures show the last {len(last)} of {len(series)} {what}." if len(last) < len(series) else ""


def grouped_bars(title: str, groups: Sequence[str], series: Mapping[str, Sequence[float | None]], *, unit: str = "") -> str:
    """Bars side by side: one group a name, one colour a series; None leaves a gap."""
    with _figure(title, rows=len(groups) * max(1, len(series)) * 0.7) as (axes, svg):
        height = 0.8 / max(1, len(series))
        for number, (name, values) in enumerate(series.items()):
            known = [(index, value) for index, value in enumerate(values) if value is not None]
            places = [index + (number - (len(series) - 1) / 2) * height for index, _ in known]
            lengths, colour = [value for _, value in known], COLOURS[number % len(COLOURS)]
            axes.barh(places, lengths, height=height * 0.9, color=colour, label=_shown(name))
        axes.set_yticks(range(len(groups)), groups)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(unit)
        axes.legend(loc="lower right")
    return svg()


def histogram(title: str, edges: Sequence[float], counts: Sequence[int], *, label: str, log: bool = False) -> str:
    """A histogram counted before: `edges` are one more than `counts`."""
    with _figure(title, rows=7) as (axes, svg):
        axes.stairs(counts, edges, fill=True, color=COLOURS[0])
        axes.set_xlabel(label)
        axes.set_ylabel("positions")
        if log:
            axes.set_yscale("symlog")
    return svg()


def lines(title: str, series: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, x: str, y: str) -> str:
    """One line a run: (steps, values) by name; a single value is a dot."""
    with _figure(title, rows=8) as (axes, svg):
        for number, (name, (steps, values)) in enumerate(series.items()):
            marker = "o" if len(values) < 15 else None
            colour = COLOURS[number % len(COLOURS)]
            axes.plot(steps, values, color=colour, label=_shown(name), linewidth=1.6, marker=marker, markersize=4)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.legend(loc="best")
    return svg()


def points(title: str, found: Sequence[Point], *, x: str, y: str) -> str:
    """Points with intervals in y, each with its name beside it."""
    with _figure(title, rows=9) as (axes, svg):
        for number, point in enumerate(found):
            colour = COLOURS[number % len(COLOURS)]
            if point.low is not None and point.high is not None:
                axes.vlines(point.x, point.low, point.high, color=colour, linewidth=2, alpha=0.6)
            axes.plot([point.x], [point.y], "o", color=colour, markersize=7)
            axes.annotate(point.label, (point.x, point.y), xytext=(7, 4), textcoords="offset points")
        axes.margins(x=0.2, y=0.15)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
    return svg()


def _shown(name: str) -> str:
    """A name as a legend shows it: matplotlib leaves out those that begin with an underscore."""
    return f"\u200b{name}" if name.startswith("_") else name


@contextmanager
def _figure(title: str, *, rows: float) -> Iterator[tuple[Axes, "_Svg"]]:
    """Axes to draw on, and what writes them down afterwards. `rows` are lines of text that the figure is high."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 1.1 + 0.32 * max(rows, 2)), layout="constrained")
        yield figure.subplots(), _Svg(figure, title)


class _Svg:
    """Writes a figure as an SVG element with a caption."""

    def __init__(self, figure: Figure, title: str) -> None:
        self._figure, self._title = figure, title

    def __call__(self) -> str:
        buffer = io.StringIO()
        with mpl.rc_context(_STYLE):
            self._figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
        svg = buffer.getvalue()
        svg = svg[svg.index("<svg") :].replace(_INK, "var(--ink)").replace(_LINE, "var(--line)")
        # The page decides the width; the view box keeps the proportions.
        svg = re.sub(
            r'^<svg([^>]*?) width="[^"]*"([^>]*?)', r"<svg\1\2", re.sub(r' height="[\d.]+pt"', "", svg, count=1), count=1
        )
        svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(self._title, quote=True)}"', 1)
        return f"<figure><figcaption>{escape(self._title)}</figcaption>{svg}</figure>"
