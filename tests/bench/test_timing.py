"""Ratios are paired by round, budgets are kept, and what runs out of memory is left out. Nothing here is timed."""

import pytest
import torch

from bench.timing import Cost, PeakMemory, Spread, Turn, interleave, ratio, summary, table, worst


def cost(wall_s: float, examples: float = 2, cpu_s: float = 0.0, tokens: float = 0) -> Cost:
    return Cost(examples, wall_s, cpu_s, 1.0, tokens)


def test_a_ratio_is_taken_round_by_round() -> None:
    # The machine was three times slower in the second round: the ratio must not see it.
    costs = {"ours": [cost(1.0), cost(3.0)], "theirs": [cost(4.0, 4), cost(12.0, 4)], "teacher": [cost(1.0), cost(3.0)]}
    assert ratio(costs, ["ours"], ["theirs"]) == Spread(0.5, 0.5, 0.5, 2)
    assert ratio(costs, ["ours", "teacher"], ["theirs"]) == Spread(1.0, 1.0, 1.0, 2)


def test_the_cpu_clock_is_another() -> None:
    costs = {"ours": [cost(1.0, cpu_s=6.0)], "theirs": [cost(1.0, cpu_s=2.0)]}
    found = ratio(costs, ["ours"], ["theirs"], "cpu")
    assert found is not None
    assert found.median == pytest.approx(3.0)


def test_a_missing_side_gives_no_ratio() -> None:
    costs = {"ours": [cost(1.0)], "theirs": []}
    assert ratio(costs, ["ours"], ["theirs"]) is None
    assert ratio(costs, ["ours"], ["nobody"]) is None


def test_the_worst_size_speaks_for_all() -> None:
    small, large = Spread.of([0.2, 0.3, 0.4]), Spread.of([0.5, 0.6])
    assert worst([small, None, large]) == large
    assert worst([None]) is None
    assert (small.median, small.low, small.high) == (0.3, 0.2, 0.4)


def test_rounds_are_interleaved_and_each_begins_with_another_way() -> None:
    taken: list[tuple[str, bool]] = []

    def turn(name: str) -> Turn:
        def take(measure_memory: bool) -> Cost:
            taken.append((name, measure_memory))
            return cost(1.0)

        return take

    costs = interleave({name: turn(name) for name in "abc"}, rounds=3, budget_s=60.0)
    assert "".join(name for name, _ in taken) == "abcbcacab"
    assert [memory for _, memory in taken] == [True] * 3 + [False] * 6
    assert {name: len(rounds) for name, rounds in costs.items()} == {"a": 3, "b": 3, "c": 3}


def test_without_budget_there_is_one_round() -> None:
    costs = interleave({"a": lambda _: cost(1.0)}, rounds=5, budget_s=-1.0)
    assert len(costs["a"]) == 1


def test_a_way_that_runs_out_of_memory_is_left_out() -> None:
    def too_large(_: bool) -> Cost:
        raise torch.OutOfMemoryError

    costs = interleave({"large": too_large, "small": lambda _: cost(1.0)}, rounds=2, budget_s=60.0)
    assert list(costs) == ["small"]
    assert len(costs["small"]) == 2


def test_other_errors_are_not_swallowed() -> None:
    def broken(_: bool) -> Cost:
        raise ValueError("our own mistake")

    with pytest.raises(ValueError, match="our own mistake"):
        interleave({"broken": broken}, rounds=1, budget_s=60.0)


def test_a_summary_is_per_example() -> None:
    found = summary({"way": [cost(1.0, tokens=10), cost(2.0, tokens=10), cost(9.0, tokens=10)], "none": []})
    assert list(found) == ["way"]
    assert found["way"]["ms_per_example"] == pytest.approx(1000.0)
    assert found["way"]["tokens_per_example"] == 5
    assert len(found["way"]["rounds"]) == 3


def test_peak_memory_on_the_cpu_counts_what_was_held_at_once() -> None:
    peak = PeakMemory("cpu")
    peak.start()
    for _ in range(3):
        tensor = torch.zeros(1 << 20)
        del tensor
    peak.stop()
    assert 4.0 <= peak.mib < 8.0


def test_a_table_is_markdown() -> None:
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
