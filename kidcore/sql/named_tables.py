"""SQL and the names of tables in, those of them that the SQL names out."""

import re
from collections.abc import Iterable

# In bare names both engines take every character beyond ASCII, the marks of Indian and Thai scripts too, which are no \\w.
_WORD = re.compile(
    r"""\"(?:[^\"]|\"\")*\"|`(?:[^`]|``)*`|\[[^\]]*\]|'(?:[^']|'')*'|(?:[^\W\d]|[^\x00-\x7f\s])(?:[\w$]|[^\x00-\x7f\s])*"""
)


def named_tables(sql: str, tables: Iterable[str]) -> set[str]:
    """The tables whose name stands in the SQL, quoted or not; where a column has a table's name, one too many."""
    found = {_bare(word).lower() for word in _WORD.findall(sql) if not word.startswith("'")}
    # A table of another schema is named with it before, as in shop.item.
    return {name for name in tables if not {name.lower(), name.lower().rpartition(".")[2]}.isdisjoint(found)}


def _bare(word: str) -> str:
    quote = word[0]
    if quote == '"':
        return word[1:-1].replace('""', '"')
    if quote == "`":
        return word[1:-1].replace("``", "`")
    return word[1:-1] if quote == "[" else word
