"""Every script in examples/ runs as it stands."""

import runpy
import sys
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


def test_every_example_is_run_here() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert all(path.name in text for path in EXAMPLES.glob("*.py"))
