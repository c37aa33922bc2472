"""What `kidpipe query` reads, refuses and writes, on a store that is there."""

import json
import logging
from pathlib import Path

import polars as pl
import pytest

from kidcore.errors import KidpipeError
from kidcore.store.stages import STAGES
from kidpipe.commands.inspect import inspect, query
from kidpipe.commands.session import Session, open_session
from tests.test_fixture_store import FIXTURE, copied_store


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return open_session(None, [], copied_store(FIXTURE, tmp_path), use_file=False)


@pytest.mark.parametrize(
    "explain", ["EXPLAIN ANALYZE", " explain\n analyze", "EXPLAIN (ANALYZE)", "explain (analyze, format json)"]
)
def test_explaining_runs_nothing_that_writes(session: Session, tmp_path: Path, explain: str) -> None:
    file = tmp_path / "made.csv"
    with pytest.raises(KidpipeError):
        query(session, f"{explain} COPY (SELECT 1) TO '{file}'", as_json=True)
    assert not file.exists()


@pytest.mark.parametrize("sql", ["EXPLAIN SELECT 1", "explain analyze select 1", "EXPLAIN (ANALYZE) FROM mask"])
def test_what_reads_is_explained(session: Session, capsys: pytest.CaptureFixture[str], sql: str) -> None:
    query(session, sql, as_json=True)
    assert "explain_key" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("pivot mask on view using count(*)", "PIVOT"),
        ("select now()", "::timestamp"),
        ("copy mask to 'x.csv'", "reads only"),
    ],
)
def test_what_is_refused_says_what_to_write_instead(session: Session, sql: str, said: str) -> None:
    with pytest.raises(KidpipeError) as refused:
        query(session, sql, as_json=True)
    assert said in str(refused.value)
    assert "Traceback" not in str(refused.value)


def test_the_tables_that_are_shown_are_those_to_ask_about(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    query(session, "show tables", as_json=True)
    shown = {row["name"] for row in json.loads(capsys.readouterr().out)}
    assert {"ingest", "mask", "runs"} <= shown <= {*STAGES, "runs", "verdicts", "steps", "comparisons"}


def test_a_folder_is_no_file_to_write(session: Session, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").mkdir()
    with pytest.raises(KidpipeError, match=r"there is a folder of this name: .*rows\.csv"):
        query(session, "select 1", as_json=False, out=tmp_path / "rows.csv")


@pytest.mark.parametrize("name", ["it's.parquet", "rows.CSV"])
def test_the_rows_that_were_written_are_counted(
    session: Session, capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    out = tmp_path / name
    query(session, "select example_id from ingest, range(20) where random() < 0.5", as_json=False, out=out)
    read = pl.read_csv if out.suffix == ".CSV" else pl.read_parquet
    assert f": {len(read(out)):,} rows" in capsys.readouterr().out


@pytest.mark.parametrize("is_gone", [True, False])
def test_broken_shards_hide_their_view_only(
    session: Session,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    is_gone: bool,
) -> None:
    for shard in (session.store.root / "mask").glob("*.parquet"):
        if is_gone:
            shard.unlink()
        else:
            shard.write_bytes(b"of another program")
    monkeypatch.setattr(logging.getLogger("kidpipe"), "propagate", True)
    query(session, "select count(*) as n from ingest", as_json=True)
    assert '"n": 24' in capsys.readouterr().out
    assert "no view mask" in caplog.text
    with pytest.raises(KidpipeError, match="mask") as refused:
        query(session, "from mask", as_json=True)
    assert "mask" not in refused.value.fix


@pytest.mark.parametrize(
    ("example", "view", "said"), [("train:0", -1, "no view -1"), ("train:0", -9, "no view -9"), ("1" * 5000, 0, "no example")]
)
def test_no_such_example_or_view(session: Session, example: str, view: int, said: str) -> None:
    with pytest.raises(KidpipeError, match=said):
        inspect(session, example, view, as_json=True)
