"""Predictions made elsewhere: the three forms, and every way in which a file can have slipped."""

import gzip
import json
from pathlib import Path

import pytest

from eval.prediction_files import read_predictions
from eval.prediction_order import tables_named
from kidcore.errors import KidpipeError
from kidcore.sql.datasets import Example

EXAMPLES = [Example(f"dev:{number + 10}", ("cars", "pets")[number % 2], "q", "SELECT 1") for number in range(6)]
TABLES = {"cars": {"car", "maker"}, "pets": {"pet", "owner"}}
SQLS = [f"SELECT a FROM {('car', 'pet')[number % 2]} WHERE b = {number}" for number in range(6)]
EXPECTED = {example.example_id: sql for example, sql in zip(EXAMPLES, SQLS, strict=True)}


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def lines(sqls: list[str], with_database: bool) -> str:
    databases = [example.db_id for example in EXAMPLES]
    return "".join(f"{sql}\t{db_id}\n" if with_database else f"{sql}\n" for sql, db_id in zip(sqls, databases, strict=False))


@pytest.mark.parametrize("with_database", [True, False])
def test_spider_lines(tmp_path: Path, with_database: bool) -> None:
    path = write(tmp_path, "pred.sql", lines(SQLS, with_database))
    assert read_predictions(path, EXAMPLES, TABLES.__getitem__) == EXPECTED


@pytest.mark.parametrize("with_database", [True, False])
@pytest.mark.parametrize("first", [0, 1])
def test_numbers_before_the_lines_are_no_sql(tmp_path: Path, with_database: bool, first: int) -> None:
    numbered = [f"{number}\t{line}" for number, line in enumerate(lines(SQLS, with_database).splitlines(), first)]
    numbered[3] = ""
    expected = EXPECTED | {EXAMPLES[3].example_id: ""}
    assert read_predictions(write(tmp_path, "p.sql", "\n".join(numbered)), EXAMPLES, TABLES.__getitem__) == expected
    numbered[4] = f"9\t{SQLS[4]}"
    with pytest.raises(KidpipeError, match="numbered, and this is number 9") as refused:
        read_predictions(write(tmp_path, "p.sql", "\n".join(numbered)), EXAMPLES)
    assert refused.value.where.endswith("p.sql, line 5")


@pytest.mark.parametrize("end", ["\n", "\n\n", "\n \n\r\n"])
def test_empty_lines_behind_the_last_example_are_none(tmp_path: Path, end: str) -> None:
    assert read_predictions(write(tmp_path, "p.sql", lines(SQLS, True) + end), EXAMPLES) == EXPECTED


def test_a_tab_inside_sql_is_not_a_database(tmp_path: Path) -> None:
    sqls = [SQLS[0].replace(" FROM", "\tFROM"), *SQLS[1:]]
    assert read_predictions(write(tmp_path, "p.sql", lines(sqls, False)), EXAMPLES)["dev:10"] == sqls[0]


@pytest.mark.parametrize("key", ["id", "example_id"])
def test_json_lines_in_any_order(tmp_path: Path, key: str) -> None:
    rows = [json.dumps({key: example_id, "sql": sql}) for example_id, sql in reversed(EXPECTED.items())]
    assert read_predictions(write(tmp_path, "p.jsonl", "\n".join(rows)), EXAMPLES) == EXPECTED


def test_a_json_array_with_the_datas_own_ids(tmp_path: Path) -> None:
    rows = [{"question_id": int(example_id[4:]), "prediction": sql} for example_id, sql in EXPECTED.items()]
    for written in (rows, {"predictions": rows}):
        assert read_predictions(write(tmp_path, "p.json", json.dumps(written)), EXAMPLES) == EXPECTED


def in_order(with_number: str = "", first: int = 0, **more: list[str]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = [
        {"pred": sql, "db_id": example.db_id, **{key: values[n] for key, values in more.items()}}
        for n, (sql, example) in enumerate(zip(SQLS, EXAMPLES, strict=True))
    ]
    return [row | {with_number: n} if with_number else row for n, row in enumerate(rows, first)]


@pytest.mark.parametrize(
    "rows",
    [
        SQLS,
        in_order(),
        in_order("idx"),
        in_order("index", 1),
        in_order(question=["q"] * 6, query=["SELECT 0"] * 6),
        [{"sql": sql} for sql in SQLS],
        # As PICARD writes them.
        [{"prediction": f"{example.db_id} | {sql}"} for sql, example in zip(SQLS, EXAMPLES, strict=True)],
        # As LLaMA-Factory does.
        [{"prompt": "q", "predict": sql, "label": "SELECT 0"} for sql in SQLS],
    ],
)
@pytest.mark.parametrize("name", ["p.json", "p.jsonl", "p.txt"])
def test_rows_without_ids_are_those_of_the_examples_in_order(tmp_path: Path, name: str, rows: list[object]) -> None:
    text = "\n".join(map(json.dumps, rows)) if name == "p.jsonl" or isinstance(rows[0], dict) else json.dumps(rows, indent=1)
    assert read_predictions(write(tmp_path, name, text), EXAMPLES, TABLES.__getitem__) == EXPECTED
    whole = write(tmp_path, "none.json", json.dumps([None, *rows[1:]]))
    assert read_predictions(whole, EXAMPLES, TABLES.__getitem__) == EXPECTED | {"dev:10": ""}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (SQLS[1:] + SQLS[:1], "name tables that their database doesn't have"),
        (SQLS[1:], "5 predictions without an id for 6 examples"),
        (in_order()[1:] + in_order()[:1], "database 'pets' where the example is on 'cars'"),
        ([in_order("idx")[n] for n in (2, 1, 0, 3, 4, 5)], "this is number 2"),
        (in_order(question=["another", *"qqqqq"]), "a prediction for the question 'another' where the example asks 'q'"),
        ([*in_order()[1:], {"id": "dev:10", "pred": ""}], "it has 'pred', 'db_id'"),
        ([*SQLS[1:], ["SELECT 1"]], "a prediction is a list"),
    ],
)
def test_rows_without_ids_that_have_slipped_are_refused(tmp_path: Path, rows: list[object], message: str) -> None:
    with pytest.raises(KidpipeError) as caught:
        read_predictions(write(tmp_path, "p.json", json.dumps(rows)), EXAMPLES, TABLES.__getitem__)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "first", ["[SQL] SELECT a FROM car", "{", "[", '{"sql": "SELECT 1"}', "[x for x in y]", "{'sql': 'SELECT 1'}"]
)
def test_a_line_file_whose_first_line_looks_like_json(tmp_path: Path, first: str) -> None:
    text = lines([first, *SQLS[1:]], True)
    assert read_predictions(write(tmp_path, "p.sql", text), EXAMPLES, TABLES.__getitem__) == EXPECTED | {"dev:10": first}
    with pytest.raises(KidpipeError, match="malformed JSON"):
        read_predictions(write(tmp_path, "p.json", text), EXAMPLES, TABLES.__getitem__)


@pytest.mark.parametrize("torn", ["rows", "array"])
def test_damaged_json_is_no_line_file(tmp_path: Path, torn: str) -> None:
    rows = [json.dumps({"id": example_id, "pred": sql}) for example_id, sql in EXPECTED.items()]
    text = "\n".join([*rows[:-1], rows[-1][:-5]]) if torn == "rows" else "[" + ",\n".join(rows)
    with pytest.raises(KidpipeError, match="malformed JSON"):
        read_predictions(write(tmp_path, "p.txt", text), EXAMPLES, TABLES.__getitem__)


@pytest.mark.parametrize("first", [0, 10])
def test_bird_json_by_position_or_id(tmp_path: Path, first: int) -> None:
    mapping = {str(first + n): f"{sql}\t----- bird -----\t{EXAMPLES[n].db_id}" for n, sql in enumerate(SQLS)}
    assert read_predictions(write(tmp_path, "p.json", json.dumps(mapping)), EXAMPLES) == EXPECTED


def test_bird_json_without_an_answer(tmp_path: Path) -> None:
    mapping = {str(n): 0 if n == 2 else sql for n, sql in enumerate(SQLS)}
    assert read_predictions(write(tmp_path, "p.json", json.dumps(mapping)), EXAMPLES) == {**EXPECTED, "dev:12": ""}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.sql", lines(SQLS[:5], False), "5 lines of predictions for 6 examples"),
        ("p.sql", lines([*SQLS, SQLS[0]], False) + "x\n", "7 lines of predictions for 6 examples"),
        ("p.sql", lines(SQLS, True).replace("\tpets", "\tcars", 1), "line 2"),
        ("p.sql", lines(SQLS[1:] + SQLS[:1], False), "name tables that their database doesn't have"),
        ("p.json", json.dumps({str(n): f"{s}\t----- bird -----\tcars" for n, s in enumerate(SQLS)}), "name another database"),
        ("p.json", json.dumps({str(n + 3): s for n, s in enumerate(SQLS)}), "are unknown"),
        ("p.json", '{"0": "SELECT 1",\n broken', "line 2"),
        ("p.jsonl", '{"id": "dev:10", "sql": "x"}\n{"id": "dev:99", "sql": "x"}', "belongs to no example"),
        ("p.jsonl", '{"id": "dev:10", "sql": "x"}\n{"id": "dev:10", "sql": "x"}', "occurs twice"),
        ("p.jsonl", '{"id": "dev:10"}', "needs an id and its SQL"),
        ("p.jsonl", '{"id": "dev:10", "sql": "x"}\nnonsense', "line 2"),
    ],
)
def test_what_has_slipped_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(KidpipeError) as caught:
        read_predictions(write(tmp_path, name, text), EXAMPLES, TABLES.__getitem__)
    assert message in str(caught.value)


PRED = {"id": "dev:10", "prediction": "SELECT 1"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "dev:10", "query": "SELECT 1", "output": "SELECT 2"}, "may hold the gold"),
        ({"id": "dev:10", "SQL": "SELECT 1"}, "'SQL' may hold the gold"),
        ({"id": "dev:10", "sql": "SELECT 1", "output": "SELECT 2"}, "can't be told"),
        ({"id": "dev:10", "sql": "SELECT 1", "completion": ["SELECT 2"]}, "can't be told"),
        ({**PRED, "pred": "SELECT 2"}, "different predictions"),
        ({**PRED, "db_id": "pets"}, "database 'pets'"),
        ({**PRED, "question_id": 11}, "different examples"),
        ({**PRED, "prediction": ["SELECT 1"]}, "a prediction is a list"),
        ({**PRED, "prediction": {"sql": "SELECT 1"}}, "a prediction is an object"),
        ({**PRED, "prediction": 7}, "a prediction is a number"),
        ("SELECT 1", "1 predictions without an id for 6 examples"),
        ({"custom_id": "dev:10", "prediction": "SELECT 1"}, "it has 'custom_id', 'prediction'"),
    ],
)
def test_a_row_that_can_not_be_told_for_sure_is_refused(tmp_path: Path, row: object, message: str) -> None:
    with pytest.raises(KidpipeError) as caught:
        read_predictions(write(tmp_path, "p.json", json.dumps([row])), EXAMPLES)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "more",
    [
        {"query": "SELECT 0", "question": "q", "db_id": "cars"},
        {"SQL": "SELECT 0", "output": "SELECT 2"},
        {"sql": {"select": []}, "score": 0.5},
        {"pred": "SELECT 1"},
        {"question_id": 10},
    ],
)
def test_a_named_prediction_is_taken_whatever_stands_beside_it(tmp_path: Path, more: dict[str, object]) -> None:
    assert read_predictions(write(tmp_path, "p.jsonl", json.dumps(PRED | more)), EXAMPLES) == {"dev:10": "SELECT 1"}


def test_no_text_is_no_prediction(tmp_path: Path) -> None:
    for none in (None, float("nan")):
        path = write(tmp_path, "p.jsonl", json.dumps(PRED | {"prediction": none}))
        assert read_predictions(path, EXAMPLES) == {"dev:10": ""}
    with pytest.raises(KidpipeError, match="a prediction is a list"):
        read_predictions(write(tmp_path, "p.json", json.dumps({"0": ["SELECT 1"]})), EXAMPLES)


@pytest.mark.parametrize("name", ["my-db", "2016 games", "日本"])
def test_a_database_may_be_called_anything(tmp_path: Path, name: str) -> None:
    examples = [Example(f"dev:{n}", name, "q", "SELECT 1") for n in range(2)]
    path = write(tmp_path, "p.sql", f"SELECT\ta\t{name}\r\nSELECT 'b\u2028c'\t{name}\r\n")
    assert read_predictions(path, examples) == {"dev:0": "SELECT\ta", "dev:1": "SELECT 'b\u2028c'"}


def test_a_column_of_unknown_databases_is_no_part_of_the_sql(tmp_path: Path) -> None:
    with pytest.raises(KidpipeError, match="database 'trains'"):
        read_predictions(write(tmp_path, "p.sql", "".join(f"{sql}\ttrains\n" for sql in SQLS)), EXAMPLES)


def test_an_id_of_two_examples_belongs_to_neither(tmp_path: Path) -> None:
    examples = [Example(f"{split}:0", "cars", "q", "SELECT 1") for split in ("train", "train_others")]
    with pytest.raises(KidpipeError, match="belongs to no example"):
        read_predictions(write(tmp_path, "p.jsonl", '{"id": "0", "sql": "x"}'), examples)
    twice = json.dumps({"0": "SELECT 1", "train:0": "SELECT 2"})
    with pytest.raises(KidpipeError):
        read_predictions(write(tmp_path, "p.json", twice), examples)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(KidpipeError, match="cannot read predictions"):
        read_predictions(tmp_path / "none.sql", EXAMPLES)


def test_tables_named() -> None:
    sql = "WITH x AS (SELECT 1 FROM Car) SELECT * FROM x JOIN \"Maker\" AS m ON 1 JOIN (SELECT 2 FROM pet) WHERE a = 'FROM no'"
    assert tables_named(sql) == {"car", "maker", "pet"}


@pytest.mark.parametrize("name", ["sales.orders", "shop.sales.Orders", '"sales"."orders"', "sales . [orders]", "`orders`"])
def test_of_a_tables_name_the_last_part_counts(name: str) -> None:
    assert tables_named(f"SELECT o.id FROM {name} AS o JOIN main.item ON o.a = item.b") == {"orders", "item"}


def test_names_are_those_of_the_dialect() -> None:
    assert tables_named("SELECT $$FROM a$$, [x FOR x IN l] FROM s.t", "duckdb") == {"t"}


def test_a_table_of_predictions_is_named(tmp_path: Path) -> None:
    text = "id,prediction\n" + "".join(f'{example_id},"{sql}"\n' for example_id, sql in list(EXPECTED.items())[1:])
    with pytest.raises(KidpipeError, match="table of columns"):
        read_predictions(write(tmp_path, "p.csv", text), EXAMPLES)
    # As many rows as examples: as lines of SQL they would all be errors.
    with pytest.raises(KidpipeError, match="table of columns"):
        read_predictions(write(tmp_path, "p.tsv", "".join(f"{number}\t{sql}\n" for number, sql in enumerate(SQLS))), EXAMPLES)
    assert read_predictions(write(tmp_path, "q.tsv", "".join(f"{sql}\n" for sql in SQLS)), EXAMPLES)


def test_packed_predictions_and_lines_of_carriage_returns(tmp_path: Path) -> None:
    packed = tmp_path / "p.sql.gz"
    packed.write_bytes(gzip.compress(lines(SQLS, True).encode()))
    assert read_predictions(packed, EXAMPLES, TABLES.__getitem__) == EXPECTED
    path = tmp_path / "p.txt"
    path.write_bytes(lines(SQLS, False).replace("\n", "\r").encode())
    assert read_predictions(path, EXAMPLES) == EXPECTED
