"""Schema, question and tokenizer in, prompt token ids out.

The prompt is tokenised in two pieces, schema first, so that all questions on one database share a token prefix, and apart
from the SQL, so that the boundary between prompt and SQL is a token boundary.
"""

from dataclasses import dataclass, field
from typing import Any

from kidcore.config.config import IngestSettings
from kidcore.errors import KidpipeError
from kidcore.sql.schema_text import template_digest

# Stand-ins that no schema or question contains; a chat template is rendered around them and cut there.
_SCHEMA_MARK, _QUESTION_MARK = "\ue000SCHEMA\ue001", "\ue000QUESTION\ue001"


def render_question(question: str, evidence: str = "") -> str:
    """The prompt after the schema, up to where the SQL begins."""
    hint = f"evidence: {' '.join(evidence.split())}\n" if evidence else ""
    return f"question: {' '.join(question.split())}\n{hint}sql:\n"


def prompt_digest(settings: IngestSettings) -> str:
    """The version of the prompt: a hash of what the templates write."""
    return template_digest(settings.template, render_question("q", "e") + render_question("q"))


@dataclass
class PromptEncoder:
    """Turns schema text and questions into token ids with one tokenizer; schemas are tokenised once each."""

    tokenizer: Any
    chat: bool
    _schemas: dict[str, list[int]] = field(default_factory=dict)
    _frame: tuple[str, str, str] = ("", "", "")

    def __post_init__(self) -> None:
        if self.chat:
            self._frame = _chat_frame(self.tokenizer)

    def schema_ids(self, schema_text: str) -> list[int]:
        """Token ids up to the end of the schema, with what the tokenizer or chat template puts before it."""
        if schema_text not in self._schemas:
            ids = self._encode(self._frame[0] + schema_text)
            if not self.chat:
                ids = _leading_special_ids(self.tokenizer) + ids
            self._schemas[schema_text] = ids
        return self._schemas[schema_text]

    def question_ids(self, question: str, evidence: str) -> list[int]:
        """Token ids from the end of the schema to where the SQL begins."""
        return self._encode(self._frame[1] + render_question(question, evidence) + self._frame[2])

    def sql_ids(self, sql: str) -> tuple[list[int], list[int]]:
        """Token ids of the SQL, without EOS, and the character at which each of them starts."""
        encoded = self.tokenizer(sql, add_special_tokens=False, return_offsets_mapping=True)
        return list(encoded["input_ids"]), [start for start, _ in encoded["offset_mapping"]]

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def _leading_special_ids(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before a text by itself, such as a beginning-of-sequence token."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    return list(full[: full.index(plain[0])]) if plain and plain[0] in full else []


def _chat_frame(tokenizer: Any) -> tuple[str, str, str]:
    if not getattr(tokenizer, "chat_template", None):
        raise KidpipeError(
            "this tokenizer has no chat template",
            where="ingest.chat",
            fix="set ingest.chat = false, or use an instruct model",
        )
    message = {"role": "user", "content": f"{_SCHEMA_MARK}{_QUESTION_MARK}"}
    text: str = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    before, _, rest = text.partition(_SCHEMA_MARK)
    between, mark, after = rest.partition(_QUESTION_MARK)
    if not mark:
        raise KidpipeError("the chat template drops the user's text", where="ingest.chat", fix="set ingest.chat = false")
    return before, between, after
