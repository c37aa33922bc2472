"""A model and examples in, one predicted SQL text an example out, by id; examples whose prompt doesn't fit get a reason."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from kidcore.advance import Advance, unheard
from kidcore.errors import KidpipeError
from kidcore.models.backends.base import Answering, Sampling
from kidcore.models.prompts import PromptBuilder
from kidcore.models.tokenizers import eos_id, special_ids
from kidcore.progress import Ticker
from kidcore.sql.answers import parts_answer, read_answer
from kidcore.sql.database import Database, database_of
from kidcore.sql.datasets import Example
from kidcore.sql.named_tables import named_tables


@dataclass
class Predictions:
    """Predicted SQL by example id, and why there is none for the others."""

    sql: dict[str, str] = field(default_factory=dict)
    """With samples, the first of each."""
    reasons: dict[str, str] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    """What `sql` was read from, as the model or the file has it, by example id."""
    samples: dict[str, list[str]] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)
    """What the samples were read from."""
    prompts: dict[str, list[int]] = field(default_factory=dict)
    answers: dict[str, list[int]] = field(default_factory=dict)
    """Token ids of the first of each, without the stop token."""
    lost_tables: dict[str, list[str]] = field(default_factory=dict)
    """Where tables were left out so that the prompt fits: those of them that gold names."""

    def choose(self, sql: Mapping[str, str]) -> None:
        """Take one of the samples of each example."""
        self.sql = dict(sql)
        self.said = {name: self.texts[name][self.samples[name].index(text)] for name, text in sql.items()}


def generate_predictions(
    backend: Answering,
    builder: PromptBuilder,
    examples: Sequence[Example],
    database: Callable[[str], Database | Path],
    max_new_tokens: int,
    progress: Ticker | None = None,
    sampling: Sampling | None = None,
) -> Predictions:
    """Greedy or sampled SQL for each example, from the prompt that `builder` makes (as the model was trained)."""
    predictions = Predictions()
    tokenizer = builder.tokenizer
    prompts = _prompts(backend, builder, examples, database, predictions)
    predictions.prompts = prompts
    structure = _structure(tokenizer)
    homes = {example.example_id: example.db_id for example in examples}

    @cache
    def dialect(db_id: str) -> str:
        return database_of(database(db_id), db_id).dialect

    asked = [example_id for example_id in prompts for _ in range(sampling.number if sampling else 1)]
    advance = _adding_up(progress, len(asked)) if progress else unheard
    answers = backend.generate(list(prompts.values()), max_new_tokens, sorted(structure), sampling, advance)
    for example_id, ids in zip(asked, answers, strict=True):
        text = _text(tokenizer, ids, structure)
        predictions.samples.setdefault(example_id, []).append(read_answer(text, dialect(homes[example_id])))
        predictions.texts.setdefault(example_id, []).append(text)
        predictions.answers.setdefault(example_id, ids)
    predictions.choose({example_id: sqls[0] for example_id, sqls in predictions.samples.items()})
    return predictions


def _adding_up(progress: Ticker, total: int) -> Advance:
    done = 0

    def advance(finished: int, under_way: int = 0, /) -> None:
        nonlocal done
        done += finished
        progress(done, total, under_way)

    return advance


def answer_questions(
    backend: Answering, tokenizer: object, prompts: Sequence[Sequence[int]], max_new_tokens: int, dialect: str = "sqlite"
) -> list[str]:
    """Greedy SQL for each prompt, given as token ids, by the rule of `read_answer`."""
    structure = _structure(tokenizer)
    answers = backend.generate([list(prompt) for prompt in prompts], max_new_tokens, sorted(structure), None)
    return [read_answer(_text(tokenizer, ids, structure), dialect) for ids in answers]


def _structure(tokenizer: Any) -> set[int]:
    """Ids of the tokens that end an answer: all that stand for structure, but for those that part thinking from what is said.

    Without these what was thought and what was said would run into one, and such an answer would end where it begins.
    """
    end = eos_id(tokenizer)
    found = sorted(special_ids(tokenizer) - {end})
    return {end} | {i for i, token in zip(found, tokenizer.convert_ids_to_tokens(found), strict=True) if not parts_answer(token)}


def _text(tokenizer: Any, ids: Sequence[int], structure: Container[int]) -> str:
    # Some tokenizers would tidy spaces before full stops and commas, which SQL's texts may hold.
    return str(tokenizer.decode([i for i in ids if i not in structure], clean_up_tokenization_spaces=False))


def _prompts(
    backend: Answering,
    builder: PromptBuilder,
    examples: Sequence[Example],
    database: Callable[[str], Database | Path],
    predictions: Predictions,
) -> dict[str, list[int]]:
    """Prompts by example id; what can't be asked is noted in `predictions`."""
    prompts: dict[str, list[int]] = {}
    limit = min(builder.definition.max_prompt_tokens, backend.max_length - 1)
    for example in examples:
        if example.fault:
            predictions.reasons[example.example_id] = example.fault
            continue
        path = database(example.db_id)
        try:
            prompt = builder.build(path, example.db_id, example.question, example.evidence, limit=limit)
        except KidpipeError as error:
            predictions.reasons[example.example_id] = error.what
            continue
        if prompt.left_out:
            predictions.lost_tables[example.example_id] = sorted(named_tables(example.gold_sql, prompt.left_out))
        if len(prompt.ids) > limit:
            predictions.reasons[example.example_id] = f"prompt too long: {len(prompt.ids)} tokens, the limit is {limit}"
        else:
            prompts[example.example_id] = prompt.ids
    return prompts
