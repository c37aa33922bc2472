"""Exact set match: which ways of writing a query count for nothing, which count, and that both matchers agree on plain text."""

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.names import Names
from eval.spider.exact_match import ExactMatcher, hardness
from eval.spider.official import OfficialMatcher
from tests.eval.spider.queries import NAMES, Drawn, draw

OURS, OFFICIAL = ExactMatcher(NAMES), OfficialMatcher(NAMES)


SEEDS = st.integers(0, 2**32)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, names=st.sampled_from([("T1", "T2"), ("x", "y"), ("T2", "T1")]))
def test_order_aliases_values_and_case_count_for_nothing(seed: int, names: tuple[str, str]) -> None:
    query = draw(seed)
    gold = query.sql()
    other = re.sub(r"\b[17]\b", "99", query.shuffled(seed).sql(t=names[0], u=names[1]))
    assert OURS(gold, other) is True
    assert OURS(other, gold) is True
    assert OURS(gold, other.lower().replace(" , ", ",\n\t") + " ;") is True
    assert hardness(gold) == hardness(other) != ""


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, other_seed=SEEDS, parts=st.sets(st.sampled_from(["conditions", "connector", "group", "order", "other"])))
def test_the_official_reading_of_plain_text_is_ours(seed: int, other_seed: int, parts: set[str]) -> None:
    """Pairs that share most parts, so that many match: what the two disagree on is told misreading by misreading elsewhere."""
    gold, pred = draw(seed), draw(other_seed)
    near = replace(gold, having="", **{name: getattr(pred, name) for name in parts})
    near = near if near.is_joined or "{u}" not in repr(near) else gold
    for one, other in ((gold, near), (near, gold), (gold, pred)):
        assert OURS(one.sql(), other.sql()) is OFFICIAL(one.sql(), other.sql())


PLAIN = Drawn(
    items=("{t}.a", "{t}.b"),
    conditions=("{t}.a = 1", "{t}.b > 1"),
    group="{t}.a",
    having="count(*) > 2",
    order=("{t}.a DESC", "{t}.b DESC"),
    limit=3,
    operation="UNION",
    other=Drawn(items=("{t}.id",)),
)


@pytest.mark.parametrize(
    "changes",
    [
        {"items": ("{t}.a",)},
        {"items": ("{t}.a", "{t}.a")},
        {"items": ("{t}.a", "max({t}.b)")},
        {"items": ("{t}.a", "*")},
        {"is_joined": True},
        {"conditions": ("{t}.a = 1",)},
        {"conditions": ("{t}.a != 1", "{t}.b > 1")},
        {"conditions": ("{t}.a = 1", "{t}.b > 1", "{t}.b > 1")},
        {"conditions": ("{t}.a = 1", "{t}.b NOT IN (1)")},
        {"connector": "OR"},
        {"conditions": ("{t}.a = 1", "{t}.b > 1", "{t}.id = 1"), "connector": "OR"},
        {"group": "{t}.b"},
        {"group": ""},
        {"having": ""},
        {"having": "count(*) < 2"},
        {"having": "count({t}.a) > 2"},
        {"order": ("{t}.a ASC", "{t}.b ASC")},
        {"order": ("{t}.b DESC", "{t}.a DESC")},
        {"order": (), "limit": None},
        {"limit": None},
        {"operation": "EXCEPT"},
        {"other": None},
        {"other": Drawn(items=("{t}.b",))},
    ],
)
@pytest.mark.parametrize("matcher", [OURS, OFFICIAL], ids=["ours", "official"])
def test_every_clause_counts(matcher: ExactMatcher, changes: dict[str, object]) -> None:
    other = replace(PLAIN, **changes)
    assert matcher(PLAIN.sql(), PLAIN.sql()) is True
    assert matcher(PLAIN.sql(), other.sql()) is False
    assert matcher(other.sql(), PLAIN.sql()) is False


@pytest.mark.parametrize(
    ("gold", "pred", "matches"),
    [
        # Linked columns are one where the outermost FROM names their table.
        ("SELECT t.id FROM t JOIN u ON t.id = u.id", "SELECT u.id FROM t JOIN u ON t.id = u.id", True),
        ("SELECT id FROM t", "SELECT id FROM u", False),
        ("SELECT a FROM t WHERE a IN (SELECT id FROM u)", "SELECT a FROM t WHERE a IN (SELECT c FROM u)", False),
        ("SELECT a FROM t GROUP BY id", "SELECT a FROM t GROUP BY t.id", True),
        ("SELECT count(DISTINCT a) FROM t", "SELECT count(a) FROM t", True),
        # Inside a subquery DISTINCT and order count.
        (
            "SELECT a FROM t WHERE id IN (SELECT DISTINCT id FROM u)",
            "SELECT a FROM t WHERE id IN (SELECT id FROM u)",
            False,
        ),
        (
            "SELECT a FROM t WHERE id IN (SELECT count(DISTINCT c) FROM u)",
            "SELECT a FROM t WHERE id IN (SELECT count(c) FROM u)",
            False,
        ),
        # Nor are linked columns one inside it, though they are outside.
        (
            "SELECT b FROM t WHERE id IN (SELECT t.id FROM t JOIN u ON t.id = u.id)",
            "SELECT b FROM t WHERE id IN (SELECT u.id FROM t JOIN u ON t.id = u.id)",
            False,
        ),
        # AND among the ORs is told apart from ORs alone.
        (
            "SELECT a FROM t WHERE a = 1 AND b = 2 OR id = 3",
            "SELECT a FROM t WHERE a = 1 OR b = 2 OR id = 3",
            False,
        ),
        ("SELECT a FROM (SELECT a FROM t) AS x", "SELECT a FROM (SELECT a FROM t) AS y", None),
        ("SELECT count(*) FROM (SELECT a FROM t) AS x", "SELECT count(*) FROM (SELECT a FROM t)", True),
        ("SELECT count(*) FROM (SELECT a FROM t)", "SELECT count(*) FROM (SELECT b FROM t)", False),
        # A subquery may name the outer query's columns.
        (
            "SELECT a FROM t AS o WHERE id IN (SELECT id FROM u WHERE u.c = o.b)",
            "SELECT a FROM t AS z WHERE id IN (SELECT id FROM u WHERE u.c = z.b)",
            True,
        ),
        ("SELECT a FROM t WHERE x.b = 1", "SELECT a FROM t", None),
        ("SELECT a FROM nowhere", "SELECT a FROM nowhere", None),
        ("SELECT a FROM t WHERE b BETWEEN 1 AND 2", "SELECT a FROM t WHERE b BETWEEN 5 AND (SELECT c FROM u)", False),
        ("SELECT a FROM t", "(SELECT a FROM t)", True),
        ('SELECT "a" FROM [t]', "SELECT A FROM `T`", True),
    ],
)
def test_what_scopes_and_links_decide(gold: str, pred: str, matches: bool | None) -> None:
    linked = Names(NAMES.columns, {"t.id": "t.id", "u.id": "t.id"})
    assert ExactMatcher(linked)(gold, pred) is matches
