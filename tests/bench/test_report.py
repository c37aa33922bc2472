"""Ratios of several students under one name, and the tables."""

import json
from pathlib import Path

import pytest

from bench.report import Sides, all_ratios, report, token_ratio
from bench.session import Session
from bench.students import Load
from bench.timing import Cost

WANTED: dict[str, Sides] = {"kid_over_sft": (("kid",), ("sft",)), "gkd_over_sft": (("gkd",), ("sft",))}
MEASURED = {
    "small": {"kid": [Cost(1, 1.0, 1.0, 5.0, 50)], "sft": [Cost(1, 2.0, 4.0, 9.0, 100)]},
    "large": {"kid": [Cost(1, 3.0, 3.0, 5.0, 50)], "sft": [Cost(1, 4.0, 4.0, 9.0, 100)]},
}


def test_the_plain_key_is_the_worst_student() -> None:
    found = {key: spread.median for key, spread in all_ratios(MEASURED, WANTED, "wall").items()}
    assert found == {"kid_over_sft": 0.75, "kid_over_sft_small": 0.5, "kid_over_sft_large": 0.75}


def test_tokens_have_a_ratio_where_both_sides_count_them() -> None:
    costs = MEASURED["small"]
    assert token_ratio(costs, WANTED["kid_over_sft"]) == pytest.approx(0.5)
    assert token_ratio(costs, (("gkd",), ("sft",))) == 0.0
    assert token_ratio(costs | {"teacher": [Cost(1, 1.0, 1.0, 0.0)]}, (("kid", "teacher"), ("sft",))) == 0.0


def test_a_report_names_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = Session(Path(), tmp_path / "x.json", "quick", "cpu", 5, 60.0, 0.0)
    where = dict.fromkeys(("date", "device", "cores", "threads", "load_average", "python", "torch"), "-")
    where |= dict.fromkeys(("transformers", "trl", "liger-kernel"), "-")
    load = Load(batch_size=4, pack_tokens=64, steps=1, device="cpu")
    report(session, where, load, MEASURED, WANTED, ways=["kid", "sft", "gkd"], notes=["a note"], more={"ratios": {"x": 2.0}})
    text = capsys.readouterr().out
    assert "small, out of memory: gkd." in text
    assert "| kid_over_sft | 0.500 | 0.5 (0.5 to 0.5) | 0.25 (0.25 to 0.25) | 0.75 (0.75 to 0.75) |" in text
    assert text.endswith("a note\n")
    figures = json.loads((tmp_path / "x.json").read_text())
    assert figures["ratios"] == {"kid_over_sft": 0.75, "kid_over_sft_small": 0.5, "kid_over_sft_large": 0.75, "x": 2.0}
    assert figures["sizes"]["large"]["sft"]["ms_per_example"] == 4000.0
