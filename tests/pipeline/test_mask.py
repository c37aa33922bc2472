"""Masking strategies: counts, ranges, seeds, and what schema masking takes."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kidcore.config.stage_settings import READ_SQL, MaskSettings
from kidcore.method.masking import evenly_spaced, num_masked, schema_positions
from kidcore.store.arrow import arrow_table, lists
from kidcore.store.schemas import schema_of
from pipeline.mask import mask
from pipeline.rewrite import parses

SQL = "SELECT count(*), T1.name FROM stadium AS T1 WHERE T1.year = 2014 AND city LIKE '%x y%'"


def ingest(lengths: list[int], first: int = 0, sql: list[str] | None = None) -> pa.Table:
    n = len(lengths)
    return arrow_table(
        schema_of("ingest"),
        {
            "example_id": [f"train:{first + i}" for i in range(n)],
            "db_id": ["d"] * n,
            "question": ["q"] * n,
            "gold_sql": sql or ["x" * length for length in lengths],
            "schema_tokens": [0] * n,
            "prompt_ids": [[1, 2]] * n,
            "gold_ids": [list(range(10, 10 + length)) for length in lengths],
            "gold_starts": [list(range(length)) for length in lengths],
            "reason": [None] * n,
        },
    )


def gold_score(confidence: list[list[float]]) -> pa.Table:
    n = len(confidence)
    return arrow_table(
        schema_of("gold_score"),
        {
            "example_id": [f"train:{i}" for i in range(n)],
            "db_id": ["d"] * n,
            "prompt_ids": [[1]] * n,
            "gold_ids": [[1]] * n,
            "topk_count": [[1]] * n,
            "topk_ids": [[1]] * n,
            "topk_logprobs": [[0.0]] * n,
            "tail": [[0.0]] * n,
            "actual_logprob": confidence,
        },
    )


def masked(settings: MaskSettings, table: pa.Table, view: int = 0, scores: pa.Table | None = None) -> list[list[int]]:
    return [row.tolist() for row in lists(mask(settings, table, scores, view).table, "masked")]


@given(
    strategy=st.sampled_from(["random", "uniform", "schema", "tables"]),
    ratio=st.floats(0.01, 1.0),
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=5),
    view=st.integers(0, 5),
)
def test_the_right_number_of_distinct_positions_in_order(strategy: str, ratio: float, lengths: list[int], view: int) -> None:
    settings = MaskSettings.model_validate({"strategy": strategy, "ratio": ratio})
    for row, length in zip(masked(settings, ingest(lengths), view), lengths, strict=True):
        assert row == sorted(set(row))
        assert row[0] >= 0
        assert row[-1] < length
        if strategy not in READ_SQL:
            assert len(row) == num_masked(ratio, length)


@pytest.mark.parametrize(
    ("ratio", "length", "count"), [(0.2, 1, 1), (0.2, 2, 1), (0.2, 10, 2), (0.2, 13, 3), (1.0, 7, 7), (0.5, 5, 3)]
)
def test_the_paper_s_count(ratio: float, length: int, count: int) -> None:
    assert num_masked(ratio, length) == count


def test_a_row_depends_on_its_seed_and_id_only() -> None:
    settings = MaskSettings()
    together = masked(settings, ingest([40] * 6))
    alone = [masked(settings, ingest([40], first=i))[0] for i in range(6)]
    assert together == alone
    assert len({tuple(row) for row in together}) > 1
    assert masked(settings, ingest([40] * 6), view=1) != together
    assert masked(MaskSettings(seed=1), ingest([40] * 6)) != together


@given(length=st.integers(1, 200), ratio=st.floats(0.01, 1), offset=st.floats(0, 1, exclude_max=True))
@example(length=2, ratio=1.0, offset=0.9999999999999999)
def test_uniform_steps_differ_by_one_at_most(length: int, ratio: float, offset: float) -> None:
    positions = evenly_spaced(length, num_masked(ratio, length), offset)
    steps = np.diff(positions)
    assert len(set(positions.tolist())) == num_masked(ratio, length)
    assert positions.max() < length
    assert steps.size == 0 or steps.max() - steps.min() <= 1


def test_hard_takes_the_least_sure_and_easy_the_surest() -> None:
    confidence = [-0.1, -3.0, -0.01, -5.0, -0.5, -0.2, -1.0, -2.0, -0.3, -0.4]
    scores = gold_score([[*confidence, -9.0]])  # the last is the EOS, which is never masked
    assert masked(MaskSettings(strategy="hard"), ingest([10]), 0, scores) == [[1, 3]]
    assert masked(MaskSettings(strategy="easy"), ingest([10]), 0, scores) == [[0, 2]]


def test_further_views_of_hard_differ_but_stay_among_the_hard() -> None:
    scores = gold_score([[-float(i) for i in range(41)]])
    views = [masked(MaskSettings(strategy="hard"), ingest([40]), view, scores)[0] for view in range(4)]
    assert views[0] == list(range(32, 40))
    assert len({tuple(view) for view in views}) == 4
    assert all(set(view) <= set(range(24, 40)) for view in views)


def test_schema_masking_takes_identifiers_and_literals_only() -> None:
    starts = np.arange(len(SQL), dtype=np.int32)  # one token a character
    text = "".join(SQL[i] if i in set(schema_positions(SQL, starts).tolist()) else " " for i in range(len(SQL)))
    assert text.split() == ["T1", "name", "stadium", "T1", "T1", "year", "2014", "city", "'%x", "y%'"]


@pytest.mark.parametrize(
    ("sql", "masked"),
    [
        ("SELECT a // b FROM t", ["a", "b", "t"]),
        ("SELECT list_transform([a], lambda b: b + 1) FROM t", ["a", "b", "b", "1", "t"]),
        ("SELECT [a for a in b if a > 2] FROM t", ["a", "a", "b", "a", "2", "t"]),
        ("FROM s.t SELECT a QUALIFY row_number() OVER (ORDER BY b) = 1", ["s", "t", "a", "b", "1"]),
        ("SELECT a::INT, $$text$$, E'text' FROM t GROUP BY ALL", ["a", "$$text$$", "E'text'", "t"]),
        ("SELECT {'k': a}.k, MAP {'m': 2}['m'] FROM t", ["'k'", "a", "k", "'m'", "2", "'m'", "t"]),
        ("SELECT DISTINCT ON (a) * EXCLUDE (b) FROM t", ["a", "b", "t"]),
    ],
)
def test_schema_masking_reads_duckdbs_dialect(sql: str, masked: list[str]) -> None:
    chosen = set(schema_positions(sql, np.arange(len(sql), dtype=np.int32), "duckdb").tolist())
    text = "".join(sql[i] if i in chosen else " " for i in range(len(sql)))
    assert text.split() == masked
    assert parses(sql, "duckdb")


def test_schema_masking_reads_what_does_not_parse_and_falls_back_to_all() -> None:
    broken = "SELECT count( FROM ) WHERE name = = 3"
    starts = np.arange(len(broken), dtype=np.int32)
    chosen = set(schema_positions(broken, starts).tolist())
    assert {broken.index("3"), broken.index("name")} <= chosen
    assert broken.index("WHERE") not in chosen
    assert broken.index("count") not in chosen
    assert len(schema_positions("SELECT 'open", np.arange(12, dtype=np.int32))) == 12
    assert len(schema_positions("-- none yet", np.arange(11, dtype=np.int32))) == 11


def test_rows_set_aside_are_left_out() -> None:
    table = ingest([5, 5])
    table = table.set_column(table.schema.get_field_index("reason"), "reason", pa.array(["too long", None]))
    assert mask(MaskSettings(), table, None, 0).table.column("example_id").to_pylist() == ["train:1"]


def test_masking_tables_takes_their_names_and_aliases_only() -> None:
    table, settings = ingest([len(SQL)], sql=[SQL]), MaskSettings(strategy="tables", ratio=1.0)
    text = "".join(SQL[place] for place in masked(settings, table)[0])
    assert text == "T1stadiumT1T1"
