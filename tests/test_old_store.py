"""A store that kidpipe 0.1.0 wrote, whose examples were named after their places: it is still read, kept and trained on."""

import json
from pathlib import Path

import pytest

from kidpipe.commands.gc import gc
from kidpipe.commands.inspect import inspect, query
from kidpipe.commands.session import open_session
from kidpipe.commands.store import status, verify
from kidpipe.commands.train import train
from tests.test_fixture_store import LATER, copied_store

FIXTURE = Path(__file__).parent / "fixtures" / "store_v1"
RUNS = sorted(path.name for path in (FIXTURE / "artifacts" / "runs").iterdir())


@pytest.fixture
def old(tmp_path: Path) -> dict[str, object]:
    return copied_store(FIXTURE, tmp_path)


def test_its_examples_are_found_by_their_ids(old: dict[str, object], capsys: pytest.CaptureFixture[str]) -> None:
    session = open_session(None, [], old, use_file=False)
    inspect(session, "train:3", 1, as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert (shown["example_id"], shown["content_id"], shown["view"]) == ("train:3", "train:3", 1)
    query(session, "SELECT question FROM ingest WHERE example_id = 'train:3'", as_json=True)
    assert json.loads(capsys.readouterr().out) == [{"question": shown["question"]}]
    query(session, "SELECT count(*) AS n FROM score", as_json=True)
    assert json.loads(capsys.readouterr().out)[0]["n"] > 20


def test_it_is_whole_and_gc_takes_nothing(old: dict[str, object], capsys: pytest.CaptureFixture[str]) -> None:
    session = open_session(None, [], old, use_file=False)
    before = sorted(Path(str(old["store.path"])).glob("*/*.parquet"))
    verify(session, deep=True, as_json=True)
    gc(session, delete=True, as_json=True)
    assert sorted(Path(str(old["store.path"])).glob("*/*.parquet")) == before
    capsys.readouterr()
    status(session, as_json=True)
    stages = json.loads(capsys.readouterr().out)["stages"]
    assert all(stage["shards"] == stage["in_manifest"] for stage in stages)
    assert {stage["stage"] for stage in stages if stage["shards"] == 0} == set(LATER)


@pytest.mark.parametrize("run", RUNS)
def test_its_runs_are_found_again(old: dict[str, object], run: str) -> None:
    method = run.rpartition("-")[0]
    result = train(open_session(None, [], old | {"train.method": method}, use_file=False), name="", as_json=True)
    assert Path(result["run"]) == Path(str(old["store.path"])) / "runs" / run
