"""Evaluations in; scores by hardness, database and kind of error, rows to read and search, and flipped rows of two, out."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.comparison import ComparedRuns, compare_runs
from eval.evaluate import SUMMARY_FILE, VERDICTS_FILE
from eval.report import read_verdicts
from eval.verdicts import Verdict, VerdictKind
from kidcore.sql.text_files import read_json
from kidpipe.report import plots
from kidpipe.report.page import MOST_EXAMPLES, Block, HtmlTable, Line, ReadExample, Section, line

_MOST_DATABASES = 40


def evaluation_section(folders: Sequence[Path]) -> Section:
    """Scores of the evaluations side by side; rows of the last one to read."""
    section = Section("Evaluation")
    summaries = {folder.name: _summary(folder) for folder in folders}
    if not summaries:
        section.blocks.append(Block(text="Nothing is evaluated here yet: kidpipe eval."))
        return section
    newest, said = plots.drawn(summaries, "evaluations")
    section.blocks.append(Block("Scores", said, table=_scores(summaries), figures=_figures(newest)))
    name, folder = folders[-1].name, folders[-1]
    verdicts = read_verdicts(folder / VERDICTS_FILE)
    ordered = sorted(verdicts, key=lambda verdict: verdict.kind is VerdictKind.CORRECT)
    shown = ordered[:MOST_EXAMPLES]
    text = f"{name}: {len(shown)} of {len(verdicts)} rows, those that are not correct first."
    section.blocks.append(Block("Rows", text, examples=[_row(verdict) for verdict in shown]))
    return section


def comparison_section(first: Path, second: Path) -> Section:
    """The paired difference of two evaluations, and every question that flipped."""
    runs = compare_runs(*(read_verdicts(folder / VERDICTS_FILE) for folder in (first, second)))
    section = Section(f"{first.name} against {second.name}")
    section.blocks.append(Block("Difference", table=_differences(runs, first.name, second.name)))
    flips = sorted(runs.flips, key=lambda pair: bool(pair[1].ex_bag))
    lost = sum(not other.ex_bag for _, other in flips)
    text = f"{len(flips)} questions flipped in ex_bag: {second.name} loses {lost} and wins {len(flips) - lost}."
    rows = [_flip(one, other, first.name, second.name) for one, other in flips[:MOST_EXAMPLES]]
    section.blocks.append(Block("Flipped questions", text, examples=rows))
    return section


def _summary(folder: Path) -> dict[str, Any]:
    summary: dict[str, Any] = read_json(folder / SUMMARY_FILE)
    return summary


def _scores(summaries: dict[str, dict[str, Any]]) -> HtmlTable:
    rows = []
    for name, summary in summaries.items():
        for metric, scores in summary["metrics"].items():
            every = scores["all"]
            interval = f"{_percent(every['low'])} to {_percent(every['high'])}"
            rows.append((name, metric, _percent(every["value"]), interval, f"{every['num_rows']} of {summary['examples']}"))
    return HtmlTable(("evaluation", "metric", "score", "95% interval", "rows"), rows, frozenset({2, 4}))


def _figures(summaries: dict[str, dict[str, Any]]) -> list[str]:
    figures = []
    for title, key in (("ex_bag by hardness", "by_hardness"), ("ex_bag by database", "by_database")):
        groups = list(dict.fromkeys(group for summary in summaries.values() for group in summary[key]))[:_MOST_DATABASES]
        series = {
            name: [_scaled(summary[key].get(group, {}).get("ex_bag")) for group in groups] for name, summary in summaries.items()
        }
        figures.append(plots.grouped_bars(title, groups, series, unit="%"))
    kinds = [kind.value for kind in VerdictKind if any(summary["kinds"].get(kind.value) for summary in summaries.values())]
    counts = {name: [summary["kinds"].get(kind, 0) for kind in kinds] for name, summary in summaries.items()}
    figures.append(plots.grouped_bars("Verdicts by kind", kinds, counts, unit="rows"))
    return figures


def _differences(runs: ComparedRuns, first: str, second: str) -> HtmlTable:
    rows = [
        (
            item.metric,
            _percent(item.first),
            _percent(item.second),
            f"{100 * item.gain.value:+.1f}",
            f"{100 * item.gain.low:+.1f} to {100 * item.gain.high:+.1f}",
            "" if math.isnan(item.p_value) else f"{item.p_value:.3g}",
        )
        for item in runs.differences
    ]
    return HtmlTable(
        ("metric", first, second, "gain in points", "95% interval of it", "McNemar's p"), rows, frozenset({1, 2, 3, 5})
    )


def _row(verdict: Verdict) -> ReadExample:
    summary = f"{verdict.kind.value}  {verdict.example_id}  {verdict.db_id}: {verdict.question or verdict.gold_sql}"
    lines = [line("question", verdict.question), line("gold", verdict.gold_sql), *_answer("prediction", verdict)]
    return ReadExample(f"{summary} ({verdict.hardness})", lines)


def _flip(one: Verdict, other: Verdict, first: str, second: str) -> ReadExample:
    title = f"{first} {one.kind.value}, {second} {other.kind.value}  {one.example_id}  {one.db_id}: {one.question}"
    lines = [line("question", one.question), line("gold", one.gold_sql), *_answer(first, one), *_answer(second, other)]
    return ReadExample(title, lines)


def _answer(name: str, verdict: Verdict) -> list[Line]:
    style = "right" if verdict.kind is VerdictKind.CORRECT else "wrong"
    return [line(name, verdict.prediction, style), *([line("message", verdict.message, "quiet")] if verdict.message else [])]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _scaled(value: float | None) -> float | None:
    return None if value is None else 100 * value
