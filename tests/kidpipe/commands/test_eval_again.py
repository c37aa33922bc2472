"""A model that was evaluated before, or half, is asked only what it was not asked."""

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from kidcore.models.backends.transformers import TransformersBackend
from kidpipe.commands import evaluate
from tests.kidpipe.commands.running import Cli
from tests.kidpipe.commands.test_eval_commands import make_student

SMALL = {"eval__max_new_tokens": 6, "sandbox__workers": 1}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many prompts each call of an engine was given."""
    calls: list[int] = []
    real = TransformersBackend.generate

    def generate(self: TransformersBackend, prompts: Any, *rest: Any) -> Any:
        calls.append(len(prompts))
        return real(self, prompts, *rest)

    monkeypatch.setattr(TransformersBackend, "generate", generate)
    return calls


def _rows(tmp_path: Path, name: str) -> list[dict[str, Any]]:
    return pl.read_parquet(tmp_path / "artifacts" / "eval" / name / "verdicts.parquet").drop("seconds").to_dicts()


def test_another_judgement_asks_nothing_and_starts_no_engine(
    cli: Cli, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("eval", str(tiny_model), "--limit", "4", "--name", "n", "--json")
    first = cli(*command, **SMALL)
    assert first.code == 0, first.err
    assert "there already" not in first.err
    rows = _rows(tmp_path, "n")
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "open_backend", lambda *_, **__: pytest.fail("an engine was started"))
        suite = cli("fuzz-suite", "--out", str(tmp_path / "suite"), "--limit", "4", sandbox__workers=1)
        assert suite.code == 0, suite.err
        again = cli(*command, "--suite", str(tmp_path / "suite"), **SMALL)
    assert again.code == 0, again.err
    assert "4 answers were there already, by transformers" in " ".join(again.err.split())
    assert "ts_bag" in json.loads(again.out)["metrics"]
    assert [row | {"ts_bag": None} for row in _rows(tmp_path, "n")] == rows


def test_an_interrupted_evaluation_goes_on(
    cli: Cli, tiny_model: Path, tmp_path: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("eval", str(tiny_model), "--limit", "6")
    with monkeypatch.context() as patch:
        real = TransformersBackend.generate

        def generate(self: TransformersBackend, prompts: Any, *rest: Any) -> Any:
            answers = real(self, prompts, *rest)
            yield from (next(answers) for _ in range(2))
            raise KeyboardInterrupt

        patch.setattr(TransformersBackend, "generate", generate)
        assert cli(*command, "--name", "cut", **SMALL).code == 130
    assert [cli(more).code for more in ("status", "report")] == [0, 0], "an evaluation without a summary is none yet"
    assert "there is no evaluation cut" in cli("eval-compare", "cut", "cut").err
    assert cli(*command, "--name", "cut", **SMALL).code == 0
    assert cli(*command, "--name", "whole", **SMALL).code == 0
    assert asked == [6, 4, 6]
    assert _rows(tmp_path, "cut") == _rows(tmp_path, "whole")


def test_another_model_by_the_same_name_is_asked_and_said(cli: Cli, tiny_model: Path, tmp_path: Path, asked: list[int]) -> None:
    student = make_student(tiny_model, tmp_path / "student")
    moved = tmp_path / "moved"
    shutil.copytree(tiny_model, moved)
    for model, expected in ((tiny_model, [3]), (moved, [3]), (student, [3, 3]), (tiny_model, [3, 3, 3])):
        done = cli("eval", str(model), "--limit", "3", "--name", "n", **SMALL)
        assert done.code == 0, done.err
        assert asked == expected, "the same weights elsewhere are the same model"
