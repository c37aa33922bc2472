"""What people get wrong: one clear message with exit code 1 and no traceback, or a row set aside with a reason."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kidcore.models.tokenizers import load_tokenizer
from kidcore.store.store import Store
from kidpipe.demo.models import train_tokenizer
from tests.kidpipe.commands.running import Cli, assert_said


@pytest.fixture
def data(world: Path, tmp_path: Path, cli: Cli) -> Path:
    """A copy of the world that a test may break."""
    shutil.copytree(world, tmp_path / "data")
    cli.settings["data.path"] = str(tmp_path / "data")
    return tmp_path / "data"


def rows(data: Path) -> list[dict[str, Any]]:
    examples: list[dict[str, Any]] = json.loads((data / "train_spider.json").read_text())
    return examples


def test_no_such_teacher(cli: Cli, tiny_model: Path) -> None:
    assert_said(cli("build-imperfect", teacher__model="./no/such/folder"), "not found", "no/such/folder")
    assert_said(cli("build-imperfect", teacher__model=str(tiny_model.parent)), "config.json")
    assert_said(cli("build-imperfect", teacher__model='""'), "no teacher is named", "--teacher")


@pytest.mark.parametrize(
    ("kind", "said", "role", "predictor"),
    [
        ("nonesuch", "nonesuch", "teacher.model", "teacher"),
        ("vit", "no causal language model", "predict.student", "student"),
    ],
)
def test_a_kind_of_model_that_the_engine_does_not_know_is_refused_before_ingest(
    cli: Cli, tiny_model: Path, tmp_path: Path, kind: str, said: str, role: str, predictor: str
) -> None:
    other = Path(shutil.copytree(tiny_model, tmp_path / "other"))
    (other / "config.json").write_text(json.dumps(json.loads((other / "config.json").read_text()) | {"model_type": kind}))
    changes = {role: str(other), "engine.backend": "transformers", "predict.predictor": predictor}
    given: dict[str, Any] = {name.replace(".", "__"): value for name, value in changes.items()}
    assert_said(cli("build-imperfect", **given), "transformers cannot load the model", said, "other")
    assert not list((tmp_path / "artifacts").glob("ingest/*"))
    assert cli("build-imperfect", "--until", "ingest", **given).code == 0, "ingest asks no model"


def test_a_token_that_the_model_has_no_row_for_is_refused_before_ingest(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    """As where a pad token was added to the tokenizer, and the model's embeddings were not resized."""
    other = Path(shutil.copytree(tiny_model, tmp_path / "other"))
    rows = json.loads((other / "config.json").read_text())["vocab_size"]
    tokenizer = load_tokenizer(other)
    tokenizer.add_tokens([f"[{number}]" for number in range(len(tokenizer), rows)])
    tokenizer.add_special_tokens({"mask_token": "[HOLE]"})
    tokenizer.save_pretrained(other)
    given: dict[str, Any] = {"teacher__model": str(other), "engine__backend": "transformers"}
    assert_said(cli("build-imperfect", **given), f"'[HOLE]' has id {rows}", "predict.mask_token", "added to the tokenizer")
    tokenizer.add_special_tokens({"eos_token": "[END]"})
    tokenizer.save_pretrained(other)
    assert_said(cli("train", "--method", "sft", "--student", str(other)), f"'[END]' has id {rows + 1}", "eos_token in")
    assert not list((tmp_path / "artifacts").glob("ingest/*"))


def test_no_such_data_folder(cli: Cli) -> None:
    assert_said(cli("build-imperfect", data__path="./none"), "no such data folder", "data.path")


def test_malformed_json_at_a_line(cli: Cli, data: Path) -> None:
    (data / "train_spider.json").write_text('[\n {"db_id": "x",\n  "question": }\n]')
    assert_said(cli("build-imperfect"), "malformed JSON", "train_spider.json, line 3")


def test_an_unknown_setting(cli: Cli) -> None:
    assert_said(cli("build-imperfect", mask__ration=0.3), "unknown setting: mask.ration", "did you mean mask.ratio?")
    assert_said(cli("plan", "--set", "mask.ratio"), "no value")
    assert_said(cli("build-imperfect", "--until", "masks"), "no such stage", "mask")


def test_missing_databases_and_failing_golds_are_set_aside_with_a_reason(cli: Cli, data: Path) -> None:
    examples = rows(data)
    gone = examples[0]["db_id"]
    shutil.rmtree(data / "database" / gone)
    number_gone = sum(e["db_id"] == gone for e in examples)
    broken = next(e for e in examples if e["db_id"] != gone)["db_id"]
    (data / "database" / broken / f"{broken}.sqlite").write_bytes(b"no database" * 500)
    number_broken = sum(e["db_id"] == broken for e in examples)
    wrong = next(i for i, e in enumerate(examples) if e["db_id"] not in (gone, broken))
    examples[wrong]["query"] = "SELECT no_such_column FROM no_such_table"
    (data / "train_spider.json").write_text(json.dumps(examples))
    done = cli("build-imperfect", "--until", "ingest", "--json")
    assert done.code == 0, done.err
    counts = json.loads(done.out)["counts"]["ingest"]
    assert counts["in"] == 60 == counts["out"] + sum(counts["set_aside"].values())
    assert counts["set_aside"]["database missing"] == number_gone
    assert sum(counts["set_aside"].values()) == number_gone + number_broken + 1
    found = json.loads(cli("query", f"select reason from ingest where example_id = 'train:{wrong}'", "--json").out)
    assert "no such table" in found[0]["reason"]
    assert_said(cli("inspect", f"train:{wrong}"), "was set aside: gold SQL fails")


def test_an_example_longer_than_the_model_is_set_aside_and_the_others_go_on(cli: Cli, data: Path) -> None:
    examples = rows(data)
    examples[3]["question"] = "why " * 1000
    (data / "train_spider.json").write_text(json.dumps(examples))
    summary = json.loads(cli("build-imperfect", "--json", mask__views=1, ingest__max_prompt_tokens=100_000).out)
    assert summary["counts"]["ingest"]["set_aside"] == {"longer than the model": 1}
    assert summary["counts"]["score"]["out"] == 59


def test_a_student_with_another_tokenizer(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    cli("build-imperfect", "--until", "ingest")
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    train_tokenizer(["wholly different words " * 5, "SELECT nothing"], 300).save_pretrained(other)
    assert_said(cli("train", "--method", "sft", "--student", str(other)), "tokenizer")
    assert_said(cli("build-imperfect", "--predictor", "student", predict__student=str(other)), "tokenizer")


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("config.json", {"model_type": "nonesuch"}, "student cannot be loaded"),
        ("tokenizer.json", {"model": None}, "no tokenizer could be loaded"),
    ],
)
def test_a_broken_student_is_refused_before_anything_is_made_for_it(
    cli: Cli, tiny_model: Path, tmp_path: Path, file: str, text: dict[str, Any], said: str
) -> None:
    student = Path(shutil.copytree(tiny_model, tmp_path / "other"))
    (student / file).write_text(json.dumps(json.loads((student / file).read_text()) | text))
    assert_said(cli("train", "--method", "sft", "--student", str(student)), said, "other")
    assert not list((tmp_path / "artifacts").glob("ingest/*"))


def test_no_student_no_shards_no_run(cli: Cli) -> None:
    assert_said(cli("train", train__student='""'), "no student is named", "--student")
    assert_said(cli("train", "--method", "kid"), "not built", "kidpipe build-imperfect")
    assert_said(cli("eval"), "no model is named")
    assert_said(cli("inspect", "train:0"), "nothing has been built")


def test_two_builds_at_once(cli: Cli, tmp_path: Path) -> None:
    with Store(tmp_path / "artifacts").lock():
        assert_said(cli("build-imperfect", "--until", "ingest"), "another build holds this store", "process")


def test_a_manifest_of_a_newer_version(cli: Cli, tmp_path: Path) -> None:
    Store(tmp_path / "artifacts").write_json("manifest.json", {"schema_version": 1000})
    for command in (["build-imperfect"], ["train"], ["status"], ["plan"]):
        assert_said(cli(*command), "schema version 1000", "upgrade kidpipe")


def test_bad_sql_in_query_names_the_views(cli: Cli) -> None:
    cli("build-imperfect", "--until", "ingest")
    assert_said(cli("query", "select * from nothing"), "nothing", "views: ingest")


def test_a_query_reads_and_is_one(cli: Cli, tmp_path: Path) -> None:
    cli("build-imperfect", "--until", "ingest")
    assert_said(cli("query", f"copy (select 1) to '{tmp_path}/out.csv'"), "reads only")
    assert_said(cli("query", "select 1; select 2"), "one statement")
    assert not (tmp_path / "out.csv").exists()


def test_odd_text_is_kept_or_set_aside_in_every_stage(cli: Cli, data: Path, tmp_path: Path) -> None:
    """Right-to-left marks, both normal forms and NULs are text; half a character is none: it says so, and stops nothing."""
    odd = ["\u202eleft\u202c", "e\u0301 and \u00e9", "a\x00b", "a\u2028b\u0085c", "half \ud83d of one"]
    for name in ("train_spider.json", "dev.json"):
        rows = json.loads((data / name).read_text())
        for row, question in zip(rows, odd, strict=False):
            row["question"] = question
        (data / name).write_text(json.dumps(rows))
    built = cli("build-imperfect", "--until", "ingest", "--json")
    assert built.code == 0, built.err
    found = json.loads(cli("query", "select question, reason from ingest", "--json").out)
    reasons = (
        {row[0]: row[1] for row in found["rows"]} if isinstance(found, dict) else {r["question"]: r["reason"] for r in found}
    )
    assert {question: reasons[question] for question in odd[:4]} == dict.fromkeys(odd[:4])
    assert "lone surrogate in question" in reasons["half \\ud83d of one"]
    rows = json.loads((data / "dev.json").read_text())
    (tmp_path / "p.sql").write_text("\n".join(row["query"] for row in rows) + "\n")
    judged = cli("eval", "--predictions", "p.sql", "--json", sandbox__workers=1)
    assert judged.code == 0, judged.err
    assert json.loads(judged.out)["unjudged"]["reasons"] == {"not Unicode text: a lone surrogate in question": 1}
    said = cli("eval", str(cli.settings["train.student"]), "--limit", "5", "--json", eval__max_new_tokens=2, sandbox__workers=1)
    assert said.code == 0, said.err
    assert json.loads(said.out)["kinds"]["gold_error"] == 1
