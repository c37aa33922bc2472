"""What the store holds beside shards, in SQL, in files and at a glance."""

import json
import shutil
from pathlib import Path

import polars as pl

from kidcore.config.config import DataSettings
from kidcore.sql.datasets import read
from tests.kidpipe.commands.running import Cli


def test_runs_verdicts_steps_and_files(cli: Cli, tmp_path: Path) -> None:
    trained = {"train__max_steps": 2, "train__batch_size": 4}
    assert cli("train", "--method", "sft", "--name", "first", **trained).code == 0
    assert cli("eval", "first", eval__limit=6, eval__max_new_tokens=4, sandbox__workers=1).code == 0

    [run] = json.loads(cli("query", "select run, is_finished, steps, method from runs", "--json").out)
    assert run == {"run": "first", "is_finished": True, "steps": 2, "method": "sft"}
    [counted] = json.loads(cli("query", "select run, count(*) as n from steps where kind = 'step' group by run", "--json").out)
    assert counted == {"run": "first", "n": 2}
    sql = "select evaluation, example_id, ex_bag from verdicts order by all"
    rows = json.loads(cli("query", sql, "--json").out)
    assert len(rows) == 6
    for name, read_rows in {"out.csv": pl.read_csv, "deep/out.parquet": pl.read_parquet}.items():
        done = cli("query", sql, "--out", name)
        assert f"wrote {name}: 6 rows" in done.out, done.err
        assert read_rows(tmp_path / name)["example_id"].to_list() == [row["example_id"] for row in rows]
    refused = cli("query", sql, "--out", "out.xlsx")
    assert (refused.code, ".csv or .parquet" in refused.err) == (1, True)
    unknown = cli("query", "select 1 from nowhere")
    assert (unknown.code, "verdicts" in unknown.err, "comparisons" in unknown.err) == (1, True, False)

    status = json.loads(cli("status", "--json").out)
    assert status["data"] == cli.settings["data.path"]
    assert status["teacher"] == cli.settings["teacher.model"]
    assert status["built"]
    [held] = [row["bytes"] for row in status["stages"] if row["stage"] == "ingest"]
    assert held == sum(path.stat().st_size for path in (tmp_path / "artifacts" / "ingest").glob("*.parquet"))
    assert list(status["runs"][0]["scores"].values()) == [sum(row["ex_bag"] for row in rows) / 6]
    assert "finished, holdout NLL" in cli("status").out

    folder = tmp_path / "artifacts" / "runs" / "first"
    for name in ("last", "best"):
        shutil.rmtree(folder / name)
    (folder / "result.json").unlink()
    assert "unfinished, nothing saved yet" in cli("status").out
    (folder / "checkpoints" / "step-1").mkdir(parents=True)
    assert "unfinished, step 1 is saved" in cli("status").out


def test_verdicts_can_be_asked_about_where_nothing_was_built(cli: Cli, world: Path, tmp_path: Path) -> None:
    golds = [example.gold_sql for example in read(DataSettings(path=str(world)), "dev").examples]
    (tmp_path / "gold.sql").write_text("\n".join(golds) + "\n")
    assert cli("query", "from verdicts").code == 1
    assert cli("eval", "--predictions", "gold.sql", sandbox__workers=1).code == 0
    [counted] = json.loads(cli("query", "select count(*) as n, bool_and(ex_bag) as all_right from verdicts", "--json").out)
    assert counted == {"n": len(golds), "all_right": True}
    assert "views: runs, verdicts" in cli("query", "from mask").err


def test_a_store_whose_folder_reads_like_a_pattern(cli: Cli, tmp_path: Path) -> None:
    here = tmp_path / "artifacts"
    assert cli("build-imperfect", "--until", "mask").code == 0
    matched, odd = (Path(shutil.copytree(here, tmp_path / name)) for name in ("kept 1", "kept [1]"))
    for shard in matched.rglob("*.parquet"):
        shard.write_bytes(b"of another store")
    count = ("query", "select count(*) as n from mask", "--json")
    assert cli(*count, store__path=str(odd)).out == cli(*count).out
    reported = cli("report", "--out", "report.html", store__path=str(odd))
    assert (reported.code, (tmp_path / "report.html").exists()) == (0, True), reported.err
