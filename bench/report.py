"""Measured turns of several students in; the ratios, the Markdown tables and the JSON of a benchmark out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bench.session import Session, describe, finish
from bench.students import Load
from bench.timing import Clock, Costs, Spread, ratio, summary, table, worst

Sides = tuple[tuple[str, ...], tuple[str, ...]]
"""Ways above the line, added up, and ways below it."""


def all_ratios(measured: Mapping[str, Costs], wanted: Mapping[str, Sides], clock: Clock) -> dict[str, Spread]:
    """Each ratio under its own name, the worst of the students, and under `name_student`; what was not measured is left out."""
    found: dict[str, Spread] = {}
    for key, (ours, theirs) in wanted.items():
        by_student = {name: ratio(costs, ours, theirs, clock) for name, costs in measured.items()}
        if overall := worst(list(by_student.values())):
            found[key] = overall
        found |= {f"{key}_{name}": spread for name, spread in by_student.items() if spread is not None}
    return found


def report(
    session: Session,
    where: dict[str, Any],
    load: Load,
    measured: Mapping[str, Costs],
    wanted: Mapping[str, Sides],
    *,
    ways: Sequence[str],
    notes: Sequence[str] = (),
    more: Mapping[str, Any] | None = None,
) -> None:
    """Print the tables and write the JSON.

    Args:
        session: where to write.
        where: `environment` as it was at the start.
        load: what every turn did.
        measured: the turns by student.
        wanted: the ratios by name.
        ways: all ways that were to be measured; those that are missing are named.
        notes: paragraphs below the tables.
        more: further entries of the JSON; `ratios` in it are joined to the measured ones.
    """
    more = dict(more or {})
    wall, cpu = (all_ratios(measured, wanted, clock) for clock in ("wall", "cpu"))
    blocks = [describe(where), _describe_load(load)]
    for name, costs in measured.items():
        blocks.append(_cost_table(name, costs, load))
        if missing := [way for way in ways if not costs.get(way)]:
            blocks.append(f"{name}, out of memory: {', '.join(missing)}.")
    blocks += [_ratio_table(measured, wanted, wall, cpu), *notes]
    figures = {
        "ratios": {key: spread.median for key, spread in wall.items()} | more.pop("ratios", {}),
        "ratios_cpu": {key: spread.median for key, spread in cpu.items()},
        "spread": {key: asdict(spread) for key, spread in wall.items()},
        "spread_cpu": {key: asdict(spread) for key, spread in cpu.items()},
        "environment": dict(where),
        "load": asdict(load),
        "sizes": {name: summary(costs) for name, costs in measured.items()},
    }
    finish(session, figures | more, "\n\n".join(blocks))


def _describe_load(load: Load) -> str:
    precision = "bfloat16 with float32 weights" if load.device == "cuda" else "float32"
    return (
        f"{load.batch_size} examples a step, {load.steps} steps a turn, taken twice and timed the second time, packs of"
        f" {load.pack_tokens:,} tokens, {precision}. Medians over the rounds."
    )


def _cost_table(name: str, costs: Costs, load: Load) -> str:
    memory = "peak MiB" if load.device == "cuda" else "peak MiB above weights and optimiser"
    header = [f"student {name}", "ms an example", "CPU ms", memory, "trunk tokens", "first loss", "rounds"]
    rows = [
        [
            way,
            f"{figures['ms_per_example']:.2f}",
            f"{figures['cpu_ms_per_example']:.2f}",
            _or_empty(figures["peak_mib"], ",.0f"),
            _or_empty(figures["tokens_per_example"], ".0f"),
            _or_empty(costs[way][0].first_loss, ".4f"),
            str(len(costs[way])),
        ]
        for way, figures in summary(costs).items()
    ]
    return table(header, rows)


def _ratio_table(
    measured: Mapping[str, Costs], wanted: Mapping[str, Sides], wall: Mapping[str, Spread], cpu: Mapping[str, Spread]
) -> str:
    header = ["ratio: median (least to greatest)", "trunk tokens"]
    for name in measured:
        header += [f"{name}, wall", f"{name}, CPU seconds"]
    rows = []
    for key, sides in wanted.items():
        if key in wall:
            of_tokens = max(token_ratio(costs, sides) for costs in measured.values())
            cells = [key, _or_empty(of_tokens, ".3f")]
            for name in measured:
                cells += [str(found.get(f"{key}_{name}", "")) for found in (wall, cpu)]
            rows.append(cells)
    return table(header, rows)


def token_ratio(costs: Costs, sides: Sides) -> float:
    """Tokens through the student's trunk an example, ours over theirs; 0 where either was not counted."""
    above, below = ([costs[way][0].tokens / costs[way][0].examples for way in side if costs.get(way)] for side in sides)
    return sum(above) / sum(below) if above and below and all((*above, *below)) else 0.0


def _or_empty(value: float | None, form: str) -> str:
    return format(value, form) if value and not math.isnan(value) else ""
