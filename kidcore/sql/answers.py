"""What a model said in, the SQL that is judged out; empty where it said none.

The rule, in order:

1. **Thinking is no answer.** `<think>...</think>` and its kin go; what comes before a closing tag that was never opened goes
   (chat templates open it in the prompt); after an opening tag that is never closed nothing is left. Of harmony's channels the
   final one counts, with or without its control tokens.
2. **Control tokens** that a tokenizer left as text (`<|im_end|>`, `</s>`) end the answer.
3. **What wraps the SQL goes**, where the answer doesn't begin as SQL itself: tags (`<sql>`, `<answer>`, `[SQL]`, a tool call's),
   JSON (the value of "sql", "query" or the like, else the last text that is SQL), the marks of a block quote, a list's numbers,
   quotes or emphasis around it all, a program that assigns it.
4. **Of several the last counts**, be they tags, code blocks, JSON's keys or numbered statements. Code blocks have fences of
   three or more ` or ~, with or without a language, on one line or many, never closed too. A last block that holds no SQL (a
   table of results, a program that runs it) gives way to the last one that does.
5. **A label, a heading or a sentence** before the statement ("SQL:", "**Query**", "sqlite>") goes.
6. **What follows the statement's semicolon goes, unless it is SQL**: two statements stay two, and are refused as such. Without a
   semicolon only a paragraph that reads as prose goes. Quoted text and comments are looked into by none of these.

Nothing is added or mended: JSON's escapes and a tag's `&lt;` are read as what they stand for. SQL that stands alone comes back as
it is, but for the space around it.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from kidcore.sql.lexer import TokenKind, tokens
from kidcore.sql.statements import begins_statement, is_empty, is_unquoted, next_unquoted, statement_end
from kidcore.sql.wrappers import enclosed_texts, is_quoted_line, json_texts, last_item, tagged_texts, unquoted_lines

_THOUGHTS = r"(?:\w+[:_])?(?:think|thinking|thoughts?)|reason|reasoning|reflection|analysis|scratchpad|plan|planning|cot"
"""With what families put before it: <seed:think>, <chain_of_thought>, <|begin_of_thought|>."""
# Also Magistral's [THINK], Kimi's ◁think▷, Cohere's <|START_THINKING|>, Gemma's <|channel>thought and <unused94>.
_OPEN = re.compile(rf"<\|?(?!end_)(?:{_THOUGHTS})\|?>|\[THINK\]|◁think▷|<\|channel>|<unused94>", re.IGNORECASE)
_CLOSE = re.compile(
    rf"</(?:{_THOUGHTS})>|<\|(?:/(?:{_THOUGHTS})|end_of_thought|end_thinking)\|>|\[/THINK\]|◁/think▷|<channel\|>|<unused95>",
    re.IGNORECASE,
)
_FINAL = re.compile(
    r"<\|channel\|>\s*final\b[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>"
    r"|\A\s*analysis(?=[A-Z]).*assistantfinal|\A(?:assistant)?final(?=[A-Z`{])",
    re.DOTALL,
)
"""Opens the answer in the harmony format, where the channels before it are thinking; also without its control tokens."""
_PARTS = re.compile(r"<\|(?:channel|message|start|end|constrain|START_RESPONSE)\|>")
"""Tokens that part an answer from what comes before it, beside those that open and close thinking."""

_ANGLED, _BRACKETED = "sql|sql_query|query|answer|final_answer|solution|response|output|code|pre", "SQL|ANSWER|QUERY"
# Never legal in SQL outside quotes, wherever they stand: the first of them ends the answer.
_CONTROL = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|<｜[^｜<>]{1,40}｜>|</s>|<end_of_turn>|<turn\|>|<eos>(?=\s*\Z)|<pad>(?=\s*(?:<pad>|\Z))|\[/INST\]"
    rf"|\[/(?:{_BRACKETED})\]|</(?:{_ANGLED})>",
    re.IGNORECASE,
)
_OPENING = re.compile(rf"(?:<(?:{_ANGLED})\b|\[(?:{_BRACKETED})\])", re.IGNORECASE)
_LEADING = re.compile(
    r"\s*(?:<\|(?!im_end|eot|end(?!_header))[^|<>\s]{1,40}\|>|<｜(?!end)[^｜<>]{1,40}｜>|<start_of_turn>|<\|turn>|<s>|<bos>)\s*"
    r"(?:(?:assistant|model)\b\s*)?",
    re.IGNORECASE,
)
_ARGUMENTS = re.compile(r"<｜tool▁sep｜>|<\|tool_call_argument_begin\|>")
"""DeepSeek's and Kimi's, between the name of a tool and what it is called with."""
_QUOTES = r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`\n]+`|--[^\n]*|/\*.*?\*/"
_FENCE = re.compile(r"(?P<fence>`{3,}|~{3,})")
_FENCE_OR_QUOTE = re.compile(rf"(?P<fence>`{{3,}}|~{{3,}})|{_QUOTES}", re.DOTALL)
_TAG = re.compile(r"[ \t]*\{?\.?(?P<name>[A-Za-z][\w+#.-]*)\}?(?=\s|\Z)")
_DIALECTS = ("sqlite", "sqlite3", "duckdb", "postgres", "bigquery")
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")

_OPENER = r"(?=[\s(]*(?:select|with|values|from)\b)"
_LEAD = re.compile(
    rf"""(?: [:：][\s*_]* | [.!?。]\s*\n\s* | \n[ \t\r]*\n\s*(?=\(*(?-i:SELECT|WITH)\s) | \A\s*(?:sql|sqlite|assistant)\s+
    | \A\s*(?:sql|sqlite3?|duckdb|mysql|postgres|D)[>#]\s*
    | (?:\A|\n)[ ]*(?:\#{{1,6}}[ ][^\n]*|\*\*[^*\n]+\*\*|__[^_\n]+__|-{{3,}})\s*\n\s* | \A\s*(?:[-*+•]|\(?\d{{1,2}}[.)])\s+
    | \A\s*(?:sure|certainly|of\ course|okay)\b[,.!]*\s+
    | (?:\A|[.!?]\s)[\w ,]{{0,80}}\b(?:query|sql|answer|statement)\ (?:is|would\ be)\s+
    ){_OPENER}""",
    re.IGNORECASE | re.VERBOSE,
)
"""Ends what stands before the statement: a label, a sentence, a heading, a shell's prompt, or the language of a fence that the
prompt opened."""
_MOST_LEADS = 50
_DEEPEST = 4
"""Wrappers in one another that are taken off."""
_INVISIBLE = "\ufeff\u200b\u2060"
_LONGEST = 200_000
"""Characters; what is longer is left as it is, to be refused by the sandbox."""


@dataclass(frozen=True)
class _Block:
    """A code block: its language, if it names one, what stands in it, and where."""

    language: str
    text: str
    span: range

    @property
    def is_sql(self) -> bool:
        if "sql" in self.language or self.language in _DIALECTS:
            return not is_empty(self.text)
        return self.language not in ("python", "py") and begins_statement(self.text)  # `with open(f) as g` begins alike


def read_answer(answer: str, dialect: str = "sqlite") -> str:
    """The SQL in what a model said, by the rule above; empty where there is none. What is quoted in it, the dialect says."""
    if len(answer) > _LONGEST:
        return answer.strip()
    return _read(_arguments(_without_thinking(answer.lstrip(_INVISIBLE))), _DEEPEST, dialect)


def parts_answer(token: str) -> bool:
    """Whether a control token parts thinking from the answer, so that text goes on after it and has to be read with it."""
    return any(pattern.fullmatch(token) for pattern in (_PARTS, _OPEN, _CLOSE))


def _read(text: str, depth: int, dialect: str) -> str:
    text = _without_controls(text, dialect).strip()
    if depth and (item := "" if begins_statement(text) else last_item(text)):
        return _read(item, depth - 1, dialect)
    text = _after_lead(text)
    bare = begins_statement(text)
    blocks = list(_blocks(text, bare))
    if not bare and depth and (held := _held(text, blocks, depth - 1, dialect)) is not None:
        return held
    chosen = next((block for block in reversed(blocks) if block.is_sql), None)
    if chosen or (blocks and not bare):
        return _statement(_without_controls((chosen or blocks[-1]).text, dialect).strip(), dialect)
    if fence := _next_fence(text, 0, quoted=bare):
        text = text[: fence.start()].strip()  # it closes what the prompt opened, or has nothing in it
    sql = _statement(text, dialect)
    inline = [] if begins_statement(sql) else [code.strip() for code in _INLINE.findall(text) if begins_statement(code)]
    return inline[-1] if inline else sql


def _held(text: str, blocks: list[_Block], depth: int, dialect: str) -> str | None:
    """The SQL that something in a text which isn't SQL holds, code blocks of SQL aside; None where nothing does."""
    fence = _FENCE.search(text)
    braces = text.find("{") if text[:1] != "[" else 0
    if 0 <= braces < (fence.start() if fence else len(text)) and (sql := _of_json(text, depth, dialect)) is not None:
        return sql
    if (sql := _first(tagged_texts(text, [block.span for block in blocks]), depth, dialect)) is not None:
        return sql
    if (fence is None or is_quoted_line(text, fence.start())) and (plain := unquoted_lines(text)):
        return _read(plain, depth, dialect)
    for block in reversed(blocks):
        if block.is_sql:
            return None
        if block.text[:1] in ("{", "[") and (sql := _of_json(block.text, depth, dialect)) is not None:
            return sql
        if block.text[:1] == "<" and (sql := _first(tagged_texts(block.text, ()), depth, dialect)) is not None:
            return sql
    inside = [block.text for block in reversed(blocks)] or [text]
    return _first((held for code in inside for held in (*chain(*json_texts(code)), *enclosed_texts(code))), depth, dialect)


def _of_json(text: str, depth: int, dialect: str) -> str | None:
    """The SQL in the JSON that a text begins with, or what stands where it should; None where there is no such place."""
    named, others = json_texts(text)
    sql = _first((*named, *others), depth, dialect)
    return _read(named[0], depth, dialect) if sql is None and named else sql


def _first(texts: Iterable[str], depth: int, dialect: str) -> str | None:
    """The first SQL that is read out of a text."""
    return next((sql for text in texts if begins_statement(sql := _read(text, depth, dialect))), None)


def _without_thinking(text: str) -> str:
    finals = list(_FINAL.finditer(text))
    if finals:
        return text[finals[-1].end() :]
    if text.lstrip().startswith("<|channel|>"):
        return ""  # it never came to the final channel
    kept: list[str] = []
    at = 0
    while True:
        opening, closing = next_unquoted(_OPEN, text, at), next_unquoted(_CLOSE, text, at)
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


def _arguments(text: str) -> str:
    """What a tool is called with, where a control token parts it from the tool's name; of several calls the last one's."""
    return text if begins_statement(text) else _ARGUMENTS.split(text)[-1]


def _without_controls(text: str, dialect: str) -> str:
    """The text up to the first control token outside quotes; those that open a turn, and tags that close in it, are skipped."""
    while lead := _LEADING.match(text):
        text = text[lead.end() :]
    if not _CONTROL.search(text):
        return text
    if not begins_statement(text):
        # Prose has apostrophes, which are no quotes; a literal keeps its tokens by being closed on its line.
        opened = {_tag_name(tag): tag.start() for tag in reversed(list(_OPENING.finditer(text)))}
        controls = (control for control in _CONTROL.finditer(text) if opened.get(_tag_name(control), len(text)) > control.start())
        return next((text[: control.start()] for control in controls if is_unquoted(control)), text)
    at = 0
    for token in tokens(text, dialect):
        if token.kind is TokenKind.SYMBOL and _CONTROL.match(text, at):
            return text[:at]
        if token.text.startswith("[/") and _CONTROL.match(text, at):
            return text[:at]
        at += len(token.text)
    return text


def _tag_name(tag: re.Match[str]) -> str:
    return tag.group().strip("</>[]").lower()


def _blocks(text: str, bare: bool) -> Iterator[_Block]:
    """The code blocks that hold anything; where the text begins as SQL (`bare`), fences inside its quotes are none."""
    at = 0
    unclosed: set[str] = set()  # fences that stand alone on no line from here on: looked for once, not once a block
    while opening := _next_fence(text, at, quoted=bare and at == 0):
        content = _content_start(text, opening)
        closing = _closing_fence(text, content[1], opening.group("fence"), unclosed)
        end = len(text) if closing is None else closing[0]
        block = _Block(content[0], text[content[1] : end].strip(), range(opening.start(), end))
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


def _closing_fence(text: str, at: int, fence: str, unclosed: set[str]) -> tuple[int, int] | None:
    """Where the block that `fence` opened ends, and where the text goes on: at a fence of its kind and at least its length.

    Quotes hide a fence that shares its line with other text; one that stands alone on its line always closes.
    """
    line = re.compile(rf"^[ \t]*{fence[0]}{{{len(fence)},}}[ \t\r]*$", re.MULTILINE)
    alone = None if fence in unclosed else line.search(text, at)
    if alone is None:
        unclosed.add(fence)
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
        lead = next_unquoted(_LEAD, prose, at)
        if lead is None or ";" in text[: lead.start()]:
            return text
        at = lead.end()
    return text


def _statement(text: str, dialect: str) -> str:
    """The text without what stands before and after the statement."""
    text = _after_lead(text)
    # Models that write Chinese or Japanese end a statement with a full-width semicolon, of which SQL makes no use.
    return text[: statement_end(text, dialect)].strip().rstrip("；") if begins_statement(text) else text
