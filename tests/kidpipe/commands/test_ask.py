"""`kidpipe ask` and `kidpipe prompt`, with a student that a real run saved."""

import io
import json
from pathlib import Path

import duckdb
import pytest
from transformers import AddedToken, AutoModelForCausalLM, AutoTokenizer

from kidcore.models import serving
from kidcore.sql.datasets import DataSet
from tests.kidpipe.commands.running import Cli, assert_said

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


def save_parrot(folder: Path, tiny_model: Path, sql: str) -> Path:
    """A model that answers every question with `sql`, which is one token to it: all its layers give back what they are given."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_tokens([AddedToken(sql, normalized=False, special=False)])
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, tie_word_embeddings=False)
    model.resize_token_embeddings(len(tokenizer))
    weights = {name: parameter.data.zero_() for name, parameter in model.named_parameters()}
    weights["model.norm.weight"].fill_(1.0)
    answer = tokenizer.convert_tokens_to_ids(sql)
    embedded, head = weights["model.embed_tokens.weight"], weights["lm_head.weight"]
    embedded[:, 0] = 1.0
    embedded[answer] = embedded[answer].roll(1)
    head[answer, 0] = head[tokenizer.eos_token_id, 1] = 1.0
    model.save_pretrained(folder)
    return folder


def test_duckdbs_values_are_shown_as_values(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    parrot = save_parrot(tmp_path / "parrot", tiny_model, "SELECT $$a;b$$ AS t, * FROM sold")
    with duckdb.connect(str(tmp_path / "shop.duckdb")) as connection:
        connection.execute("CREATE TABLE sold (d DATE, l DATE[], s STRUCT(a INT, b BLOB), i INTERVAL, f DOUBLE, u UUID)")
        connection.execute(
            "INSERT INTO sold VALUES ('2024-01-02', ['2024-01-03', NULL], {'a': 1, 'b': 'x'}, '3 days', 'nan', NULL)"
        )
    command = ("ask", "what?", str(parrot), "--db", "shop.duckdb", "--run")
    shown = cli(*command, **SMALL)
    assert shown.code == 0, shown.err
    row = "a;b  2024-01-02  ['2024-01-03', None]  {'a': 1, 'b': b'x'}  3 days 0:00:00  nan  NULL"
    sql, head, *rest = shown.out.splitlines()
    assert (sql, rest) == ("SELECT $$a;b$$ AS t, * FROM sold", [row, "1 row"])
    assert head.split() == ["t", *"dlsifu"]
    given = json.loads(cli(*command, "--json", **SMALL).out)
    assert given["columns"] == ["t", *"dlsifu"]
    (told,) = given["rows"]
    assert told == ["a;b", "2024-01-02", ["2024-01-03", None], {"a": 1, "b": "b'x'"}, "3 days 0:00:00", None, None]


def test_a_line_that_cannot_be_answered_stops_no_other(
    cli: Cli, dataset: DataSet, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parrot = save_parrot(tmp_path / "parrot", tiny_model, "SELECT 1")
    command = ("ask", "--db", str(dataset.database(dataset.examples[0].db_id).path))
    typed = b"one?\ncaf\xe9?\n" + b"long " * 3000 + b"\ntwo?\n"

    def give() -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(typed), encoding="utf-8"))

    give()
    told = cli(*command, "", str(parrot), "--json", **SMALL)
    assert told.code == 1
    assert told.err.endswith("error: 2 of 4 questions could not be answered\n")
    first, second, third, fourth = json.loads(told.out)
    assert (first, fourth) == ({"question": "one?", "sql": "SELECT 1"}, {"question": "two?", "sql": "SELECT 1"})
    assert second["question"] == "caf\udce9?"
    assert second["error"].startswith("the question is not UTF-8 text\n")
    assert third["error"].startswith("the prompt has ")
    give()
    shown = cli(*command, "", str(parrot), **SMALL)
    assert (shown.code, shown.out) == (1, "SELECT 1\nSELECT 1\n")
    assert "error: the question is not UTF-8 text\n  where: caf\\udce9?\n" in shown.err


def test_a_model_where_the_question_belongs_is_refused_and_an_answer_without_sql_is_said(
    cli: Cli, dataset: DataSet, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = str(dataset.database(dataset.examples[0].db_id).path)
    (tmp_path / "artifacts" / "runs" / "first" / "best").mkdir(parents=True)
    for name in ("first", str(tiny_model)):
        refused = cli("ask", name, "--db", database)
        assert_said(refused, f"{name} is a model", f"kidpipe ask '' {name} --db {database}")
    assert_said(cli("ask", "  ", "--db", database), "the question is empty")
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert_said(cli("ask", "--db", database, "--json", "", str(tiny_model), **SMALL), "no question was given")
    silent = save_parrot(tmp_path / "silent", tiny_model, "```sql\n```")
    for run in ((), ("--run",)):
        told = cli("ask", "what?", str(silent), "--db", database, *run, **SMALL)
        assert (told.code, told.out) == (0, "\n")
        assert told.err == "the model's answer holds no SQL\n"


@pytest.mark.parametrize("command", ["ask", "prompt"])
def test_a_question_or_a_hint_in_another_encoding_is_refused(cli: Cli, dataset: DataSet, tiny_model: Path, command: str) -> None:
    database = str(dataset.database(dataset.examples[0].db_id).path)
    for name, words in (("question", ("caf\udce9",)), ("evidence", ("q?", "--evidence", "caf\udce9"))):
        refused = cli(command, words[0], str(tiny_model), *words[1:], "--db", database, **SMALL)
        assert_said(refused, f"the {name} is not UTF-8 text", "caf\\udce9")


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
