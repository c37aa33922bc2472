"""SQL of views in, those whose rows are others each time they are asked for out: a prompt with such rows would not stay."""

from collections.abc import Mapping
from itertools import pairwise

from kidcore.sql.lexer import Token, TokenKind, tokens

_CLOCKS = frozenset(("current_date", "current_time", "current_timestamp", "localtimestamp"))
"""Said without parentheses."""
_DRAWS = frozenset(("sample", "tablesample"))
_CALLS = frozenset(
    (
        *("random", "randomblob", "uuid", "uuidv4", "uuidv7", "gen_random_uuid", "nextval", "currval"),
        *("now", "today", "get_current_time", "get_current_timestamp", "current_localtime", "current_localtimestamp"),
        *("transaction_timestamp", "age"),
    )
)
_DATES = frozenset(("date", "time", "datetime", "julianday", "unixepoch", "strftime"))
"""SQLite's, which take the moment where no other is given."""


def unsettled_views(sqls: Mapping[str, str], dialect: str = "sqlite") -> set[str]:
    """The views, of `sqls` by name, that ask for the time or draw at random, or read another that does."""
    solid = {name: [token for token in tokens(sql, dialect) if token.kind is not TokenKind.SPACE] for name, sql in sqls.items()}
    words = {name: {_bare(token) for token in found} for name, found in solid.items()}
    unsettled = {name for name, found in solid.items() if _asks(found, dialect)}
    while more := {name for name in sqls if name not in unsettled and words[name] & {known.lower() for known in unsettled}}:
        unsettled |= more
    return unsettled


def _asks(solid: list[Token], dialect: str) -> bool:
    plain = {token.text.lower() for token in solid if token.kind is TokenKind.WORD}
    if plain & _CLOCKS or (dialect == "duckdb" and plain & _DRAWS) or any(_bare(token) == "now" for token in solid):
        return True
    calls = [place for place, (token, following) in enumerate(pairwise(solid)) if following.text == "(" and _is_name(token)]
    return any(_bare(solid[place]) in _CALLS or (dialect == "sqlite" and _takes_now(solid[place:])) for place in calls)


def _takes_now(call: list[Token]) -> bool:
    """Whether a date function is called without a moment."""
    name, closing = _bare(call[0]), [token.text for token in call[2:4]]
    return (name in _DATES and closing[:1] == [")"]) or (name == "strftime" and closing[1:] == [")"])


def _is_name(token: Token) -> bool:
    return token.kind in (TokenKind.WORD, TokenKind.QUOTED)


def _bare(token: Token) -> str:
    return token.text.strip("\"'`[]").lower()
