"""A tokenizer's chat template in; the fixed texts before, between and after the two pieces of a prompt out.

A template that asks for the time gets one fixed date, so that a prompt is the same on every day.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kidcore.errors import KidpipeError

# Stand-ins that no schema or question contains; a chat template is rendered around them and cut there.
# Letters of both cases: a template may alter them.
_SCHEMA_MARK, _QUESTION_MARK, _SYSTEM_MARK = "\ue000Schema\ue001", "\ue000Question\ue001", "\ue000System\ue001"
_ANSWER_MARK = "\ue000Answer\ue001"
_VERBATIM = "\ue000a \"b\" 'c' <d> & e\\n\n\nf  g\té\ue001"
"""What schemas and questions hold that a template may write otherwise: quotes, tags, line breaks, spaces in a row."""
_RESERVED = ("messages", "tools", "documents", "add_generation_prompt", "tokenize", "strftime_now")


@dataclass(frozen=True)
class Frame:
    """What stands around a prompt's two pieces: `before` the schema, `between` it and the question, `after` the question."""

    before: str = ""
    between: str = ""
    after: str = ""


def chat_frame(tokenizer: Any, system: str, arguments: Mapping[str, Any], date: str) -> Frame:
    """What the chat template writes around one user message.

    Args:
        system: text of a system message; empty = none.
        arguments: variables of the template, such as enable_thinking.
        date: the day that templates take for today, as YYYY-MM-DD.

    Raises:
        KidpipeError: there is no template, it refuses these messages, or leaves out or alters a text.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise KidpipeError(
            "this tokenizer has no chat template",
            where="ingest.chat",
            fix="set ingest.chat = false, or use an instruct model",
        )
    if reserved := sorted(set(arguments) & set(_RESERVED)):
        raise KidpipeError(
            f"{', '.join(reserved)} can't be set for a chat template",
            where="ingest.chat_arguments",
            fix="leave it out; a date is ingest.chat_date",
        )
    messages = [{"role": "user", "content": f"{_SCHEMA_MARK}{_QUESTION_MARK}"}]
    if system:
        messages.insert(0, {"role": "system", "content": _SYSTEM_MARK})
    moment = fixed_moment(date)
    try:
        text, again = (
            str(
                tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=True, strftime_now=moment.strftime, **arguments
                )
            )
            for _ in range(2)
        )
    except Exception as error:  # a template is a program of somebody else's: it may fail in any way
        raise KidpipeError(
            f"the chat template refuses the prompt: {error}",
            where="ingest.chat, ingest.system, ingest.chat_arguments",
            fix="leave ingest.system empty if the template takes no system message, or set ingest.chat = false",
        ) from None
    if text != again:
        raise KidpipeError(
            "the chat template writes another prompt each time", where="ingest.chat", fix="set ingest.chat = false, or mend it"
        )
    if system:
        if _SYSTEM_MARK not in text:
            what = "the chat template drops or alters the system message"
            raise KidpipeError(what, where="ingest.system", fix='set ingest.system = ""')
        text = text.replace(_SYSTEM_MARK, system)
    before, _, rest = text.partition(_SCHEMA_MARK)
    between, mark, after = rest.partition(_QUESTION_MARK)
    if text.count(_SCHEMA_MARK) > 1 or text.count(_QUESTION_MARK) > 1:
        what = "the chat template writes the user's text more than once"
        raise KidpipeError(what, where="ingest.chat", fix="set ingest.chat = false")
    if not mark or not _is_verbatim(tokenizer, messages, {**arguments, "strftime_now": moment.strftime}):
        what = "the chat template drops or alters the user's text"
        raise KidpipeError(what, where="ingest.chat", fix="set ingest.chat = false")
    return Frame(before, between, after)


def _is_verbatim(tokenizer: Any, messages: list[dict[str, str]], arguments: Mapping[str, Any]) -> bool:
    """Whether the user's text stands in the prompt as it is, not as JSON or HTML would write it."""
    asked = [*messages[:-1], {"role": "user", "content": _VERBATIM}]
    try:
        return _VERBATIM in tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True, **arguments)
    except Exception:  # as above
        return False


def answer_end_text(tokenizer: Any, arguments: Mapping[str, Any], date: str) -> str:
    """What the chat template writes behind an answer; empty where it writes none or knows no answers."""
    messages = [{"role": "user", "content": _QUESTION_MARK}, {"role": "assistant", "content": _ANSWER_MARK}]
    try:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, strftime_now=fixed_moment(date).strftime, **arguments)
    except Exception:  # as above
        return ""
    _, mark, rest = text.rpartition(_ANSWER_MARK)
    return rest.lstrip() if mark else ""


def asks_for_the_time(tokenizer: Any) -> bool:
    """Whether the chat template would write today's date."""
    return "strftime_now" in str(getattr(tokenizer, "chat_template", None) or "")


def fixed_moment(date: str) -> datetime:
    """Midnight of `date`; raises KidpipeError where it is no date."""
    try:
        return datetime.strptime(date, "%Y-%m-%d")
    except ValueError:
        raise KidpipeError(f"{date!r} is no date", where="ingest.chat_date", fix="write it as 2024-07-26") from None
