"""`kidpipe compare`: what runs and what need not, interruptions, failing runs, and what people type wrong."""

import json
import math
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from kidcore.config.config import Config
from kidcore.config.train_settings import TrainSettings
from kidcore.method.methods import METHODS
from kidcore.store.store import Store
from kidpipe.study.grid import Trial, make_arm_cells, make_cells, read_arms
from kidpipe.study.intervals import mean_interval, t_quantile
from kidpipe.study.runs import Run
from kidpipe.study.table import groups_of, rows_of, table_of
from tests.conftest import configure
from tests.forks import command as run_command
from tests.forks import start
from tests.kidpipe.commands.running import Cli, assert_said
from tests.kidpipe.commands.trials import launch

SMALL: dict[str, object] = {
    "train.max_steps": 3,
    "train.batch_size": 8,
    "train.holdout": 0.1,
    "mask.views": 1,
    "eval.limit": 4,
    "eval.max_new_tokens": 8,
}


@pytest.fixture
def compare(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command, its runs in forks; the test that kills one has it start programs."""
    cli.settings.update(SMALL)
    monkeypatch.setattr("kidpipe.study.runs._launch", launch)
    return cli


def rows(folder: Path, name: str = "comparison") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(folder / "artifacts" / "compare" / name / "runs.parquet").to_pylist()
    return found


def without_clocks(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if "seconds" not in k and "memory" not in k} for row in found]


@pytest.mark.slow
def test_stages_run_once_and_every_run_is_told(compare: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kidcore.progress.SECONDS_A_LINE", 0.0)
    command = ("compare", "--methods", "sft,kid", "--seeds", "0,1", "--ratios", "0.5", "--jobs", "2")
    done = compare(*command, "--json")
    assert done.code == 0, done.err
    assert "predict     3 of 3 shards" in done.err, "a build shows how far it is"
    assert re.search(r"^sft, seed [01]: step 1 of 3, loss", done.err, re.MULTILINE), "and so do runs"
    found = rows(tmp_path)
    assert [(row["method"], row["mask.ratio"], row["seed"]) for row in found] == [
        ("sft", None, 0),
        ("sft", None, 1),
        ("kid", 0.5, 0),
        ("kid", 0.5, 1),
    ]
    assert {len(list((tmp_path / "artifacts" / stage).glob("*"))) for stage in ("ingest", "mask", "score")} == {3}
    for row in found:
        assert row["error"] is None
        assert row["steps"] == 3
        assert row["questions"] == 4
        assert row["gold_tokens"] > 0
        assert row["train_seconds"] > 0
        assert row["peak_memory_mib"] > 50
        assert (row["build_seconds"] > 0) == (row["method"] == "kid")
    assert found[2]["build_seconds_shared"] == pytest.approx(found[2]["build_seconds"] / 2, abs=0.002)
    assert found[0]["final_nll"] != found[1]["final_nll"]
    sft, kid = json.loads(done.out)["groups"]
    assert (sft["seeds"], sft["ex_bag_minus_first"]) == (2, None)
    assert kid["ex_bag_minus_first"]["n"] == 2
    assert not (tmp_path / "artifacts" / "manifest.json").exists(), "a comparison is not what the next training starts from"

    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    again = compare(*command)
    assert "4 of 4 runs were finished before" in again.err
    assert "predict" not in again.err
    assert "mask.ratio" in again.out
    assert rows(tmp_path) == found
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")} == times

    assert compare("build-imperfect", "--until", "generate", generate__max_new_tokens=4).code == 0
    with Store(tmp_path / "artifacts").lock():
        assert_said(compare(*command), "another")
        assert compare(*command, "--finished").code == 0, "it builds nothing, and can be asked for while another command does"
    assert rows(tmp_path) == found, "answers that nothing here reads are no cost of these runs"

    digest = found[2]["manifest"]
    by_hand = compare("train", "--method", "kid", "--manifest", digest[:10], mask__ratio=0.5)
    assert "nothing to do" in by_hand.out, "the comparison's run is the one that this command names"


def test_a_comparison_has_a_name_that_is_a_folders_and_its_own(compare: Cli, tmp_path: Path) -> None:
    for name, said in (("../up", "is no name for a folder"), ("runs", "the runs of all comparisons lie in runs")):
        done = compare("compare", "--name", name)
        assert (done.code, said in done.err) == (1, True), done.err
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.slow
def test_a_failing_run_is_a_row_and_the_others_go_on(compare: Cli, tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text("train.learning_rate = [1e30, 1e-3]\n")
    command = ("compare", "--methods", "sft", "--seeds", "0", "--grid", "grid.toml")
    first = compare(*command)
    assert first.code == 1
    assert "1 of 2 runs failed: sft, train.learning_rate 1e+30, seed 0: the gradient is not finite" in first.err
    assert "0.001" in first.out
    bad, good = rows(tmp_path)
    assert "not finite" in bad["error"]
    assert good["error"] is None
    assert good["ex_bag"] is not None
    assert compare(*command, "--finished").code == 0
    assert [row["error"] for row in rows(tmp_path)] == [None]
    again = compare(*command)
    assert "1 of 2 runs were finished before" in again.err
    assert "2/2  sft" in again.err


def test_a_student_that_cannot_be_trained_is_refused_before_a_build(compare: Cli, tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "capped")
    config = json.loads((tiny_model / "config.json").read_text())
    (tmp_path / "capped" / "config.json").write_text(json.dumps(config | {"final_logit_softcapping": 30.0}))
    refused = compare("compare", "--methods", "sft", "--seeds", "0", train__student="capped")
    assert_said(refused, "soft-caps its logits", "choose a student")
    assert not list((tmp_path / "artifacts").glob("ingest/*"))


def test_rows_that_differ_in_judging_alone_share_a_student(compare: Cli, tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text("eval.max_new_tokens = [2, 8]\ntrain.packing = ['tree', 'none']\n")
    done = compare("compare", "--methods", "sft", "--seeds", "0", "--grid", "grid.toml", "--jobs", "2")
    assert done.code == 0, done.err
    found = rows(tmp_path)
    assert [row["error"] for row in found] == [None] * 4
    for name, values in (("run", 1), ("train_seconds", 1), ("evaluation", 2)):
        assert len({row[name] for row in found}) == values, name
    one, other = (f"sft, eval.max_new_tokens 8, train.packing {packing}, seed 0" for packing in ("tree", "none"))
    assert f"{one} and {other} are one run" in " ".join(done.err.split())


def test_other_held_out_questions_are_another_evaluation_of_one_student(compare: Cli, world: Path, tmp_path: Path) -> None:
    shutil.copytree(world, tmp_path / "world")
    questions = json.loads((world / "dev.json").read_text())
    (tmp_path / "world" / "few.json").write_text(json.dumps(questions[:3]))
    (tmp_path / "grid.toml").write_text("data.dev = ['dev.json', 'few.json']\n")
    command = ("compare", "--methods", "sft", "--seeds", "0", "--grid", "grid.toml")
    for _ in range(2):
        done = compare(*command, data__path=tmp_path / "world")
        assert done.code == 0, done.err
        assert "are one run" not in done.err
        found = rows(tmp_path)
        assert [row["questions"] for row in found] == [4, 3]
        assert len({row["evaluation"] for row in found}) == 2
        assert len({row["run"] for row in found}) == 1


@pytest.mark.engine
def test_killed_and_run_again_it_gives_the_same_rows(compare: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    command = ["compare", "--methods", "sft", "--seeds", "0,1"]
    for folder in (whole, cut):
        folder.mkdir()
    compare.settings.pop("store.path")
    monkeypatch.chdir(whole)
    assert compare(*command, "--jobs", "2").code == 0
    given = [text for name, value in compare.settings.items() for text in ("--set", f"{name}={value}")]
    with start(run_command, *command, *given, cwd=cut) as process:
        deadline = time.monotonic() + 300
        while not list(cut.glob("artifacts/compare/runs/*/result.json")) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
    monkeypatch.chdir(cut)
    wait_for_orphans(cut)
    done = compare(*command)
    assert done.code == 0, done.err
    assert "runs were finished before" in done.err
    assert without_clocks(rows(cut)) == without_clocks(rows(whole))


def wait_for_orphans(folder: Path) -> None:
    """The killed comparison's run ends by itself; nothing else may be needed than waiting a little."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        running = [path for path in Path("/proc").glob("[0-9]*") if is_run_in(path, folder)]
        if not running:
            return
        time.sleep(0.05)
    raise AssertionError("a run outlived the comparison that started it")


def is_run_in(process: Path, folder: Path) -> bool:
    try:
        return b"kidpipe.study.trial" in (process / "cmdline").read_bytes() and (process / "cwd").readlink() == folder
    except OSError:
        return False


def test_mistakes_are_told_before_anything_runs(compare: Cli, tmp_path: Path) -> None:
    assert_said(compare("compare", "--methods", "sft,kdi"), "train.method", "'kdi'", "'kid'")
    assert_said(compare("compare", "--methods", "sft,,kid"), "empty place", "--methods")
    assert_said(compare("compare", "--seeds", "one"), "train.seed", "integer")
    assert_said(compare("compare", "--ratios", "0.2,20"), "mask.ratio", "less than or equal to 1")
    assert_said(compare("compare", "--strategies", "hardest"), "mask.strategy", "'hard'")
    assert_said(compare("compare", "--checkpoint", "newest"), "best or last")
    assert_said(compare("compare", train__student='""'), "no student is named", "--student")
    assert_said(compare("compare", teacher__model='""'), "no teacher is named", "--teacher")
    assert_said(compare("compare", data__path="./none"), "no such data folder")
    assert_said(compare("compare", "--grid", "none.toml"), "no such file: none.toml")
    assert_said(compare("compare", "--methods", "sft", "--finished"), "none of these 3 runs is finished")
    for text, said in {
        "mask.ration = [0.1]": "not an axis: mask.ration",
        "mask.ratio = 0.1": "write section.field = [value, value]",
        "seeds = [1]": "not an axis: seeds",
        "mask.ratio = [": "not valid TOML",
        "train.method = ['kid']": "train.method is an axis already",
    }.items():
        (tmp_path / "grid.toml").write_text(text)
        assert_said(compare("compare", "--grid", "grid.toml"), said, "grid.toml")
    with Store(tmp_path / "artifacts").lock():
        assert_said(compare("compare"), "another build holds this store")
    assert not (tmp_path / "artifacts" / "runs").exists()


def test_arms_that_are_none_are_told(compare: Cli, tmp_path: Path) -> None:
    for text, said in {
        "": "no arm is in the file",
        "sft = 1": "not an arm: sft",
        "[sft]\ntrain.methot = 'sft'": "no such setting: train.methot",
        "[kid-0.4]\ntrain.method = 'kid'": 'write ["kid-0.4"]',
        "[sft]\ntrain.epochs = 1": "the arm names no method",
        "[sft]\ntrain.method = 'sft'\ntrain.seed = 1": "not a list of seeds",
        "[a]\ntrain.method = 'sft'\n[b]\ntrain.method = 'sft'\nmask.ratio = 0.2": "b is a over again",
    }.items():
        (tmp_path / "arms.toml").write_text(text)
        assert_said(compare("compare", "--arms", "arms.toml"), said)
    assert_said(compare("compare", "--arms", "none.toml"), "no such file: none.toml", "--arms")
    assert_said(compare("compare", "--arms", "arms.toml", "--ratios", "0.1"), "names all of its settings")


def test_a_manifest_that_is_not_there(compare: Cli) -> None:
    compare("build-imperfect", "--until", "ingest")
    assert_said(compare("train", "--method", "sft", "--manifest", "zz"), "no manifests begin with zz", "build-imperfect")


@pytest.fixture
def cells(settings: dict[str, object]) -> Any:
    def resolve(changes: Mapping[str, Any]) -> Config:
        return configure(settings, **{name.replace(".", "__"): value for name, value in changes.items()})

    def make(seed_masks: bool = False, **axes: list[Any]) -> list[dict[str, Any]]:
        names = {name.replace("__", "."): values for name, values in axes.items()}
        return [dict(cell.axes) for cell in make_cells(resolve, {**names, "train.seed": [0, 1]}, seed_masks=seed_masks)]

    return make


def test_what_makes_no_difference_is_not_run_twice(cells: Any) -> None:
    assert len(cells(train__method=["sft"], mask__ratio=[0.1, 0.2], predict__fill=["argmax", "sample"])) == 2
    assert len(cells(train__method=["rkd"], mask__strategy=["random", "hard"])) == 2
    assert len(cells(train__method=["kid"], mask__strategy=["random", "hard"])) == 4
    assert len(cells(train__method=["sft", "rkd"], train__kd_weight=[0.3, 1.0])) == 6
    assert len(cells(train__method=["rkd", "kid"], train__views_per_step=[1, 2])) == 6
    assert len(cells(train__method=["gkd"], mask__ratio=[0.1, 0.2], train__mle_weight=[0.0, 1.0])) == 2
    assert len(cells(train__method=["kid-online"], mask__ratio=[0.1, 0.2])) == 4
    assert len(cells(train__method=["sft"], data__limit=[20, 40])) == 4
    for method in METHODS:
        assert len(cells(train__method=[method])) == 2


def test_a_seed_may_draw_masks_too(settings: dict[str, object]) -> None:
    def resolve(changes: Mapping[str, Any]) -> Config:
        return configure(settings, **{name.replace(".", "__"): value for name, value in changes.items()})

    axes = {"train.method": ["sft", "kid"], "train.seed": [0, 7]}
    seeds = [(c.config.train.seed, c.config.mask.seed, c.config.predict.seed) for c in make_cells(resolve, axes, seed_masks=True)]
    assert seeds == [(0, 0, 0), (7, 0, 0), (0, 0, 0), (7, 7, 7)]
    assert {c.config.mask.seed for c in make_cells(resolve, axes)} == {0}
    assert len({c.build for c in make_cells(resolve, axes)}) == 2


def test_arms_are_recipes_with_their_own_seeds(settings: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "arms.toml").write_text(
        """
        [sft]
        train.method = "sft"
        [paper]
        train = { method = "kid", gold_share = 0.0, seed = [4] }
        predict.fill = "argmax"
        """
    )

    def resolve(changes: Mapping[str, Any]) -> Config:
        return configure(settings, **{name.replace(".", "__"): value for name, value in changes.items()})

    cells = make_arm_cells(resolve, read_arms(tmp_path / "arms.toml"), [0, 1])
    assert [cell.describe() for cell in cells] == ["sft, seed 0", "sft, seed 1", "paper, seed 4"]
    assert (cells[2].config.train.gold_share, cells[2].config.predict.fill, cells[2].until) == (0.0, "argmax", "score")


def test_intervals_are_students() -> None:
    """Quantiles as tables print them, and one interval computed by hand: 1, 2, 3, 6 has mean 3 and spread 2.160."""
    printed = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 9: 2.2622, 10: 2.2281, 30: 2.0423, 120: 1.9799}
    assert {n: round(t_quantile(n), 4) for n in printed} == printed
    interval = mean_interval([1, 2, 3, 6])
    assert interval is not None
    assert (interval.mean, interval.n) == (3, 4)
    assert interval.high == pytest.approx(3 + 3.1824 * 2.1602 / 2, abs=1e-3)
    assert interval.low == pytest.approx(3 - 3.1824 * 2.1602 / 2, abs=1e-3)
    alone = mean_interval([0.5])
    assert alone is not None
    assert alone.low is None
    assert mean_interval([]) is None


def test_a_missing_figure_is_a_blank_and_the_table_is_whole(tmp_path: Path) -> None:
    """A holdout without questions has no NLL, and an evaluation without judged rows no ex_bag."""
    runs = []
    for method, result in (
        ("sft", {"ex_bag": 0.5, "final_nll": math.nan}),
        ("kid", {"final_nll": math.nan, "valid_sql": math.nan}),
    ):
        for seed in (0, 1):
            config = Config(train=TrainSettings(method=method, seed=seed))
            runs.append(
                Run(Trial(config, {"train.method": method, "train.seed": seed}, "ingest"), tmp_path, {}, "", dict(result))
            )
    rows = rows_of(runs, Store(tmp_path))
    groups = groups_of(runs, rows, Store(tmp_path))
    assert [group["figures"]["final_nll"] for group in groups] == [None, None]
    assert [group["figures"]["ex_bag"] and group["figures"]["ex_bag"]["mean"] for group in groups] == [0.5, None]
    assert groups[1]["ex_bag_minus_first"] is None
    assert table_of(groups).row_count == 2


@pytest.mark.slow
def test_axes_of_mixed_kinds_other_limits_and_the_first_arm(compare: Cli, tmp_path: Path) -> None:
    compare.settings.update({"train.max_steps": 1, "eval.limit": 2})
    grid, arms = tmp_path / "grid.toml", tmp_path / "arms.toml"
    grid.write_text('train.learning_rate = ["auto", 1e-4]\n')
    command = ("compare", "--methods", "sft", "--seeds", "0", "--grid", str(grid))
    mixed = compare(*command)
    assert mixed.code == 0, mixed.err
    assert [row["learning_rate"] for row in rows(tmp_path)] == ["auto", "0.0001"]
    grid.write_text("sandbox.timeout_s = [0.00001, 10.0]\n")
    limited = compare(*command, "--name", "limits")
    assert limited.code == 0, limited.err
    assert "1 of 2 runs were finished before" in limited.err, "the one under the limit of before"
    short, usual = rows(tmp_path, "limits")
    assert short["run"] == usual["run"], "trained once"
    assert short["evaluation"] != usual["evaluation"], "judged under each limit"
    arms.write_text('[base]\ntrain = {method = "sft", seed = [1]}\n[other]\ntrain = {method = "sft", learning_rate = 1e-4}\n')
    done = compare("compare", "--arms", str(arms), "--seeds", "0,1", "--name", "arms", "--json")
    assert done.code == 0, done.err
    assert [group["axes"]["arm"] for group in json.loads(done.out)["groups"]] == ["base", "other"]
