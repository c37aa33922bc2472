"""The command line of the benchmarks: mistakes are named with what to type."""

from pathlib import Path

import pytest

from bench.session import DEFAULT_DATA, Session, describe, environment, finish, open_session, run
from kidcore.errors import KidpipeError

BUDGETS = {"cpu": 10.0, "cuda": 20.0, "full": 30.0}


def opened(*arguments: str) -> Session:
    return open_session("bench.some", "What it does.", list(arguments), budget_s=BUDGETS)


def test_sizes_and_budgets(world: Path) -> None:
    data = ["--data", str(world)]
    assert (opened(*data).size, opened(*data).budget_s, opened(*data).rounds) == ("quick", 10.0, 5)
    assert (opened(*data, "--full").size, opened(*data, "--full").budget_s) == ("full", 30.0)
    assert (opened(*data, "--tiny").size, opened(*data, "--tiny").rounds) == ("tiny", 1)
    assert opened(*data, "--budget", "3").budget_s == 3.0
    assert opened(*data).left_s <= 10.0


def test_the_default_folder_is_relative() -> None:
    assert not DEFAULT_DATA.is_absolute()


def test_missing_data_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(KidpipeError, match="--data FOLDER"):
        opened("--data", str(tmp_path))


def test_the_json_file_is_checked_before_anything_is_measured(world: Path, tmp_path: Path) -> None:
    with pytest.raises(KidpipeError, match="folder of the JSON file"):
        opened("--data", str(world), "--json", str(tmp_path / "missing" / "x.json"))


def test_no_rounds_are_refused(world: Path) -> None:
    with pytest.raises(KidpipeError, match="--rounds 0"):
        opened("--data", str(world), "--rounds", "0")


def test_mistakes_end_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise KidpipeError("there is no data", fix="type this")

    with pytest.raises(SystemExit) as ended:
        run(main)
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: there is no data\n  fix:   type this\n"


def test_the_environment_is_described() -> None:
    text = describe(environment("cpu"))
    assert "torch 2." in text
    assert "load average" in text


def test_finish_prints_and_writes(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = opened("--data", str(world), "--json", str(tmp_path / "x.json"))
    finish(session, {"ratios": {"a": 0.5}}, "a table")
    assert capsys.readouterr().out == "a table\n"
    assert (tmp_path / "x.json").read_text() == '{\n  "ratios": {\n    "a": 0.5\n  }\n}\n'
