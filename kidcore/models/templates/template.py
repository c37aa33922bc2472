"""The name of a built-in template, or a folder with schema.jinja and question.jinja, in; the two pieces of a prompt out.

A folder may hold further *.jinja files for its own {% include %}; nothing else can be read from a template, which runs in
Jinja2's sandbox. Variables: docs/prompts.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from kidcore.config.config import PROMPT_TEMPLATES
from kidcore.config.settings import fingerprint
from kidcore.errors import KidpipeError
from kidcore.models.templates.variables import PROBE, SchemaView, view_of
from kidcore.sql.schema.tables import Schema

BUILT_IN = PROMPT_TEMPLATES
SCHEMA_FILE, QUESTION_FILE = "schema.jinja", "question.jinja"
_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class PromptTemplate:
    """What a prompt is written with. `files` maps the names of its *.jinja files to their text."""

    name: str
    files: Mapping[str, str]

    def schema(self, view: SchemaView) -> str:
        """The first piece: all that questions on one database share."""
        return self._render(SCHEMA_FILE, view.variables())

    def question(self, question: str, evidence: str, dialect: str) -> str:
        """The second piece, up to where the SQL begins. Runs of white space count as one space."""
        words = {"question": " ".join(question.split()), "evidence": " ".join(evidence.split()), "dialect": dialect}
        return self._render(QUESTION_FILE, words)

    def mentions(self, word: str) -> bool:
        """Whether a file holds `word`: what a template does not mention need not be read from the database."""
        return any(word in text for text in self.files.values())

    @cached_property
    def digest(self) -> str:
        """Follows what is written: for a built-in template what it makes of a small schema, for a folder its files."""
        if self.name in BUILT_IN and self.files == load_template(self.name).files:
            questions = self.question("q", "e", "sqlite") + self.question("q", "", "sqlite")
            return fingerprint([self.schema(PROBE), questions], 16)
        return fingerprint(dict(self.files), 16)

    def save(self, folder: Path) -> None:
        """Write the files of the template."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in self.files.items():
            (folder / name).write_text(text, encoding="utf-8")

    @cached_property
    def _templates(self) -> dict[str, Template]:
        # The options of transformers' chat templates, so that question.jinja can become part of one.
        environment = ImmutableSandboxedEnvironment(
            loader=DictLoader(self.files),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            autoescape=False,
        )
        del environment.filters["random"]  # a prompt is the same each time
        try:
            return {name: environment.get_template(name) for name in (SCHEMA_FILE, QUESTION_FILE)}
        except TemplateError as error:
            raise _refused(self.name, error) from None

    def _render(self, file: str, variables: Mapping[str, Any]) -> str:
        try:
            return self._templates[file].render(variables)
        except Exception as error:  # a program of the user's own: it may fail in any way
            raise _refused(f"{self.name}, {file}", error) from None


def write_schema(schema: Schema, template: str = "compact") -> str:
    """A schema as a template writes it: the first piece of a prompt."""
    return load_template(template).schema(view_of(schema))


def load_template(template: str) -> PromptTemplate:
    """The built-in template of that name, or the one in that folder.

    Raises:
        KidpipeError: there is neither, a file is missing or not UTF-8, or it does not render.
    """
    folder = _FOLDER / template if template in BUILT_IN else Path(template).expanduser()
    missing = [name for name in (SCHEMA_FILE, QUESTION_FILE) if not (folder / name).is_file()]
    if missing:
        built_in = ", ".join(BUILT_IN)
        raise KidpipeError(
            f"no template {template!r}: it is none of {built_in}, and as a folder it has no {' and no '.join(missing)}",
            where="ingest.template",
            fix=f"name {built_in}, or a folder with {SCHEMA_FILE} and {QUESTION_FILE} (docs/prompts.md)",
        )
    try:
        found = [path for path in sorted(folder.glob("*.jinja")) if path.is_file()]
        files = {path.name: path.read_text(encoding="utf-8-sig") for path in found}
    except UnicodeDecodeError as error:
        raise KidpipeError(f"a template is not UTF-8: {error}", where=str(folder), fix="save it as UTF-8") from None
    except OSError as error:
        raise KidpipeError(f"a template can't be read: {error}", where=str(folder), fix="check who may read it") from None
    return _tried(template if template in BUILT_IN else folder.name, tuple(files.items()))


@lru_cache(maxsize=32)
def _tried(name: str, files: tuple[tuple[str, str], ...]) -> PromptTemplate:
    """Kept: one command asks for its template ten times, and Jinja2 compiles it for a hundredth of a second."""
    found = PromptTemplate(name, dict(files))
    found.schema(PROBE)
    found.question("q", "e", "sqlite")
    return found


def _refused(where: str, error: Exception) -> KidpipeError:
    number = getattr(error, "lineno", None)
    line = f", line {number}" if number else ""
    return KidpipeError(
        f"the prompt template does not render: {error or type(error).__name__}",
        where=f"ingest.template = {where}{line}",
        fix="mend it: docs/prompts.md lists the variables",
    )
