"""A name in, the name as SQL has to write it out: as it is where that works, else in double quotes."""

import unicodedata

# Words that fail, or mean something else, as the bare name of a column or table in some place of a query: found by trying
# every keyword in every place (tests/kidcore/sql/schema/test_identifiers.py does so again with the installed engine).
# The engines' other keywords are ordinary names in ordinary places, and stay as they are.
_RESERVED_WORDS = {
    "sqlite": (
        "add all alter and as autoincrement between case cast check collate commit constraint create current_date current_time "
        "current_timestamp default deferrable delete distinct drop else escape except exists foreign from group having in index "
        "insert intersect into is isnull join limit not nothing notnull null on or order primary raise references returning "
        "select set table then to transaction union unique update using values when where"
    ),
    "duckdb": (
        "all analyse analyze and anti any array as asc asof asymmetric at authorization binary both by case cast check collate "
        "collation column concurrently constraint create cross default deferrable desc describe distinct do else end except "
        "false fetch for foreign freeze from full glob group having ilike in initially inner intersect into is isnull join "
        "lambda lateral leading left like limit natural not notnull null offset on only or order outer overlaps pivot "
        "pivot_longer pivot_wider placing positional primary qualify references returning right select semi show similar some "
        "summarize symmetric table tablesample then to trailing true union unique unpack unpivot using variadic verbose when "
        "where window with"
    ),
}
RESERVED = {dialect: frozenset(words.split()) for dialect, words in _RESERVED_WORDS.items()}


def quoted(name: str, dialect: str) -> str:
    """The name as it can be copied into a query; a plain name comes back unchanged."""
    return name if _is_plain(name, dialect) else always_quoted(name)


def always_quoted(name: str) -> str:
    """The name in double quotes, which both engines take for a name."""
    return '"' + name.replace('"', '""') + '"'


def _is_plain(name: str, dialect: str) -> bool:
    if not name or name[0] in "0123456789$" or name.lower() in RESERVED[dialect]:
        return False
    return all(_is_letter(character) for character in name)


def _is_letter(character: str) -> bool:
    """Both engines take every character beyond ASCII; spaces and signs there are quoted all the same, as people would."""
    if character.isascii():
        return character.isalnum() or character in "_$"
    return unicodedata.category(character)[0] in "LMN"
