"""The official evaluators' stored verdicts in; per metric how many of ours agree, are explained or are not, out.

    python -m bench.verdict_parity DATA

A disagreement is explained only where a check on that very row shows the official tool wrong (see docs/evaluation.md);
anything else is listed and makes the exit code 1.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from eval.databases import Databases
from eval.execution import GoldCache
from eval.names import read_tables_json
from eval.spider.clauses import ParsedQuery
from eval.spider.exact_match import ExactMatcher
from eval.spider.grammar import ParseError, parse
from eval.spider.official import OfficialMatcher
from eval.verdicts import Verdict, VerdictKind, judge
from kidcore.config.config import EvalSettings
from kidcore.sql.answers import read_answer
from kidcore.sql.datasets import Example
from kidcore.sql.lexer import TokenKind, is_ordered, mend_operators, tokens
from kidcore.sql.results import Rows, same_bag
from kidcore.sql.sandbox.job import Job, Limits
from kidcore.sql.sandbox.pool import SandboxPool

Row = dict[str, Any]
"""A line of the oracle, with the gold under `gold`."""
Cause = Callable[["Case"], bool]


@dataclass(frozen=True)
class Case:
    """A row on which we disagree, with what is needed to say why."""

    row: Row
    ours: int
    official: int
    verdict: Verdict
    database: Path
    matcher: ExactMatcher
    official_matcher: OfficialMatcher

    def rows(self) -> tuple[Rows, Rows]:
        """The gold's and the prediction's results."""
        jobs = [Job(str(self.database), mend_operators(self.row[name])) for name in ("gold", "pred")]
        with SandboxPool(Limits(), 1) as pool:
            gold, pred = pool.run(jobs)
        return gold.rows, pred.rows


def main(data: Path) -> int:
    """Print a line per metric; 1 where something is unexplained."""
    rows = _read(data)
    spider = data / "spider"
    links = read_tables_json(spider / "tables.json")
    files = {db_id: spider / "database" / db_id / f"{db_id}.sqlite" for db_id in {row["db_id"] for row in rows}}
    single = Databases(files.__getitem__, None, links)
    mended = _judge(rows, Databases(files.__getitem__, spider / "test_suite_database", links), mend_operators=True)
    stripped = _judge(rows, single, mend_operators=True, keep_distinct=False)
    plain = _judge(rows, single)
    official = [_officially(row, single) for row in rows]
    left = _report("esm", rows, official, plain, single, "esm, read officially")
    for metric, name, verdicts in (
        ("ts_bag_keep_distinct", "ex_bag", mended),
        ("ts_bag_default", "ex_bag", stripped),
        ("bird_set", "ex_set", plain),
        ("ts_suite_keep_distinct", "ts_bag", mended),
        ("esm", "exact_set_match", mended),
        ("hardness", "hardness", plain),
    ):
        left += _report(metric, rows, [getattr(verdict, name) for verdict in verdicts], verdicts, single)
    _print_unwrapped(rows, single)
    return int(left > 0)


def _print_unwrapped(rows: list[Row], databases: Databases) -> None:
    """Texts that `kidpipe eval --predictions` reads SQL out of, and the official tools execute as they stand: they fail there."""
    wrapped = [row for row in rows if read_answer(row["pred"]) != row["pred"].strip()]
    inside = [{**row, "pred": read_answer(row["pred"])} for row in wrapped]
    right = sum(bool(verdict.ex_bag) for verdict in _judge(inside, databases)) if inside else 0
    print(
        f"{'wrapped in text':<24} {len(wrapped)} of {len(rows)} predictions; read by docs/evaluation.md's rule {right} are right"
    )


def _read(data: Path) -> list[Row]:
    examples = json.loads((data / "spider" / "dev.json").read_text(encoding="utf-8"))
    with (data / "verdicts" / "spider_dev.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [{**row, "gold": examples[row["index"]]["query"]} for row in rows]


def _judge(rows: list[Row], databases: Databases, **changes: bool) -> list[Verdict]:
    settings = EvalSettings(check_ties=False).model_copy(update=changes)
    examples = [Example(str(row["id"]), row["db_id"], "", row["gold"]) for row in rows]
    return judge(examples, {str(row["id"]): row["pred"] for row in rows}, databases, GoldCache(settings))


def _officially(row: Row, databases: Databases) -> bool | None:
    """Exact set match with the official evaluator's misreadings; nothing about it is explained away."""
    matcher = databases.matcher(row["db_id"], official=True)
    return matcher(row["gold"], row["pred"]) if matcher else None


def _report(metric: str, rows: list[Row], ours: list[Any], verdicts: list[Verdict], databases: Databases, title: str = "") -> int:
    explained: dict[str, list[int]] = defaultdict(list)
    left: list[Row] = []
    for row, value, verdict in zip(rows, ours, verdicts, strict=True):
        if value == row[metric]:
            continue
        matcher, official = databases.matcher(row["db_id"]), databases.matcher(row["db_id"], official=True)
        assert isinstance(matcher, ExactMatcher), f"the database of row {row['id']} can't be read"
        assert isinstance(official, OfficialMatcher)
        case = Case(row, value, row[metric], verdict, databases.of(row["db_id"]).path, matcher, official)
        causes = {} if title else CAUSES.get(metric, {})
        cause = next((name for name, holds in causes.items() if holds(case)), None)
        if cause is None:
            left.append(row)
        else:
            explained[cause].append(row["id"])
    total = sum(map(len, explained.values()))
    agreed = len(rows) - total - len(left)
    print(f"{title or metric:<24} agreed {agreed:>5}  explained {total:>4}  unexplained {len(left):>3}")
    for cause, ids in explained.items():
        print(f"    {len(ids):>4}  {cause} (ids {', '.join(map(str, ids[:5]))}{', ...' if len(ids) > 5 else ''})")
    for row in left:
        print(f"    unexplained: id {row['id']} {row['kind']} official {row[metric]}\n      {row['pred']}\n      {row['gold']}")
    return len(left)


def _orders_inside_only(case: Case) -> bool:
    """The bags agree, and ORDER BY stands in the gold only inside a subquery: no order of rows was asked for."""
    gold = case.row["gold"]
    return (case.official, case.ours) == (0, 1) and "order by" in gold.lower() and not is_ordered(gold)


def _tells_equal_numbers_apart(case: Case) -> bool:
    """The bags agree by the tool's own equality (1 = 1.0); its first check sorts each row by the text of its values, where
    1 and 1.0 stand in different places, and rejects."""
    if (case.official, case.ours) != (0, 1):
        return False
    gold, pred = case.rows()
    return same_bag(gold, pred, is_ordered(case.row["gold"])) and _sorted_by_text(gold) != _sorted_by_text(pred)


def _sorted_by_text(rows: Rows) -> set[tuple[Any, ...]]:
    return {tuple(sorted(row, key=lambda value: str(value) + str(type(value)))) for row in rows}


def _cuts_second_statement(case: Case) -> bool:
    """The prediction is two statements, which no application could run as one; the tool drops the second silently."""
    return (case.official, case.ours) == (1, 0) and case.verdict.message == "more than one statement"


def _is_read_by_sqlite_only(case: Case) -> bool:
    """The official parser gives up and compares an empty query; the prediction runs, and is right on the whole suite."""
    row = case.row
    return (case.official, case.ours, row["esm_pred_parsed"]) == (0, 1, 0) and bool(row["ts_suite_keep_distinct"])


def _is_not_sql(case: Case) -> bool:
    """The prediction doesn't execute; the official parser stops reading before the part that is wrong."""
    return (case.official, case.ours) == (1, 0) and case.verdict.kind in (VerdictKind.ERROR, VerdictKind.REFUSED)


def _reads_outer_join_as_inner(case: Case) -> bool:
    """The prediction has an outer join that the gold hasn't, and with LEFT cut out it has the gold's clauses: the official
    parser takes LEFT for part of the condition before it."""
    cut = "".join(token.text for token in tokens(case.row["pred"]) if not token.is_word("LEFT"))
    return (case.official, case.ours) == (1, 0) and cut != case.row["pred"] and case.matcher(case.row["gold"], cut) is True


def _keeps_one_direction(case: Case) -> bool:
    """The two sort by the same keys in different directions; the official parser keeps the last direction written only."""
    if (case.official, case.ours) != (1, 0):
        return False
    try:
        gold, pred = parse(case.row["gold"]), parse(case.row["pred"])
    except ParseError:
        return False
    return _directions(gold) != _directions(pred) and _directions(gold)[-1] == _directions(pred)[-1]


def _misreads(kind: Callable[[str], bool]) -> Cause:
    """The text of one of the two is of this kind, and reading both as the official parser does gives its very verdict."""

    def holds(case: Case) -> bool:
        texts = case.row["gold"], case.row["pred"]
        return any(map(kind, texts)) and case.official_matcher(*texts) is bool(case.official)

    return holds


def _has_or_in_on(sql: str) -> bool:
    words = [token.text.lower() for token in tokens(sql) if token.kind is not TokenKind.SPACE]
    inside = False
    for word in words:
        inside = word == "on" or (
            inside and word not in ("join", "where", "group", "order", "limit", "union", "intersect", "except")
        )
        if inside and word == "or":
            return True
    return False


def _aliases(sql: str) -> list[tuple[str, str]]:
    """(alias, what stands before AS), in lower case."""
    words = [token.text.lower() for token in tokens(sql) if token.kind is not TokenKind.SPACE]
    return [(words[at + 1], words[at - 1]) for at in range(1, len(words) - 1) if words[at] == "as"]


def _gives_an_alias_twice(sql: str) -> bool:
    named = set(_aliases(sql))
    return len({alias for alias, _table in named}) < len(named)


def _names_a_table_outside_from(sql: str) -> bool:
    words = [token.text.lower() for token in tokens(sql) if token.kind is not TokenKind.SPACE]
    prefixes = {words[at - 1] for at in range(1, len(words)) if words[at] == "."}
    named = {following for word, following in pairwise(words) if word in ("from", "join", ",")}
    return bool(prefixes - named - {alias for alias, _table in _aliases(sql)})


def _mixes_quotes(sql: str) -> bool:
    kinds = {token.text[0] for token in tokens(sql) if token.kind in (TokenKind.TEXT, TokenKind.QUOTED)}
    inside = any(set(token.text[1:-1]) & {"'", '"'} for token in tokens(sql) if token.kind in (TokenKind.TEXT, TokenKind.QUOTED))
    return inside or {"'", '"'} <= kinds


def _directions(query: ParsedQuery) -> list[str]:
    return [direction for _unit, direction in query.order]


_EXECUTION: dict[str, Cause] = {
    "demands the order of rows for an ORDER BY inside a subquery": _orders_inside_only,
    "tells 1 and 1.0 apart when sorting, though they are equal to it": _tells_equal_numbers_apart,
}
CAUSES: dict[str, dict[str, Cause]] = {
    "ts_bag_keep_distinct": _EXECUTION,
    "ts_bag_default": {**_EXECUTION, "drops the second of two statements silently": _cuts_second_statement},
    "ts_suite_keep_distinct": _EXECUTION,
    "esm": {
        "compares an empty query, because its parser can't read what SQLite runs": _is_read_by_sqlite_only,
        "accepts what SQLite rejects": _is_not_sql,
        "reads an outer join as an inner one": _reads_outer_join_as_inner,
        "keeps one direction for a whole ORDER BY": _keeps_one_direction,
        "swallows OR and what follows it in ON": _misreads(_has_or_in_on),
        "takes an alias that is given twice for the last table it was given to": _misreads(_gives_an_alias_twice),
        "knows tables that FROM doesn't name": _misreads(_names_a_table_outside_from),
        "takes both quotes for one": _misreads(_mixes_quotes),
    },
}
"""Why the official verdict is wrong, by metric; each check looks at the row itself."""


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])) if len(sys.argv) == 2 else "usage: python -m bench.verdict_parity DATA")
