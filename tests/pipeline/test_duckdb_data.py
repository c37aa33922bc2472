"""A data set on DuckDB databases, through a whole build, a training and an evaluation."""

import json
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kidpipe.commands.evaluate import evaluate
from kidpipe.commands.session import open_session
from kidpipe.commands.train import train
from tests.conftest import configure
from tests.pipeline.running import files, run_build, store_of

SCHEMA = (
    "CREATE SCHEMA archive",
    "CREATE TYPE mood AS ENUM ('Sad', 'Happy')",
    "CREATE TABLE item (id INT PRIMARY KEY, price INT, tags VARCHAR[], mood mood, size STRUCT(w INT, h INT))",
    "CREATE TABLE archive.item (id INT, sold DATE)",
    "INSERT INTO item VALUES (1, 7, ['a', 'b'], 'Sad', {'w': 1, 'h': 2}), (2, 9, ['c'], 'Happy', {'w': 3, 'h': 4})",
    "INSERT INTO archive.item VALUES (1, DATE '2020-01-02')",
    "CREATE VIEW cheap AS SELECT id, price // 2 AS half FROM item WHERE price < 8",
)
GOLDS = (
    "SELECT price // 2 FROM item ORDER BY id",
    "SELECT list_transform(tags, lambda t: t || '!') FROM item WHERE id = 1",
    "SELECT [t FOR t IN tags IF t <> 'a'] FROM item WHERE id = 1",
    "SELECT DISTINCT ON (mood) mood, price FROM item ORDER BY mood, price",
    "FROM item SELECT id, size.w QUALIFY row_number() OVER (ORDER BY price DESC) = 1",
    "SELECT sold FROM archive.item",
    "SELECT half FROM cheap",
    "SELECT count(*) FROM item WHERE mood IS DISTINCT FROM 'Sad'",
    "SELECT * EXCLUDE (tags, size) FROM item ORDER BY ALL",
)


@pytest.fixture
def duck(tmp_path: Path) -> Path:
    folder = tmp_path / "duck"
    (folder / "database" / "shop").mkdir(parents=True)
    with duckdb.connect(str(folder / "database" / "shop" / "shop.duckdb")) as connection:
        for statement in SCHEMA:
            connection.execute(statement)
    rows = [{"db_id": "shop", "question": f"question {number}", "query": sql} for number, sql in enumerate(GOLDS)]
    for name in ("train_spider.json", "dev.json"):
        (folder / name).write_text(json.dumps(rows), encoding="utf-8")
    return folder


def test_build_train_and_evaluate(
    duck: Path, settings: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings |= {"data.path": str(duck), "mask.strategy": "schema", "mask.ratio": 0.5, "mask.views": 2}
    settings |= {"train.max_steps": 2, "train.batch_size": 4, "train.dtype": "float32", "eval.limit": 2, "eval.max_new_tokens": 4}
    config = configure(settings)
    result = run_build(config)

    def table(stage: str) -> pa.Table:
        return pa.concat_tables(pq.read_table(store_of(config).root / file) for file in files(result.manifest, stage))

    ingest, rewrite = table("ingest"), table("rewrite")
    assert ingest.column("reason").to_pylist() == [None] * len(GOLDS)
    assert rewrite.num_rows == 2 * len(GOLDS)
    same = [not changed for changed in rewrite.column("num_rewritten").to_pylist()]
    assert all(parsed for parsed, is_same in zip(rewrite.column("parses").to_pylist(), same, strict=True) if is_same)
    outcome = table("outcome").column("same_result").to_pylist()
    assert all(held for held, is_same in zip(outcome, same, strict=True) if is_same)
    session = open_session(None, [], settings, use_file=False)
    run = Path(train(session, name="", as_json=True)["run"])
    assert evaluate(open_session(None, [], settings, use_file=False), run.name, name="", as_json=True)["examples"] == 2
    predicted = tmp_path / "gold.jsonl"
    rows = [{"id": f"dev:{number}", "prediction": sql} for number, sql in enumerate(GOLDS)]
    predicted.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    for keep in (True, False):
        stripped = settings | {"eval.limit": 0, "eval.keep_distinct": keep}
        made = open_session(None, [], stripped, use_file=False)
        summary = evaluate(made, "", predictions_file=predicted, name=f"gold-{keep}", as_json=True)
        assert (summary["examples"], summary["metrics"]["ex_bag"]["all"]["value"]) == (len(GOLDS), 1.0)
    capsys.readouterr()
