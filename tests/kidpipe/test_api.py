"""The Python interface, used as in a notebook."""

import json
import logging
import os
import sqlite3
import subprocess
import sys
import warnings
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

import kidpipe


@pytest.fixture
def project(settings: dict[str, object]) -> kidpipe.Project:
    return kidpipe.Project(settings | {"train.max_steps": 2, "train.method": "sft", "eval.max_new_tokens": 4, "eval.limit": 3})


def test_build_train_evaluate_and_read_without_a_word(
    project: kidpipe.Project, world: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    surroundings = (dict(os.environ), logging.getLogger("kidpipe").handlers[:], list(warnings.filters))
    built = project.build()
    assert built.ran["score"] == 6
    assert not any(project.build().ran.values())
    run = project.train()
    assert (run.steps, run.was_finished, run.best.is_dir()) == (2, False, True)
    assert project.train().was_finished
    other = project.train({"train.seed": 7}, name="other", manifest=built.manifest[:8])
    assert other.folder.name == "other"
    report = project.evaluate(run.best)
    assert 0 <= report.score() <= 1
    assert isinstance(report.verdicts, pl.DataFrame)
    assert len(report.verdicts) == 3
    golds = tmp_path / "golds.sql"
    golds.write_text("\n".join(row["query"] for row in json.loads((world / "dev.json").read_text(encoding="utf-8"))) + "\n")
    assert project.evaluate(settings={"eval.limit": 0}, predictions=golds).score() == 1
    frame = project.frame("rewrite", ["example_id", "view", "imperfect_sql"])
    assert frame.columns == ["example_id", "view", "imperfect_sql"]
    assert frame["view"].unique().sort().to_list() == [0, 1]
    assert capfd.readouterr() == ("", "")
    assert surroundings == (dict(os.environ), logging.getLogger("kidpipe").handlers[:], list(warnings.filters))


def test_what_is_asked_for_is_shown(settings: dict[str, object], capfd: pytest.CaptureFixture[str]) -> None:
    kidpipe.Project(settings, show=True).build(until="ingest")
    assert "examples    60 in" in capfd.readouterr().out


def test_one_prediction_is_judged(tmp_path: Path) -> None:
    database = tmp_path / "d.sqlite"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS a UNION ALL SELECT 2")
    assert kidpipe.judge("SELECT a FROM t ORDER BY a DESC", "SELECT a FROM t", database).ex_bag
    verdict = kidpipe.judge("DROP TABLE t", "SELECT a FROM t", database)
    assert (verdict.kind, verdict.ex_bag) == ("refused", False)


def test_mistakes_are_exceptions_that_say_what_to_do(settings: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(kidpipe.KidpipeError, match=r"mask\.ratoi"):
        kidpipe.Project({"mask.ratoi": 0.3})
    empty = kidpipe.Project({"store.path": str(tmp_path / "empty")})
    with pytest.raises(kidpipe.KidpipeError, match="nothing has been built"):
        empty.frame("ingest")
    with pytest.raises(ValueError, match="no stage"):
        empty.frame("ingset")
    assert kidpipe.Project(settings).config.mask.views == 2
    with pytest.raises(AttributeError, match="nothing_like_it"):
        kidpipe.nothing_like_it  # noqa: B018


def test_every_public_name_is_there_and_documented() -> None:
    for name in kidpipe.__all__:
        assert getattr(kidpipe, name).__doc__, name


# Our own types are what is asked about: those of torch and others take mypy forty seconds to read.
MYPY = """
[mypy]
incremental = false
follow_imports = silent
[mypy-torch.*,transformers.*,tokenizers.*,peft.*,ray.*,vllm.*,numpy.*,polars.*,pyarrow.*,duckdb.*,sqlglot.*,pydantic.*]
follow_imports = skip
"""


@pytest.mark.slow
def test_a_type_checker_sees_the_types(tmp_path: Path) -> None:
    script = tmp_path / "notebook.py"
    script.write_text("import kidpipe\nreveal_type(kidpipe.Project({}).train().best)\nkidpipe.Project(settings=3)\n")
    (tmp_path / "mypy.ini").write_text(MYPY)
    command = [sys.executable, "-m", "mypy", "--config-file", str(tmp_path / "mypy.ini"), str(script)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"MYPYPATH": str(Path.cwd())})
    assert "pathlib.Path" in done.stdout, done.stdout + done.stderr
    assert "arg-type" in done.stdout
