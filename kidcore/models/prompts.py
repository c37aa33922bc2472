"""A database, a question and a tokenizer in, a prompt as text and token ids out: for training, generation and serving alike.

The prompt is tokenised in two pieces, schema first, so that all questions on one database share a token prefix, and apart
from the SQL, so that the boundary between prompt and SQL is a token boundary.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

from kidcore.config.config import IngestSettings
from kidcore.config.settings import fingerprint
from kidcore.errors import KidpipeError
from kidcore.models.encoding import EncodedText, TextEncoder
from kidcore.models.templates.chat import Frame, answer_end_text, asks_for_the_time, chat_frame
from kidcore.models.templates.fit import by_relevance
from kidcore.models.templates.template import PromptTemplate, load_template
from kidcore.models.templates.variables import Details, SchemaView, view_of
from kidcore.models.tokenizers import eos_id
from kidcore.sql.column_values import column_descriptions, distinct_values
from kidcore.sql.database import Database, database_of

PROMPT_FOLDER = "prompt"
"""Beside a model's weights: the prompt it was trained with."""
_FILE = "prompt.json"
_VERSION = 1
_SCHEMAS_KEPT = 1024
"""Schemas whose ids are kept, those used last. Whole ones are few; what fits of a large one may be another at each question."""


@dataclass(frozen=True)
class PromptDefinition:
    """All that a prompt follows from, but for the tokenizer: what is kept with a student."""

    template: PromptTemplate
    frame: Frame
    chat: bool
    """Whether the frame is a chat template's."""
    sample_rows: int
    column_values: int
    fit: str
    max_prompt_tokens: int

    @classmethod
    def of(cls, settings: IngestSettings, tokenizer: Any) -> "PromptDefinition":
        """The prompt that settings describe. Raises KidpipeError for a template that is missing or does not work."""
        assert settings.chat != "auto", "pipeline/chat.py decides before a prompt is written"
        if settings.chat:
            frame = chat_frame(tokenizer, settings.system, settings.chat_arguments, settings.chat_date)
        elif settings.chat_arguments:
            raise KidpipeError(
                "there is no chat template to give arguments to", where="ingest.chat_arguments", fix="set ingest.chat = true"
            )
        else:
            frame = Frame(before=f"{settings.system}\n" if settings.system else "")
        template = load_template(settings.template)
        samples = settings.sample_rows if template.mentions("sample_rows") else 0
        values = settings.column_values if template.mentions(".values") else 0
        return cls(template, frame, settings.chat, samples, values, settings.fit, settings.max_prompt_tokens)

    def save(self, folder: Path) -> None:
        """Write prompt.json and the template's files."""
        self.template.save(folder)
        document = {
            "version": _VERSION,
            "template": self.template.name,
            "frame": {"before": self.frame.before, "between": self.frame.between, "after": self.frame.after},
            "chat": self.chat,
            "sample_rows": self.sample_rows,
            "column_values": self.column_values,
            "fit": self.fit,
            "max_prompt_tokens": self.max_prompt_tokens,
        }
        (folder / _FILE).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "PromptDefinition":
        """What `save` wrote. Raises KidpipeError where it is damaged or of a newer kidpipe."""
        try:
            document = json.loads((folder / _FILE).read_text(encoding="utf-8"))
            if document.pop("version") > _VERSION:
                raise KidpipeError("the prompt was saved by a newer kidpipe", where=str(folder), fix="upgrade kidpipe")
            files = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jinja"))}
            template = PromptTemplate(document.pop("template"), files)
            return cls(template, Frame(**document.pop("frame")), **document)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise KidpipeError(
                f"the saved prompt cannot be read: {error}", where=str(folder / _FILE), fix="copy the model's folder again"
            ) from None


@dataclass(frozen=True)
class Prompt:
    """One prompt: its first `schema_tokens` ids are those of all questions that see the same tables."""

    ids: list[int]
    schema_tokens: int
    text: str
    left_out: tuple[str, ...] = ()
    """Tables that did not fit."""


@dataclass
class PromptBuilder:
    """Builds prompts with one tokenizer; schemas are read, written and tokenised once each."""

    definition: PromptDefinition
    tokenizer: Any
    _views: dict[tuple[Database | Path, str], SchemaView | KidpipeError] = field(default_factory=dict, repr=False)
    _ids: dict[str, list[int]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, settings: IngestSettings, tokenizer: Any) -> "PromptBuilder":
        """The builder that settings describe."""
        return cls(PromptDefinition.of(settings, tokenizer), tokenizer)

    @cached_property
    def encoder(self) -> TextEncoder:
        return TextEncoder(self.tokenizer)

    def build(
        self,
        database: Database | Path,
        db_id: str,
        question: str,
        evidence: str = "",
        *,
        limit: int | None = None,
        keep: Iterable[str] = (),
    ) -> Prompt:
        """The prompt of a question.

        Args:
            limit: tokens it may have, where tables are left out to fit; None = max_prompt_tokens.
            keep: tables that are never left out. So a prompt may still be longer than its limit.

        Raises:
            KidpipeError: the database can't be read.
        """
        view = self.view(database, db_id)
        asked = self.definition.template.question(question, evidence, view.dialect)
        tail = self.question_ids(asked)
        room = (self.definition.max_prompt_tokens if limit is None else limit) - len(tail)
        schema = self.definition.template.schema(view)
        if self.definition.fit == "tables" and len(self.schema_ids(schema)) > room:
            fitting = self._fitting(view, f"{question} {evidence}", room, {name.lower() for name in keep})
            left_out = tuple(table.name for table in view.tables if table.name not in fitting)
            schema = self.definition.template.schema(view.only(fitting))
        else:
            left_out = ()
        head, frame = self.schema_ids(schema), self.definition.frame
        text = frame.before + schema + frame.between + asked + frame.after
        return Prompt(head + tail, len(head), text, left_out)

    def view(self, database: Database | Path, db_id: str) -> SchemaView:
        """The database as templates see it. Raises KidpipeError where it can't be read, each time it is asked for."""
        if (database, db_id) not in self._views:
            self._views[database, db_id] = self._read(database, db_id)
        found = self._views[database, db_id]
        if isinstance(found, KidpipeError):
            raise found
        return found

    def _read(self, database: Database | Path, db_id: str) -> SchemaView | KidpipeError:
        try:
            schema = database_of(database, db_id).schema(self.definition.sample_rows)
        except KidpipeError as error:
            return error
        # Read when the first template asks, for all tables at once.
        values = cache(partial(distinct_values, database, self.definition.column_values))
        return view_of(schema, Details(lambda table: values().get(table, {}), partial(column_descriptions, database)))

    def schema_ids(self, schema: str) -> list[int]:
        """Token ids up to the end of the schema, with what the tokenizer or chat template puts before it."""
        ids = self._ids.pop(schema, None)
        if ids is None:
            framed = self._framed(self.definition.frame.before, schema, "")
            # A chat template writes its own beginning-of-sequence token.
            ids = framed if self.definition.chat else self._leading_ids + framed
        self._ids[schema] = ids
        if len(self._ids) > _SCHEMAS_KEPT:
            del self._ids[next(iter(self._ids))]
        return ids

    def question_ids(self, question: str) -> list[int]:
        """Token ids from the end of the schema to where the SQL begins, of a question as the template writes it."""
        return self._framed(self.definition.frame.between, question, self.definition.frame.after)

    def sql(self, sql: str) -> EncodedText:
        """Token ids of SQL, without EOS, and the character at which each of them starts.

        Raises:
            KidpipeError: the tokens do not give the SQL back, or some of its text can only be spelled as a control token.
        """
        encoded = self.encoder.encode(sql)
        if self.encoder.count_control(encoded.ids):
            raise KidpipeError("gold SQL holds a control token: this tokenizer has no other spelling of it")
        if self.encoder.decode(encoded.ids) != sql:
            raise KidpipeError("gold SQL is altered by the tokenizer: decoding gives another text")
        return encoded

    def save(self, folder: Path) -> None:
        """Write the prompt's definition; the tokenizer is the model's own."""
        folder.mkdir(parents=True, exist_ok=True)
        self.definition.save(folder)

    @classmethod
    def load(cls, folder: Path, tokenizer: Any) -> "PromptBuilder":
        """The builder whose definition `save` wrote."""
        return cls(PromptDefinition.load(folder), tokenizer)

    @property
    def leading_text(self) -> str:
        """How a chat template has to write what the tokenizer puts before a text by itself."""
        return "" if self.definition.chat else self.encoder.decode(self._leading_ids)

    @cached_property
    def _leading_ids(self) -> list[int]:
        """What the tokenizer puts before a text by itself, such as a beginning-of-sequence token."""
        plain = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        full = self.tokenizer("a")["input_ids"]
        return list(full[: full.index(plain[0])]) if plain and plain[0] in full else []

    def _framed(self, before: str, text: str, after: str) -> list[int]:
        """The ids of our text within a chat template's: the template's control tokens are such, ours are text."""
        encoder = self.encoder
        together = encoder.with_control(before + text + after)
        if encoder.count_marks(together) == sum(encoder.count_marks(encoder.with_control(part)) for part in (before, after)):
            return together
        ids = encoder.ids(text)
        if encoder.count_control(ids):
            raise KidpipeError("the prompt holds a control token: this tokenizer has no other spelling of it")
        return [*encoder.with_control(before), *ids, *encoder.with_control(after)]

    def _fitting(self, view: SchemaView, question: str, room: int, keep: set[str]) -> set[str]:
        """Names of the tables that fit, the most relevant first; at least one, and those of `keep` in any case."""
        template = self.definition.template
        base = len(self.schema_ids(template.schema(view.only(set()))))
        order = by_relevance(view, question, keep)
        chosen: list[str] = []
        left = room - base
        for name in order:
            cost = len(self.schema_ids(template.schema(view.only({name})))) - base
            if not chosen or name.lower() in keep or cost <= left:
                chosen.append(name)
                left -= cost
        # Keys between tables and the seams of tokens count too: what was too much goes, the least relevant first.
        for name in reversed(chosen[1:]):
            if name.lower() in keep or len(self.schema_ids(template.schema(view.only(set(chosen))))) <= room:
                break
            chosen.remove(name)
        return set(chosen)


def prompt_identity(settings: IngestSettings, tokenizer: Any) -> dict[str, Any]:
    """What goes into keys of the prompt beside the settings: hashes of the template and of the chat template."""
    identity = {"template": load_template(settings.template).digest}
    if settings.chat is True:
        identity["chat_template"] = fingerprint(tokenizer.chat_template, 16)
        if asks_for_the_time(tokenizer):
            # Older builds wrote the day they ran on.
            identity["chat_date"] = settings.chat_date
    return identity


def answer_end(settings: IngestSettings, tokenizer: Any) -> int:
    """The token that ends an answer to a prompt of these settings: of a chat the end of its turn, else the end of sequence."""
    if settings.chat is not True:
        return eos_id(tokenizer)
    encoder = TextEncoder(tokenizer)
    ids = encoder.with_control(answer_end_text(tokenizer, settings.chat_arguments, settings.chat_date))
    return ids[0] if ids and ids[0] in encoder.control else eos_id(tokenizer)
