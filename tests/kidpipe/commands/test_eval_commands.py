"""The commands that judge, on predictions made elsewhere and on models, as a user runs them."""

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import duckdb
import pytest
from safetensors.numpy import load_file, save_file

from eval.report import read_verdicts
from kidcore.config.config import DataSettings
from kidcore.sql.datasets import DataSet, read
from tests.kidpipe.commands.running import Cli


@pytest.fixture
def dev(world: Path) -> DataSet:
    return read(DataSettings(path=str(world)), "dev")


@pytest.fixture
def lines(dev: DataSet, tmp_path: Path) -> Callable[..., Path]:
    """Writes Spider's line file: gold, but for the rows that are given."""

    def write(name: str, changes: dict[int, str] | None = None) -> Path:
        sqls = [(changes or {}).get(number, example.gold_sql) for number, example in enumerate(dev.examples)]
        path = tmp_path / name
        path.write_text("\n".join(sqls) + "\n")
        return path

    return write


def test_predictions_made_elsewhere(cli: Cli, lines: Callable[..., Path], tmp_path: Path) -> None:
    gold = json.loads(cli("eval", "--predictions", str(lines("gold.sql")), "--json").out)
    assert gold["metrics"]["ex_bag"]["all"]["value"] == 1.0
    assert gold["predictions"].endswith("gold.sql")
    two_wrong = lines("two.sql", {0: "SELECT 1 WHERE 0", 3: "ATTACH 'x.db' AS x"})
    done = cli("eval", "--predictions", str(two_wrong), sandbox__workers=1)
    assert done.code == 0, done.err
    assert "22 correct, 1 wrong, 1 refused" in done.out
    assert (tmp_path / "artifacts" / "eval" / "two" / "verdicts.parquet").is_file()


def test_a_file_that_takes_the_place_of_another_of_its_name_says_so(cli: Cli, lines: Callable[..., Path], tmp_path: Path) -> None:
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        lines("gold.sql").rename(tmp_path / folder / "same.sql")
    first, second = (str(tmp_path / folder / "same.sql") for folder in ("one", "other"))
    assert cli("eval", "--predictions", first, sandbox__workers=1).code == 0
    again = cli("eval", "--predictions", first, sandbox__workers=1)
    assert "takes the place" not in again.err
    kept = Path(second).read_text()
    Path(second).write_text("SELECT 1\n")
    refused = cli("eval", "--predictions", second, sandbox__workers=1)
    assert (refused.code, "takes the place" in refused.err) == (1, False)
    Path(second).write_text(kept)
    other = cli("eval", "--predictions", second, sandbox__workers=1)
    assert other.code == 0, other.err
    said = f"this takes the place of the evaluation of {first}; --name keeps both"
    assert said.replace(" ", "") in "".join(other.err.split())


def test_tables_named_with_their_schema_and_duckdbs_own_texts(cli: Cli, tmp_path: Path) -> None:
    golds = [
        "SELECT count(*) FROM sales.orders",
        'SELECT total FROM "sales"."orders" WHERE id = 1',
        "SELECT seen FROM shop.main.visit",
        "SELECT $$a;b$$, E'it\\'s; x' FROM sales.orders",
    ]
    folder = tmp_path / "duck" / "database" / "shop"
    folder.mkdir(parents=True)
    with duckdb.connect(str(folder / "shop.duckdb")) as connection:
        connection.execute("CREATE SCHEMA sales; CREATE TABLE sales.orders (id INT, total DECIMAL(8, 2))")
        connection.execute("INSERT INTO sales.orders VALUES (1, 2.50), (2, 3.00)")
        connection.execute("CREATE TABLE visit (seen TIMESTAMPTZ)")
        connection.execute("INSERT INTO visit VALUES ('2024-01-01 00:00:00+00')")
    rows = [{"db_id": "shop", "question": f"question {number}", "query": sql} for number, sql in enumerate(golds)]
    for name in ("train_spider.json", "dev.json"):
        (tmp_path / "duck" / name).write_text(json.dumps(rows))
    (tmp_path / "p.sql").write_text("".join(f"{sql}; -- done\n" for sql in golds))
    done = cli("eval", "--predictions", "p.sql", "--json", data__path=tmp_path / "duck", sandbox__workers=1)
    assert done.code == 0, done.err
    assert json.loads(done.out)["metrics"]["ex_bag"]["all"]["value"] == 1.0
    (tmp_path / "slipped.sql").write_text("".join(f"{sql.replace('orders', 'person')}\n" for sql in golds))
    slipped = cli("eval", "--predictions", "slipped.sql", data__path=tmp_path / "duck")
    assert slipped.code == 1
    assert "3 of 4 predictions name tables that their database doesn't have" in slipped.err


def test_ids_join_and_what_is_lacking_is_said(cli: Cli, dev: DataSet, tmp_path: Path) -> None:
    rows = [{"id": example.example_id, "sql": example.gold_sql} for example in reversed(dev.examples[1:])]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = cli("eval", "--predictions", "p.jsonl", "--json", sandbox__workers=1)
    assert json.loads(done.out)["kinds"] == json.loads(done.out)["kinds"] | {"correct": 23, "missing": 1}
    assert "no prediction for 1 of 24 examples" in " ".join(done.err.split())


def test_what_is_said_of_a_file_is_about_the_examples_that_are_judged(cli: Cli, dev: DataSet, tmp_path: Path) -> None:
    rows = [{"id": number, "sql": f"```sql\n{dev.examples[number].gold_sql}\n```"} for number in (0, 1)] + [{"id": 2, "sql": ""}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = cli("eval", "--predictions", "p.jsonl", "--limit", "3", "--verbose", sandbox__workers=1)
    said = " ".join(done.err.split())
    assert "no prediction for" not in said
    assert "no SQL in the predictions of 1 of 3 examples" in said
    assert "taken out of the text around it in 2 of 3 predictions" in said


def test_a_file_may_be_about_the_examples_that_are_judged_alone(cli: Cli, lines: Callable[..., Path], tmp_path: Path) -> None:
    golds = lines("gold.sql").read_text().splitlines()
    (tmp_path / "few.sql").write_text("\n".join(golds[:3]))
    (tmp_path / "texts.json").write_text(json.dumps(golds[:3]))
    for name in ("few.sql", "texts.json"):
        done = cli("eval", "--predictions", name, "--limit", "3", "--json", sandbox__workers=1)
        assert json.loads(done.out)["kinds"]["correct"] == 3
    for limit in ((), ("--limit", "4")):
        refused = cli("eval", "--predictions", "few.sql", *limit)
        assert (refused.code, "3 lines of predictions for 24 examples" in refused.err) == (1, True)


def test_ids_are_places_in_the_file_whatever_part_of_it_is_judged(cli: Cli, world: Path, tmp_path: Path) -> None:
    golds = [example.gold_sql for example in read(DataSettings(path=str(world)), "train").examples]
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps({"id": n, "sql": gold}) for n, gold in enumerate(golds)))
    done = cli("eval", "--predictions", "p.jsonl", "--split", "train", "--json", sandbox__workers=1, data__sample=5)
    assert done.code == 0, done.err
    assert json.loads(done.out)["kinds"]["correct"] == 5


def test_a_slipped_file_and_two_sources_are_refused(cli: Cli, lines: Callable[..., Path], tmp_path: Path) -> None:
    whole = lines("gold.sql")
    (tmp_path / "short.sql").write_text("\n".join(whole.read_text().splitlines()[1:]) + "\n")
    short = cli("eval", "--predictions", "short.sql")
    assert short.code == 1
    assert "23 lines of predictions for 24 examples" in short.err
    both = cli("eval", "model", "--predictions", "gold.sql")
    assert both.code == 1
    assert "leave one of them out" in both.err


def test_a_suite_is_stricter(cli: Cli, lines: Callable[..., Path], dev: DataSet, tmp_path: Path) -> None:
    """A prediction that names the gold's present result is right on the database and wrong on another."""
    example = dev.examples[0]
    with closing(sqlite3.connect(dev.database(example.db_id).path)) as connection:
        rows = connection.execute(example.gold_sql).fetchall()
    values = ", ".join("(" + ", ".join("NULL" if v is None else repr(v) for v in row) + ")" for row in rows)
    suite = tmp_path / "suite"
    for db_id in {item.db_id for item in dev.examples}:
        (suite / db_id).mkdir(parents=True)
        shutil.copyfile(dev.database(db_id).path, suite / db_id / "empty.sqlite")
        with closing(sqlite3.connect(suite / db_id / "empty.sqlite")) as connection:
            for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                connection.execute(f'DELETE FROM "{table}"')
            connection.commit()
    lines("fixed.sql", {0: f"VALUES {values}"})
    metrics = json.loads(cli("eval", "--predictions", "fixed.sql", "--suite", str(suite), "--json").out)["metrics"]
    assert metrics["ex_bag"]["all"]["value"] == 1.0
    assert metrics["ts_bag"]["all"]["value"] == pytest.approx(23 / 24)
    with closing(sqlite3.connect(suite / example.db_id / "empty.sqlite")) as connection:
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            connection.execute(f'DROP TABLE "{table}"')
    told = cli("eval", "--predictions", "fixed.sql", "--suite", str(suite), "--strict", "--name", "other")
    assert told.code == 1
    count = sum(item.db_id == example.db_id for item in dev.examples)
    assert (
        f"{count} of 24 rows without ts_bag: the suite has no database that runs their gold: {example.db_id} ({count})"
        in told.out
    )
    assert f"{count} of 24 rows could not be tested by the suite, and --strict is given" in told.err
    lost = cli("eval", "--predictions", "fixed.sql", "--suite", str(tmp_path / "artifacts"))
    assert lost.code == 1
    assert "none of the data's databases" in lost.err


def test_distinct_is_stripped_as_in_published_numbers(cli: Cli, lines: Callable[..., Path], dev: DataSet) -> None:
    def rows_of(sql: str, db_id: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(dev.database(db_id).path)) as connection:
            return connection.execute(sql).fetchall()

    results = [rows_of(example.gold_sql, example.db_id) for example in dev.examples]
    number = next(number for number, rows in enumerate(results) if len(set(rows)) < len(rows))
    lines("d.sql", {number: dev.examples[number].gold_sql.replace("SELECT", "SELECT DISTINCT", 1)})
    kept = json.loads(cli("eval", "--predictions", "d.sql", "--json").out)
    stripped = json.loads(cli("eval", "--predictions", "d.sql", "--strip-distinct", "--json").out)
    assert kept["kinds"]["wrong"] == 1
    assert stripped["kinds"]["wrong"] == 0


def test_birds_graded_scores_are_a_flag_away(cli: Cli, lines: Callable[..., Path], tmp_path: Path) -> None:
    lines("mixed.sql", {0: "SELECT 1 WHERE 0"})
    few = {"sandbox__workers": 1, "eval__ves_repeats": 3}
    done = cli("eval", "--predictions", "mixed.sql", "--soft-f1", "--r-ves", **few)
    assert done.code == 0, done.err
    assert "r_ves: a timing" in " ".join(done.out.split())
    folder = tmp_path / "artifacts" / "eval" / "mixed"
    metrics = json.loads((folder / "summary.json").read_text())["metrics"]
    assert metrics["soft_f1"]["all"]["value"] == pytest.approx(23 / 24)
    verdicts = read_verdicts(folder / "verdicts.parquet")
    assert verdicts[0].ves_reward == 0.0
    assert all(verdict.ves_reward in (0.25, 0.5, 0.75, 1.0, 1.25) for verdict in verdicts[1:])
    assert metrics["r_ves"]["all"]["value"] == pytest.approx(sum(verdict.r_ves or 0 for verdict in verdicts) / 24)
    plain = cli("eval", "--predictions", "mixed.sql", "--name", "plain", sandbox__workers=1)
    assert "r_ves" not in plain.out
    assert "soft_f1" not in plain.out


def test_options_without_effect_are_refused(cli: Cli, lines: Callable[..., Path], tmp_path: Path) -> None:
    lines("gold.sql")
    for options in (("--samples", "4"), ("--samples", "4", "--temperature", "1"), ("--backend", "vllm"), ("--exposure",)):
        refused = cli("eval", "--predictions", "gold.sql", *options)
        assert refused.code == 1
        assert f"{options[0]}" in refused.err
        assert "no effect on predictions made elsewhere" in " ".join(refused.err.split())
    for options in (("--limit", "3"), ("--suite", "suite"), ("--predictions", "gold.sql"), ("--name", "x"), ("--r-ves",)):
        refused = cli("eval", "compare", "a", "b", *options)
        assert (refused.code, "no effect on comparing" in " ".join(refused.err.split())) == (1, True)
    # A configuration file may hold what models are asked with; a file of predictions is not judged by it.
    assert cli("eval", "--predictions", "gold.sql", sandbox__workers=1, eval__samples=4).code == 0
    assert "samples" not in json.loads((tmp_path / "artifacts" / "eval" / "gold" / "summary.json").read_text())["settings"]


def test_key_links_come_from_tables_json(cli: Cli, lines: Callable[..., Path], world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(world, folder)
    lines("gold.sql")
    (folder / "tables.json").write_text('[{"db_id": "x"}]')
    broken = cli("eval", "--predictions", "gold.sql", "--data", str(folder), data__path=str(folder))
    assert broken.code == 1
    assert "cannot read the schemas" in broken.err
    assert cli("eval", "--predictions", "gold.sql", data__path=str(folder), eval__exact_match=False).code == 0
    (folder / "tables.json").write_text("[]")
    assert cli("eval", "--predictions", "gold.sql", data__path=str(folder)).code == 0


def test_compare_in_both_spellings(cli: Cli, lines: Callable[..., Path], dev: DataSet, tmp_path: Path) -> None:
    for name, changes in (("one.sql", {0: "SELECT 1 WHERE 0"}), ("two.sql", {1: "SELEC", 2: "SELECT 1 WHERE 0"})):
        assert cli("eval", "--predictions", str(lines(name, changes)), sandbox__workers=1).code == 0
    long = cli("eval-compare", "one", "two")
    assert long.code == 0, long.err
    assert cli("eval", "compare", "one", str(tmp_path / "artifacts" / "eval" / "two")).out == long.out
    assert "two loses 2 and wins 1" in long.out
    example = dev.examples[1]
    flip = long.out[long.out.index("dev:1 ") :].splitlines()[:5]
    assert flip[0] == f"dev:1 ({example.db_id}): one correct, two error"
    assert [line.split(maxsplit=1)[0] for line in flip[1:]] == ["asked", "gold", "one", "two"]
    assert example.question in flip[1]
    assert " ".join(example.gold_sql.split()) in " ".join(flip[2].split())
    assert 'SELEC  -- near "SELEC": syntax error' in flip[4]
    report = json.loads(cli("eval-compare", "one", "two", "--json").out)
    bag = next(item for item in report["differences"] if item["metric"] == "ex_bag")
    assert (bag["only_first"], bag["only_second"], bag["p_value"]) == (2, 1, 1.0)
    assert sorted(flip["example_id"] for flip in report["flips"]) == ["dev:0", "dev:1", "dev:2"]
    assert report["changed_settings"] == {}


def test_compare_tells_of_other_settings_and_lists_what_there_is(cli: Cli, lines: Callable[..., Path]) -> None:
    lines("gold.sql")
    cli("eval", "--predictions", "gold.sql", sandbox__workers=1)
    cli("eval", "--predictions", "gold.sql", "--strip-distinct", "--name", "stripped", sandbox__workers=1)
    assert "keep_distinct: True and False" in cli("eval-compare", "gold", "stripped").err
    lost = cli("eval-compare", "gold", "nothing")
    assert lost.code == 1
    assert "evaluations there: gold, stripped" in lost.err
    assert cli("eval", "a", "b").code == 1


def test_a_fuzzed_suite_is_made_and_used(cli: Cli, lines: Callable[..., Path]) -> None:
    made = cli("fuzz-suite", "--out", "suite", "--variants", "2", "--limit", "3", "--json", sandbox__workers=1)
    assert made.code == 0, made.err
    report = json.loads(made.out)
    assert report["all"]["golds"] == 3
    assert report["all"]["killed_by_original"] <= report["all"]["killed"] <= report["all"]["mutants"]
    assert report["all"]["variants"] >= 1
    lines("gold.sql")
    judged = json.loads(cli("eval", "--predictions", "gold.sql", "--suite", "suite", "--json", sandbox__workers=1).out)
    assert judged["metrics"]["ts_bag"]["all"]["value"] == 1.0
    again = cli("fuzz-suite", "--out", "suite", "--variants", "1", "--limit", "1", sandbox__workers=1)
    assert "kidpipe eval MODEL --suite suite" in again.out


def test_a_suite_is_never_written_over_other_files(cli: Cli, dev: DataSet) -> None:
    before = {path: path.read_bytes() for path in dev.databases.rglob("*.sqlite")}
    refused = cli("fuzz-suite", "--out", str(dev.databases))
    assert refused.code == 1
    assert "something else than a test suite" in refused.err
    assert {path: path.read_bytes() for path in dev.databases.rglob("*.sqlite")} == before


def test_samples_vote_and_repeat(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    def run(name: str, *more: str) -> list[str]:
        done = cli("eval", str(tiny_model), "--limit", "4", "--name", name, *more, eval__max_new_tokens=6, sandbox__workers=1)
        assert done.code == 0, done.err
        return [verdict.prediction for verdict in read_verdicts(tmp_path / "artifacts" / "eval" / name / "verdicts.parquet")]

    greedy, first = run("greedy"), run("first", "--samples", "3", "--temperature", "1.5")
    assert run("again", "--samples", "3", "--temperature", "1.5") == first != greedy
    assert run("other", "--samples", "3", "--temperature", "1.5", "--set", "eval.sample_seed=1") != first
    assert cli("eval", str(tiny_model), "--temperature", "1.5").code == 1, "one sample is greedy"
    summary = json.loads((tmp_path / "artifacts" / "eval" / "first" / "summary.json").read_text())
    assert (summary["settings"]["samples"], summary["settings"]["sample_temperature"]) == (3, 1.5)


def make_student(tiny_model: Path, folder: Path) -> Path:
    """Like the teacher, but surer of itself."""
    shutil.copytree(tiny_model, folder)
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor * 1.5 for name, tensor in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_exposure_of_the_teacher_itself_is_undefined(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    small = {"eval__limit": 4, "eval__max_new_tokens": 6, "sandbox__workers": 1}
    student = make_student(tiny_model, tmp_path / "student")
    measured = cli("eval", str(student), "--exposure", "--json", **small)
    assert measured.code == 0, measured.err
    assert -100 <= json.loads(measured.out)["exaccerr"] < 10_000
    itself = cli("eval", str(tiny_model), "--exposure", "--json", **small)
    assert json.loads(itself.out)["exaccerr"] is None


@pytest.mark.slow
@pytest.mark.parametrize(("positions", "too_long"), [(20, 0), (160, 2), (200, 1)])
def test_exposure_leaves_out_what_the_student_does_not_take_whole(
    cli: Cli, tiny_model: Path, tmp_path: Path, positions: int, too_long: int
) -> None:
    """Prompts of some 140 tokens: no question can be asked, or the gold of some is too long."""
    student = make_student(tiny_model, tmp_path / "student")
    config = json.loads((student / "config.json").read_text())
    (student / "config.json").write_text(json.dumps(config | {"max_position_embeddings": positions}))
    done = cli("eval", str(student), "--exposure", "--json", eval__limit=4, eval__max_new_tokens=256, sandbox__workers=1)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["examples"] == 4
    asked = 4 - found["kinds"]["missing"]
    assert (asked == 0) == (positions == 20)
    assert found["exposure"]["answers"] == 2 * (asked - found["exposure"]["too_long"])
    assert found["exposure"]["too_long"] == too_long


def test_exposure_reads_the_teachers_scores_from_the_store(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    small = {"eval__max_new_tokens": 6, "sandbox__workers": 1}
    student = str(make_student(tiny_model, tmp_path / "student"))
    command = ("eval", student, "--split", "train", "--exposure", "--limit", "4", "--json")
    nobody = cli(*command, **small, teacher__model="")
    assert nobody.code == 1
    assert "none is named, and no build's scores are stored" in " ".join(nobody.err.split())
    computed = json.loads(cli(*command, **small, store__path=str(tmp_path / "unbuilt")).out)
    assert computed["exposure"] == {"answers": 8, "stored": 0, "scored": 8, "too_long": 0}
    assert cli("build-imperfect", "--until", "gold_score", score__top_k=64).code == 0
    assert cli("build-imperfect", score__top_k=64).code == 0
    first = json.loads(cli(*command, **small, score__top_k=64).out)
    assert first["exposure"]["stored"] >= 4, "the golds"
    assert first["exposure"]["scored"] >= 1, "a random student's answers are no build's"
    # Stored scores are half precision and cut where little mass is left.
    assert first["exaccerr"] == pytest.approx(computed["exaccerr"], rel=0.02, abs=0.1)
    again = json.loads(cli(*command, **small, teacher__model="").out)
    assert again["exposure"] == {"answers": 8, "stored": 8, "scored": 0, "too_long": 0}
    assert again["exaccerr"] == first["exaccerr"]
    lacking = cli(*command[:-2], "20", "--json", **small, teacher__model="")
    assert lacking.code == 1
    assert "answers are not stored" in " ".join(lacking.err.split())


def test_training_questions_can_be_judged_too(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    done = cli("eval", str(tiny_model), "--split", "train", "--limit", "3", eval__max_new_tokens=4, sandbox__workers=1)
    assert done.code == 0, done.err
    (folder,) = (tmp_path / "artifacts" / "eval").iterdir()
    assert folder.name.endswith("-train-first-3")
    assert "--split dev, or --split train" in cli("eval", str(tiny_model), "--split", "test").err


def test_a_part_never_takes_the_place_of_the_whole(cli: Cli, lines: Callable[..., Path], tmp_path: Path) -> None:
    lines("gold.sql")
    few = {"sandbox__workers": 1}
    assert cli("eval", "--predictions", "gold.sql", **few).code == 0
    part = json.loads(cli("eval", "--predictions", "gold.sql", "--limit", "5", "--json", **few).out)
    assert (Path(part["folder"]).name, part["limit"], part["examples"]) == ("gold-first-5", 5, 5)
    whole = json.loads((tmp_path / "artifacts" / "eval" / "gold" / "summary.json").read_text())
    assert (whole["limit"], whole["examples"], whole["sandbox"]["timeout_s"]) == (None, 24, 10.0)
    named = cli("eval", "--predictions", "gold.sql", "--limit", "5", "--name", "gold", **few)
    assert named.code == 1
    assert "evaluation of all 24 examples by this name" in " ".join(named.err.split())


def test_a_missing_database_can_not_flatter(cli: Cli, dev: DataSet, world: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(world, copy)
    lost = dev.examples[0].db_id
    shutil.rmtree(copy / "database" / lost)
    here = {"data__path": copy, "sandbox__workers": 1}
    (tmp_path / "p.sql").write_text("\n".join(example.gold_sql for example in dev.examples) + "\n")
    rows = sum(example.db_id == lost for example in dev.examples)
    shown = cli("eval", "--predictions", "p.sql", **here)
    assert shown.code == 0, shown.err
    assert f"{rows} of 24 rows can't be judged" in " ".join(shown.err.split())
    assert f"{24 - rows} of 24" in shown.out
    assert f"{rows} of 24 rows not judged: database missing" in shown.out
    strict = cli("eval", "--predictions", "p.sql", "--strict", "--json", **here)
    assert strict.code == 1
    assert json.loads(strict.out)["unjudged"]["rows"] == rows
    assert f"{rows} of 24 rows could not be judged, and --strict is given" in " ".join(strict.err.split())
    shutil.rmtree(copy / "database")
    (copy / "database").mkdir()
    none = cli("eval", "--predictions", "p.sql", **here)
    assert none.code == 1
    assert "databases can be read" in " ".join(none.err.split())


def test_what_is_read_out_of_answers_is_kept_beside_them(cli: Cli, dev: DataSet, tmp_path: Path) -> None:
    fenced = [f"<think>hm</think>\n```sql\n{example.gold_sql};\n```\nDone." for example in dev.examples]
    rows = [{"id": example.example_id, "prediction": text} for example, text in zip(dev.examples, fenced, strict=True)]
    (tmp_path / "said.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = cli("eval", "--predictions", "said.jsonl", "--json", sandbox__workers=1)
    assert json.loads(done.out)["kinds"]["correct"] == 24, done.err
    verdicts = read_verdicts(tmp_path / "artifacts" / "eval" / "said" / "verdicts.parquet")
    assert [verdict.answer for verdict in verdicts] == fenced
    assert verdicts[0].prediction == dev.examples[0].gold_sql + ";"
    golds = [{"id": example.example_id, "prediction": example.gold_sql} for example in dev.examples]
    (tmp_path / "golds.jsonl").write_text("\n".join(map(json.dumps, golds)))
    assert "is it a file of golds?" in " ".join(cli("eval", "--predictions", "golds.jsonl", sandbox__workers=1).err.split())


def test_a_plain_word_is_a_run_and_never_a_name_on_the_hub(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    runs = tmp_path / "artifacts" / "runs"
    nothing = cli("eval", "kid")
    assert nothing.code == 1
    assert "there is no run or folder kid" in " ".join(nothing.err.split())
    for number, name in enumerate(("kid-1", "kid-2", "sft-1")):
        shutil.copytree(tiny_model, runs / name / "best")
        os.utime(runs / name / "best", ns=(number + 1, number + 1))
    small = {"eval__max_new_tokens": 2, "sandbox__workers": 1}
    newest = cli("eval", "kid", "--limit", "1", "--json", **small)
    assert newest.code == 0, newest.err
    assert json.loads(newest.out)["model"].endswith("kid-2/best")
    typo = cli("eval", "kid-3")
    assert typo.code == 1
    assert "sft-1, kid-2, kid-1" in " ".join(typo.err.split())
