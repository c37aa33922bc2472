"""A manifest and a student in; the folder of what is saved beside the student's weights out: prompt, tokenizer, chat template."""

from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq

from kidcore.atomic import replacing
from kidcore.models.prompts import PromptBuilder
from kidcore.models.serving import ServedPrompt, write_serving_files
from kidcore.models.tokenizers import load_tokenizer
from kidcore.store.arrow import lists
from kidcore.store.manifest import Manifest
from kidpipe.commands.prompts import definition_of_manifest
from kidpipe.commands.session import Session

COMPANIONS = "companions"
_CARD_HEAD = """---
library_name: transformers
pipeline_tag: text-generation
tags: [text-to-sql, knowledge-distillation, kidpipe]
---

# A text-to-SQL student, distilled with kidpipe
"""
_CARD_USE = """It answers prompts of one form, kept in `prompt/`. Its chat template writes them: the system message is the schema,
the user message the question. `kidpipe ask "QUESTION" THIS_FOLDER --db FILE` does it all.
"""
_TRIED = 16
"""Questions of the data set that the chat template is tried on, beside some of our own."""


def write_companions(session: Session, manifest: Manifest, student: Path, out: Path) -> None:
    """Fill `out`/companions, unless it is there.

    Raises:
        KidpipeError: the saved student would not give the tokens of training elsewhere.
    """
    folder = out / COMPANIONS
    if folder.is_dir():
        return
    tokenizer = load_tokenizer(session.store.root / "tokenizers" / manifest.facts.tokenizer)
    definition = definition_of_manifest(session.store, manifest, tokenizer)
    # The student's own tokenizer: it has the ids of the teacher's, and is the one that is saved.
    builder = PromptBuilder(definition, load_tokenizer(student))
    try:
        with replacing(folder) as fresh:
            write_serving_files(builder, student, fresh, _asked(session, manifest, builder), manifest.facts.eos_id)
            (fresh / "README.md").write_text(_card(session, manifest, builder), encoding="utf-8")
    except BaseException:
        with suppress(OSError):
            out.rmdir()  # a run that was refused leaves nothing that looks like one
        raise


def _card(session: Session, manifest: Manifest, builder: PromptBuilder) -> str:
    """A model card: what the student is, what it learnt from, and how it is asked."""
    settings = session.config.train
    teacher = manifest.facts.teacher.identity if manifest.facts.teacher else "none"
    rows = {
        "base model": settings.student,
        "method": settings.method,
        "teacher": teacher,
        "training examples": sum(part.rows for part in manifest.parts),
        "build": manifest.digest,
        "prompt template": builder.definition.template.name,
        "settings": ", ".join(f"{name} = {value!r}" for name, value in sorted(settings.identity().items())),
    }
    lines = [f"| {name} | {str(value).replace('|', chr(92) + '|')} |" for name, value in rows.items()]
    table = "\n".join(["| | |", "|---|---|", *lines])
    return f"{_CARD_HEAD}\n{table}\n\n{_CARD_USE}"


def _asked(session: Session, manifest: Manifest, builder: PromptBuilder) -> list[ServedPrompt]:
    """The first questions of the data set, with the schema that their stored prompt shows."""
    file = session.store.root / next(iter(manifest.files("ingest")))
    rows = pq.read_table(file, columns=["question", "prompt_ids", "schema_tokens", "reason"]).slice(0, 4 * _TRIED)
    columns = zip(
        rows.column("question").to_pylist(), lists(rows, "prompt_ids"), rows.column("schema_tokens").to_pylist(), strict=True
    )
    before = builder.leading_text + builder.definition.frame.before
    texts = [(question, builder.encoder.decode(ids[:count].tolist())) for question, ids, count in columns if count]
    return [ServedPrompt(schema.removeprefix(before), question) for question, schema in texts[:_TRIED]]
