"""Two evaluations of the same examples in; their paired difference, its interval, McNemar's p and the flipped rows out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from eval.report import METRICS
from eval.statistics import Estimate, estimate, mcnemar
from eval.verdicts import Verdict
from kidcore.errors import KidpipeError


@dataclass(frozen=True)
class Difference:
    """How the second evaluation differs from the first on one metric, on the rows that both have a score for."""

    metric: str
    first: float
    second: float
    gain: Estimate
    """second - first, paired by example, interval clustered on gold SQL."""
    only_first: int
    only_second: int
    num_rows: int
    """Rows that both have a score for."""
    of: int
    """All rows."""
    p_value: float
    """McNemar's, exact; NaN for metrics that aren't 0 or 1. It takes rows as independent, the interval doesn't."""


@dataclass(frozen=True)
class ComparedRuns:
    """The differences by metric, and the rows whose ex_bag flipped, (first, second)."""

    differences: list[Difference]
    flips: list[tuple[Verdict, Verdict]]


def compare_runs(first: Sequence[Verdict], second: Sequence[Verdict]) -> ComparedRuns:
    """Compare by example id.

    Raises:
        KidpipeError: the two don't judge the same examples against the same golds.
    """
    others = {verdict.example_id: verdict for verdict in second}
    if set(others) != {verdict.example_id for verdict in first}:
        only = sorted(set(others) ^ {verdict.example_id for verdict in first})
        raise KidpipeError(
            f"{len(only)} examples are in one evaluation only: {', '.join(only[:5])}", fix="compare runs on the same data"
        )
    pairs = [(verdict, others[verdict.example_id]) for verdict in first]
    changed = [one.example_id for one, other in pairs if one.gold_sql != other.gold_sql]
    if changed:
        raise KidpipeError(
            f"{len(changed)} examples have another gold: {', '.join(changed[:5])}", fix="compare runs on the same data"
        )
    differences = [difference for metric in METRICS if (difference := _difference(metric, pairs)) is not None]
    flips = [
        (one, other) for one, other in pairs if one.ex_bag is not None and other.ex_bag is not None and one.ex_bag != other.ex_bag
    ]
    return ComparedRuns(differences, flips)


def difference_table(runs: ComparedRuns, first: str, second: str) -> Table:
    """The differences to read."""
    better = (f"{first} better", f"{second} better")
    table = Table("metric", first, second, "gain in points", "95% interval", "rows", *better, "McNemar's p")
    for item in runs.differences:
        p_value = "" if math.isnan(item.p_value) else f"{item.p_value:.3g}"
        interval = f"{100 * item.gain.low:+.1f} to {100 * item.gain.high:+.1f}"
        scores = (f"{item.first:.1%}", f"{item.second:.1%}", f"{100 * item.gain.value:+.1f}")
        rows = f"{item.num_rows} of {item.of}"
        table.add_row(item.metric, *scores, interval, rows, str(item.only_first), str(item.only_second), p_value)
    return table


def flip_lines(runs: ComparedRuns, first: str, second: str, limit: int = 20) -> list[str]:
    """The flipped rows to read, losses first."""
    ordered = sorted(runs.flips, key=lambda pair: bool(pair[1].ex_bag))
    lines = []
    for one, other in ordered[:limit]:
        lines.append(f"{one.example_id} ({one.db_id}): {first} {one.kind}, {second} {other.kind}")
        lines += [f"  asked   {one.question}"] if one.question else []
        lines.append(f"  gold    {one.gold_sql}")
        for name, verdict in ((first, one), (second, other)):
            lines.append(f"  {name:<7} {verdict.prediction}" + (f"  -- {verdict.message}" if verdict.message else ""))
    if len(ordered) > limit:
        lines.append(f"... and {len(ordered) - limit} more")
    return lines


def _difference(metric: str, pairs: Sequence[tuple[Verdict, Verdict]]) -> Difference | None:
    scored = [
        (float(one), float(other), verdict.gold_sql)
        for verdict, one, other in ((pair[0], getattr(pair[0], metric), getattr(pair[1], metric)) for pair in pairs)
        if one is not None and other is not None
    ]
    if not scored:
        return None
    only_first = sum(one > other for one, other, _gold in scored)
    only_second = sum(other > one for one, other, _gold in scored)
    is_binary = all(value in (0.0, 1.0) for one, other, _gold in scored for value in (one, other))
    return Difference(
        metric=metric,
        first=sum(one for one, _other, _gold in scored) / len(scored),
        second=sum(other for _one, other, _gold in scored) / len(scored),
        gain=estimate([other - one for one, other, _gold in scored], [gold for _one, _other, gold in scored]),
        only_first=only_first,
        only_second=only_second,
        num_rows=len(scored),
        of=len(pairs),
        p_value=mcnemar(only_first, only_second) if is_binary else math.nan,
    )
