"""Two stored evaluations held against each other: by name or folder, for people and scripts, and what is wrong with them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from eval.evaluate import SUMMARY_FILE, VERDICTS_FILE
from eval.report import summarize, write_evaluation, write_verdicts
from eval.verdicts import Verdict, VerdictKind
from kidcore.errors import KidpipeError
from kidpipe.commands.compare_evaluations import compare_evaluations
from kidpipe.commands.session import Session, open_session
from tests.eval.made_verdicts import verdict

RIGHT, WRONG = VerdictKind.CORRECT, VerdictKind.WRONG


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return open_session(None, [], {"store.path": str(tmp_path / "store")}, use_file=False)


def stored(session: Session, name: str, rows: Sequence[Verdict], **notes: Any) -> Path:
    folder = session.store.root / "eval" / name
    folder.mkdir(parents=True)
    write_evaluation(rows, notes | summarize(rows), folder / VERDICTS_FILE, folder / SUMMARY_FILE)
    return folder


def run(*kinds: VerdictKind, **changes: Any) -> list[Verdict]:
    return [verdict(f"q{n}", kind, **changes) for n, kind in enumerate(kinds)]


def test_the_summary_has_differences_and_flips_and_is_strict_json(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    stored(session, "old", run(RIGHT, WRONG, RIGHT, soft_f1=0.5))
    folder = stored(session, "new", run(RIGHT, RIGHT, WRONG, soft_f1=0.75))
    found = compare_evaluations(session, "old", str(folder), rows=0, as_json=True)
    shown = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert shown == found
    assert [flip["example_id"] for flip in shown["flips"]] == ["q1", "q2"]
    soft = next(item for item in shown["differences"] if item["metric"] == "soft_f1")
    assert (soft["p_value"], soft["gain"]["value"]) == (None, 0.25)
    assert shown["changed_settings"] == {}


def test_people_read_a_table_and_the_rows_that_flipped(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    stored(session, "old", run(RIGHT, WRONG, RIGHT, question="[bold]Who?[/]"))
    stored(session, "new", run(RIGHT, RIGHT, WRONG))
    compare_evaluations(session, "old", "new", rows=1, as_json=False)
    said = capsys.readouterr()
    assert "ex_bag flipped on 2 rows: new loses 1 and wins 1" in said.out
    assert "q2 (world): old correct, new wrong" in said.out
    assert "asked   [bold]Who?[/]" in said.out, "a question is text, not markup"
    assert "... and 1 more" in said.out
    assert said.err == ""
    compare_evaluations(session, "old", "new", rows=0, as_json=False)
    assert "q2" not in capsys.readouterr().out


def test_what_was_judged_in_another_way_is_said(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    stored(session, "old", run(RIGHT), settings={"keep_distinct": True})
    stored(session, "new", run(RIGHT), settings={"keep_distinct": False, "max_new_tokens": 7}, suite="fuzzed")
    found = compare_evaluations(session, "old", "new", rows=0, as_json=False)
    assert found["changed_settings"] == {"keep_distinct": [True, False], "suite": [None, "fuzzed"]}
    assert "judged differently (keep_distinct: True and False; suite: None and fuzzed)" in capsys.readouterr().err
    stored(session, "other", run(RIGHT), settings={"keep_distinct": False}, suite=str(Path("fuzzed").absolute()))
    assert compare_evaluations(session, "new", "other", rows=0, as_json=True)["changed_settings"] == {}
    stored(session, "short", run(RIGHT), sandbox={"timeout_s": 0.3, "memory_mib": 1024, "gold_timeout_s": 120.0})
    stored(session, "plain", run(RIGHT))
    limited = compare_evaluations(session, "short", "plain", rows=0, as_json=True)
    assert limited["changed_settings"] == {"sandbox.timeout_s": [0.3, 10.0]}


def test_an_evaluation_without_a_summary_was_judged_by_the_defaults(session: Session) -> None:
    (stored(session, "old", run(RIGHT)) / SUMMARY_FILE).unlink()
    stored(session, "new", run(RIGHT), settings={"exact_match": True})
    assert compare_evaluations(session, "old", "new", rows=0, as_json=True)["changed_settings"] == {}


def test_columns_of_a_later_kidpipe_are_left_aside(session: Session) -> None:
    import pyarrow.parquet as pq

    folder = stored(session, "old", run(RIGHT))
    table = pq.read_table(folder / VERDICTS_FILE)
    pq.write_table(table.append_column("of_tomorrow", table.column("seconds")), folder / VERDICTS_FILE)
    stored(session, "new", run(WRONG))
    assert len(compare_evaluations(session, "old", "new", rows=0, as_json=True)["flips"]) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [b"", b"PAR1 half a file", b"nothing like it"])
def test_damaged_verdicts_are_named(session: Session, content: bytes) -> None:
    stored(session, "old", run(RIGHT))
    folder = stored(session, "new", run(RIGHT))
    (folder / VERDICTS_FILE).write_bytes(content)
    with pytest.raises(KidpipeError, match="these verdicts cannot be read") as caught:
        compare_evaluations(session, "old", "new", rows=0, as_json=True)
    assert caught.value.where == str(folder / VERDICTS_FILE)
    assert "kidpipe eval --name" in caught.value.fix


def test_another_programs_table_and_a_torn_summary_are_named_too(session: Session) -> None:
    import polars as pl

    folder = stored(session, "old", run(RIGHT))
    stored(session, "new", run(RIGHT))
    pl.DataFrame({"a": [1]}).write_parquet(folder / VERDICTS_FILE)
    with pytest.raises(KidpipeError, match="these verdicts cannot be read"):
        compare_evaluations(session, "old", "new", rows=0, as_json=True)
    write_verdicts(run(RIGHT), folder / VERDICTS_FILE)
    (folder / SUMMARY_FILE).write_text('{"settings": {')
    with pytest.raises(KidpipeError) as caught:
        compare_evaluations(session, "old", "new", rows=0, as_json=True)
    assert SUMMARY_FILE in caught.value.where


def test_what_is_no_evaluation_gets_those_that_are(session: Session) -> None:
    stored(session, "kid", run(RIGHT))
    stored(session, "sft", run(RIGHT))
    with pytest.raises(KidpipeError, match="there is no evaluation kdi") as caught:
        compare_evaluations(session, "kid", "kdi", rows=0, as_json=True)
    assert caught.value.fix.endswith("evaluations there: kid, sft")
