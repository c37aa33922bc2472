"""What `kidpipe plan` promises, and what a build says of itself in a log file."""

import json
import os
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kidcore.store.store import Store
from pipeline import engines
from tests.kidpipe.commands.running import Cli


@pytest.fixture
def data(world: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    shutil.copytree(world, folder)
    return folder


def _plan(cli: Cli, **changes: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """The stages by name, and all of it."""
    done = cli("plan", "--json", **changes)
    assert done.code == 0, done.err
    document = json.loads(done.out)
    return {stage["stage"]: stage for stage in document["stages"]}, document


def test_names_bytes_and_at_most(cli: Cli, data: Path, tmp_path: Path) -> None:
    cli.settings["data.path"] = str(data)
    first, _ = _plan(cli)
    assert not first["score"]["is_at_most"], "nothing is there that could be saved"
    assert first["score"]["estimate_bytes"] is None
    built = cli("build-imperfect")
    assert built.code == 0
    assert "engine      the engine with " in built.err
    assert "started in" in built.err

    rows = json.loads((data / "train_spider.json").read_text())
    database = data / "database" / rows[0]["db_id"] / f"{rows[0]['db_id']}.sqlite"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE brand_new (x INT)")
    changed, document = _plan(cli)
    assert changed["ingest"]["reasons"] == [
        f"{changed['ingest']['stale']} shards read databases that changed: {rows[0]['db_id']}"
    ]
    assert changed["score"]["is_at_most"]
    parquet = list((tmp_path / "artifacts" / "score").glob("*.parquet"))
    held = sum(Store(tmp_path / "artifacts").scan("score")[p.name.split(".")[0]].rows for p in parquet)
    per_row = sum(path.stat().st_size for path in parquet) / held
    assert changed["score"]["estimate_bytes"] == pytest.approx(per_row * changed["score"]["rows"], abs=1)
    shown = cli("plan", "--why")
    assert "at most" in shown.out
    assert "KiB" in shown.out
    assert document["engine_start_s"] > 0
    assert cli("build-imperfect").code == 0

    (data / "train_spider.json").write_text(json.dumps([{**rows[0], "question": "something else?"}, *rows[1:]]))
    asked, _ = _plan(cli)
    [reason] = asked["ingest"]["reasons"]
    assert reason.startswith("1 input shards are new or changed: train:")
    assert "gone: train:" in reason
    assert "databases" not in reason, "another shard's set of databases is no changed database"


def test_an_engine_start_is_in_no_rate(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    real = engines.open_model

    def slow(*arguments: Any, **named: Any) -> Any:
        clock[0] += 5000
        return real(*arguments, **named)

    monkeypatch.setattr(engines, "open_model", slow)
    perf_counter = engines.time.perf_counter
    monkeypatch.setattr(engines.time, "perf_counter", lambda: perf_counter() + clock[0])
    assert cli("build-imperfect", "--until", "gold_score").code == 0
    stages, document = _plan(cli, score__tail_mass=0.1)
    assert document["engine_start_s"] >= 5000
    assert stages["gold_score"]["estimate_s"] < 5000


def test_settings_of_a_later_kidpipe_are_no_reason(cli: Cli, tmp_path: Path) -> None:
    """A manifest that does not know a setting which is at its default now, and a shard that is gone."""
    assert cli("build-imperfect", "--until", "ingest").code == 0
    latest = tmp_path / "artifacts" / "manifest.json"
    manifest = json.loads(latest.read_text())
    del manifest["stages"]["ingest"]["settings"]["ingest.sample_rows"]
    latest.write_text(json.dumps(manifest))
    next((tmp_path / "artifacts" / "ingest").glob("*.parquet")).unlink()
    assert _plan(cli)[0]["ingest"]["reasons"] == ["1 of its shards are missing"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_says_what_is_kept_and_the_same_command_goes_on(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    real, seen = Store.commit, []

    def commit(self: Store, stage: str, *arguments: Any) -> Any:
        seen.append(stage)
        if seen.count("mask") == 2:
            os.kill(os.getpid(), number)
        return real(self, stage, *arguments)

    monkeypatch.setattr(Store, "commit", commit)
    stopped = cli("build-imperfect", "--until", "mask")
    assert stopped.code == 130
    assert "stopped in mask: 1 of its 6 shards are finished and kept" in stopped.err
    assert signal.getsignal(number) is before
    monkeypatch.setattr(Store, "commit", real)
    stages, _ = _plan(cli)
    assert stages["mask"]["reasons"] == ["unfinished: 1 of 6 shards are there"]
    assert "shards      5 made" in cli("build-imperfect", "--until", "mask").out
