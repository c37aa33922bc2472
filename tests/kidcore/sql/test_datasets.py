"""The official layouts, stable ids, and what is said of broken files."""

import gzip
import json
import os
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from kidcore.config.config import DataSettings
from kidcore.errors import KidpipeError
from kidcore.sql.datasets import read
from kidcore.sql.example_ids import places

REAL = Path(os.environ.get("KIDPIPE_DATA", Path(__file__).parents[4] / "shared" / "data"))
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="no Spider and BIRD data here (KIDPIPE_DATA)")


def write(folder: Path, name: str, rows: list[dict[str, Any]], databases: str = "database") -> Path:
    (folder / databases).mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(map(json.dumps, rows)) if name.endswith("l") else json.dumps(rows)
    path.write_text(text)
    return path


ROW = {"db_id": "d", "question": " How many? ", "query": "SELECT count(*) FROM t ;"}


def test_spider_reads_both_training_files_with_ids_of_their_own(tmp_path: Path) -> None:
    write(tmp_path, "train_spider.json", [ROW, ROW])
    write(tmp_path, "train_others.json", [ROW])
    examples = read(DataSettings(path=str(tmp_path)), "train").examples
    ids = [e.example_id for e in examples]
    assert places(ids) == ["train:0", "train:1", "train_others:0"]
    assert len(set(ids)) == 3
    assert examples[0].gold_sql == "SELECT count(*) FROM t"
    assert examples[0].question == "How many?"


def test_spider_syn_takes_the_reworded_question(tmp_path: Path) -> None:
    row = {"db_id": "d", "query": "SELECT 1", "SpiderQuestion": "old", "SpiderSynQuestion": "new"}
    write(tmp_path, "dev.json", [row])
    assert read(DataSettings(layout="spider-syn", path=str(tmp_path)), "dev").examples[0].question == "new"


def test_bird_brings_evidence_and_difficulty_and_its_own_ids(tmp_path: Path) -> None:
    row = {"question_id": 7, "db_id": "d", "question": "q", "evidence": "e", "SQL": "SELECT 1", "difficulty": "simple"}
    write(tmp_path, "dev/dev.json", [row], "dev/dev_databases")
    data = read(DataSettings(layout="bird", path=str(tmp_path)), "dev")
    example = data.examples[0]
    assert (example.example_id, example.evidence, example.difficulty, example.gold_sql) == ("dev:7", "e", "simple", "SELECT 1")
    assert data.database("d").path == tmp_path / "dev" / "dev_databases" / "d" / "d.sqlite"


def test_nan_of_a_data_frame_says_nothing(tmp_path: Path) -> None:
    nan = {"evidence": float("nan"), "difficulty": float("nan"), "id": float("nan"), "question_id": 3}
    write(tmp_path, "dev.json", [ROW | nan, ROW | {"question": float("nan")}, ROW | {"id": float("nan")}])
    first, second, third = read(DataSettings(path=str(tmp_path)), "dev").examples
    assert (first.example_id, first.evidence, first.difficulty) == ("dev:3", "", "")
    assert (second.fault, third.example_id) == ("no text under question", "dev:2")


def test_jsonl_keeps_given_ids_and_appending_keeps_the_others(tmp_path: Path) -> None:
    write(tmp_path, "train.jsonl", [ROW | {"id": "a"}, ROW], "databases")
    settings = DataSettings(layout="jsonl", path=str(tmp_path))
    before = [e.example_id for e in read(settings, "train").examples]
    write(tmp_path, "train.jsonl", [ROW | {"id": "a"}, ROW, ROW], "databases")
    after = [e.example_id for e in read(settings, "train").examples]
    assert before[0] == "train:a"
    assert after[:2] == before
    assert len(set(after)) == 3


def test_a_training_example_keeps_its_id_wherever_it_stands(tmp_path: Path) -> None:
    rows = [ROW | {"question": f"{n}?"} for n in range(4)]
    write(tmp_path, "train_spider.json", rows)
    settings = DataSettings(path=str(tmp_path))
    before = {e.question: e.example_id for e in read(settings, "train").examples}
    write(tmp_path, "train_spider.json", [ROW, *reversed(rows)])
    after = {e.question: e.example_id for e in read(settings, "train").examples}
    assert before.items() <= after.items()


def test_a_development_example_is_named_after_its_place_as_prediction_files_name_it(tmp_path: Path) -> None:
    write(tmp_path, "dev.json", [ROW, ROW])
    assert [e.example_id for e in read(DataSettings(path=str(tmp_path)), "dev").examples] == ["dev:0", "dev:1"]


def test_limit_cuts_training_only(tmp_path: Path) -> None:
    write(tmp_path, "train_spider.json", [ROW, ROW, ROW])
    write(tmp_path, "dev.json", [ROW, ROW, ROW])
    settings = DataSettings(path=str(tmp_path), limit=2)
    assert len(read(settings, "train").examples) == 2
    assert len(read(settings, "dev").examples) == 3


def test_a_sample_spreads_over_databases_and_a_larger_one_holds_it(tmp_path: Path) -> None:
    sizes = {"one": 1, "few": 4, "many": 40}
    rows = [ROW | {"db_id": db_id, "question": f"q{i}"} for db_id, size in sizes.items() for i in range(size)]
    write(tmp_path, "train_spider.json", rows)

    def ids(**settings: Any) -> list[tuple[str, str]]:
        return [(e.db_id, e.question) for e in read(DataSettings(path=str(tmp_path), **settings), "train").examples]

    whole, drawn = ids(), ids(sample=9)
    assert Counter(db_id for db_id, _ in drawn) == {"one": 1, "few": 4, "many": 4}
    assert drawn == [row for row in whole if row in set(drawn)]  # in the file's order
    assert set(ids(sample=5)) < set(drawn) < set(ids(sample=20))
    assert ids(sample=9) == drawn != ids(sample=9, sample_seed=1)
    assert ids(sample=100) == whole
    assert ids(limit=5, sample=2) == [row for row in whole[:5] if row in set(ids(limit=5, sample=2))]


def test_a_missing_folder_says_which_setting(tmp_path: Path) -> None:
    with pytest.raises(KidpipeError, match="no such data folder") as caught:
        read(DataSettings(path=str(tmp_path / "none")), "train")
    assert "data.path" in caught.value.where


@pytest.mark.parametrize(
    ("name", "fix"), [("q.csv", "--questions {} --database DATABASES"), ("shop.sqlite", "--questions QUESTIONS --database {}")]
)
def test_a_file_for_a_folder_says_how_to_make_one(tmp_path: Path, name: str, fix: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(KidpipeError, match="is a file, and a data set is a folder") as caught:
        read(DataSettings(path=str(tmp_path / name)), "train")
    assert caught.value.fix.endswith(f"kidpipe init {fix.format(tmp_path / name)}")


def test_a_folder_of_another_layout_lists_what_is_there(tmp_path: Path) -> None:
    write(tmp_path, "train.jsonl", [ROW])
    with pytest.raises(KidpipeError, match=r"none of train_spider\.json") as caught:
        read(DataSettings(path=str(tmp_path)), "train")
    assert "train.jsonl" in caught.value.where


def test_a_folder_of_another_layout_is_told_which_and_one_to_judge_with_how_to_train(tmp_path: Path) -> None:
    for place in ("bird/train_databases", "judge/dev_databases", "cspider/database"):
        (tmp_path / place).mkdir(parents=True)
    for name in ("bird/train.json", "judge/dev.json"):
        (tmp_path / name).write_text("[]")
    with pytest.raises(KidpipeError, match="no folder of databases") as caught:
        read(DataSettings(path=str(tmp_path / "bird")), "train")
    assert caught.value.fix.endswith("--layout bird")
    with pytest.raises(KidpipeError, match="no train examples") as caught:
        read(DataSettings(path=str(tmp_path / "judge"), layout="bird"), "train")
    assert "kidpipe init --questions FILE --database FOLDER" in caught.value.fix
    write(tmp_path / "cspider", "train.json", [ROW])
    assert len(read(DataSettings(path=str(tmp_path / "cspider")), "train").examples) == 1


def test_malformed_json_names_the_line(tmp_path: Path) -> None:
    path = write(tmp_path, "train_spider.json", [ROW])
    path.write_text('[\n{"db_id": "d"},\n{"db_id": }\n]')
    with pytest.raises(KidpipeError, match="malformed JSON") as caught:
        read(DataSettings(path=str(tmp_path)), "train")
    assert caught.value.where.endswith("line 3")
    lines = write(tmp_path, "train.jsonl", [ROW], "databases")
    lines.write_text(json.dumps(ROW) + "\n\n{broken\n")
    with pytest.raises(KidpipeError, match="malformed JSON") as caught:
        read(DataSettings(layout="jsonl", path=str(tmp_path)), "train")
    assert caught.value.where.endswith("line 3")


@pytest.mark.parametrize(
    ("bad", "key"),
    [
        ({"db_id": "d", "question": "q"}, "query"),
        (ROW | {"question": " "}, "question"),
        (ROW | {"question": 5}, "question"),
        (ROW | {"query": ["SELECT 1"]}, "query"),
        (ROW | {"query": None, "db_id": 3}, "db_id, query"),
    ],
)
def test_a_row_without_its_texts_is_set_aside_and_a_file_of_such_refused(tmp_path: Path, bad: dict[str, Any], key: str) -> None:
    write(tmp_path, "train_spider.json", [ROW, bad])
    found = read(DataSettings(path=str(tmp_path)), "train").examples
    assert [example.fault for example in found] == ["", f"no text under {key}"]
    write(tmp_path, "train_spider.json", [bad, bad])
    with pytest.raises(KidpipeError, match=f"no text under {key}; it has '") as caught:
        read(DataSettings(path=str(tmp_path)), "train")
    assert "all 2 examples" in caught.value.where


def test_a_row_that_is_no_object_names_itself(tmp_path: Path) -> None:
    write(tmp_path, "train_spider.json", [ROW, [1]])
    with pytest.raises(KidpipeError) as caught:
        read(DataSettings(path=str(tmp_path)), "train")
    assert "example 1" in caught.value.where


def test_a_data_set_may_be_packed(tmp_path: Path) -> None:
    plain = write(tmp_path, "train_spider.json", [ROW, ROW | {"question": "r"}])
    before = read(DataSettings(path=str(tmp_path)), "train").examples
    (tmp_path / "train_spider.json.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    assert read(DataSettings(path=str(tmp_path)), "train").examples == before


def test_an_id_twice_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "train.jsonl", [ROW | {"id": 1}, ROW | {"id": 1}], "databases")
    with pytest.raises(KidpipeError, match="'train:1' occurs twice"):
        read(DataSettings(layout="jsonl", path=str(tmp_path)), "train")


@needs_real
@pytest.mark.parametrize(
    ("settings", "split", "count"),
    [
        (DataSettings(path=str(REAL / "spider")), "train", 5765),
        (DataSettings(path=str(REAL / "spider")), "dev", 882),
        (DataSettings(layout="spider-syn", path=str(REAL / "spider_syn"), databases="../spider/database"), "train", 5765),
        (DataSettings(layout="bird", path=str(REAL / "bird_sample")), "dev", 174),
    ],
)
def test_real_data_is_read_whole(settings: DataSettings, split: Any, count: int) -> None:
    data = read(settings, split)
    assert len(data.examples) == count
    assert all(data.database(e.db_id).fault is None for e in data.examples)
    if settings.layout == "bird":
        assert sum(bool(e.evidence) for e in data.examples) == 149


def test_half_a_character_is_set_aside_with_a_reason(tmp_path: Path) -> None:
    """Lone surrogates, NULs, right-to-left marks and both normal forms: kept, or a fault that every file can hold."""
    kept = ["e\u0301 \u00e9", "\u202eabc\u202c", "a\x00b", "\U0001f600"]
    rows = [ROW | {"question": question} for question in kept]
    rows += [ROW | {"question": "a\ud800b"}, ROW | {"query": "SELECT '\udfff'"}, ROW | {"db_id": "d\x00"}]
    write(tmp_path, "train.jsonl", rows, "databases")
    examples = read(DataSettings(layout="jsonl", path=str(tmp_path)), "train").examples
    assert [example.question for example in examples[:4]] == kept
    assert [bool(example.fault) for example in examples] == [False] * 4 + [True] * 3
    assert "lone surrogate in question" in examples[4].fault
    assert [example.question.encode() for example in examples][4] == b"a\\ud800b"


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_json_lines_by_the_name_of_json_and_an_array_by_that_of_lines(tmp_path: Path, mark: str) -> None:
    (tmp_path / "database").mkdir()
    (tmp_path / "train_spider.json").write_text(mark + json.dumps(ROW) + "\n" + json.dumps(ROW), encoding="utf-8")
    (tmp_path / "dev.json").write_text(mark + json.dumps(ROW), encoding="utf-8")
    (tmp_path / "train.jsonl").write_text(mark + json.dumps([ROW] * 3, indent=1), encoding="utf-8")
    assert len(read(DataSettings(path=str(tmp_path)), "train").examples) == 2
    assert len(read(DataSettings(path=str(tmp_path)), "dev").examples) == 1
    assert len(read(DataSettings(layout="jsonl", path=str(tmp_path)), "train").examples) == 3


@pytest.mark.parametrize(
    ("own", "example_id"),
    [
        ({"id": 7}, "train:7"),
        ({"id": "x-1", "question_id": 3}, "train:x-1"),
        ({"id": None, "question_id": 0}, "train:0"),
        ({"id": "", "question_id": 3}, "train:3"),
    ],
)
def test_the_first_id_that_says_something_is_taken(tmp_path: Path, own: dict[str, Any], example_id: str) -> None:
    write(tmp_path, "train_spider.json", [ROW | own])
    (example,) = read(DataSettings(path=str(tmp_path)), "train").examples
    assert example.example_id == example_id


@pytest.mark.parametrize("own", [{}, {"id": None}, {"id": "", "question_id": ""}])
def test_an_id_that_says_nothing_is_none(tmp_path: Path, own: dict[str, Any]) -> None:
    write(tmp_path, "train_spider.json", [ROW | own])
    (example,) = read(DataSettings(path=str(tmp_path)), "train").examples
    assert places([example.example_id]) == ["train:0"]
    assert example.example_id != "train:0"


@pytest.mark.parametrize(
    ("written", "read_as"),
    [
        ("SELECT 1", "SELECT 1"),
        (" SELECT 1 ;; ", "SELECT 1"),
        ("SELECT 1;\n;\t", "SELECT 1"),
        ("SELECT 1;\r\n;", "SELECT 1"),
        ("SELECT 1\f;\v\r;", "SELECT 1"),
        ("SELECT '\r\n;'", "SELECT '\r\n;'"),
        ("SELECT ';'", "SELECT ';'"),
        ("SELECT 1; SELECT 2;", "SELECT 1; SELECT 2"),
        (";", ""),
    ],
)
def test_gold_is_read_without_what_ends_it(tmp_path: Path, written: str, read_as: str) -> None:
    write(tmp_path, "train_spider.json", [ROW | {"query": written}])
    (example,) = read(DataSettings(path=str(tmp_path)), "train").examples
    assert example.gold_sql == read_as


@pytest.mark.parametrize("value", [None, "", "  ", 3, ["SELECT 1"], {"sql": "SELECT 1"}, True])
@pytest.mark.parametrize("key", ["db_id", "question", "query"])
def test_what_is_no_text_sets_its_row_aside_and_says_which_key(tmp_path: Path, key: str, value: Any) -> None:
    write(tmp_path, "train_spider.json", [ROW, ROW | {key: value}])
    whole, broken = read(DataSettings(path=str(tmp_path)), "train").examples
    assert whole.fault == ""
    assert broken.fault == f"no text under {key}"


def test_a_larger_sample_holds_the_smaller_one_and_each_database_has_its_share(tmp_path: Path) -> None:
    rows = [ROW | {"db_id": name, "question": f"{name} {number}"} for name in "abc" for number in range(2 if name == "a" else 6)]
    write(tmp_path, "train_spider.json", rows)
    samples = [read(DataSettings(path=str(tmp_path), sample=n, sample_seed=1), "train").examples for n in range(1, 20)]
    for number, (smaller, larger) in enumerate(pairwise(samples), 1):
        assert len(smaller) == min(number, len(rows))
        assert {e.example_id for e in smaller} <= {e.example_id for e in larger}
        shares = Counter(e.db_id for e in larger)
        assert max(shares.values()) - min(shares[name] for name in "bc") <= 1
    order = [e.question for e in samples[-1]]
    assert order == [row["question"] for row in rows], "in the order of the file"
    other = read(DataSettings(path=str(tmp_path), sample=5, sample_seed=2), "train").examples
    assert [e.example_id for e in other] != [e.example_id for e in samples[4]]
