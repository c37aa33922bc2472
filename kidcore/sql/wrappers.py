"""An answer in; the texts that something in it holds (JSON, tags, quoted lines, a list, quotes), the likeliest first, out.

Whether one of them is the SQL, `answers` decides. Each text stands in the answer as it is, but for what its wrapper writes in
another way: JSON's escapes, a tag's entities.
"""

import html
import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from kidcore.sql.statements import begins_statement

_KIND = r"(?:sql|sqlite|duckdb|query|answer|solution|response|output|result|code|statement|prediction|final)"
_SQL_NAME = re.compile(
    rf"(?:(?:final|generated|predicted|pred|correct|corrected|the)[_\s-]?)?{_KIND}(?:[_\s-]?{_KIND})*", re.IGNORECASE
)
"""What keys and tags are called that hold SQL."""
_TAG = re.compile(
    rf"<(?:｜DSML｜)?(?P<name>{_SQL_NAME.pattern}|pre|tool_call|function_call|function|parameter|arg_value)(?:[\s=][^<>]*)?>"
    r"|\[(?P<bracket>SQL|ANSWER|QUERY)\]|<!\[(?P<data>CDATA)\[",
    re.IGNORECASE,
)
"""DSML: DeepSeek's mark of the tags of a call."""
_PAIR = re.compile(
    rf"""(["'])(?P<key>{_SQL_NAME.pattern})\1\s*:\s*(?P<quote>\"\"\"|["'])(?P<value>.*?)
    (?:(?P=quote)(?=\s*(?:,?\s*[}}\]]|,\s*["'][\w\s-]+["']\s*:|\Z))|\Z)""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
"""A key with its text in what is nearly JSON: Python's quotes, a document cut short, quotes that should have been escaped."""
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r"}
_NEXT_DOCUMENT = re.compile(r"[\s,]*(?=[{\[])")
_DEEPEST = 8
_MOST = 16
"""Tags and literals looked at, from the last one."""

_QUOTED_LINE = re.compile(r"^[ \t]*(?:>[ \t]?)+", re.MULTILINE)
_ITEM = re.compile(
    r"^[ \t]*(?:\#{1,6}[ ]|\*\*)?(?:(?:option|alternative|query|sql|solution|approach|version|candidate|variant)[ \t]*)?"
    r"\(?(?P<number>\d{1,2})(?:\*\*)?[.):](?:\*\*)?\s*(?=[^\s\d])",
    re.IGNORECASE | re.MULTILINE,
)
_LITERAL = re.compile(
    r"(?P<quote>\"\"\"|'''|\"|')(?P<text>\s*(?:select|with)\b(?:\\.|(?!(?P=quote)).)*)(?P=quote)", re.IGNORECASE | re.DOTALL
)
_ENCLOSED = re.compile(r"(?P<mark>\*\*|\*|__|_|\$\$|\$|\"\"\"|'''|``|\"|'|`)(?:sql\s+)?(?P<text>.+)(?P=mark)[;.]?", re.DOTALL)
_LATEX = re.compile(r"\\(?:text|texttt|mathrm)\s*\{(?P<text>.*)\}", re.DOTALL)
_CURLY = ("“”", "„“", "«»")
_BOX = "\\boxed{"


def json_texts(text: str) -> tuple[list[str], list[str]]:
    """The texts in the JSON of an answer: those under keys that hold SQL, and the others; the last ones first.

    An empty text where such a key holds nothing.
    """
    start = min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=-1)
    if start < 0:
        return [], []
    found = list(_documents(text, start))
    if not found:
        return [_unescaped(match) for match in _PAIR.finditer(text)][::-1], []
    pairs = [pair for value in found for pair in _pairs(value, "", 0)]
    named = [value for key, value in pairs if _SQL_NAME.fullmatch(key)]
    return named[::-1], [value for key, value in pairs if not _SQL_NAME.fullmatch(key)][::-1]


def _documents(text: str, at: int) -> Iterator[Any]:
    """The JSON values that follow one another, as in JSON Lines; none where the first is broken."""
    decoder = json.JSONDecoder(strict=False)
    while begin := _NEXT_DOCUMENT.match(text, at):
        try:
            value, at = decoder.raw_decode(text, begin.end())
        except (ValueError, RecursionError):
            return
        yield value


def _pairs(value: Any, key: str, depth: int) -> Iterator[tuple[str, str]]:
    """Every text in a JSON value with the key it stands under."""
    if value is None or isinstance(value, str):
        yield key, value or ""
    elif depth < _DEEPEST:
        items: Iterable[tuple[str, Any]] = value.items() if isinstance(value, dict) else ()
        if isinstance(value, list):
            items = ((key, item) for item in value)
        for name, item in items:
            yield from _pairs(item, name, depth + 1)


def _unescaped(match: re.Match[str]) -> str:
    if match["quote"] == '"':
        try:
            return str(json.loads(f'"{match["value"]}"', strict=False))
        except ValueError:
            pass
    return _ESCAPE.sub(lambda escape: _ESCAPED.get(escape[1], escape[1]), match["value"])


def tagged_texts(text: str, hidden: Sequence[range]) -> Iterator[str]:
    """What stands in tags that hold answers, the last tag first; tags that begin in a `hidden` part (in order) are none."""
    starts = [part.start for part in hidden]
    opened = []
    for match in _TAG.finditer(text):
        before = bisect_right(starts, match.start())
        if not before or match.start() not in hidden[before - 1]:
            opened.append(match)
    for opening in islice(reversed(opened), _MOST):
        name = opening["name"]
        closes = (
            rf"</(?:｜DSML｜)?{re.escape(name)}\s*>" if name else r"\]\]>" if opening["data"] else rf"\[/{opening['bracket']}\]"
        )
        closing = re.compile(closes, re.IGNORECASE).search(text, opening.end())
        inside = text[opening.end() : closing.start() if closing else len(text)]
        yield html.unescape(inside) if name and re.search("&[lg]t;", inside) else inside


def unquoted_lines(text: str) -> str:
    """The text without the marks before the lines of a block quote; empty where it has none."""
    return _QUOTED_LINE.sub("", text) if _QUOTED_LINE.search(text) else ""


def is_quoted_line(text: str, at: int) -> bool:
    """Whether the line in which `at` is stands in a block quote."""
    return _QUOTED_LINE.match(text, text.rfind("\n", 0, at) + 1) is not None


def last_item(text: str) -> str:
    """The last of several numbered statements; empty where the text is no such list."""
    items = list(_ITEM.finditer(text))
    ends = [item.start() for item in items[1:]] + [len(text)]
    found = [text[item.end() : end] for item, end in zip(items, ends, strict=False)]
    is_list = len(found) > 1 and [int(item["number"]) for item in items] == list(range(1, len(items) + 1))
    return found[-1] if is_list and all(map(begins_statement, found)) else ""


def enclosed_texts(text: str) -> Iterator[str]:
    """What stands in quotes or marks around the whole of a text, in LaTeX's box, or else in its last literals."""
    if whole := _ENCLOSED.fullmatch(text):
        yield whole["text"]
    if text[:1] + text[-1:] in _CURLY:
        yield text[1:-1]
    if _BOX in text:
        yield text.rpartition(_BOX)[2].rpartition("}")[0]
    if latex := _LATEX.fullmatch(text.strip()):
        yield latex["text"]
    for match in islice(reversed(list(_LITERAL.finditer(text))), _MOST):
        yield match["text"]
