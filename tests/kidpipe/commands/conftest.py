"""The command line in a folder of its own."""

from pathlib import Path

import pytest

from tests.kidpipe.commands.running import Cli


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], settings: dict[str, object], tmp_path: Path) -> Cli:
    monkeypatch.chdir(tmp_path)
    return Cli(monkeypatch, capsys, settings)
