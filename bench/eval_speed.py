"""Stored predictions in; verdicts a second of kidpipe and of plain loops on the same rows, and the share spent in SQLite, out.

    python -m bench.eval_speed DATA [--rows 6060] [--out bench/RESULTS.md] [--json FILE]

The plain loops are what an evaluator without much thought does, one process, gold and prediction run for every row:
`bare loop` has no protection at all, `process a row` starts a killable process for each row.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from eval.databases import Databases
from eval.execution import GoldCache, Pair, compare_results
from eval.verdicts import judge
from kidcore.config.config import EvalSettings, SandboxSettings
from kidcore.config.processes import usable_cores
from kidcore.sql.datasets import Example
from kidcore.sql.lexer import is_ordered
from kidcore.sql.results import same_bag, same_set

Row = dict[str, Any]
Cost = tuple[float, float]
OFFICIAL = {"test suite, one database": (10.9, 7.2), "BIRD": (12.7, 3.1)}
"""(wall seconds, CPU seconds) of the official evaluators on 6,076 of these pairs, as noted with the stored verdicts."""
_OFFICIAL_ROWS = 6076
_BARE, _PROCESSES = "bare loop, one process", "a process a row"
_NOTED = {name: f"official: {name} (noted, not run here)" for name in OFFICIAL}
_BOTH = "official: both verdicts, as kidpipe gives both"
_SHORT = dict(zip((_BARE, _PROCESSES, *_NOTED.values(), _BOTH), ("bare", "process", "test_suite", "bird", "both"), strict=True))
"""Names of the ratios in JSON."""
_PROCESS_ROWS = 20
"""Rows of the slowest loop: it is timed on a part."""


def main(data: Path, num_rows: int, out: Path | None, json_file: Path | None) -> None:
    """Print the table; put it into `out` under a heading of its own, and cases and ratios into `json_file`."""
    rows = _read(data)[:num_rows]
    head = (
        f"{len(rows):,} stored predictions on 20 Spider databases, ex_bag and ex_set of each. Python "
        f"{platform.python_version()}, SQLite {sqlite3.sqlite_version}, {usable_cores()} cores, load "
        f"average {os.getloadavg()[0]:.1f} at the start: on a busy "
        "machine compare the CPU columns. The better of two runs."
    )
    cases = _measured(rows)
    share, inside_ms = _inside(rows)
    ratios = _ratios(cases)
    lines = [head, "", "| how | rows | isolated | verdicts/s | ms a verdict | CPU ms a verdict |", "|---|---|---|---|---|---|"]
    lines += [_line(case) for case in cases]
    lines += ["", f"Inside SQLite (connecting, running, fetching): {share:.0%} of the bare loop, {inside_ms:.3f} ms a row."]
    lines += ["", "How many times as long as kidpipe's best of 1, 2 and 8 workers, isolation included, a verdict:", ""]
    lines += ["| against | wall time | CPU time |", "|---|---|---|"]
    lines += [f"| {name} | {1 / pair['wall']:,.1f} | {1 / pair['cpu']:,.1f} |" for name, pair in ratios.items()]
    text = "\n".join(lines)
    print(text)
    if out is not None:
        _put_section(out, "Evaluation", text)
    if json_file is not None:
        flat = {f"kidpipe_over_{_SHORT[name]}_{unit}": value for name, pair in ratios.items() for unit, value in pair.items()}
        json_file.write_text(json.dumps({"cases": cases, "ratios": flat}, indent=2) + "\n", encoding="utf-8")


def _measured(rows: list[Row]) -> list[Row]:
    """Every way of judging with its time; the official ones as noted."""
    part = rows[:: max(1, len(rows) // _PROCESS_ROWS)][:_PROCESS_ROWS]
    pairs = [Pair(row["gold"], row["pred"], row["database"]) for row in rows]
    cases = [
        _case(_BARE, len(rows), _timed(lambda: _bare_loop(rows)), "no"),
        _case(_PROCESSES, len(part), _timed(lambda: _process_loop(part), runs=1), "yes"),
    ]
    for workers in (1, 2, 8):
        cost = _timed(partial(_compare_afresh, pairs, EvalSettings(check_ties=False), SandboxSettings(workers=workers)))
        cases.append(_case(f"kidpipe, {workers} worker{'s' * (workers > 1)}", len(rows), cost, "yes"))
    cases.append(_case("kidpipe, with exact set match, hardness, tie flags", len(rows), _timed(lambda: _everything(rows)), "yes"))
    return cases + [_case(_NOTED[name], _OFFICIAL_ROWS, cost, "no") for name, cost in OFFICIAL.items()]


def _ratios(cases: list[Row]) -> dict[str, dict[str, float]]:
    """kidpipe's cost a verdict over that of the others; below 0.1 is ten times cheaper. kidpipe gives both official verdicts."""
    ours = [case for case in cases if case["how"].startswith("kidpipe,") and "worker" in case["how"]]
    theirs = [case for case in cases if not case["how"].startswith("kidpipe")]
    official = [case for case in theirs if case["how"].startswith("official")]
    names = {case["how"]: [case] for case in theirs} | {_BOTH: official}
    return {
        name: {
            unit: min(case[f"{unit}_ms"] for case in ours) / sum(case[f"{unit}_ms"] for case in against)
            for unit in ("wall", "cpu")
        }
        for name, against in names.items()
    }


def _read(data: Path) -> list[Row]:
    examples = json.loads((data / "spider" / "dev.json").read_text(encoding="utf-8"))
    with (data / "verdicts" / "spider_dev.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    folder = data / "spider" / "database"
    return [
        {**row, "gold": examples[row["index"]]["query"], "database": folder / row["db_id"] / f"{row['db_id']}.sqlite"}
        for row in rows
    ]


def _bare_loop(rows: list[Row]) -> None:
    """Connect, run gold and prediction, compare; nothing is cached, nothing is safe."""
    for row in rows:
        gold, pred = _execute(row["database"], row["gold"]), _execute(row["database"], row["pred"])
        _ = pred is not None and (same_bag(gold or [], pred, is_ordered(row["gold"])), same_set(gold or [], pred))


def _inside(rows: list[Row]) -> tuple[float, float]:
    """Share of the bare loop that SQLite takes, and its milliseconds a row."""
    inside, started = 0.0, time.perf_counter()
    for row in rows:
        begun = time.perf_counter()
        gold, pred = _execute(row["database"], row["gold"]), _execute(row["database"], row["pred"])
        inside += time.perf_counter() - begun
        _ = pred is not None and (same_bag(gold or [], pred, is_ordered(row["gold"])), same_set(gold or [], pred))
    return inside / (time.perf_counter() - started), inside / len(rows) * 1e3


def _process_loop(rows: list[Row]) -> None:
    context = multiprocessing.get_context("spawn")
    for row in rows:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_one_row, args=(theirs, str(row["database"]), row["gold"], row["pred"]))
        process.start()
        assert ours.poll(60), "a process of the plain loop gave no answer"
        ours.recv()
        process.join()


def _one_row(pipe: Any, database: str, gold_sql: str, pred_sql: str) -> None:
    gold, pred = _execute(Path(database), gold_sql), _execute(Path(database), pred_sql)
    pipe.send(pred is not None and same_bag(gold or [], pred, is_ordered(gold_sql)))


def _execute(database: Path, sql: str) -> list[tuple[Any, ...]] | None:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        connection.text_factory = lambda data: data.decode(errors="ignore")
        try:
            return connection.execute(sql).fetchall()
        except (sqlite3.Error, sqlite3.Warning):
            return None


def _compare_afresh(pairs: list[Pair], settings: EvalSettings, sandbox: SandboxSettings) -> None:
    """With an empty cache, so that every run executes the gold too."""
    compare_results(pairs, GoldCache(settings, sandbox))


def _everything(rows: list[Row]) -> None:
    """As `kidpipe eval` does: exact set match, hardness and tie flags too."""
    files = {row["db_id"]: row["database"] for row in rows}
    examples = [Example(str(row["id"]), row["db_id"], "", row["gold"]) for row in rows]
    judge(examples, {str(row["id"]): row["pred"] for row in rows}, Databases(files.__getitem__), GoldCache(EvalSettings()))


def _timed(work: Callable[[], object], runs: int = 2) -> Cost:
    """(wall, CPU) seconds, each the better of the runs: other work on the machine only ever adds."""
    costs = []
    for _ in range(runs):
        started, cpu_started = time.perf_counter(), _cpu_s()
        work()
        costs.append((time.perf_counter() - started, _cpu_s() - cpu_started))
    return min(wall for wall, _cpu in costs), min(cpu for _wall, cpu in costs)


def _cpu_s() -> float:
    """CPU seconds of this process and of those it has waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _case(how: str, count: int, cost: Cost, isolated: str) -> Row:
    wall, cpu = cost
    return {"how": how, "rows": count, "isolated": isolated, "wall_ms": wall / count * 1e3, "cpu_ms": cpu / count * 1e3}


def _line(case: Row) -> str:
    rate = 1e3 / case["wall_ms"]
    return (
        f"| {case['how']} | {case['rows']:,} | {case['isolated']} | {rate:,.0f} | {case['wall_ms']:.3f} | {case['cpu_ms']:.3f} |"
    )


def _put_section(path: Path, heading: str, text: str) -> None:
    """Write `text` under `## heading`, in place of what stood there."""
    content = path.read_text(encoding="utf-8") if path.exists() else "# Benchmark results\n"
    before, mark, after = content.partition(f"## {heading}\n")
    rest = after[after.index("\n## ") + 1 :] if mark and "\n## " in after else ""
    path.write_text(f"{before.rstrip()}\n\n## {heading}\n\n{text}\n" + (f"\n{rest}" if rest else ""), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path, help="folder of stored verdicts with their data sets")
    parser.add_argument("--rows", type=int, default=6060)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    main(given.data, given.rows, given.out, given.json)
