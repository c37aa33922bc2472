"""From examples to tokenised prompts: who is set aside, why, and that nothing else is. SQL runs in this process."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kidcore.config.config import IngestSettings
from kidcore.models.prompts import PromptBuilder
from kidcore.models.tokenizers import load_tokenizer
from kidcore.sql.datasets import DataSet, Example
from kidcore.store.graph import Output
from kidcore.store.schemas import schema_of
from pipeline.ingest import IngestStage
from tests.pipeline.bigram import finished, task
from tests.pipeline.test_outcome import HerePool

GOLD = "SELECT name FROM singer"


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return load_tokenizer(tiny_model)


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("databases")
    for name in ("music", "wide"):
        (folder / name).mkdir()
        with closing(sqlite3.connect(folder / name / f"{name}.sqlite")) as connection:
            connection.execute("CREATE TABLE singer (id INTEGER PRIMARY KEY, name TEXT)")
            for number in range(12 if name == "wide" else 0):
                connection.execute(f"CREATE TABLE other_{number} (first_column_{number} INTEGER, second_column_{number} TEXT)")
    (folder / "broken").mkdir()
    (folder / "broken" / "broken.sqlite").write_text("no database")
    return folder


def example(number: int = 0, db_id: str = "music", question: str = "Which singers?", gold: str = GOLD, **more: str) -> Example:
    return Example(f"train:{number}", db_id, question, gold, **more)


class Run:
    """Ingest with these settings; `pool` keeps what was executed."""

    def __init__(self, tokenizer: Any, databases: Path, max_length: int = 512, **settings: Any) -> None:
        self.settings = IngestSettings(**settings)
        self.pool, self.builder = HerePool(), PromptBuilder.of(self.settings, tokenizer)
        self.stage = IngestStage(self.settings, DataSet([], databases), self.builder, self.pool, max_length)  # type: ignore[arg-type]

    def __call__(self, *examples: Example) -> Output:
        one = task()
        output = self.stage(one, examples)
        assert output.table.schema == schema_of("ingest")
        assert finished(one) == output.table.num_rows == len(examples)
        assert output.counts["in"] == len(examples) == output.counts["out"] + sum(output.counts["set_aside"].values())
        return output

    def reasons(self, *examples: Example) -> list[str | None]:
        output = self(*examples)
        for row in output.table.to_pylist():
            assert bool(row["prompt_ids"]) == bool(row["gold_ids"]) == (row["reason"] is None)
        reasons: list[str | None] = output.table.column("reason").to_pylist()
        return reasons


def test_a_good_example_has_its_prompt_and_gold(tokenizer: Any, databases: Path) -> None:
    run = Run(tokenizer, databases)
    (row,) = run(example()).table.to_pylist()
    prompt = run.builder.build(databases / "music" / "music.sqlite", "music", "Which singers?")
    assert (row["prompt_ids"], row["schema_tokens"]) == (prompt.ids, prompt.schema_tokens)
    assert tokenizer.decode(row["gold_ids"]) == row["gold_sql"] == GOLD
    assert [GOLD[start] for start in row["gold_starts"]][:1] == ["S"]
    assert row["reason"] is None


def test_no_examples_no_rows(tokenizer: Any, databases: Path) -> None:
    assert Run(tokenizer, databases)().counts == {"in": 0, "out": 0, "set_aside": {}}


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (example(fault="no text under question"), "no text under question"),
        (example(db_id="gone"), "database missing"),
        (example(db_id="broken"), "database unreadable"),
        (example(db_id="../music"), "does not name a folder of databases"),
        (example(gold="SELECT price FROM singer"), "gold SQL fails: no such column: price"),
        (example(gold="DELETE FROM singer"), "gold SQL fails: not a reading statement"),
        (example(gold=""), "gold SQL"),
        (example(gold="SELECT 1; SELECT 2"), "gold SQL fails: more than one statement"),
        (example(gold="SELECT 'a\0b'"), "gold SQL"),
    ],
)
def test_what_cannot_be_used_is_set_aside_with_its_reason(tokenizer: Any, databases: Path, one: Example, reason: str) -> None:
    good = [example(number) for number in (1, 2)]
    found = Run(tokenizer, databases).reasons(good[0], one, good[1])
    assert found[0] is found[2] is None, "and its neighbours are not"
    assert found[1] is not None
    assert reason in found[1]


def test_rows_keep_what_they_say_though_they_are_set_aside(tokenizer: Any, databases: Path) -> None:
    (row,) = Run(tokenizer, databases)(example(question="Łódź?", db_id="gone")).table.to_pylist()
    assert (row["question"], row["db_id"], row["gold_sql"], row["schema_tokens"]) == ("Łódź?", "gone", GOLD, 0)


def test_reasons_are_counted_by_their_kind(tokenizer: Any, databases: Path) -> None:
    run = Run(tokenizer, databases)
    bad = [example(number, gold=f"SELECT x{number} FROM singer") for number in range(3)]
    output = run(*bad, example(9, db_id="gone"), example(10))
    assert output.counts == {"in": 5, "out": 1, "set_aside": {"database missing": 1, "gold SQL fails": 3}}


def test_equal_golds_run_once_a_database_and_none_where_they_cannot(tokenizer: Any, databases: Path) -> None:
    run = Run(tokenizer, databases)
    run(
        example(0),
        example(1, question="Other words?"),
        example(2, db_id="wide"),
        example(3, db_id="gone"),
        example(4, fault="x", gold="SELECT 7"),
    )
    assert sorted(Path(job.database).stem for job in run.pool.jobs) == ["music", "wide"]


def test_golds_are_not_executed_where_nobody_asked(tokenizer: Any, databases: Path) -> None:
    run = Run(tokenizer, databases, check_gold=False)
    assert run.reasons(example(gold="SELECT price FROM singer")) == [None]
    assert run.pool.jobs == []


LONG = example(gold="SELECT name FROM singer WHERE id = 12345 AND name = 'x y'")


def lengths(run: Run) -> tuple[int, int]:
    (row,) = run(LONG).table.to_pylist()
    return len(row["prompt_ids"]), len(row["gold_ids"])


@pytest.mark.parametrize("less", [0, 1])
def test_the_limits_are_the_last_lengths_that_pass(tokenizer: Any, databases: Path, less: int) -> None:
    prompt, gold = lengths(Run(tokenizer, databases))
    found = [
        Run(tokenizer, databases, max_prompt_tokens=prompt - less).reasons(LONG)[0],
        Run(tokenizer, databases, max_sql_tokens=gold - less).reasons(LONG)[0],
        Run(tokenizer, databases, max_length=prompt + gold + 1 - less).reasons(LONG)[0],
    ]
    said = [
        f"prompt too long: {prompt} tokens, ingest.max_prompt_tokens is {prompt - 1}",
        f"gold SQL too long: {gold} tokens, ingest.max_sql_tokens is {gold - 1}",
        f"longer than the model: {prompt + gold + 1} tokens, it takes {prompt + gold}",
    ]
    assert found == (said if less else [None] * 3)


def test_tables_are_left_out_to_fit_and_golds_never(tokenizer: Any, databases: Path) -> None:
    whole = Run(tokenizer, databases, max_prompt_tokens=4000, max_length=8000)
    (row,) = whole(example(db_id="wide")).table.to_pylist()
    limit = len(row["prompt_ids"]) // 2
    cut = Run(tokenizer, databases, fit="tables", max_prompt_tokens=limit, max_length=8000)
    asked = [
        example(0, "wide", "first column 3?"),
        example(1, "wide", "first column 3?", "SELECT second_column_7 FROM other_7"),
    ]
    rows = cut(*asked).table.to_pylist()
    texts = [tokenizer.decode(one["prompt_ids"]) for one in rows]
    assert all(len(one["prompt_ids"]) <= limit for one in rows)
    assert "singer" in texts[0]
    assert "other_7" in texts[1]
    assert "other_7" not in texts[0]
    assert all("other_3" in text for text in texts), "the one that the question is about"


def test_a_part_is_ingested_the_same_wherever_its_rows_stand(tokenizer: Any, databases: Path) -> None:
    examples: Sequence[Example] = [example(0), example(1, "wide", "How many?"), example(2, question="And those?")]
    together = Run(tokenizer, databases)(*examples).table.to_pylist()
    for row, one in zip(together, examples, strict=True):
        assert Run(tokenizer, databases)(one).table.to_pylist() == [row]
    renamed = Run(tokenizer, databases)(replace(examples[0], example_id="x")).table.to_pylist()
    assert renamed == [together[0] | {"example_id": "x"}]
