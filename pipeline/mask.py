"""Gold tokens in, the positions to mask out (METHOD: random, uniform, hard, easy of the paper; schema, ours).

Positions are SQL token positions; the EOS is never masked. `round(ratio * |y|)` of them are taken, at least one.
"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import sqlglot
from numpy.typing import NDArray
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import Token, TokenType

from kidpipe.columns import lists, make_table
from kidpipe.config import MaskSettings
from kidpipe.graph import Output
from kidpipe.schemas import MASK
from kidpipe.seeds import row_rng
from pipeline.rows import usable

Positions = NDArray[np.int32]

# hard and easy give one choice only; further views draw theirs from a pool this many times as large.
_POOL = 2


def mask(settings: MaskSettings, ingest: pa.Table, gold_score: pa.Table | None, view: int) -> Output:
    """One row of masked positions an example.

    Args:
        ingest: rows of INGEST; those with a reason are left out.
        gold_score: rows of GOLD_SCORE in the same order; needed for `hard` and `easy`, whose confidence is the
            teacher's log-probability of the gold token.
        view: seeds the choice together with `settings.seed` and the example's id.
    """
    rows = usable(ingest)
    example_ids = rows.column("example_id").to_pylist()
    gold = lists(rows, "gold_ids")
    starts = lists(rows, "gold_starts")
    sql = rows.column("gold_sql").to_pylist()
    confidence = _confidence(gold_score, example_ids) if gold_score is not None else None
    masked = []
    for number, example_id in enumerate(example_ids):
        rng = row_rng(settings.seed, f"mask.{settings.strategy}", example_id, view)
        length = len(gold[number])
        count = num_masked(settings.ratio, length)
        if settings.strategy == "random":
            chosen = _choose(np.arange(length), count, rng)
        elif settings.strategy == "uniform":
            chosen = evenly_spaced(length, count, rng.random())
        elif settings.strategy == "schema":
            chosen = _choose(schema_positions(sql[number], starts[number]), count, rng)
        else:
            assert confidence is not None
            logprobs = confidence[number][:length]
            chosen = _by_confidence(logprobs if settings.strategy == "hard" else -logprobs, count, view, rng)
        masked.append(np.sort(chosen).astype(np.int32))
    table = make_table(
        MASK,
        {
            "example_id": example_ids,
            "db_id": rows.column("db_id").to_pylist(),
            "view": [view] * len(example_ids),
            "strategy": [settings.strategy] * len(example_ids),
            "masked": masked,
        },
    )
    tokens = sum(map(len, gold))
    return Output(table, {"in": len(masked), "out": len(masked), "sql_tokens": tokens, "masked": sum(map(len, masked))})


def num_masked(ratio: float, length: int) -> int:
    """Positions to mask in SQL of `length` tokens: the nearest whole number, halves upward, at least 1."""
    return min(max(int(ratio * length + 0.5), 1), length)


def evenly_spaced(length: int, count: int, offset: float) -> Positions:
    """`count` positions a constant step apart; `offset` in [0, 1) moves them within a step."""
    # In whole numbers: (i + offset) rounds up to i + 1 for an offset just below 1, and the last position out of range.
    shift = min(int(offset * length), length - 1)
    return ((np.arange(count) * length + shift) // count).astype(np.int32)


def _choose(candidates: Positions, count: int, rng: np.random.Generator) -> Positions:
    return rng.choice(candidates, size=min(count, len(candidates)), replace=False)


def _by_confidence(logprobs: NDArray[np.float32], count: int, view: int, rng: np.random.Generator) -> Positions:
    """The `count` lowest; views after the first draw from the lowest twice as many, so that views differ."""
    order = np.argsort(logprobs, kind="stable").astype(np.int32)
    return order[:count] if view == 0 else _choose(order[: _POOL * count], count, rng)


def _confidence(gold_score: pa.Table, example_ids: list[str]) -> list[NDArray[np.float32]]:
    by_id = dict(zip(gold_score.column("example_id").to_pylist(), lists(gold_score, "actual_logprob"), strict=True))
    return [by_id[example_id] for example_id in example_ids]


def schema_positions(sql: str, starts: NDArray[np.int32]) -> Positions:
    """Tokens that touch an identifier or a literal; all tokens where the SQL has none."""
    spans = _spans(sql)
    ends = np.append(starts[1:], len(sql))
    inside = np.zeros(len(starts), dtype=bool)
    for first, last in spans:
        inside |= (starts <= last) & (ends > first)
    return np.flatnonzero(inside).astype(np.int32) if inside.any() else np.arange(len(starts), dtype=np.int32)


def _spans(sql: str) -> list[tuple[int, int]]:
    """First and last character of each identifier and literal."""
    try:
        tokens = sqlglot.tokenize(sql, dialect="sqlite")
    except SqlglotError:
        return []
    literal = {TokenType.STRING, TokenType.NUMBER}
    spans = [(token.start, token.end) for token in tokens if token.token_type in literal]
    return spans + (_parsed_identifiers(sql) or _guessed_identifiers(tokens))


def _parsed_identifiers(sql: str) -> list[tuple[int, int]]:
    """Identifiers as the parser sees them: it knows a column called `name` from a keyword."""
    try:
        tree = sqlglot.parse_one(sql, dialect="sqlite")
    except SqlglotError:
        return []
    position: Callable[[exp.Identifier, str], int] = lambda node, key: int(node.meta[key])  # noqa: E731
    return [(position(n, "start"), position(n, "end")) for n in tree.find_all(exp.Identifier) if "start" in n.meta]


def _guessed_identifiers(tokens: list[Token]) -> list[tuple[int, int]]:
    """Without a parse: names that no parenthesis follows (that would be a function)."""
    following = [token.token_type for token in tokens[1:]] + [None]
    names = {TokenType.VAR, TokenType.IDENTIFIER}
    return [
        (token.start, token.end)
        for token, after in zip(tokens, following, strict=True)
        if token.token_type in names and after is not TokenType.L_PAREN
    ]
