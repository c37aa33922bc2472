"""What a model said in, the SQL that is judged out; empty where it said none.

The rule, in order:

1. **Thinking is no answer.** `<think>...</think>` and its kin go; what comes before a closing tag that was never opened goes
   (chat templates open it in the prompt); after an opening tag that is never closed nothing is left.
2. **Control tokens** that a tokenizer left as text (`<|im_end|>`, `</s>`) end the answer.
3. **Of several code blocks the last counts**: fences of three or more ` or ~, with or without a language, on one line or many,
   never closed too. A last block that is not SQL (a table of results) gives way to the last one that is.
4. **A label or a sentence that ends in a colon** before the statement ("SQL:") goes.
5. **What follows the statement's semicolon goes, unless it is SQL**: two statements stay two, and are refused as such. Without a
   semicolon only a paragraph that reads as prose goes. Quoted text and comments are looked into by none of these.

Nothing is added or mended, and SQL that stands alone comes back as it is, but for the space around it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from kidcore.sql.lexer import Token, TokenKind, tokens

_THOUGHTS = r"think|thinking|thought|thoughts|reason|reasoning|reflection|analysis|scratchpad|seed:think|begin_of_thought"
# Also Magistral's [THINK], Kimi's ◁think▷ and the <|begin_of_thought|> family.
_OPEN = re.compile(rf"<\|?(?:{_THOUGHTS})\|?>|\[THINK\]|◁think▷", re.IGNORECASE)
_CLOSE = re.compile(rf"</(?:{_THOUGHTS})>|<\|(?:/(?:{_THOUGHTS})|end_of_thought)\|>|\[/THINK\]|◁/think▷", re.IGNORECASE)
_CHANNEL = "<|channel|>final<|message|>"
"""Opens the answer in the harmony format, where the channels before it are thinking."""

# Never legal in SQL outside quotes, wherever they stand: the first of them ends the answer.
_CONTROL = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|<｜[^｜<>]{1,40}｜>|</s>|<end_of_turn>|<eos>(?=\s*\Z)|<pad>(?=\s*(?:<pad>|\Z))|\[/INST\]"
)
_LEADING = re.compile(
    r"\s*(?:<\|(?!im_end|eot|end)[^|<>\s]{1,40}\|>|<｜(?!end)[^｜<>]{1,40}｜>|<start_of_turn>|<s>|<bos>)\s*(?:(?:assistant|model)\b\s*)?",
    re.IGNORECASE,
)
_WRAPPERS = re.compile(
    r"<(answer|final_answer|final|solution|response|output|sql|query)>(.*?)(?:</\1>|\Z)", re.IGNORECASE | re.DOTALL
)

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

_QUOTES = r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`\n]+`|--[^\n]*|/\*.*?\*/"
_FENCE = re.compile(r"(?P<fence>`{3,}|~{3,})")
_FENCE_OR_QUOTE = re.compile(rf"(?P<fence>`{{3,}}|~{{3,}})|{_QUOTES}", re.DOTALL)
_TAG = re.compile(r"[ \t]*\{?\.?(?P<name>[A-Za-z][\w+#.-]*)\}?(?=\s|\Z)")
_DIALECTS = ("sqlite", "sqlite3", "duckdb", "postgres", "bigquery")
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")

_OPENER = r"(?=[\s(]*(?:select|with|values|from)\b)"
_LEAD = re.compile(rf"(?::[\s*_]*|[.!?]\s*\n\s*|\A\s*(?:sql|sqlite)\s+){_OPENER}", re.IGNORECASE)
"""Ends what stands before the statement: a label, a sentence, or the language of a fence that the prompt opened."""
_NEXT_LABEL = re.compile(
    r"#{2,6} |(?:sql\s?result|answer|explanation|notes?|result|output|question|reasoning|thought)\s*:(?!:)", re.IGNORECASE
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
_AFTER = re.compile(r"(?:[\s;]|--[^\n]*(?:\n|\Z)|/\*.*?(?:\*/|\Z))*", re.DOTALL)
_MOST_LEADS = 50
_LONGEST = 200_000
"""Characters; what is longer is left as it is, to be refused by the sandbox."""


@dataclass(frozen=True)
class _Block:
    """A code block: its language, if it names one, and what stands in it."""

    language: str
    text: str

    @property
    def is_sql(self) -> bool:
        if "sql" in self.language or self.language in _DIALECTS:
            return True
        return self.language not in ("python", "py") and begins_statement(self.text)  # `with open(f) as g` begins alike


def read_answer(answer: str) -> str:
    """The SQL in what a model said, by the rule above; empty where there is none."""
    if len(answer) > _LONGEST:
        return answer.strip()
    text = _after_lead(_without_controls(_without_thinking(answer)).strip())
    bare = begins_statement(text)
    blocks = list(_blocks(text, bare))
    chosen = next((block for block in reversed(blocks) if block.is_sql), None)
    if chosen or (blocks and not bare):
        return _statement(_without_controls((chosen or blocks[-1]).text).strip())
    if fence := _next_fence(text, 0, quoted=bare):
        text = text[: fence.start()].strip()  # it closes what the prompt opened, or has nothing in it
    if not bare and (wrapped := _WRAPPERS.findall(text)):
        text = wrapped[-1][1].strip()
    sql = _statement(text)
    inline = [] if begins_statement(sql) else [code.strip() for code in _INLINE.findall(text) if begins_statement(code)]
    return inline[-1] if inline else sql


def begins_statement(text: str) -> bool:
    """Whether the text begins as an SQL statement does, after space, comments and parentheses."""
    return _STATEMENT.match(text) is not None


def _without_thinking(text: str) -> str:
    if _CHANNEL in text:
        return text.rpartition(_CHANNEL)[2]
    if text.lstrip().startswith("<|channel|>"):
        return ""  # it never came to the final channel
    kept: list[str] = []
    at = 0
    while True:
        opening, closing = _unquoted(_OPEN, text, at), _unquoted(_CLOSE, text, at)
        if closing and (opening is None or closing.start() < opening.start()):
            kept = []  # all of it was thinking: the template opened the tag
            at = closing.end()
        elif opening:
            kept.append(text[at : opening.start()])
            end = _CLOSE.search(text, opening.end())
            if end is None:
                return "".join(kept)
            at = end.end()
        else:
            return "".join(kept) + text[at:]


def _unquoted(pattern: re.Pattern[str], text: str, at: int) -> re.Match[str] | None:
    """The next match that is not part of a quoted text on its line."""
    for match in pattern.finditer(text, at):
        line = text[text.rfind("\n", 0, match.start()) + 1 : match.start()]
        rest = text[match.start() :].partition("\n")[0]
        if not any(line.count(quote) % 2 and quote in rest for quote in "'\""):
            return match
    return None


def _without_controls(text: str) -> str:
    """The text up to the first control token outside quotes; those that open a turn are skipped."""
    while lead := _LEADING.match(text):
        text = text[lead.end() :]
    if not _CONTROL.search(text):
        return text
    if not begins_statement(text):
        # Prose has apostrophes, which are no quotes; a literal keeps its tokens by being closed on its line.
        found = _unquoted(_CONTROL, text, 0)
        return text[: found.start()] if found else text
    at = 0
    for token in tokens(text):
        if token.kind is TokenKind.SYMBOL and _CONTROL.match(text, at):
            return text[:at]
        if token.text.startswith("[") and (found := _CONTROL.match(text, at)) and found.group().endswith("INST]"):
            return text[:at]
        at += len(token.text)
    return text


def _blocks(text: str, bare: bool) -> Iterator[_Block]:
    """The code blocks that hold anything; where the text begins as SQL (`bare`), fences inside its quotes are none."""
    at = 0
    while opening := _next_fence(text, at, quoted=bare and at == 0):
        content = _content_start(text, opening)
        closing = _closing_fence(text, content[1], opening.group("fence"))
        end = len(text) if closing is None else closing[0]
        block = _Block(content[0], text[content[1] : end].strip())
        if block.text:
            yield block
        if closing is None:
            return
        at = closing[1]


def _next_fence(text: str, at: int, *, quoted: bool) -> re.Match[str] | None:
    if not quoted:
        return _FENCE.search(text, at)
    return next((match for match in _FENCE_OR_QUOTE.finditer(text, at) if match.group("fence")), None)


def _content_start(text: str, opening: re.Match[str]) -> tuple[str, int]:
    """The language that a fence names, in lower case, and where its content begins."""
    at = opening.end()
    line_end = text.find("\n", at)
    line_end = len(text) if line_end < 0 else line_end
    if begins_statement(text[at:]):
        return "", at
    tag = _TAG.match(text, at, line_end)
    fence_on_line = opening.group("fence") in text[at:line_end]
    if tag is None:
        return "", at
    rest = text[tag.end() : line_end].strip()
    language = tag.group("name").lower()
    if rest and (fence_on_line or begins_statement(text[tag.end() :]) or line_end == len(text)):
        return language, tag.end()
    return language, line_end


def _closing_fence(text: str, at: int, fence: str) -> tuple[int, int] | None:
    """Where the block that `fence` opened ends, and where the text goes on: at a fence of its kind and at least its length.

    Quotes hide a fence that shares its line with other text; one that stands alone on its line always closes.
    """
    alone = re.compile(rf"^[ \t]*{fence[0]}{{{len(fence)},}}[ \t\r]*$", re.MULTILINE).search(text, at)
    end = alone.start() if alone else len(text)
    for match in _FENCE_OR_QUOTE.finditer(text, at, end):
        start = match.start()
        if match.group().startswith("--"):
            # A comment ends with its line: it hides no fence that ends the line, nor any on the line of the opening one.
            start = text.find(fence, start, match.end())
            rest = text[start + len(fence) : match.end()]
            if start < 0 or (rest.strip(" \t\r.,") and "\n" in text[at:start]):
                continue
        elif not match.group().startswith(fence):
            continue
        run = re.compile(rf"{fence[0]}+").match(text, start)
        after = run.end() if run else start
        opens_next = not text[text.rfind("\n", 0, start) + 1 : start].strip() and _TAG.match(text, after) is not None
        return start, start if opens_next else after
    return alone.span() if alone else None


def _after_lead(text: str) -> str:
    """The text without what stands before a statement that no fence announces."""
    fence = _FENCE.search(text)
    prose = text[: fence.start()] if fence else text
    at = 0
    for _ in range(_MOST_LEADS):
        if begins_statement(text[at:]):
            return text[at:].strip()
        lead = _unquoted(_LEAD, prose, at)
        if lead is None or ";" in text[: lead.start()]:
            return text
        at = lead.end()
    return text


def _statement(text: str) -> str:
    """The text without what stands before and after the statement."""
    text = _after_lead(text)
    return text[: _end(text)].strip() if begins_statement(text) else text


def _end(text: str) -> int:
    """Where the statement that begins the text ends, prose after it left out."""
    at = depth = 0
    before: Token | None = None
    for token in tokens(text):
        if token.text == ";":
            tail = text[at + 1 :]
            if _AFTER.fullmatch(tail) or begins_statement(tail):
                return len(text)
            return at + 1
        if token.kind is TokenKind.SPACE:
            if depth == 0 and before is not None and token.text.isspace() and "\n" in token.text and _may_end(before):
                start = at + len(token.text)
                if _NEXT_LABEL.match(text, start) or (token.text.count("\n") > 1 and _is_prose(text[start:])):
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


def _is_prose(text: str) -> bool:
    """Whether a paragraph after a statement is none of it: two words in a row that SQL doesn't have, or a mark of Markdown."""
    if re.match(r"#{1,6} |\*\*[A-Z]\w+|• |\d+\. ", text):
        return True
    words = [token for token in tokens(text[:200]) if token.kind is not TokenKind.SPACE][:3]
    first = words[0].text if words else ""
    if len(words) < 3 or not first[:1].isupper() or first[1:].isupper() or words[1].kind is not TokenKind.WORD:
        return False
    if _ENGLISH.fullmatch(words[1].text):
        return words[2].kind is TokenKind.WORD
    is_sql = any(pattern.fullmatch(word.text) for word in words[:2] for pattern in (_GOES_ON, _CLOSES))
    return not is_sql and (words[2].kind is TokenKind.WORD or words[2].text[0] in "',.")
