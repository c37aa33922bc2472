"""A recipe in; a data folder and untrained teacher and student folders out, made once."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from transformers.utils import logging

from kidcore.config.config import DataSettings
from kidcore.models.templates.template import load_template, write_schema
from kidcore.sql.datasets import read
from kidcore.sql.schema_text import read_schema
from kidpipe.demo.models import make_model, train_tokenizer
from kidpipe.demo.recipe import DemoRecipe, ModelSize
from kidpipe.demo.world import make_world


def prepare_world(folder: Path, recipe: DemoRecipe) -> None:
    """Make `data`, `models/teacher` and `models/student` under `folder`, unless they are there for this recipe."""
    done = folder / "recipe.json"
    text = json.dumps(asdict(recipe), sort_keys=True)
    if done.exists() and done.read_text(encoding="utf-8") == text:
        return
    make_world(folder / "data", num_train=recipe.num_train, num_dev=recipe.num_dev, seed=recipe.seed)
    _make_models(folder, recipe)
    done.write_text(text, encoding="utf-8")


def _make_models(folder: Path, recipe: DemoRecipe) -> None:
    data = DataSettings(path=str(folder / "data"))
    sizes = {folder / "models" / "teacher": recipe.teacher, folder / "models" / "student": recipe.student}
    make_models(data, sizes, vocab_size=recipe.vocab_size, max_length=recipe.max_length, seed=recipe.seed)


def make_models(data: DataSettings, sizes: Mapping[Path, ModelSize], *, vocab_size: int, max_length: int, seed: int) -> None:
    """Train a tokenizer on a data set's prompts and SQL, and save a random model with it in each folder of `sizes`."""
    logging.disable_progress_bar()
    tokenizer = train_tokenizer(prompt_texts(data), vocab_size)
    for folder, size in sizes.items():
        model = make_model(tokenizer, **asdict(size), max_length=max_length, seed=seed)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def prompt_texts(data: DataSettings) -> list[str]:
    """What the tokenizer is learnt from: whole prompts, so that schemas count as often as they are read, and gold SQL."""
    dataset = read(data, "train")
    template = load_template("compact")
    db_ids = {example.db_id for example in dataset.examples}
    schemas = {db_id: write_schema(read_schema(dataset.database(db_id), db_id)) for db_id in db_ids}
    return [
        text
        for e in dataset.examples
        for text in (schemas[e.db_id] + template.question(e.question, e.evidence, "sqlite"), e.gold_sql)
    ]
