"""Which positions are masked: how many, where, and by which rule; against slow versions of each rule."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kidcore.config.stage_settings import MaskSettings
from kidcore.method.masking import choose, evenly_spaced, num_masked, schema_positions, table_positions


def of(strategy: str, ratio: float = 0.4) -> MaskSettings:
    return MaskSettings.model_validate({"strategy": strategy, "ratio": ratio})


def chosen(strategy: str, length: int, seed: int = 0, ratio: float = 0.4, **more: Any) -> list[int]:
    return choose(of(strategy, ratio), length, np.random.default_rng(seed), **more).tolist()


@pytest.mark.parametrize(
    ("ratio", "length", "count"),
    [(0.2, 10, 2), (0.25, 10, 3), (0.15, 10, 2), (0.01, 10, 1), (1.0, 7, 7), (0.99, 1, 1), (0.5, 3, 2), (0.5, 1, 1), (0.3, 0, 0)],
)
def test_the_nearest_whole_number_halves_upward_and_at_least_one(ratio: float, length: int, count: int) -> None:
    assert num_masked(ratio, length) == count


@settings(max_examples=60)
@given(length=st.integers(1, 200), data=st.data(), offset=st.floats(0, 1, exclude_max=True))
def test_even_positions_are_distinct_in_range_and_a_step_apart(length: int, data: st.DataObject, offset: float) -> None:
    count = data.draw(st.integers(1, length))
    found = evenly_spaced(length, count, offset)
    assert len(set(found.tolist())) == count
    assert 0 <= found[0] <= found[-1] < length
    steps = np.diff(found)
    assert set(steps.tolist()) <= {length // count, length // count + 1}


def test_an_offset_of_nearly_one_stays_in_range() -> None:
    assert evenly_spaced(3, 3, np.nextafter(1, 0)).tolist() == [0, 1, 2]
    assert evenly_spaced(10, 1, np.nextafter(1, 0)).tolist() == [9]
    assert evenly_spaced(10, 1, 0.0).tolist() == [0]


@pytest.mark.parametrize("strategy", ["random", "uniform"])
def test_every_position_is_masked_at_times_and_none_more_than_others(strategy: str) -> None:
    counts = np.zeros(10)
    for seed in range(1500):
        counts[chosen(strategy, 10, seed, 0.3)] += 1
    assert np.abs(counts / 1500 - 0.3).max() < 0.06


def test_one_token_is_masked_whole() -> None:
    for strategy in ("random", "uniform"):
        assert chosen(strategy, 1) == [0]
    assert chosen("hard", 1, logprobs=np.zeros(1, np.float32)) == [0]
    assert chosen("schema", 1, identifiers=lambda: np.array([0], np.int32)) == [0]


@settings(max_examples=40)
@given(st.lists(st.floats(-30, 0, width=32), min_size=1, max_size=20), st.floats(0.05, 1.0))
def test_hard_takes_the_least_likely_and_easy_the_likeliest_ties_by_place(values: list[float], ratio: float) -> None:
    logprobs = np.array(values, np.float32)
    count = num_masked(ratio, len(values))
    lowest = sorted(range(len(values)), key=lambda place: (values[place], place))[:count]
    highest = sorted(range(len(values)), key=lambda place: (-values[place], place))[:count]
    assert chosen("hard", len(values), ratio=ratio, logprobs=logprobs) == sorted(lowest)
    assert chosen("easy", len(values), ratio=ratio, logprobs=logprobs) == sorted(highest)


def test_further_views_draw_from_twice_as_many_and_differ() -> None:
    logprobs = -np.arange(20, dtype=np.float32)
    views = [chosen("hard", 20, seed, 0.2, logprobs=logprobs, is_first=False) for seed in range(30)]
    assert all(len(view) == 4 and set(view) <= set(range(12, 20)) for view in views)
    assert len({tuple(view) for view in views}) > 5
    assert {tuple(chosen("hard", 20, seed, 0.2, logprobs=logprobs)) for seed in range(5)} == {(16, 17, 18, 19)}


def test_where_the_pool_is_the_whole_query_all_of_it_may_be_taken() -> None:
    assert chosen("easy", 3, 0, 1.0, logprobs=np.zeros(3, np.float32), is_first=False) == [0, 1, 2]


def test_schema_takes_no_more_than_there_are_and_no_others() -> None:
    candidates = np.array([2, 5], np.int32)
    assert chosen("schema", 10, 0, 0.9, identifiers=lambda: candidates) == [2, 5]
    assert chosen("tables", 10, 0, 0.9, identifiers=lambda: candidates) == [2, 5]
    assert {place for seed in range(20) for place in chosen("schema", 10, seed, 0.1, identifiers=lambda: candidates)} == {2, 5}


def test_what_a_strategy_needs_is_asked_for_only_by_it() -> None:
    def never() -> Any:
        raise AssertionError("nobody asked for identifiers")

    assert len(chosen("random", 10, identifiers=never)) == 4
    for strategy in ("hard", "schema", "tables"):
        with pytest.raises(AssertionError):
            chosen(strategy, 10)


def words(sql: str, dialect: str = "sqlite", positions: Callable[..., NDArray[np.int32]] = schema_positions) -> list[str]:
    """The words of SQL whose tokens, split at spaces, schema masking would take, or masking by other positions."""
    starts = [place for place in range(len(sql)) if not sql[place].isspace() and (place == 0 or sql[place - 1].isspace())]
    pieces = sql.split()
    return [pieces[place] for place in positions(sql, np.array(starts, np.int32), dialect)]


@pytest.mark.parametrize(
    ("sql", "taken"),
    [
        ("SELECT name FROM singer WHERE age > 20", ["singer"]),
        ("SELECT T1 .a , b AS c FROM t AS T1 JOIN u AS T2 ON T1 .a = T2 .b", ["T1", "t", "T1", "u", "T2", "T1", "T2"]),
        ("SELECT a FROM main . t x", ["main", "t", "x"]),
        ("WITH w ( a ) AS ( SELECT b FROM t ) SELECT a FROM w", ["w", "t", "w"]),
        ("SELECT n FROM ( SELECT count ( * ) AS n FROM t ) AS s WHERE s .n > 1", ["t", "s", "s"]),
        ('SELECT a FROM "my t"', ['"my', 't"']),
        ("SELECT 1", ["SELECT", "1"]),
        ("SELECT a FROM t WHERE", ["SELECT", "a", "FROM", "t", "WHERE"]),
    ],
)
def test_names_and_aliases_of_tables(sql: str, taken: list[str]) -> None:
    assert words(sql, positions=table_positions) == taken


@pytest.mark.parametrize(
    ("sql", "taken"),
    [
        ("SELECT name FROM singer WHERE age > 20", ["name", "singer", "age", "20"]),
        ("SELECT count ( * ) FROM t", ["t"]),
        ("SELECT max ( a ) AS b FROM t", ["a", "b", "t"]),
        ("SELECT T1.a FROM t AS T1", ["T1.a", "t", "T1"]),
        ("SELECT a FROM t WHERE b = 'x y z'", ["a", "t", "b", "'x", "y", "z'"]),
        ('SELECT "my col" FROM [my t]', ['"my', 'col"', "[my", "t]"]),
        ("SELECT 1", ["1"]),
        ("SELECT NULL", ["SELECT", "NULL"]),
        ("SELECT a FROM t LIMIT 3", ["a", "t", "3"]),
        ("SELECT year FROM t", ["year", "t"]),
        ("SELECT a , FROM WHERE x", ["a", "x"]),
        ("SELECT foo ( a FROM", ["a"]),
        ("SELECT 'never closed", ["SELECT", "'never", "closed"]),
    ],
)
def test_identifiers_and_literals_and_what_does_not_parse(sql: str, taken: list[str]) -> None:
    assert words(sql) == taken


def test_sql_too_deep_for_the_parser_has_its_names_guessed() -> None:
    sql = f"SELECT {'( ' * 60}a {') ' * 60}FROM t"
    assert words(sql) == ["a", "t"]


def test_a_token_that_only_touches_an_identifier_counts() -> None:
    sql = "SELECT ab.cd"
    assert schema_positions(sql, np.array([0, 6, 8, 9], np.int32)).tolist() == [1, 2, 3]
    assert schema_positions(sql, np.array([0, 7], np.int32)).tolist() == [1]
    assert schema_positions(sql, np.array([0], np.int32)).tolist() == [0]


def test_all_the_bytes_of_a_character_that_a_name_begins_with_are_taken() -> None:
    sql = "SELECT 名 FROM 表 WHERE 名 = '名'"
    starts = [place for place, character in enumerate(sql) for _byte in character.encode()]
    taken = schema_positions(sql, np.array(starts, np.int32)).tolist()
    assert [starts[place] for place in taken] == [7, 7, 7, 14, 14, 14, 22, 22, 22, 26, 27, 27, 27, 28]


@pytest.mark.parametrize("sql", ["SELECT 名, b FROM 表 WHERE c = '名'", "SELECT a.b FROM t WHERE x > 10", "SELECT NULL"])
def test_a_token_that_is_split_in_parts_is_taken_as_a_whole(sql: str) -> None:
    for width in (1, 2, 3):
        starts = np.arange(0, len(sql), width, dtype=np.int32)
        whole = schema_positions(sql, starts)
        parts = schema_positions(sql, np.repeat(starts, 3))
        assert parts.tolist() == [3 * place + part for place in whole for part in range(3)]


def test_each_engine_has_literals_of_its_own() -> None:
    sql = "SELECT $$ a b $$ FROM t"
    assert words(sql, "duckdb") == ["$$", "a", "b", "$$", "t"]
    assert words("SELECT E'a\\'b' FROM t", "duckdb") == ["E'a\\'b'", "t"]
