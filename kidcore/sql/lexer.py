"""SQL text in, its tokens out: quoted text, comments and nesting told apart, without a dialect's grammar.

For the questions that need no parse tree and are asked of thousands of texts, some of them broken.
"""

import functools
import re
from collections.abc import Iterator
from enum import Enum
from itertools import pairwise
from typing import NamedTuple


class TokenKind(Enum):
    """What a token is."""

    WORD = "word"
    NUMBER = "number"
    TEXT = "text"
    """'...', with '' inside"""
    QUOTED = "quoted"
    """"...", `...` or [...]: an identifier, or SQLite's double-quoted literal"""
    SYMBOL = "symbol"
    SPACE = "space"
    """White space and comments."""


class Token(NamedTuple):
    """A piece of the text, as written; the pieces put together are the text again."""

    kind: TokenKind
    text: str

    def is_word(self, word: str) -> bool:
        """Whether this is the unquoted keyword or name `word` (given in upper case)."""
        return self.kind is TokenKind.WORD and self.text.upper() == word


_THIS_YEAR = ("YEAR", "(", "CURDATE", "(", ")", ")")
_SPACE = r"(?P<space>\s+ | --[^\n]* | /\*.*?(?:\*/|\Z))"
_REST = r"""
      (?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)
    | (?P<word>[^\W\d][\w$]*)
    | (?P<symbol><>|<=|>=|!=|==|\|\||<<|>>|->>|->|.)
    """
_QUOTES = {
    "sqlite": r"""
      (?P<text>[xX]?'(?:[^']|'')*(?:'|\Z))
    | (?P<quoted>"(?:[^"]|"")*(?:"|\Z) | `(?:[^`]|``)*(?:`|\Z) | \[[^\]]*(?:\]|\Z))
    """,
    # Brackets hold lists here, E'...' has escapes, and $$...$$ is a text.
    "duckdb": r"""
      (?P<text>[eE]'(?:[^'\\]|\\.|'')*(?:'|\Z) | [xX]?'(?:[^']|'')*(?:'|\Z) | (?P<tag>\$(?:[^\W\d]\w*)?\$).*?(?:(?P=tag)|\Z))
    | (?P<quoted>"(?:[^"]|"")*(?:"|\Z))
    """,
}
_PATTERNS = {dialect: re.compile(f"{_SPACE} | {quotes} | {_REST}", re.VERBOSE | re.DOTALL) for dialect, quotes in _QUOTES.items()}
_KINDS = {kind.value: kind for kind in TokenKind}


def tokens(sql: str, dialect: str = "sqlite") -> Iterator[Token]:
    """The tokens of any text, complete: nothing is dropped, unclosed quotes run to the end."""
    for match in _PATTERNS[dialect].finditer(sql):
        yield Token(_KINDS[match.lastgroup or ""], match.group())


@functools.lru_cache(maxsize=16_384)
def is_ordered(sql: str, dialect: str = "sqlite") -> bool:
    """Whether the outermost query has ORDER BY, so that the order of its rows is part of its meaning.

    ORDER BY outside every parenthesis belongs to the outermost query: subqueries, CTEs, windows and aggregates all keep
    theirs inside. Parentheses around the whole statement (DuckDB admits them) are taken off first.
    """
    solid = [token for token in tokens(sql, dialect) if token.kind is not TokenKind.SPACE]
    while solid and solid[-1].text == ";":
        solid.pop()
    while len(solid) > 1 and solid[0].text == "(" and _closing(solid) == len(solid) - 1:
        solid = solid[1:-1]
    depth = 0
    for token, following in pairwise(solid):
        if token.kind is TokenKind.SYMBOL:
            depth += {"(": 1, ")": -1}.get(token.text, 0)
        elif depth == 0 and token.is_word("ORDER") and following.is_word("BY"):
            return True
    return False


def strip_distinct(sql: str, dialect: str = "sqlite") -> str:
    """The text without the keyword DISTINCT (the test suite's default, for published numbers).

    It stays where it is no wish for distinct rows: in the comparison IS [NOT] DISTINCT FROM, and in DuckDB's DISTINCT ON,
    which chooses a row a group.
    """
    pieces = list(tokens(sql, dialect))
    solid = [index for index, token in enumerate(pieces) if token.kind is not TokenKind.SPACE]
    kept = {
        index
        for number, index in enumerate(solid)
        if pieces[index].is_word("DISTINCT")
        and (_compares(pieces, solid, number) or (number + 1 < len(solid) and pieces[solid[number + 1]].is_word("ON")))
    }
    return "".join(token.text for index, token in enumerate(pieces) if index in kept or not token.is_word("DISTINCT"))


def _compares(pieces: list[Token], solid: list[int], number: int) -> bool:
    """Whether the DISTINCT at `solid[number]` belongs to IS [NOT] DISTINCT FROM."""
    before = [pieces[index] for index in solid[max(0, number - 2) : number]]
    if before and before[-1].is_word("NOT"):
        before.pop()
    is_asked = bool(before) and before[-1].is_word("IS")
    return is_asked and number + 1 < len(solid) and pieces[solid[number + 1]].is_word("FROM")


def mend_operators(sql: str, dialect: str = "sqlite") -> str:
    """The text with `> =`, `< =` and `! =` written as one operator, as tokenised predictions have them apart."""
    pieces: list[str] = []
    held = ""
    for token in tokens(sql, dialect):
        if held and token.text == "=":
            pieces.append(held.rstrip() + "=")
            held = ""
        elif held and token.kind is TokenKind.SPACE:
            held += token.text
        else:
            pieces.append(held)
            held = token.text if token.text in (">", "<", "!") else ""
            if not held:
                pieces.append(token.text)
    return "".join(pieces) + held


def mend_year(sql: str, dialect: str = "sqlite") -> str:
    """The text with MySQL's `YEAR(CURDATE())` written as 2020, the year of the test suite's evaluator, which does the same."""
    pieces = list(tokens(sql, dialect))
    solid = [place for place, token in enumerate(pieces) if token.kind is not TokenKind.SPACE]
    texts = [pieces[place].text.upper() for place in solid]
    # From the end, so that places stay what they are.
    for start in reversed(range(len(texts) - len(_THIS_YEAR) + 1)):
        if tuple(texts[start : start + len(_THIS_YEAR)]) == _THIS_YEAR:
            pieces[solid[start] : solid[start + len(_THIS_YEAR) - 1] + 1] = [Token(TokenKind.NUMBER, "2020")]
    return "".join(token.text for token in pieces)


def strip_end(sql: str, dialect: str = "sqlite") -> str:
    """The text without the semicolons, the space and the comments that it ends in."""
    pieces = list(tokens(sql, dialect))
    while pieces and (pieces[-1].kind is TokenKind.SPACE or pieces[-1].text == ";"):
        pieces.pop()
    return "".join(token.text for token in pieces)


def _closing(solid: list[Token]) -> int:
    """Where the parenthesis that opens `solid` closes; -1 where it doesn't."""
    depth = 0
    for index, token in enumerate(solid):
        if token.kind is TokenKind.SYMBOL:
            depth += {"(": 1, ")": -1}.get(token.text, 0)
            if depth == 0:
                return index
    return -1
