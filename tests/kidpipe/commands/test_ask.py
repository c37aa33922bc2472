"""`kidpipe ask` and `kidpipe prompt`, with a student that a real run saved."""

import io
import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from kidcore.models import serving
from kidcore.sql.datasets import DataSet
from tests.kidpipe.commands.running import Cli

SMALL = {"train__max_steps": 1, "train__batch_size": 8, "train__holdout": 0.1, "eval__max_new_tokens": 6}


def test_a_student_is_asked_as_it_was_trained(
    cli: Cli, dataset: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = cli("train", "--method", "sft", "--name", "first", ingest__template="values", ingest__column_values=2, **SMALL)
    assert trained.code == 0, trained.err
    example = dataset.examples[0]
    database = str(dataset.database(example.db_id).path)

    # The configuration is another by now: what counts is what the student was trained with.
    shown = cli("prompt", example.question, "first", "--db", database, ingest__template="ddl")
    assert shown.out.startswith(f"database: {example.db_id}\ntable ")
    assert shown.out.endswith(f"question: {' '.join(example.question.split())}\nsql:\n")
    full = json.loads(cli("prompt", example.question, "--db", database, "--json").out)
    stored = json.loads(cli("query", "select prompt_ids from ingest where example_id = 'train:0'", "--json").out)
    assert full["token_ids"] == stored[0]["prompt_ids"]
    assert cli("prompt", "--db", database).out == full["messages"][0]["content"] == shown.out.partition("question: ")[0]
    served = AutoTokenizer.from_pretrained(tmp_path / "artifacts" / "runs" / "first" / "best")
    chat = served.apply_chat_template(full["messages"], add_generation_prompt=True, return_dict=False)
    assert chat == full["token_ids"]

    answered = cli("ask", example.question, "--db", database, "--json", **SMALL)
    assert answered.code == 0, answered.err
    assert set(json.loads(answered.out)) == {"question", "sql"}
    run = json.loads(cli("ask", example.question, "--db", database, "--json", "--run", **SMALL).out)
    assert run["outcome"] in ("ok", "error", "refused")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{example.question}\n\nanother one?\n"))
    typed = json.loads(cli("ask", "--db", database, "--json", **SMALL).out)
    assert [answer["question"] for answer in typed] == [example.question, "another one?"]
    assert typed[0]["sql"] == run["sql"]


def test_a_student_that_would_read_other_tokens_elsewhere_is_refused_before_it_trains(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_OWN_CODE", {})
    assert cli("build-imperfect", "--until", "ingest").code == 0
    refused = cli("train", "--method", "sft", "--name", "first", **SMALL)
    assert refused.code == 1
    assert "AutoTokenizer gives other tokens than training used" in refused.err
    assert not (tmp_path / "artifacts" / "runs" / "first").exists()


def test_what_cannot_be_asked_is_said(cli: Cli, dataset: DataSet, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "text.sqlite").write_text("no database", encoding="utf-8")
    (tmp_path / "empty.duckdb").touch()
    for name, what in (
        ("none.sqlite", "missing"),
        ("text.sqlite", "not a database"),
        ("empty.duckdb", "empty"),
        (".", "a folder"),
    ):
        for command in (("ask", "q?", str(tiny_model)), ("prompt",)):
            refused = cli(*command, "--db", str(tmp_path / name))
            assert refused.code == 1
            assert what in refused.err
            assert "--db FILE" in refused.err
    nothing = cli("ask", "q?", "--db", str(dataset.database(dataset.examples[0].db_id).path))
    assert nothing.code == 1
    assert "no run here is finished" in nothing.err
