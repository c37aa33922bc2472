"""Two evaluations of the same rows: what differs is paired by id, counted both ways, and read with its gold."""

import json
import math

import pytest
from rich.console import Console

from eval.comparison import compare_runs, difference_table, flip_lines
from eval.statistics import mcnemar
from eval.verdicts import Verdict, VerdictKind
from kidcore.errors import KidpipeError
from kidcore.finite import finite
from kidpipe.commands.shown_tables import print_table
from tests.eval.made_verdicts import verdict

RIGHT, WRONG, BROKEN = VerdictKind.CORRECT, VerdictKind.WRONG, VerdictKind.GOLD_ERROR


def run(*kinds: VerdictKind, **changes: object) -> list[Verdict]:
    return [verdict(f"q{n}", kind, **changes) for n, kind in enumerate(kinds)]


def test_only_rows_that_both_have_a_score_for_are_compared() -> None:
    first, second = run(RIGHT, RIGHT, WRONG, BROKEN, RIGHT), run(WRONG, RIGHT, RIGHT, RIGHT, BROKEN)
    (bag, same) = compare_runs(first, second).differences
    assert (bag.metric, same.metric) == ("ex_bag", "ex_set")
    assert (bag.num_rows, bag.of, bag.only_first, bag.only_second) == (3, 5, 1, 1)
    assert (bag.first, bag.second, bag.gain.value) == (pytest.approx(2 / 3), pytest.approx(2 / 3), pytest.approx(0))
    assert bag.p_value == 1.0
    assert [one.example_id for one, _other in compare_runs(first, second).flips] == ["q0", "q2"]


def test_the_gain_turns_round_with_the_order_of_the_two() -> None:
    first, second = run(RIGHT, WRONG, WRONG, WRONG), run(RIGHT, RIGHT, RIGHT, WRONG)
    (there, *_), (back, *_) = compare_runs(first, second).differences, compare_runs(second, first).differences
    assert (there.gain.value, back.gain.value) == (0.5, -0.5)
    assert (there.only_first, there.only_second) == (back.only_second, back.only_first) == (0, 2)
    assert there.p_value == back.p_value == mcnemar(0, 2)
    assert there.gain.low == pytest.approx(-back.gain.high)


def test_a_graded_score_has_no_p_and_that_is_null_in_json() -> None:
    first = [verdict("a", soft_f1=0.5), verdict("b", soft_f1=1.0)]
    second = [verdict("a", soft_f1=0.75), verdict("b", soft_f1=1.0)]
    runs = compare_runs(first, second)
    (soft,) = (item for item in runs.differences if item.metric == "soft_f1")
    assert math.isnan(soft.p_value)
    assert (soft.only_first, soft.only_second, soft.gain.value) == (0, 1, 0.125)
    assert json.loads(json.dumps(finite([soft.__dict__ | {"gain": 0}]), allow_nan=False))[0]["p_value"] is None
    table = difference_table(runs, "A", "B")
    assert list(table.columns[-1].cells)[[item.metric for item in runs.differences].index("soft_f1")] == ""


def test_identical_runs_differ_in_nothing() -> None:
    rows = run(RIGHT, WRONG, RIGHT)
    runs = compare_runs(rows, rows)
    assert all(item.gain.value == item.gain.low == item.gain.high == 0 for item in runs.differences)
    assert (runs.flips, flip_lines(runs, "A", "B")) == ([], [])
    assert compare_runs([], []).differences == []


def test_what_is_not_the_same_data_is_refused_and_named() -> None:
    with pytest.raises(KidpipeError, match=r"1 examples are in one evaluation only: q1"):
        compare_runs(run(RIGHT), run(RIGHT, RIGHT))
    with pytest.raises(KidpipeError, match=r"2 examples have another gold: q0, q1"):
        compare_runs(run(RIGHT, RIGHT), run(RIGHT, RIGHT, gold_sql="SELECT 2"))


def test_flipped_rows_are_read_losses_first_with_question_gold_and_both_answers() -> None:
    first = [verdict("won", WRONG, prediction="SELECT a"), verdict("lost", question="How many?", prediction="SELECT b")]
    second = [
        verdict("won", prediction="SELECT c"),
        verdict("lost", VerdictKind.ERROR, prediction="SELECT", message="incomplete input"),
    ]
    lines = flip_lines(compare_runs(first, second), "old", "new")
    assert lines[0] == "lost (world): old correct, new error"
    assert lines[1] == "  asked   How many?"
    assert lines[4] == "  new     SELECT  -- incomplete input"
    assert lines[5] == "won (world): old wrong, new correct"
    assert not any("asked" in line for line in lines[5:]), "a row without a question has no empty line for it"
    assert flip_lines(compare_runs(first, second), "old", "new", limit=1)[-1] == "... and 1 more"
    assert flip_lines(compare_runs(first, second), "old", "new", limit=2) == lines


@pytest.mark.parametrize("width", [60, 80])
def test_the_table_fits_a_narrow_terminal(width: int) -> None:
    runs = compare_runs(run(RIGHT, WRONG, WRONG), run(RIGHT, RIGHT, WRONG))
    console = Console(width=width, no_color=True)
    with console.capture() as captured:
        print_table(console, difference_table(runs, "kid", "sft"))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= width
    assert any("+33" in line for line in lines)
