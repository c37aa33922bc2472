"""Every script in examples/ runs as it stands."""

import runpy
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_the_python_interface(
    settings: dict[str, object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = settings | {"train.max_steps": 2, "eval.max_new_tokens": 4, "eval.limit": 3}
    places = [str(small.pop(name)) for name in ("data.path", "teacher.model", "train.student")]
    monkeypatch.setattr(sys, "argv", ["python_interface.py", *places, *(f"{name}={value}" for name, value in small.items())])
    runpy.run_path(str(EXAMPLES / "python_interface.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "set aside:" in printed
    assert "kid: ex_bag" in printed


def run(name: str, *arguments: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    with closing(sqlite3.connect(tmp_path / "shop.sqlite")) as connection, connection:
        connection.execute("CREATE TABLE sale AS SELECT 1 AS price")
    return tmp_path / "shop.sqlite"


def test_judging_predictions(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("judge_predictions.py", shop, "SELECT price FROM sale", "SELECT 1", "SELECT 2", "DELETE FROM sale")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["correct", "wrong", "refused"]


@pytest.mark.slow(seconds=8)
def test_own_questions_become_a_student_that_answers(
    shop: Path, tiny_model: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shop.parent)
    rows = [f"over {n}?,SELECT count(*) FROM sale WHERE price > {n}" for n in range(30)]
    Path("q.csv").write_text("\n".join(["question,sql", *rows]) + "\n", encoding="utf-8")
    small = ["train.max_steps=1", "train.batch_size=4", "engine.backend=transformers"]
    run("own_csv.py", "q.csv", shop, "shop", tiny_model, *small)
    printed = capfd.readouterr().out
    assert "set aside: {}" in printed
    student = printed.partition("student: ")[2].strip()
    run("ask_student.py", student, shop, "over 3?")
    assert capfd.readouterr().out.startswith("sql:")


def test_every_example_is_run_here() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert all(path.name in text for path in EXAMPLES.glob("*.py"))
