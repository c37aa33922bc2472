"""The command line run in this process: arguments in, exit code, stdout and stderr out."""

import sys
from dataclasses import dataclass

import pytest

from kidpipe.cli import main


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Cli:
    """Runs `kidpipe` with arguments; settings are given as `--set`."""

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    settings: dict[str, object]

    def __call__(self, *arguments: str, with_settings: bool = True, **changes: object) -> Done:
        settings = (self.settings if with_settings else {}) | {k.replace("__", "."): v for k, v in changes.items()}
        given = [text for name, value in settings.items() for text in ("--set", f"{name}={value}")]
        self.monkeypatch.setattr(sys, "argv", ["kidpipe", *arguments, *given])
        self.capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = self.capsys.readouterr()
        return Done(code, captured.out, captured.err)


def assert_said(done: Done, *parts: str) -> None:
    """An error for a person: it says what, where and what to type, and is no traceback."""
    assert done.code == 1, done.out
    assert done.err.startswith("error: "), done.err
    assert "Traceback" not in done.err
    for part in parts:
        assert part in done.err
