"""Gold tokens in, the positions to mask out (METHOD: random, uniform, hard, easy of the paper; schema and tables, ours).

Positions are SQL token positions; the EOS is never masked. `round(ratio * |y|)` of them are taken, at least one.
The build masks once and stores the result; method kid-online masks afresh in each step, by the same rules.
"""

from collections.abc import Callable

import numpy as np
import sqlglot
from numpy.typing import NDArray
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import Token, TokenType

from kidcore.config.stage_settings import READ_SQL, MaskSettings

Positions = NDArray[np.int32]

# hard and easy give one choice only; further views draw theirs from a pool this many times as large.
_POOL = 2


def choose(
    settings: MaskSettings,
    length: int,
    rng: np.random.Generator,
    *,
    logprobs: NDArray[np.float32] | None = None,
    identifiers: Callable[[], Positions] | None = None,
    is_first: bool = True,
) -> Positions:
    """The positions to mask in SQL of `length` tokens, ascending.

    Args:
        rng: decides the choice.
        logprobs: of the gold tokens, under the model that is to be unsure of them; needed for `hard` and `easy`.
        identifiers: gives the candidates of `schema` and `tables`, see `schema_positions` and `table_positions`.
        is_first: whether this is the first view of its example: `hard` and `easy` take the extremes there.
    """
    count = num_masked(settings.ratio, length)
    if settings.strategy == "random":
        chosen = _draw(np.arange(length), count, rng)
    elif settings.strategy == "uniform":
        chosen = evenly_spaced(length, count, rng.random())
    elif settings.strategy in READ_SQL:
        assert identifiers is not None
        chosen = _draw(identifiers(), count, rng)
    else:
        assert logprobs is not None
        chosen = _by_confidence(logprobs if settings.strategy == "hard" else -logprobs, count, is_first, rng)
    return np.sort(chosen).astype(np.int32)


def num_masked(ratio: float, length: int) -> int:
    """Positions to mask in SQL of `length` tokens: the nearest whole number, halves upward, at least 1."""
    return min(max(int(ratio * length + 0.5), 1), length)


def evenly_spaced(length: int, count: int, offset: float) -> Positions:
    """`count` positions a constant step apart; `offset` in [0, 1) moves them within a step."""
    # In whole numbers: (i + offset) rounds up to i + 1 for an offset just below 1, and the last position out of range.
    shift = min(int(offset * length), length - 1)
    return ((np.arange(count) * length + shift) // count).astype(np.int32)


def _draw(candidates: Positions, count: int, rng: np.random.Generator) -> Positions:
    return rng.choice(candidates, size=min(count, len(candidates)), replace=False)


def _by_confidence(logprobs: NDArray[np.float32], count: int, is_first: bool, rng: np.random.Generator) -> Positions:
    """The `count` lowest; views after the first draw from the lowest twice as many, so that views differ."""
    order = np.argsort(logprobs, kind="stable").astype(np.int32)
    return order[:count] if is_first else _draw(order[: _POOL * count], count, rng)


def schema_positions(sql: str, starts: NDArray[np.int32], dialect: str = "sqlite") -> Positions:
    """Tokens that touch an identifier or a literal; all tokens where the SQL has none."""
    return _touching(_spans(sql, dialect), sql, starts)


def table_positions(sql: str, starts: NDArray[np.int32], dialect: str = "sqlite") -> Positions:
    """Tokens that touch the name of a table, an alias of one, or what stands before the dot of a column; all tokens where the SQL
    has none, or does not parse.

    Where one of them is wrong, what the teacher says behind it is which columns and joins would fit it: four of five answers of a
    student that do not execute name a column that is there, of another table (docs/results.md).
    """
    return _touching([(first, last) for first, last, is_table in _identifiers(sql, dialect) if is_table], sql, starts)


def _touching(spans: list[tuple[int, int]], sql: str, starts: NDArray[np.int32]) -> Positions:
    # Tokens that are bytes of one character start together, and each of them stands for all of it.
    later = np.unique(np.append(starts, len(sql)))
    ends = later[np.searchsorted(later, starts, side="right").clip(max=len(later) - 1)]
    inside = np.zeros(len(starts), dtype=bool)
    for first, last in spans:
        inside |= (starts <= last) & (ends > first)
    return np.flatnonzero(inside).astype(np.int32) if inside.any() else np.arange(len(starts), dtype=np.int32)


def _spans(sql: str, dialect: str) -> list[tuple[int, int]]:
    """First and last character of each identifier and literal."""
    try:
        tokens = sqlglot.tokenize(sql, dialect=dialect)
    except SqlglotError:
        return []
    literal = {TokenType.STRING, TokenType.NUMBER}
    if dialect == "duckdb":
        literal |= {TokenType.HEREDOC_STRING, TokenType.BYTE_STRING}  # $$a$$ and E'a'
    spans = [(token.start, token.end) for token in tokens if token.token_type in literal]
    parsed = [(first, last) for first, last, _is_table in _identifiers(sql, dialect)]
    return spans + (parsed or _guessed_identifiers(tokens))


def _identifiers(sql: str, dialect: str) -> list[tuple[int, int, bool]]:
    """First and last character of identifiers as the parser sees them (it knows a column called `name` from a keyword), and
    whether each stands for a table."""
    try:
        tree = sqlglot.parse_one(sql, dialect=dialect)
    except (SqlglotError, RecursionError):
        return []
    found = (node for node in tree.find_all(exp.Identifier) if "start" in node.meta)
    return [(int(node.meta["start"]), int(node.meta["end"]), _is_table(node)) for node in found]


def _is_table(node: exp.Identifier) -> bool:
    if isinstance(node.parent, exp.TableAlias):
        return node.arg_key == "this"  # not the columns that it may name
    return isinstance(node.parent, exp.Table) or (isinstance(node.parent, exp.Column) and node.arg_key != "this")


def _guessed_identifiers(tokens: list[Token]) -> list[tuple[int, int]]:
    """Without a parse: names that no parenthesis follows (that would be a function)."""
    following = [token.token_type for token in tokens[1:]] + [None] * bool(tokens)
    names = {TokenType.VAR, TokenType.IDENTIFIER}
    return [
        (token.start, token.end)
        for token, after in zip(tokens, following, strict=True)
        if token.token_type in names and after is not TokenType.L_PAREN
    ]
