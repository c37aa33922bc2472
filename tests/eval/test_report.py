"""Summaries of verdicts: counts add up, rates say of how many, files come back as written, tables fit a terminal."""

import json
import math
import resource
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.report import METRICS, read_verdicts, summarize, tables, unjudged_lines, write_evaluation, write_verdicts
from eval.verdicts import Verdict, VerdictKind
from kidcore.console import open_console
from kidcore.finite import finite
from tests.eval.made_verdicts import verdict

_SCORE = st.none() | st.floats(0, 1)
VERDICTS = st.builds(
    verdict,
    st.text(max_size=5),
    st.sampled_from(VerdictKind),
    db_id=st.sampled_from(["a", "b", "日本", "sales [eu]", "sales [/us]", ":cat:"]),
    hardness=st.sampled_from(["easy", "extra", "simple", "", "own", "[/hard]"]),
    gold_sql=st.sampled_from(["SELECT 1", "SELECT 2"]),
    exact_set_match=st.none() | st.booleans(),
    soft_f1=_SCORE,
    vacuous=st.booleans(),
    ties=st.booleans(),
    message=st.text(max_size=8),
    seconds=st.floats(0, 1e6),
    ves_reward=_SCORE,
)


def shown(summary: dict[str, object], width: int) -> list[str]:
    console = open_console(width=width, record=True, file=None, quiet=False, no_color=True, force_terminal=False)
    with console.capture() as captured:
        for table in tables(summary, "run"):
            console.print(table)
    return captured.get().splitlines()


@settings(max_examples=12, deadline=None)
@given(rows=st.lists(VERDICTS, max_size=12))
def test_counts_add_up_whatever_the_rows(rows: list[Verdict]) -> None:
    summary = summarize(rows)
    assert summary["examples"] == sum(summary["kinds"].values()) == summary["judged"] + summary["unjudged"]["rows"]
    assert sum(summary["unjudged"]["reasons"].values()) == summary["unjudged"]["rows"]
    for part in ("by_hardness", "by_database"):
        assert sum(group["rows"] for group in summary[part].values()) == summary["judged"]
        assert sum(group["of"] for group in summary[part].values()) == summary["examples"]
    for name, metric in summary["metrics"].items():
        assert name in METRICS
        assert metric["all"]["of"] == metric["unflagged"]["of"] == len(rows)
        assert metric["unflagged"]["num_rows"] <= metric["all"]["num_rows"] <= summary["judged"]
        judged = [row for row in rows if row.kind is not VerdictKind.GOLD_ERROR]
        known = [float(getattr(row, name)) for row in judged if getattr(row, name) is not None]
        assert metric["all"]["value"] == pytest.approx(sum(known) / len(known))
        # A score by class is the overall one, taken apart.
        groups = [group for group in summary["by_database"].values() if name in group]
        assert groups
    json.dumps(finite(summary), allow_nan=False)
    lines = shown(finite(summary), 80)
    for name in {*summary["by_database"], *summary["by_hardness"]}:
        assert any(f" {name or '(none)'} " in line for line in lines), "a name is shown as it is"


@settings(max_examples=20, deadline=None)
@given(rows=st.lists(VERDICTS, max_size=6))
def test_verdicts_come_back_as_written(rows: list[Verdict], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("verdicts") / "verdicts.parquet"
    write_verdicts(rows, path)
    assert read_verdicts(path) == rows
    assert [item.name for item in path.parent.iterdir()] == [path.name], "no temporary file stays"


def test_a_rate_is_over_judged_rows_and_unflagged_ones_apart() -> None:
    rows = [
        verdict("a"),
        verdict("b", VerdictKind.WRONG, vacuous=True),
        verdict("c", VerdictKind.TIMEOUT, ties=True),
        verdict("d", VerdictKind.GOLD_ERROR, message="database missing", vacuous=True),
    ]
    summary = summarize(rows)
    assert summary["flagged"] == {"vacuous": 1, "ties": 1, "either": 2}
    assert summary["valid_sql"] == pytest.approx(2 / 3)
    assert (summary["metrics"]["ex_bag"]["all"]["value"], summary["metrics"]["ex_bag"]["unflagged"]["value"]) == (
        pytest.approx(1 / 3),
        1.0,
    )
    assert unjudged_lines(summary) == ["1 of 4 rows not judged: database missing"]
    assert "ts_bag" not in summary["metrics"], "no suite, no score of one"


def test_a_reason_is_a_line_however_many_its_message_has() -> None:
    rows = [verdict(str(n), VerdictKind.GOLD_ERROR, message=f"No such table: x\n\nLINE 1: SELECT {n}\n   ^") for n in range(2)]
    assert unjudged_lines(summarize([*rows, verdict()])) == ["2 of 3 rows not judged: No such table: x"]


def test_nothing_to_judge_has_a_summary_without_rates() -> None:
    for rows in ([], [verdict("a", VerdictKind.GOLD_ERROR, message="gone")]):
        summary = finite(summarize(rows))
        assert (summary["metrics"], summary["valid_sql"], summary["judged"]) == ({}, None, 0)
        assert any("0" in line for line in shown(summary, 80))


def test_classes_come_from_easy_to_hard_and_unknown_ones_last() -> None:
    names = ["zebra", "challenging", "", "extra", "easy", "simple", "alpha"]
    summary = summarize([verdict(str(n), hardness=name) for n, name in enumerate(names)])
    assert list(summary["by_hardness"]) == ["easy", "extra", "simple", "challenging", "", "alpha", "zebra"]
    assert any("(none)" in line for line in shown(summary, 80))


def test_reasons_beyond_the_first_twenty_are_counted_together_the_commonest_first() -> None:
    rows = [verdict(f"{n}", VerdictKind.GOLD_ERROR, message=f"reason {n}") for n in range(25)]
    rows += [
        verdict("x", VerdictKind.GOLD_ERROR, message="reason 24"),
        verdict("y", VerdictKind.GOLD_ERROR, message="odd \ud800"),
    ]
    found = summarize(rows)["unjudged"]
    assert next(iter(found["reasons"].items())) == ("reason 24", 2)
    assert len(found["reasons"]) == 21
    assert found["reasons"]["other reasons"] == 6
    assert (found["rows"], len(found["examples"])) == (27, 20)


@pytest.mark.parametrize("width", [60, 80])
def test_the_tables_fit_a_narrow_terminal_and_keep_every_score(width: int) -> None:
    rows = [verdict(str(n), VerdictKind.CORRECT if n % 3 else VerdictKind.WRONG, db_id="concert_singer") for n in range(9)]
    lines = shown(summarize(rows), width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert all(part in text for part in ("ex_bag", "66.7%", "easy", "concert_singer"))


def test_figures_say_what_they_are() -> None:
    rows = [verdict(f"w{n}", VerdictKind.ERROR, vacuous=n < 2) for n in range(9)] + [verdict("x", VerdictKind.GOLD_ERROR)]
    scores, classes, _databases = tables(summarize(rows))
    assert "valid SQL in 0 of 9 judged rows (0.0%); flagged rows: 2 vacuous, 0 ties" in str(scores.caption)
    assert str(scores.caption).startswith("rows: 9 error, 1 gold_error; ")
    assert "vacuous: gold gives no row" in str(scores.caption)
    assert "gold gives no row" not in str(tables(summarize(rows[2:]))[0].caption)
    figures = {str(column.header): next(iter(column.cells)) for column in (*scores.columns, *classes.columns)}
    assert figures["rows"] == "9 of 10"
    assert (figures["score"], figures["score, unflagged rows"], figures["unflagged rows"]) == ("0.0%", "0.0%", "7 of 10")
    assert all(figures[name].endswith("%") for name in ("95% interval", "ex_bag"))


def test_a_timed_score_and_the_official_match_say_what_they_are() -> None:
    summary = summarize([verdict("a", ves_reward=1.25, exact_set_match=True)])
    caption = str(tables(summary)[0].caption)
    assert "r_ves: a timing" in caption
    assert "misreadings" not in caption
    caption = str(tables(summary | {"settings": {"exact_match": "official"}})[0].caption)
    assert "misreadings included" in caption
    assert replace(verdict(), ves_reward=0.25).r_ves == 0.5
    assert verdict().r_ves is None


def test_a_summary_is_strict_json_however_deep_the_missing_number(tmp_path: Path) -> None:
    deep = {"a": math.nan, "b": {"c": [math.nan, 1.5, {"d": math.nan}]}, "e": (1, math.nan), "text": "x\ud800"}
    write_evaluation([], deep, tmp_path / "verdicts.parquet", tmp_path / "summary.json")
    text = (tmp_path / "summary.json").read_text(encoding="utf-8")

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    found = json.loads(text, parse_constant=refuse)
    assert found == {"a": None, "b": {"c": [None, 1.5, {"d": None}]}, "e": [1, None], "text": "x\ud800"}


def test_verdicts_stay_with_the_summary_that_is_theirs(tmp_path: Path) -> None:
    rows, figures = tmp_path / "verdicts.parquet", tmp_path / "summary.json"
    write_evaluation([verdict("a")], summarize([verdict("a")]), rows, figures)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        # What has room for the verdicts and not for the summary.
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 * rows.stat().st_size, before[1]))
        with pytest.raises(OSError, match="File too large"):
            write_evaluation([verdict("b")], {"long": "x" * 3 * rows.stat().st_size}, rows, figures)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [one.example_id for one in read_verdicts(rows)] == ["a"]
    assert json.loads(figures.read_text(encoding="utf-8"))["examples"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["summary.json", "verdicts.parquet"]
