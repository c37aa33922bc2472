"""One process makes what is missing, stage after stage; what it counted, said and wrote down of it."""

import io
import json
import logging
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from kidcore.errors import KidpipeError
from kidcore.models.backends.facts import EngineFacts
from kidcore.progress import WorkProgress, duration
from kidcore.store.graph import Grid, Output, Partition, Stage, Task
from kidcore.store.log import shard_records
from kidcore.store.store import DamagedShard, Store
from pipeline.ledger import Ledger, made_by
from pipeline.progress import ManyStagesProgress, StageProgress
from pipeline.serial import SerialRunner
from pipeline.workers.jobs import Failed
from tests.pipeline.workers.light import compute, grid_in

ALL = {"first": 3, "second": 3, "third": 6, "fourth": 6}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts")


def run(store: Store, grid: Grid | None = None, **more: Any) -> SerialRunner:
    runner = SerialRunner(grid or grid_in(store, 3), store, False, **more)
    runner.run()
    runner.close()
    return runner


def names(store: Store) -> set[str]:
    return {path.name for path in store.root.glob("*/*.parquet")}


def test_all_is_made_once_and_then_found(store: Store) -> None:
    first = run(store).ledger
    assert (dict(first.ran), dict(first.reused)) == (ALL, {})
    made = names(store)
    again = run(store).ledger
    assert (dict(again.ran), dict(again.reused)) == ({}, ALL)
    assert names(store) == made
    assert set(first.seconds) == set(ALL)


def test_a_build_that_fails_keeps_what_it_had_and_the_next_one_goes_on(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    class Stop(Exception):
        pass

    def broken(error: BaseException) -> Grid:
        grid = grid_in(store, 3)

        def run_third(task: Task) -> Output:
            if (task.part.index, task.view) == (1, 0):
                raise error
            return compute("third", task)

        third = grid.stages[2]
        stages = [*grid.stages[:2], Stage("third", 1, {}, {}, third.inputs, (), 2, run_third), grid.stages[3]]
        return Grid(stages, grid.parts, store)

    with pytest.raises(Stop):
        run(store, broken(Stop()))
    kept = names(store)
    assert len(kept) == 3 + 3 + 2
    with pytest.raises(KeyboardInterrupt), caplog.at_level(logging.WARNING):
        run(store, broken(KeyboardInterrupt()))
    assert "stopped in third: 2 of its 6 shards are finished and kept" in caplog.text
    rest = run(store).ledger
    assert dict(rest.reused) == {"first": 3, "second": 3, "third": 2}
    assert dict(rest.ran) == {"third": 4, "fourth": 6}
    assert kept <= names(store)


def test_a_damaged_input_is_named_and_once_set_aside_made_anew_with_the_same_bytes(store: Store) -> None:
    run(store)
    whole = names(store)
    grid = grid_in(store, 3)
    victim = next(iter(grid.cells(grid.stages[0]))).shard
    assert victim is not None
    store.path(victim).write_bytes(b"PAR1 no more")
    for path in [path for stage in ("second", "third", "fourth") for path in store.root.glob(f"{stage}/*.parquet")]:
        path.unlink()
    runner = SerialRunner(grid_in(store, 3), store, False)
    with pytest.raises(DamagedShard) as caught:
        runner.run()
    assert caught.value.shard == victim
    store.set_aside(caught.value.shard)
    runner.grid.drop(caught.value.shard)
    runner.run()
    assert names(store) == whole
    assert runner.ledger.ran["first"] == 1
    assert runner.ledger.reused["first"] == 3, "found before it turned out to be damaged, and counted once"


def test_rows_are_looked_at_behind_ingest_and_before_anything_dear(store: Store) -> None:
    grid = grid_in(store, 2)
    stages = [Stage("ingest", 1, {}, {}, (), ("source",), 0, lambda task: compute("ingest", task))]
    stages += [Stage("second", 1, {}, {}, ("ingest",), (), 0, lambda task: compute("second", task))]

    def refuse() -> None:
        assert len(list((store.root / "ingest").glob("*.parquet"))) == 2
        raise KidpipeError("all were set aside")

    with pytest.raises(KidpipeError, match="set aside"):
        run(store, Grid(stages, grid.parts, store), check_ingested=refuse)
    assert not (store.root / "second").exists()


def test_every_shard_has_a_line_that_says_how_it_was_made_and_settings_are_kept_once(store: Store) -> None:
    run(store)
    records = shard_records(store.root)
    assert len(records) == sum(ALL.values())
    assert {record["key"] for record in records} == {name.partition(".")[0] for name in names(store)}
    assert {record["rows"] for record in records} == {3}
    assert all(record["seconds"] >= 0 and record["made"]["engine"] is None for record in records)
    kept = sorted((store.root / "settings").glob("*.json"))
    assert sorted(json.loads(path.read_text())["stage"] for path in kept) == sorted(ALL)
    assert {record["settings"] for record in records} == {path.stem for path in kept}


def test_a_ledger_counts_a_shard_once_however_often_it_is_seen(store: Store) -> None:
    grid = grid_in(store, 2)
    ledger = Ledger(grid, store)
    cells = list(grid.cells(grid.stages[0]))
    ledger.made(cells[0])
    ledger.found(cells[0])
    ledger.found(cells[1])
    ledger.found(cells[1])
    assert (ledger.ran["first"], ledger.reused["first"]) == (1, 1)
    assert [ledger.rows(cell) for cell in cells] == [3, 3]
    assert not (store.root / "settings").exists(), "nothing is written for what was only looked at"


def test_what_made_a_shard_is_told_in_numbers_of_a_useful_length() -> None:
    engine = EngineFacts("vllm", "1", "cpu", "float32")
    line = made_by(engine, seconds=1.23456789, engine_start_s=0.0)
    assert (line["seconds"], line["engine_start_s"]) == (1.2346, 0.0)
    assert line["made"]["engine"]["name"] == "vllm"  # type: ignore[index]
    assert json.loads(json.dumps(line)) == line


def test_a_failure_from_another_process_is_the_error_that_it_was() -> None:
    error = Failed("it broke", "here", "mend it", is_final=True).as_error()
    assert (error.what, error.where, error.fix) == ("it broke", "here", "mend it")


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    written = io.StringIO()
    plain = Console(file=written, width=200)
    monkeypatch.setattr("pipeline.progress.WorkProgress", lambda _console, is_shown: WorkProgress(plain, is_shown))
    return written


def said(screen: io.StringIO) -> list[str]:
    return [re.sub(r" in [\d.]+ s \([\d,]+ rows/s\)", " in T", line).rstrip() for line in screen.getvalue().splitlines()]


def test_each_stage_leaves_a_line(screen: io.StringIO) -> None:
    with StageProgress(True) as bar:
        bar.advance(5)
        bar.finish()
        bar.start("ingest", 1500, 2000, 1, 4)
        bar.advance(1000)
        bar.advance(500)
        bar.finish()
        bar.start("mask", 0, 2000, 4, 4)
        bar.finish()
        bar.finish()
    assert said(screen) == ["ingest      3 of 4 shards, 1,500 rows in T", "mask        reused, 4 shards"]


def test_what_was_there_before_counts_in_how_far_a_stage_is(screen: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kidcore.progress.SECONDS_A_LINE", 0.0)
    with StageProgress(True) as bar:
        bar.start("ingest", 1500, 2000, 1, 4)
        bar.advance(1000)
    with ManyStagesProgress(True) as bars:
        bars.add("mask", 10, 30, 1, 3)
        bars.start("mask")
        bars.advance("mask", 5, is_last=False)
        bars.show({"mask": (3, 1)})
    first, second = said(screen)
    assert first.startswith("ingest      1,500 of 2,000, ")
    assert second.startswith("mask        28 of 30, ")


class Figures:
    def __init__(self, shards: int, is_there: bool = True, kind: str = "engine") -> None:
        self.kind, self.is_there, self.shards = kind, is_there, shards
        self.rows, self.computed_s, self.idle_s = shards * 10, 2.0 * shards, 6.0 * shards


def test_stages_side_by_side_each_leave_a_line_when_their_last_shard_is_there(screen: io.StringIO) -> None:
    with ManyStagesProgress(True) as bar:
        bar.add("ingest", 0, 20, 0, 2)
        bar.add("mask", 20, 20, 2, 2)
        bar.add("score", 10, 20, 1, 2)
        for name in ("mask", "score", "mask"):
            bar.start(name)
        bar.advance("ingest", 10, is_last=True)
        bar.advance("mask", 10, is_last=False)
        bar.advance("score", 10, is_last=True)
        bar.advance("mask", 10, is_last=True)
        bar.tick([Figures(1)])
        bar.finish([Figures(3), Figures(0), Figures(5, kind="sql")])
    assert said(screen) == [
        "ingest      reused, 2 shards",
        "score       1 of 2 shards, 10 rows in T",
        "mask        2 of 2 shards, 20 rows in T",
        "engine 0    3 shards, 30 rows (5 rows/s), waited 75% of the time",
    ]
    assert set(bar.seconds) == {"ingest", "mask", "score"}
    assert bar.seconds["ingest"] == 0.0


def test_at_half_minutes_the_rate_of_each_engine_is_said(screen: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.progress.SECONDS_A_LINE", 0.0)
    ManyStagesProgress(True).tick([Figures(2), Figures(1, is_there=False), Figures(0), Figures(9, kind="sql")])
    assert said(screen) == ["engines     2 of 3 are there, the others are waited for", "engines     rows/s: 5.0"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (61, "1 min 1 s"),
        (3599.6, "1 h 0 min"),
        (7325, "2 h 2 min"),
    ],
)
def test_durations_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_part_of_no_rows_is_a_shard_like_any_other(store: Store) -> None:
    stages = [
        Stage("first", 1, {}, {}, (), ("source",), 0, lambda _task: Output(pa.table({"text": pa.array([], pa.string())}), {}))
    ]
    runner = run(store, Grid(stages, [Partition(0, 0, {"source": "x"})], store))
    assert runner.ledger.ran == {"first": 1}
    assert [name.split(".")[1] for name in names(store)] == ["0"]
