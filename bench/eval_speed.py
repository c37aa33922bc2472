"""Stored predictions in; verdicts a second of kidpipe and of plain loops on the same rows, and the share spent in SQLite, out.

    python -m bench.eval_speed ../shared/data [--rows 6060] [--out bench/RESULTS.md]

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
from eval.execution import GoldCache, Pair, compare
from eval.verdicts import judge
from kidpipe.config import EvalSettings
from kidpipe.readers import Example
from kidpipe.results import is_ordered, same_bag, same_set

Row = dict[str, Any]
Cost = tuple[float, float]
OFFICIAL = {"test suite, one database": (10.9, 7.2), "BIRD": (12.7, 3.1)}
"""(wall seconds, CPU seconds) of the official evaluators on 6,076 of these pairs, as noted with the stored verdicts."""
_OFFICIAL_ROWS = 6076
_PROCESS_ROWS = 20
"""Rows of the slowest loop: it is timed on a part."""


def main(data: Path, num_rows: int, out: Path | None) -> None:
    """Print the table; put it into `out` under a heading of its own."""
    rows = _read(data)[:num_rows]
    lines = [
        f"{len(rows):,} stored predictions on 20 Spider databases, ex_bag and ex_set of each. Python "
        f"{platform.python_version()}, SQLite {sqlite3.sqlite_version}, {os.cpu_count()} cores, load "
        f"average {os.getloadavg()[0]:.1f} at the start: on a busy "
        "machine compare the CPU columns. The better of two runs.",
        "",
        "| how | rows | isolated | verdicts/s | ms a verdict | CPU ms a verdict |",
        "|---|---|---|---|---|---|",
    ]
    bare = _timed(lambda: _bare_loop(rows))
    lines.append(_line("bare loop, one process", len(rows), bare, "no"))
    part = rows[:: max(1, len(rows) // _PROCESS_ROWS)][:_PROCESS_ROWS]
    lines.append(_line("a process a row", len(part), _timed(lambda: _process_loop(part), runs=1), "yes"))
    pairs = [Pair(row["gold"], row["pred"], row["database"]) for row in rows]
    ours = {}
    for workers in (1, 2, 8):
        settings = EvalSettings(workers=workers, check_ties=False)
        ours[workers] = _timed(partial(_compare_afresh, pairs, settings))
        lines.append(_line(f"kidpipe, {workers} worker{'s' * (workers > 1)}", len(rows), ours[workers], "yes"))
    lines.append(_line("kidpipe, with exact set match, hardness, tie flags", len(rows), _timed(lambda: _everything(rows)), "yes"))
    for name, cost in OFFICIAL.items():
        lines.append(_line(f"official: {name} (noted, not run here)", _OFFICIAL_ROWS, cost, "no"))
    share, inside_ms = _inside(rows)
    lines += ["", f"Inside SQLite (connecting, running, fetching): {share:.0%} of the bare loop, {inside_ms:.3f} ms a row."]
    best = [min(cost[part] for cost in ours.values()) / len(rows) for part in (0, 1)]
    both = (sum(wall for wall, _ in OFFICIAL.values()), sum(cpu for _, cpu in OFFICIAL.values()))
    for name, cost in {**OFFICIAL, "both, as kidpipe gives both": both}.items():
        ratios = [cost[part] / _OFFICIAL_ROWS / best[part] for part in (0, 1)]
        lines.append(f"Official ({name}) over kidpipe: {ratios[0]:.1f} times the wall time, {ratios[1]:.1f} times the CPU time.")
    text = "\n".join(lines)
    print(text)
    if out is not None:
        _put_section(out, "Evaluation", text)


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


def _compare_afresh(pairs: list[Pair], settings: EvalSettings) -> None:
    """With an empty cache, so that every run executes the gold too."""
    compare(pairs, GoldCache(settings))


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


def _line(name: str, count: int, cost: Cost, isolated: str) -> str:
    wall, cpu = cost
    return f"| {name} | {count:,} | {isolated} | {count / wall:,.0f} | {wall / count * 1e3:.3f} | {cpu / count * 1e3:.3f} |"


def _put_section(path: Path, heading: str, text: str) -> None:
    """Write `text` under `## heading`, in place of what stood there."""
    content = path.read_text(encoding="utf-8") if path.exists() else "# Benchmark results\n"
    before, mark, after = content.partition(f"## {heading}\n")
    rest = after[after.index("\n## ") + 1 :] if mark and "\n## " in after else ""
    path.write_text(f"{before.rstrip()}\n\n## {heading}\n\n{text}\n" + (f"\n{rest}" if rest else ""), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument("--rows", type=int, default=6060)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    main(given.data, given.rows, given.out)
