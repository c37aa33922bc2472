"""Verdicts in; a Parquet file of rows, a summary for JSON, and tables to read out."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table

from eval.spider.exact_match import HARDNESS
from eval.statistics import estimate
from eval.verdicts import Verdict, VerdictKind
from kidcore.atomic import replacing
from kidcore.errors import KidpipeError, first_line
from kidcore.finite import finite
from kidcore.sql.text_files import visible

METRICS = ("ex_bag", "ex_set", "ts_bag", "exact_set_match", "soft_f1", "r_ves")
"""Attributes of verdicts that are scores; None where a row has none."""
_FLAGGED = "flagged: chance decides; vacuous: gold gives no row, or one of zeros and NULLs; ties: ORDER BY leaves its order open"
TIMED = {"r_ves": "a timing, above 100 where predictions are faster than gold; never quite the same twice"}
"""Scores that rest on the clock, and what to say about them."""
CLASSES = (*HARDNESS, "simple", "moderate", "challenging")
_SHOWN = 20
"""Reasons and rows that a summary names."""
_FLAGS = ("ex_bag", "ex_set", "ts_bag", "exact_set_match", "vacuous", "ties")
_NUMBERS = ("soft_f1", "seconds", "ves_reward")
VERDICT_SCHEMA = pa.schema(
    [
        pa.field(field.name, pa.bool_() if field.name in _FLAGS else pa.float64() if field.name in _NUMBERS else pa.string())
        for field in fields(Verdict)
    ]
)


def write_verdicts(verdicts: Sequence[Verdict], path: Path) -> None:
    """One row a verdict, in order."""
    columns = {field.name: [getattr(verdict, field.name) for verdict in verdicts] for field in fields(Verdict)}
    columns = {
        name: [visible(value) if isinstance(value, str) else value for value in values] for name, values in columns.items()
    }
    table = pa.table(columns, schema=VERDICT_SCHEMA)
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_verdicts(path: Path) -> list[Verdict]:
    """What `write_verdicts` wrote; columns of a later kidpipe are left aside.

    Raises:
        KidpipeError: the file is damaged, or holds something else.
    """
    names = {field.name for field in fields(Verdict)}
    try:
        rows: list[dict[str, Any]] = pq.read_table(path, memory_map=False).to_pylist()
        known = [{name: value for name, value in row.items() if name in names} for row in rows]
        return [Verdict(**row | {"kind": VerdictKind(row["kind"])}) for row in known]
    except (OSError, pa.ArrowException, LookupError, TypeError, ValueError) as error:
        fix = "evaluate again by that name (kidpipe eval --name), or remove the folder"
        raise KidpipeError(f"these verdicts cannot be read: {first_line(error)}", where=str(path), fix=fix) from error


def write_evaluation(verdicts: Sequence[Verdict], summary: dict[str, Any], rows: Path, figures: Path) -> None:
    """Verdicts to `rows` and the summary to `figures` (JSON, NaN and infinities as null): both, or on a full disk neither."""
    text = json.dumps(finite(summary), indent=2, ensure_ascii=False) + "\n"
    with replacing(figures) as written:
        written.write_text(visible(text), encoding="utf-8")
        write_verdicts(verdicts, rows)


def summarize(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Counts and scores: overall with intervals, with and without flagged rows, by class and by database.

    Rows whose gold failed are in no rate; `unjudged` says how many and why, and every rate has its rows beside `of`, all rows.
    """
    kinds = Counter(verdict.kind.value for verdict in verdicts)
    judged = [verdict for verdict in verdicts if verdict.kind is not VerdictKind.GOLD_ERROR]
    unflagged = [verdict for verdict in judged if not (verdict.vacuous or verdict.ties)]
    executed = sum(verdict.kind in (VerdictKind.CORRECT, VerdictKind.WRONG) for verdict in judged)
    classes = [name for name in CLASSES if any(verdict.hardness == name for verdict in verdicts)]
    classes += sorted({verdict.hardness for verdict in verdicts} - set(classes))
    db_ids = sorted({verdict.db_id for verdict in verdicts})
    return {
        "examples": len(verdicts),
        "judged": len(judged),
        "unjudged": _unjudged(verdicts),
        "kinds": {kind.value: kinds[kind.value] for kind in VerdictKind},
        "flagged": {
            "vacuous": sum(verdict.vacuous for verdict in judged),
            "ties": sum(verdict.ties for verdict in judged),
            "either": len(judged) - len(unflagged),
        },
        "valid_sql": executed / len(judged) if judged else math.nan,
        "metrics": {name: _metric(name, judged, unflagged, len(verdicts)) for name in METRICS if _values(name, judged)},
        "by_hardness": _by([(name, [verdict for verdict in verdicts if verdict.hardness == name]) for name in classes]),
        "by_database": _by([(name, [verdict for verdict in verdicts if verdict.db_id == name]) for name in db_ids]),
    }


def tables(summary: dict[str, Any], title: str = "") -> list[Table]:
    """The summary to read: scores with intervals, then by class, then by database."""
    columns = ("metric", "score", "95% interval", "rows", "score, unflagged rows", "unflagged rows")
    scores = Table(*columns, title=title or None)
    for name, metric in summary["metrics"].items():
        every, clean = metric["all"], metric["unflagged"]
        interval = f"{_percent(every['low'])} to {_percent(every['high'])}"
        rows, clear = (f"{part['num_rows']} of {part['of']}" for part in (every, clean))
        scores.add_row(name, _percent(every["value"]), interval, rows, _percent(clean["value"]), clear)
    kinds = ", ".join(f"{count} {kind}" for kind, count in summary["kinds"].items() if count)
    executed = summary["kinds"][VerdictKind.CORRECT.value] + summary["kinds"][VerdictKind.WRONG.value]
    share = f" ({_percent(summary['valid_sql'])})" if summary["judged"] else ""
    flagged = ", ".join(f"{summary['flagged'][name]} {name}" for name in ("vacuous", "ties"))
    scores.caption = f"rows: {kinds}; valid SQL in {executed} of {summary['judged']} judged rows{share}; flagged rows: {flagged}"
    if summary["flagged"]["either"]:
        scores.caption += f"\n{_FLAGGED}"
    if unjudged := summary["unjudged"]["rows"]:
        scores.caption += f"\n{unjudged} of {summary['examples']} rows could not be judged and are in no rate"
    if summary.get("settings", {}).get("exact_match") == "official":
        scores.caption += "\nexact_set_match: as the official evaluator reads SQL, its misreadings included"
    for name, note in TIMED.items():
        scores.caption += f"\n{name}: {note}" if name in summary["metrics"] else ""
    return [scores, _breakdown(summary, "by_hardness", "hardness"), _breakdown(summary, "by_database", "database")]


def unjudged_lines(summary: dict[str, Any]) -> list[str]:
    """Why rows could not be judged, or not by the test suite, to read: a line a reason."""
    rows, total = summary["unjudged"], summary["examples"]
    lines = [f"{count} of {total} rows not judged: {reason}" for reason, count in rows["reasons"].items()]
    untested = summary.get("suite_untested") or {"rows": 0}
    if untested["rows"]:
        found = [f"{db_id} ({count})" for db_id, count in untested["databases"].items()]
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        said = "rows without ts_bag: the suite has no database that runs their gold"
        lines.append(f"{untested['rows']} of {total} {said}: {', '.join(found[:_SHOWN])}{more}")
    return lines


def _unjudged(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """How many rows say nothing about the model, why, and which; reasons and rows beyond the first are counted only."""
    rows = [verdict for verdict in verdicts if verdict.kind is VerdictKind.GOLD_ERROR]
    # DuckDB's messages go on for lines, with a piece of the SQL: by the first one rows of one reason are together.
    reasons = Counter(visible(verdict.message).partition("\n")[0] for verdict in rows).most_common()
    shown = dict(reasons[:_SHOWN])
    if rest := sum(count for _reason, count in reasons[_SHOWN:]):
        shown["other reasons"] = rest
    return {"rows": len(rows), "reasons": shown, "examples": [verdict.example_id for verdict in rows[:_SHOWN]]}


def _metric(name: str, judged: Sequence[Verdict], unflagged: Sequence[Verdict], total: int) -> dict[str, Any]:
    scores: dict[str, Any] = {
        part: {"of": total}
        | asdict(estimate(_values(name, rows), [row.gold_sql for row in rows if getattr(row, name) is not None]))
        for part, rows in (("all", judged), ("unflagged", unflagged))
    }
    return scores | ({"note": TIMED[name]} if name in TIMED else {})


def _values(name: str, rows: Iterable[Verdict]) -> list[float]:
    return [float(getattr(row, name)) for row in rows if getattr(row, name) is not None]


def _by(groups: Sequence[tuple[str, Sequence[Verdict]]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for group, rows in groups:
        judged = [row for row in rows if row.kind is not VerdictKind.GOLD_ERROR]
        scores = {name: _values(name, judged) for name in METRICS}
        result[group] = {"rows": len(judged), "of": len(rows)} | {
            name: sum(values) / len(values) for name, values in scores.items() if values
        }
    return result


def _breakdown(summary: dict[str, Any], key: str, heading: str) -> Table:
    metrics = list(summary["metrics"])
    table = Table(heading, "judged rows", *metrics)
    for name, group in summary[key].items():
        cells = [_percent(group[metric]) if metric in group else "" for metric in metrics]
        table.add_row(name or "(none)", f"{group['rows']} of {group['of']}", *cells)
    return table


def _percent(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.1%}"
