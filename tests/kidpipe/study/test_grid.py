"""Axes and arms of a comparison: lists as people type them, files with mistakes, and names that tell runs apart."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kidcore.config.config import Config
from kidcore.config.config_load import load_config
from kidcore.errors import KidpipeError
from kidpipe.study.grid import make_arm_cells, make_cells, parse_list, read_arms, read_grid
from kidpipe.study.intervals import mean_interval, t_quantile


def resolve(changes: Mapping[str, Any]) -> Config:
    return load_config(None, {"train.student": "s", **changes}, {}, use_file=False).config


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0,1,2", [0, 1, 2]),
        (" kid , sft", ["kid", "sft"]),
        ("0.1,1e-3", [0.1, 0.001]),
        ("true,'1'", [True, "1"]),
        ("f-distill", ["f-distill"]),
        ("Qwen/Qwen2.5", ["Qwen/Qwen2.5"]),
        ("2024-01-01x", ["2024-01-01x"]),
        ("é", ["é"]),
    ],
)
def test_numbers_are_numbers_and_words_stay_words(text: str, values: list[Any]) -> None:
    assert parse_list("--seeds", text) == values


@pytest.mark.parametrize("text", ["", ",", "1,,2", "1,", " "])
def test_an_empty_place_is_a_mistake(text: str) -> None:
    with pytest.raises(KidpipeError, match="an empty place in the list") as caught:
        parse_list("--seeds", text)
    assert (caught.value.where, caught.value.fix) == ("--seeds", "--seeds a,b,c")


def test_a_grid_is_read_in_both_spellings(tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    path.write_text("mask.ratio = [0.1, 0.2]\n[train]\nmax_steps = [3]\n", encoding="utf-8")
    assert read_grid(path) == {"mask.ratio": [0.1, 0.2], "train.max_steps": [3]}


@pytest.mark.parametrize(
    ("text", "said", "fix"),
    [
        ("mask.ratoi = [0.1]", "not an axis: mask.ratoi", "kidpipe config lists the fields"),
        ("mask.ratio = 0.1", "not an axis: mask.ratio = 0.1", "[value, value]"),
        ("mask.ratio = []", "not an axis: mask.ratio = []", "[value, value]"),
        ("ratio = [0.1]", "not an axis: ratio", "section.field"),
        ("mask.ratio = [0.1", "not valid TOML", "mend that line"),
        ("\ud800", "not valid TOML", "mend that line"),
    ],
)
def test_what_is_no_grid_is_told(tmp_path: Path, text: str, said: str, fix: str) -> None:
    path = tmp_path / "grid.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(KidpipeError) as caught:
        read_grid(path)
    assert caught.value.what.startswith(said)
    assert caught.value.where == str(path)
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no arm is in the file"),
        ("sft = 1", "not an arm: sft = 1"),
        ("[a]\nmask.ratio = 0.1", "the arm names no method"),
        ("[a]\ntrain.method = 'kid'\ntrain.seed = 3", "not a list of seeds: 3"),
        ("[a]\ntrain.method = 'kid'\ntrain.seed = []", "not a list of seeds: []"),
        ("[a]\ntrain.method = 'kid'\ntrain.steps = 3", "no such setting: train.steps"),
    ],
)
def test_what_is_no_arm_is_told(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "arms.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(KidpipeError) as caught:
        read_arms(path)
    assert caught.value.what == said
    assert str(path) in caught.value.where
    assert caught.value.fix
    with pytest.raises(KidpipeError, match="no such file") as caught:
        read_arms(tmp_path / "none.toml")
    assert caught.value.where == "--arms"


def test_runs_that_one_build_serves_share_it_and_groups_differ_in_more_than_the_seed() -> None:
    axes = {"train.method": ["sft", "kid", "rkd"], "mask.ratio": [0.1, 0.2], "train.seed": [0, 1]}
    trials = make_cells(resolve, axes)
    described = [trial.describe() for trial in trials]
    assert described == [
        *("sft, seed 0", "sft, seed 1"),
        *("kid, mask.ratio 0.1, seed 0", "kid, mask.ratio 0.1, seed 1"),
        *("kid, mask.ratio 0.2, seed 0", "kid, mask.ratio 0.2, seed 1"),
        *("rkd, seed 0", "rkd, seed 1"),
    ]
    assert len({trial.group for trial in trials}) == 4
    by_name = dict(zip(described, trials, strict=True))
    kid = [by_name[f"kid, mask.ratio {ratio}, seed {seed}"].build for ratio in (0.1, 0.2) for seed in (0, 1)]
    assert kid[0] == kid[1] != kid[2] == kid[3], "another seed trains on the same shards"
    assert (by_name["sft, seed 0"].until, by_name["rkd, seed 0"].until, by_name["kid, mask.ratio 0.1, seed 0"].until) == (
        "ingest",
        "gold_score",
        "score",
    )


def test_seeds_that_draw_masks_need_a_build_each_and_sft_does_not() -> None:
    trials = make_cells(resolve, {"train.method": ["sft", "kid"], "train.seed": [0, 1]}, seed_masks=True)
    builds = {trial.describe(): trial.build for trial in trials}
    assert builds["sft, seed 0"] == builds["sft, seed 1"]
    assert builds["kid, seed 0"] != builds["kid, seed 1"]
    assert [trial.config.mask.seed for trial in trials if trial.config.train.method == "kid"] == [0, 1]


def test_what_other_settings_make_a_method_look_at_is_an_axis_too() -> None:
    trials = make_cells(
        resolve,
        {"train.method": ["kid"], "train.seed": [0], "train.rollout_share": [0.0, 0.5], "rollout.temperature": [0.5, 1.5]},
    )
    asked = [(trial.config.train.rollout_share, trial.axes["rollout.temperature"]) for trial in trials]
    assert asked == [(0.0, None), (0.5, 0.5), (0.5, 1.5)]
    assert [trial.config.rollout.temperature for trial in trials[1:]] == [0.5, 1.5]
    chosen = make_cells(
        resolve,
        {
            "train.method": ["kid"],
            "train.seed": [0],
            "train.view_choice": ["all", "only_plausible"],
            "outcome.max_steps": [1000, 2000],
        },
    )
    assert [trial.config.outcome.max_steps for trial in chosen[1:]] == [1000, 2000]
    seeded = make_cells(resolve, {"train.method": ["kid"], "train.seed": [0, 1], "train.rollout_share": [0.5]}, seed_masks=True)
    assert [trial.config.rollout.seed for trial in seeded] == [0, 1]


@pytest.mark.parametrize(
    ("common", "name", "values"),
    [
        ({"train.method": "kid", "train.view_choice": "only_plausible"}, "outcome.max_steps", [1000, 2000]),
        ({"train.method": "opd"}, "train.student", ["one", "other"]),
        ({"train.method": "kid", "predict.fill": "verify", "predict.predictor": "student"}, "train.student", ["one", "other"]),
    ],
)
def test_runs_that_read_other_shards_have_builds_of_their_own(common: dict[str, Any], name: str, values: list[Any]) -> None:
    trials = make_arm_cells(resolve, {str(value): {**common, name: value} for value in values}, [0])
    assert len({trial.build for trial in trials}) == 2


def test_arms_go_seed_by_seed_and_the_same_recipe_twice_is_refused() -> None:
    arms = {"plain": {"train.method": "sft"}, "ours": {"train.method": "kid", "train.seed": [1, 5]}}
    trials = make_arm_cells(resolve, arms, [0, 1])
    assert [trial.describe() for trial in trials] == ["plain, seed 0", "plain, seed 1", "ours, seed 1", "ours, seed 5"]
    assert trials[0].group == (("arm", "plain"),)
    # What a method does not look at sets no arm apart.
    with pytest.raises(KidpipeError, match="again is plain over again"):
        make_arm_cells(resolve, {"plain": {"train.method": "sft"}, "again": {"train.method": "sft", "mask.ratio": 0.3}}, [0])


@pytest.mark.parametrize(
    ("degrees", "t"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (10, 2.22814), (30, 2.04227), (200, 1.97190)]
)
def test_t_quantiles_are_those_of_the_tables(degrees: int, t: float) -> None:
    assert t_quantile(degrees) == pytest.approx(t, rel=1e-5)


def test_an_interval_is_symmetric_and_needs_two_numbers() -> None:
    assert mean_interval([]) is None
    one = mean_interval([0.5])
    assert one is not None
    assert (one.mean, one.low, one.high, one.n) == (0.5, None, None, 1)
    found = mean_interval([1.0, 2.0, 3.0])
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert found.mean - found.low == pytest.approx(found.high - found.mean)
    assert found.high - found.mean == pytest.approx(4.30265 / 3**0.5, rel=1e-5)
    flat = mean_interval([2.0] * 5)
    assert flat is not None
    assert (flat.low, flat.high) == (2.0, 2.0)


def test_a_seed_that_is_named_twice_is_one_run() -> None:
    arms = {"sft": {"train.method": "sft"}, "kid": {"train.method": "kid", "train.seed": [3, 3]}}
    assert [cell.describe() for cell in make_arm_cells(resolve, arms, [0, 0])] == ["sft, seed 0", "kid, seed 3"]
