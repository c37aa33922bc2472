"""A query with ORDER BY in, two variants that break its ties in opposite ways out: where they differ, it rests on ties."""

from kidcore.sql.lexer import Token, TokenKind, tokens

_ENDS = {"LIMIT", "UNION", "INTERSECT", "EXCEPT"}


def opposite_ties(sql: str, num_columns: int, dialect: str = "sqlite") -> tuple[str, str] | None:
    """The query with every ORDER BY followed by its own result columns, ascending and descending; None where there is none.

    Rows that tie and look alike stay alike in both. `num_columns` is the outermost query's; a subquery's first column is used.
    """
    pieces = list(tokens(sql, dialect))
    ends = _order_by_ends(pieces)
    if not ends:
        return None
    variants = []
    for direction in ("ASC", "DESC"):
        text = [token.text for token in pieces]
        for index, depth in reversed(ends):
            columns = range(1, (num_columns if depth == 0 else 1) + 1)
            text.insert(index, "".join(f", {column} {direction}" for column in columns) + " ")
        variants.append("".join(text))
    return variants[0], variants[1]


def _order_by_ends(pieces: list[Token]) -> list[tuple[int, int]]:
    """Where each query's ORDER BY list ends (index of the token after it) and how deep it stands; windows are left out."""
    ends: list[tuple[int, int]] = []
    is_query = [True]  # by depth: whether the parenthesis holds a query
    is_open = [False]  # by depth: whether an ORDER BY list is being read
    solid = [index for index, token in enumerate(pieces) if token.kind is not TokenKind.SPACE]
    last = 0
    for number, index in enumerate(solid):
        token = pieces[index]
        following = pieces[solid[number + 1]] if number + 1 < len(solid) else None
        if token.kind is TokenKind.SYMBOL and token.text == "(":
            is_query.append(following is not None and (following.is_word("SELECT") or following.is_word("WITH")))
            is_open.append(False)
        elif (token.kind is TokenKind.SYMBOL and token.text in (")", ";")) or token.text.upper() in _ENDS:
            if is_open[-1]:
                ends.append((last + 1, len(is_open) - 1))
                is_open[-1] = False
            if token.text == ")" and len(is_open) > 1:
                is_query.pop()
                is_open.pop()
        elif token.is_word("ORDER") and following is not None and following.is_word("BY") and is_query[-1]:
            is_open[-1] = True
        last = index
    if is_open[-1]:
        ends.append((last + 1, len(is_open) - 1))
    return sorted(ends)
