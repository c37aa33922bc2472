"""A Spider folder in; real schemas, questions and SQL as token ids out. The tokenizer is trained on the spot."""

from pathlib import Path
from typing import Any

from bench.examples import Row
from kidcore.config.config import DataSettings, IngestSettings
from kidcore.models.prompts import PromptBuilder
from kidcore.models.templates.template import load_template, write_schema
from kidcore.sql.datasets import read
from kidcore.sql.schema_text import read_schema
from kidpipe.demo.models import train_tokenizer


def read_rows(folder: Path, vocab_size: int, limit: int = 0) -> tuple[list[Row], Any]:
    """The training questions of a Spider folder under the compact template, and the tokenizer made for them."""
    dataset = read(DataSettings(path=str(folder), limit=limit), "train")
    template = load_template("compact")
    db_ids = sorted({e.db_id for e in dataset.examples})
    schemas = {x: write_schema(read_schema(dataset.database(x), x)) for x in db_ids}
    texts = [*schemas.values(), *(f"{e.question}\n{e.gold_sql}" for e in dataset.examples)]
    tokenizer = train_tokenizer(texts, vocab_size)
    builder = PromptBuilder.of(IngestSettings(), tokenizer)
    rows = [
        Row(
            e.example_id,
            e.db_id,
            schemas[e.db_id] + asked,
            builder.schema_ids(schemas[e.db_id]),
            builder.question_ids(asked),
            builder.encoder.ids(e.gold_sql),
        )
        for e in dataset.examples
        for asked in [template.question(e.question, e.evidence, "sqlite")]
    ]
    return rows, tokenizer
