"""Finished and failed runs in; one row a run for Parquet, and one row a group with intervals over seeds out."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from eval.evaluate import VERDICTS_FILE
from eval.statistics import estimate_crossed
from kidcore.config.train_settings import TrainSettings
from kidcore.store.log import shard_records
from kidcore.store.manifest import kept_manifest
from kidcore.store.stages import MODEL_STAGES
from kidcore.store.store import Store
from kidpipe.commands.restricted import restricted
from kidpipe.commands.session import text_table
from kidpipe.study.grid import ARM, METHOD, SEED
from kidpipe.study.intervals import Interval, mean_interval
from kidpipe.study.runs import Run

if TYPE_CHECKING:
    from rich.table import Table

_SECONDS = ("train_seconds", "online_seconds", "build_seconds", "build_seconds_shared")
FIGURES = (
    "ex_bag",
    "ex_set",
    "valid_sql",
    "final_nll",
    *_SECONDS,
    "peak_memory_mib",
)
# Parts of a training step that online methods log.
_ONLINE = ("generate_seconds", "teacher_seconds")


def rows_of(runs: Sequence[Run], store: Store) -> list[dict[str, Any]]:
    """One row a run: its axes, its error if it failed, its figures if it did not."""
    rows = []
    for run, seconds in zip(runs, _build_seconds(runs, store), strict=True):
        axes = {name.removeprefix("train."): value for name, value in run.cell.axes.items()}
        names = {name: run.request.get(name) for name in ("run", "manifest", "evaluation", "checkpoint")}
        online = {"online_seconds": sum(run.result.get(name, 0.0) for name in _ONLINE)} if run.result else {}
        rows.append({**axes, "error": run.error or None, **names, **seconds, **run.result, **online})
    # Every row has every figure, None where a run has none: a holdout without questions has no NLL (nan).
    columns = dict.fromkeys([*(name for row in rows for name in row), *FIGURES])
    return [{name: _figure(row.get(name)) for name in columns} for row in rows]


def _figure(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _build_seconds(runs: Sequence[Run], store: Store) -> list[dict[str, float | None]]:
    """For each run, what the models took for the shards it reads, and that divided among the runs here that read each shard.

    None where a shard was made elsewhere and its time is not known.
    """
    known = {record["key"]: float(record["seconds"]) for record in shard_records(store.root)}
    read = [_model_shards(store, run.request["manifest"], run.cell.config.train) if run.request else set() for run in runs]
    sharers = Counter(key for keys in read for key in keys)
    found: list[dict[str, float | None]] = []
    for keys in read:
        whole = all(key in known for key in keys)
        seconds = {
            "build_seconds": round(sum(known[key] for key in keys), 3) if whole else None,
            "build_seconds_shared": round(sum(known[key] / sharers[key] for key in keys), 3) if whole else None,
        }
        found.append(seconds)
    return found


def _model_shards(store: Store, digest: str, settings: TrainSettings) -> set[str]:
    """Keys of the shards of a manifest that a model was run for and that a run reads, or that those were made from."""
    manifest = kept_manifest(store, digest)
    assert manifest is not None
    files = restricted(manifest, settings).files(*MODEL_STAGES)
    return {name.partition("/")[2].partition(".")[0] for name in files}


def groups_of(runs: Sequence[Run], rows: Sequence[Mapping[str, Any]], store: Store) -> list[dict[str, Any]]:
    """Runs that differ in the seed alone, together: the interval of each figure, and of ex_bag's difference from the first group.

    The difference is taken seed by seed: runs of one seed see the examples in the same order and are judged on the same
    questions, so that what they share falls out. Its other interval is over questions and seeds both.
    """
    groups: dict[Any, dict[int, Mapping[str, Any]]] = {}
    for run, row in zip(runs, rows, strict=True):
        groups.setdefault(run.cell.group, {})[run.cell.seed] = row
    first = next(iter(groups.values()))
    found = []
    for axes, by_seed in groups.items():
        finished = {seed: row for seed, row in by_seed.items() if row["error"] is None}
        pairs = [(row, first[seed]) for seed, row in finished.items() if seed in first and first[seed]["error"] is None]
        figures = {name: [row[name] for row in finished.values() if row.get(name) is not None] for name in FIGURES}
        differences = [row["ex_bag"] - other["ex_bag"] for row, other in pairs if None not in (row["ex_bag"], other["ex_bag"])]
        found.append(
            {
                "axes": dict(axes),
                "seeds": len(finished),
                "failed": len(by_seed) - len(finished),
                "figures": {name: _as_json(mean_interval(values)) for name, values in figures.items()},
                "ex_bag_minus_first": None if by_seed is first else _as_json(mean_interval(differences)),
                "ex_bag_minus_first_over_questions": None if by_seed is first else _over_questions(pairs, store),
            }
        )
    return found


def _over_questions(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], store: Store) -> dict[str, Any] | None:
    """The paired difference in ex_bag, over questions (those of one gold together) and seeds; None where verdicts are missing."""
    differences: list[dict[tuple[str, str], float]] = []
    for pair in pairs:
        first, other = (_scores(store, row.get("evaluation")) for row in reversed(pair))
        differences.append({question: other[question] - score for question, score in first.items() if question in other})
    shared = sorted(set.intersection(*map(set, differences))) if differences else []
    if not shared:
        return None
    values_SQ = np.array([[of_seed[question] for question in shared] for of_seed in differences])
    return asdict(estimate_crossed(values_SQ, [gold for _example_id, gold in shared]))


def _scores(store: Store, evaluation: str | None) -> dict[tuple[str, str], float]:
    """ex_bag by example id and gold SQL, where there is one."""
    path = store.root / "eval" / str(evaluation) / VERDICTS_FILE
    if evaluation is None or not path.is_file():
        return {}
    columns = pq.read_table(path, columns=["example_id", "gold_sql", "ex_bag"]).to_pylist()
    return {(row["example_id"], row["gold_sql"]): float(row["ex_bag"]) for row in columns if row["ex_bag"] is not None}


def _as_json(interval: Interval | None) -> dict[str, Any] | None:
    return asdict(interval) if interval else None


def table_of(groups: Sequence[Mapping[str, Any]]) -> "Table":
    """What people read: a line a group."""
    axes = [name for name in groups[0]["axes"] if name != SEED]
    names = {name: name.removeprefix("train.") for name in axes}
    columns = {names[name]: "left" if name in (ARM, METHOD) else "right" for name in axes} | {"seeds": "right", "ex_bag": "right"}
    columns |= {"95% over seeds": "left", "points above first": "right", "95% of that": "left", "95%, questions too": "left"}
    columns |= {"training s": "right", "online s": "right", "build s": "right", "shared s": "right", "peak MiB": "right"}
    table = text_table("", columns)
    for group in groups:
        settings = ["" if group["axes"][name] is None else str(group["axes"][name]) for name in axes]
        figures, difference = group["figures"], group["ex_bag_minus_first"]
        seconds = [_mean(figures[name], ".1f") for name in _SECONDS]
        quality = [_mean(figures["ex_bag"], ".1%"), _bounds(figures["ex_bag"], ".1%")]
        against = [_mean(difference, "+.1f", 100), _bounds(difference, "+.1f", 100)]
        against.append(_bounds(group["ex_bag_minus_first_over_questions"], "+.1f", 100))
        table.add_row(*settings, str(group["seeds"]), *quality, *against, *seconds, _mean(figures["peak_memory_mib"], ".0f"))
    return table


def _mean(interval: Mapping[str, Any] | None, form: str, times: int = 1) -> str:
    return format(times * interval["mean"], form) if interval else ""


def _bounds(interval: Mapping[str, Any] | None, form: str, times: int = 1) -> str:
    if interval is None or interval["low"] is None:
        return ""
    return f"{format(times * interval['low'], form)} to {format(times * interval['high'], form)}"
