"""A text in; whether it begins as an SQL statement does, where that statement ends, and what is not quoted, out."""

import re
from itertools import islice

from kidcore.sql.lexer import Token, TokenKind, tokens

_OBJECTS = r"table|view|index|trigger|virtual|unique|temp|temporary|schema|database|type|sequence|macro|function|user|role"
_GAP = r"(?:\s|--[^\n]*\n|/\*.*?\*/)"
_STATEMENT = re.compile(
    rf"""(?:[\s(;]|--[^\n]*(?:\n|\Z)|/\*.*?\*/)*(?:
      select(?![\w$:]) | values\s*\( | with{_GAP}+(?:recursive\b|(?:"[^"]*"|\[[^\]]*\]|[^\s,(]+){_GAP}*(?:\([^)]*\){_GAP}*)?as\b)
    | from\s+[^\s,.:]+\s*(?:\Z|;|,|select\b|where\b|join\b|limit\b|group\b|order\b|as\b)
    | (?:pivot|unpivot|summarize|table)\s+[^\s.:]+\s*(?:\Z|;|on\b)
    | explain\s+(?:query\b|analyze\b|select\b|with\b) | insert\s+(?:or|into)\b | replace\s+into\b | delete\s+from\b
    | update\s+\S+\s+set\b | (?:create|drop|alter)\s+(?:or\s+replace\s+)?(?:{_OBJECTS})\b | (?:truncate|merge\s+into)\s
    | (?:attach|detach|pragma|reindex)\s+\S+ | vacuum\b | load_extension\b | copy\s+\S.*?\b(?:to|from)\b
    | (?:begin|commit|rollback|end|analyze|checkpoint)\b\s*(?:transaction|work|deferred|immediate|exclusive)?\s*(?:;|\Z)
    | savepoint\s+\S+\s*(?:;|\Z) | release\s+(?:savepoint\s+)?\S+\s*(?:;|\Z)
    | (?:install|load|use|call|show|describe)\s+[^\s.:]+\s*(?:;|\Z) | set\s+\S+\s*(?:=|to\b)
    )""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
"""How a statement begins; words that are English too count only with what has to follow them in SQL."""
_NEXT_LABEL = re.compile(
    r"""\#{2,6}[ ] | (?-i:[A-Z][a-z]*(?:[ ][a-zA-Z]+){0,3}:\s)
    | (?:sql\s?result|answer|explanation|notes?|result|output|question|reasoning|thought|database)\s*:(?!:)""",
    re.IGNORECASE | re.VERBOSE,
)
_GOES_ON = re.compile(
    r"""select|distinct|all|from|where|and|or|not|on|by|join|inner|left|right|full|outer|cross|natural|as|group|order|having|limit
    |offset|union|intersect|except|in|like|glob|is|between|exists|case|when|then|else|with|recursive|values|using|collate|escape
    |over|partition|filter|any|some|cast|regexp|match|ilike|similar|qualify|window|at|time""",
    re.IGNORECASE | re.VERBOSE,
)
"""Keywords after which a statement can't end."""
_CLOSES = re.compile(r"asc|desc|nulls|first|last|end|null|true|false|rows|range|fetch|for|sample|tablesample", re.IGNORECASE)
"""Further keywords that may stand after a blank line inside a statement."""
_ENGLISH = re.compile(r"the|this|that|these|we|you|our|your")
_APOSTROPHE = re.compile(r"[A-Z][a-z]*(?:['’](?:s|re|ve|ll|d|m)|n['’]t)\s+[a-z]")
"""As in "Here's why": no text of SQL opens within a word."""
_OTHER_SCRIPT = re.compile(r"（?[^\W\d_\x00-\x7f][^\n'\"`/-]*[，。：；！？、]")
"""A line with the punctuation of Chinese or Japanese, of which SQL makes no use outside quotes."""
_AFTER = re.compile(r"(?:[\s;]|--[^\n]*(?:\n|\Z)|/\*.*?(?:\*/|\Z))*", re.DOTALL)
_RULE = re.compile(r"(?:-{3,}|={3,}|\*{3,})[ \t\r]*\n\s*")
"""A line across the page."""


def begins_statement(text: str) -> bool:
    """Whether the text begins as an SQL statement does, after space, comments and parentheses."""
    return _STATEMENT.match(text) is not None


def is_empty(text: str) -> bool:
    """Whether the text holds nothing but space, semicolons and comments."""
    return _AFTER.fullmatch(text) is not None


def next_unquoted(pattern: re.Pattern[str], text: str, at: int) -> re.Match[str] | None:
    """The next match that is not part of a quoted text on its line."""
    return next(filter(is_unquoted, pattern.finditer(text, at)), None)


def is_unquoted(match: re.Match[str]) -> bool:
    """Whether a match is not part of a quoted text on its line."""
    text = match.string
    line = text[text.rfind("\n", 0, match.start()) + 1 : match.start()]
    rest = text[match.start() :].partition("\n")[0]
    return not any(line.count(quote) % 2 and quote in rest for quote in "'\"")


def statement_end(text: str, dialect: str = "sqlite") -> int:
    """Where the statement that begins the text ends, prose after it left out."""
    at = depth = 0
    before: Token | None = None
    for token in tokens(text, dialect):
        if token.text == ";":
            tail = text[at + 1 :]
            if _AFTER.fullmatch(tail) or begins_statement(tail):
                return len(text)
            return at + 1
        if token.kind is TokenKind.SPACE:
            if depth == 0 and before is not None and token.text.isspace() and "\n" in token.text and _may_end(before):
                start = at + len(token.text)
                if _NEXT_LABEL.match(text, start) or _is_prose(text[start:], token.text.count("\n") > 1, dialect):
                    return at
        else:
            depth += {"(": 1, ")": -1}.get(token.text, 0)
            before = token
        at += len(token.text)
    return len(text)


def _may_end(token: Token) -> bool:
    if token.kind is TokenKind.SYMBOL:
        return token.text in (")", "*", "]", "}")
    return token.kind is not TokenKind.WORD or not _GOES_ON.fullmatch(token.text)


def _is_prose(text: str, is_paragraph: bool, dialect: str) -> bool:
    """Whether a line after a statement is none of it: words in a row that SQL doesn't have, or a paragraph's mark of Markdown."""
    if rule := _RULE.match(text):
        after = re.match(r"[A-Z][a-z]+\b|\W*\Z|[*#_`>|]", text[rule.end() :])
        return after is not None and not any(pattern.fullmatch(after.group()) for pattern in (_GOES_ON, _CLOSES))
    if is_paragraph and re.match(r"#{1,6} |\*\*[A-Z]\w+|• |\d+\. |[-*] (?:`[^`\n]*`|\*\*[^*\n]*\*\*) ?:", text):
        return True
    if _APOSTROPHE.match(text) or _OTHER_SCRIPT.match(text):
        return True
    mark = re.match(r"\(|[-*] ", text) if is_paragraph else None
    text = text[mark.end() :] if mark else text
    words = list(islice((token for token in tokens(text[:200], dialect) if token.kind is not TokenKind.SPACE), 3))
    first = words[0].text if words else ""
    if len(words) < 3 or not first[:1].isupper() or first[1:].isupper() or words[1].kind is not TokenKind.WORD:
        return False
    if _ENGLISH.fullmatch(words[1].text):
        return words[2].kind is TokenKind.WORD
    is_sql = any(pattern.fullmatch(word.text) for word in words[: 3 if mark else 2] for pattern in (_GOES_ON, _CLOSES))
    return not is_sql and (words[2].kind is TokenKind.WORD or words[2].text[0] in "',.")
