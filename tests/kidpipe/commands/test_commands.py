"""Every command once, as a new user would run it."""

import json
import shutil
from pathlib import Path

import pytest

from kidcore.config.config_load import load_config
from tests.kidpipe.commands.running import Cli


def test_build_train_eval_and_a_look_around(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    """The whole life of a project; the teacher's folder is moved away before training."""
    teacher = tmp_path / "teacher"
    shutil.copytree(tiny_model, teacher)
    cli.settings["teacher.model"] = str(teacher)
    assert cli("plan", "--check").code == 1
    built = cli("build-imperfect")
    assert built.code == 0
    assert "examples    60 in = 60 out + 0 set aside" in built.out
    assert "rewrite rate" in built.out
    assert "on gold     NLL" in built.out
    assert "warning     the teacher knows gold badly" in built.out, "it is a random model"
    assert json.loads(cli("plan", "--json", "--check").out)["stale"] is False
    why = cli("plan", "--why", mask__ratio=0.5)
    assert "mask.ratio 0.2 -> 0.5" in why.out
    assert "follows mask" in why.out

    teacher.rename(tmp_path / "away")
    trained = cli("train", "--method", "kid", "--name", "first", train__max_steps=4, train__batch_size=8, train__holdout=0.1)
    assert trained.code == 0, trained.err
    assert "4 steps" in trained.out
    assert "the student on gold" in trained.err
    assert "the teacher on gold, 60 questions" in trained.err
    again = cli("train", "--method", "kid", "--name", "first", train__max_steps=4, train__batch_size=8, train__holdout=0.1)
    assert "nothing to do" in again.out

    judged = cli("eval", "first", "--json", eval__limit=6, eval__max_new_tokens=8, sandbox__workers=1)
    assert judged.code == 0, judged.err
    summary = json.loads(judged.out)
    assert summary["examples"] == 6
    assert {"ex_bag", "ex_set"} <= summary["metrics"].keys()
    assert (Path(summary["folder"]) / "verdicts.parquet").is_file()
    assert "ex_bag" in cli("eval", eval__limit=6, eval__max_new_tokens=8, sandbox__workers=1).out

    status = json.loads(cli("status", "--json").out)
    assert [(row["stage"], row["shards"]) for row in status["stages"]][:2] == [("ingest", 3), ("gold_score", 3)]
    assert [(run["name"], run["state"]) for run in status["runs"]] == [("first", "finished")]
    assert status["runs"][0]["start_on_gold"]["answers"] == status["runs"][0]["final_on_gold"]["answers"] > 0
    assert status["teacher_on_gold"]["answers"] == 60
    assert any(line.startswith("on gold     NLL") for line in cli("status").out.splitlines())
    assert status["made"]["score"][0]["engine"]["name"] == "transformers"
    assert "gold_score 3" in next(line for line in cli("status").out.splitlines() if line.startswith("made by     transformers"))
    seen = cli("inspect", "train:0", "--view", "1").out
    assert "train:0" in seen
    assert "score       made by transformers" in seen
    shown = json.loads(cli("inspect", "train:0", "--json").out)
    assert len(shown["holes"][0]["best"]) == 3
    assert {made["engine"]["device"] for made in shown["made"].values()} == {"cpu"}
    rows = json.loads(cli("query", "select strategy, avg(rewritten) as rate from rewrite group by strategy", "--json").out)
    assert rows[0]["strategy"] == "random"
    assert 0 <= rows[0]["rate"] <= 1
    assert json.loads(cli("verify", "--deep", "--json").out) == {"checked": 36, "broken": []}


def test_verify_sets_broken_shards_aside_and_the_build_repairs_them(cli: Cli, tmp_path: Path) -> None:
    cli("build-imperfect", mask__views=1)
    victim = next((tmp_path / "artifacts" / "score").glob("*.parquet"))
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(bytes(data))
    assert cli("verify").code == 0, "the footer is whole"
    found = cli("verify", "--deep")
    assert found.code == 1
    assert victim.name in found.out
    assert "build-imperfect" in found.err
    assert "shards      1 made" in cli("build-imperfect", mask__views=1).out
    assert cli("verify", "--deep").code == 0


def test_gc_tells_first_and_keeps_what_is_in_use(cli: Cli, tmp_path: Path) -> None:
    cli("build-imperfect", "--until", "mask")
    cli("build-imperfect", "--until", "mask", mask__ratio=0.6)
    cli("train", "--method", "sft", "--name", "run", train__max_steps=1, train__batch_size=4)
    report = cli("gc")
    assert "mask.ratio 0.2" in report.out
    assert "kidpipe gc --delete" in report.out
    assert len(list((tmp_path / "artifacts" / "mask").glob("*"))) == 12
    groups = json.loads(cli("gc", "--delete", "--json").out)["groups"]
    assert sum(group["files"] for group in groups if group["what"].startswith("mask")) == 6
    assert json.loads(cli("gc", "--json").out)["groups"] == []
    assert cli("plan", "--check", "--until", "mask", mask__ratio=0.6).code == 0
    assert cli("plan", "--check", "--until", "mask").code == 1


def test_a_pinned_manifest_survives_gc(cli: Cli) -> None:
    cli("build-imperfect", "--until", "mask")
    assert "pinned" in cli("pin").out
    cli("build-imperfect", "--until", "mask", mask__ratio=0.6)
    assert json.loads(cli("gc", "--json").out)["groups"] == []


def test_status_of_fifty_thousand_shards_reads_none_of_them(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "artifacts" / "score"
    folder.mkdir(parents=True)
    for number in range(50_000):
        (folder / f"{number:032x}.512.{number:032x}.parquet").touch()
    rows = {row["stage"]: row for row in json.loads(cli("status", "--json").out)["stages"]}
    assert (rows["score"]["shards"], rows["score"]["rows"]) == (50_000, 50_000 * 512)


def test_init_writes_a_file_that_the_other_commands_read(cli: Cli, tmp_path: Path) -> None:
    cli.settings.clear()
    assert cli("init", "--teacher", "some/teacher", "--data", "spider").code == 0
    assert load_config(tmp_path / "kidpipe.toml", {}, {}).config.teacher.model == "some/teacher"
    again = cli("init")
    assert (again.code, "--force" in again.err) == (1, True)
    shown = json.loads(cli("config", "--json").out)
    assert shown["teacher.model"] == {"value": "some/teacher", "kind": "input", "from": "kidpipe.toml"}
    assert shown["mask.ratio"]["kind"] == "identity"
    assert "teacher.model" in cli("config").out


@pytest.mark.engine(seconds=60)
@pytest.mark.vllm
def test_the_demo_runs_to_its_table(cli: Cli, tmp_path: Path) -> None:
    cli.settings.clear()
    done = cli("demo", str(tmp_path / "demo"), "--quick")
    assert done.code == 0, done.err
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    for model in ("teacher", "sft", "kid"):
        assert {"ex_bag", "ex_set"} <= summary["models"][model].keys()
    assert 0 < summary["rewrite_rate"] <= 1
    assert {"teacher", "build", "build.predict", "kid", "eval"} <= summary["seconds"].keys()
    assert "student, KID" in done.out
    beside = str(tmp_path / "demo" / "kidpipe.toml")
    nothing = cli("plan", "--check", "-c", beside)
    assert nothing.code == 0, nothing.out + nothing.err
    assert "mask.ratio 0.2 -> 0.3" in cli("plan", "--why", "--set", "mask.ratio=0.3", "-c", beside).out
    again = cli("demo", str(tmp_path / "demo"), "--quick", "--json")
    assert json.loads(again.out)["models"] == summary["models"]
    assert "Train the teacher" in again.err
