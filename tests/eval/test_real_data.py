"""The evaluator on real benchmark data, where it can be found: gold against gold, and the official tools' verdicts."""

import pytest

from bench.verdict_parity import main
from eval.databases import Databases
from eval.execution import GoldCache
from eval.names import read_tables_json
from eval.verdicts import judge
from kidpipe.config import DataSettings, EvalSettings
from kidpipe.readers import read
from tests.eval.worlds import real_data


@pytest.mark.parametrize(
    ("folder", "layout", "split", "databases"),
    [
        ("spider", "spider", "train", ""),
        ("spider", "spider", "dev", ""),
        ("spider_syn", "spider-syn", "dev", "../spider/database"),
        ("bird_sample", "bird", "dev", ""),
    ],
)
def test_gold_against_gold_is_perfect(folder: str, layout: str, split: str, databases: str) -> None:
    data = real_data()
    settings = DataSettings.model_validate({"layout": layout, "path": str(data / folder), "databases": databases})
    dataset = read(settings, "train" if split == "train" else "dev")
    examples = dataset.examples[:: 5 if split == "train" else 1]
    links = read_tables_json(data / "spider" / "tables.json")
    found = Databases(dataset.database, data / "spider" / "test_suite_database" if split == "dev" else None, links)
    golds = GoldCache(EvalSettings(soft_f1=True))
    verdicts = judge(examples, {example.example_id: example.gold_sql for example in examples}, found, golds)
    for verdict in verdicts:
        assert verdict.kind == "correct", verdict
        assert verdict.ex_set is True
        assert verdict.ts_bag is not False
        assert verdict.exact_set_match is not False
        assert verdict.soft_f1 == 1.0


def test_no_official_verdict_is_left_unexplained() -> None:
    assert main(real_data()) == 0
