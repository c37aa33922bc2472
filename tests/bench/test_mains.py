"""The benchmarks run from the command line to the JSON, on a few questions; no figure of time is looked at."""

import json
import math
from pathlib import Path

import pytest

from bench import loader, loss_head, method_cost, trunk_tokens
from bench.mix import read_rows
from bench.students import TINY, VOCAB_SIZE, Load, Trainee
from bench.teachers import open_teacher
from kidcore.config.train_settings import TrainSettings


def test_trunk_tokens(world: Path, tmp_path: Path) -> None:
    trunk_tokens.main(["--tiny", "--data", str(world), "--json", str(tmp_path / "x.json")])
    figures = json.loads((tmp_path / "x.json").read_text())
    assert 0 < figures["ratios"]["tree_over_flat"] < 0.5
    for case in figures["cases"]:
        assert case["tree"] < case["flat"] <= case["padded"]


def test_loss_head(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loss_head.main(["--tiny", "--json", str(tmp_path / "x.json")])
    figures = json.loads((tmp_path / "x.json").read_text())
    assert {"ours_over_dense_seconds", "ours_over_dense_peak", "ours_over_supervised_sft_seconds"} <= set(figures["ratios"])
    assert "liger jsd: not run: needs CUDA" in capsys.readouterr().out


@pytest.mark.engine
def test_loader(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "shapes", lambda *_: TINY[:1])
    loader.main(["--tiny", "--data", str(world), "--json", str(tmp_path / "x.json")])
    figures = json.loads((tmp_path / "x.json").read_text())
    assert 0 < figures["ratios"]["loader_share"] < 1
    assert all(set(by_workers) == {"0", "1", "2"} for by_workers in figures["cases"].values())


def test_every_way_of_method_cost_takes_its_turn(world: Path) -> None:
    rows, _ = read_rows(world, VOCAB_SIZE)
    load = Load(batch_size=4, pack_tokens=1024, steps=1, device="cpu")
    steps = method_cost.make_mixes(rows, load)
    with open_teacher(TINY[0], "cpu") as teacher:
        turns = method_cost.make_turns(TINY[0], load, steps, teacher)
        costs = {way: [turn(False)] for way, turn in turns.items()}
    for ours, theirs in method_cost.RATIOS.values():
        assert {*ours, *theirs} <= set(costs)
    assert all(cost.examples == 4 and cost.wall_s > 0 for (cost,) in costs.values())
    tokens = {way: cost.tokens for way, (cost,) in costs.items()}
    assert tokens["sft"] == tokens["seqkd"] == tokens["rkd"] < tokens["kid"] < tokens["kid, padded"]
    assert tokens["kid"] < tokens["kid, 4 views"]
    # gkd puts the student's answer in the place of gold; kid-online adds it.
    assert tokens["gkd"] < tokens["kid-online"]


def test_a_profile_accounts_for_every_kind_of_work(world: Path) -> None:
    rows, _ = read_rows(world, VOCAB_SIZE)
    load = Load(batch_size=4, pack_tokens=1024, steps=1, device="cpu")
    trainee = Trainee(TINY[0], load, TrainSettings(method="kid", packing="tree"))
    seconds = method_cost.time_by_kind(trainee, method_cost.make_mixes(rows, load)["1 view"][0], VOCAB_SIZE)
    assert all(math.isfinite(value) and value > 0 for value in seconds.values()), seconds
