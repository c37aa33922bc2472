"""`kidpipe fuzz-suite`: the held-out golds and their databases in, a test suite and how well it tells wrong SQL out."""

from dataclasses import asdict
from pathlib import Path

from eval.suites.fuzz import make_suite as make
from eval.suites.fuzz import total, unfit
from kidcore.sql.datasets import read
from kidpipe.commands.session import Session, text_table
from kidpipe.commands.shown_tables import print_table


def fuzz_suite(session: Session, out: Path, *, variants: int, seed: int, as_json: bool) -> dict[str, object]:
    """Write the suite into `out` and show the kill rate, by database and overall."""
    config = session.config
    dataset = read(config.data, "dev")
    examples = dataset.examples[: config.eval.limit] if config.eval.limit else dataset.examples
    faults = {db_id: unfit(dataset.database(db_id)) for db_id in sorted({example.db_id for example in examples})}
    without = {db_id: fault.what for db_id, fault in faults.items() if fault}
    with session.progress() as bar:
        reports = make(
            examples, dataset.database, out, variants, seed, config.eval, bar.ticker("databases", "database"), config.sandbox
        )
    rows = {**reports, "all": total(reports.values())}
    if as_json:
        session.print_json({name: asdict(report) for name, report in rows.items()} | {"folder": str(out), "without": without})
    else:
        columns = ("golds", "mutants", "killed at first", "killed", "variants", "equal by keys")
        table = text_table("", {"database": "left"} | dict.fromkeys(columns, "right"))
        for name, report in rows.items():
            rates = (_percent(report.killed_by_original, report.mutants), _percent(report.killed, report.mutants))
            table.add_row(name, str(report.golds), str(report.mutants), *rates, str(report.variants), str(report.equal))
        print_table(session.console, table)
        session.console.print(
            "killed: share of the golds' mutants that the original database refutes, and that the whole suite does"
        )
        session.console.print("equal by keys: mutants left out because primary and foreign keys prove them equal to their gold")
        for name, fault in without.items():
            session.console.print(f"no suite    {name}: {fault}")
        session.console.print(f"use it      kidpipe eval MODEL --suite {out}")
    return {name: asdict(report) for name, report in rows.items()}


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else ""
