"""How many engines a build wants, and what Ray finds in the environment."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kidcore.config.config import EngineSettings
from kidcore.errors import KidpipeError
from pipeline.workers.wanted import engines_here, num_workers, require_ray


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def test_auto_is_as_many_as_the_gpus_hold() -> None:
    settings = EngineSettings(workers="auto", tensor_parallel=4)
    assert [num_workers(settings, gpus) for gpus in (0, 3, 4, 16)] == [1, 1, 1, 4]
    assert num_workers(EngineSettings(workers=3), 16) == 3
    assert num_workers(EngineSettings(workers="auto", device="cpu")) == 1


def test_the_gpus_of_the_machine_work_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert engines_here(EngineSettings(), asks_models=True) == 4
    assert engines_here(EngineSettings(tensor_parallel=2), asks_models=True) == 2
    assert engines_here(EngineSettings(), asks_models=False) == 1
    assert engines_here(EngineSettings(workers=3), asks_models=False) == 3
    assert engines_here(EngineSettings(device="cpu"), asks_models=True) == 1
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with caplog.at_level("WARNING", logger="pipeline"):
        assert engines_here(EngineSettings(), asks_models=True) == 1
    assert "GPUs would do for 4" in caplog.text
    assert engines_here(EngineSettings(workers=3), asks_models=True) == 3, "asked for: the lack of Ray is an error then"


def test_a_token_that_is_there_is_sent_to_a_cluster_that_is_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    require_ray("head:6379")
    assert "RAY_AUTH_MODE" not in os.environ
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret")
    require_ray()
    assert "RAY_AUTH_MODE" not in os.environ, "a cluster of our own makes one"
    require_ray("head:6379")
    assert os.environ["RAY_AUTH_MODE"] == "token"


def test_ray_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(KidpipeError, match="Ray, which is not installed") as error:
        require_ray()
    assert "kidpipe[ray]" in error.value.fix
