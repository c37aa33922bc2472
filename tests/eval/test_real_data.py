"""The evaluator on real benchmark data, where it can be found: gold against gold, and the official tools' verdicts."""

from typing import Literal

import pytest

from bench.verdict_parity import main
from eval.databases import Databases
from eval.execution import GoldCache
from eval.names import read_tables_json
from eval.verdicts import judge
from kidcore.config.config import DataSettings, EvalSettings
from kidcore.sql.datasets import read
from tests.eval.worlds import real_data

# BIRD's golds use CASE, CAST, functions and subqueries that Spider's grammar hasn't: exact set match is Spider's metric.
BEYOND_SPIDERS_GRAMMAR = {"bird_sample": 40}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "layout", "split", "count"),
    [
        ("spider", "spider", "train", 5765),
        ("spider", "spider", "dev", 882),
        ("spider_syn", "spider-syn", "train", 5765),
        ("spider_syn", "spider-syn", "dev", 882),
        ("bird_sample", "bird", "dev", 174),
    ],
)
def test_gold_against_gold_is_perfect(folder: str, layout: str, split: Literal["train", "dev"], count: int) -> None:
    """Every gold of every data set, on its database and its test suite where there is one; a failing gold is named."""
    data = real_data()
    if not (data / folder).is_dir():
        pytest.skip(f"no {folder} in {data}")
    databases = "../spider/database" if folder == "spider_syn" else ""
    settings = DataSettings.model_validate({"layout": layout, "path": str(data / folder), "databases": databases})
    dataset = read(settings, split)
    schemas = data / ("bird_sample/dev_tables.json" if folder == "bird_sample" else "spider/tables.json")
    found = Databases(dataset.database, data / "spider" / "test_suite_database", read_tables_json(schemas))
    golds = {example.example_id: example.gold_sql for example in dataset.examples}
    verdicts = judge(dataset.examples, golds, found, GoldCache(EvalSettings(soft_f1=True)))
    assert len(verdicts) == count
    assert [(verdict.example_id, verdict.message) for verdict in verdicts if verdict.kind == "gold_error"] == []
    for name in ("ex_bag", "ex_set", "soft_f1"):
        assert [verdict.example_id for verdict in verdicts if getattr(verdict, name) != 1.0] == []
    has_suite = folder.startswith("spider") and split == "dev"
    assert [verdict.example_id for verdict in verdicts if verdict.ts_bag is not (True if has_suite else None)] == []
    assert [verdict.example_id for verdict in verdicts if verdict.exact_set_match is False] == []
    assert sum(verdict.exact_set_match is None for verdict in verdicts) == BEYOND_SPIDERS_GRAMMAR.get(folder, 0)


def test_gold_against_itself_is_about_as_fast_as_itself() -> None:
    """R-VES by definition: rewards of 1 or, where noise takes the ratio just below 1, the 0.75 of the step below."""
    data = real_data()
    dataset = read(DataSettings.model_validate({"layout": "bird", "path": str(data / "bird_sample")}), "dev")
    examples = dataset.examples[::6]
    golds = {example.example_id: example.gold_sql for example in examples}
    cache = GoldCache(EvalSettings(r_ves=True, ves_repeats=5, check_ties=False))
    rewards = [verdict.ves_reward for verdict in judge(examples, golds, Databases(dataset.database), cache)]
    # Five times each on a machine that may be busy: most, not all.
    assert sum(reward in (1.0, 0.75) for reward in rewards) > 0.5 * len(examples)


@pytest.mark.slow
def test_no_official_verdict_is_left_unexplained() -> None:
    assert main(real_data()) == 0
