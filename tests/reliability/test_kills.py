"""A few of the kills that `python -m tests.reliability.kills` makes by the hundred, and whether their faults would be seen."""

import shutil
from pathlib import Path

import pytest

from tests.reliability.kills import TASKS, run_kills, table
from tests.reliability.traces import finished, leftovers, made_twice, outcome, untouched

# A comparison starts programs of its own: tests/kidpipe/commands/test_compare_grid.py kills one.
KILLED = [task for task in TASKS if task.name != "compare"]
STORE = Path(__file__).parents[1] / "fixtures" / "store_v2"


@pytest.mark.slow(seconds=15)
def test_the_same_command_again_leaves_what_an_uninterrupted_one_does(tmp_path: Path) -> None:
    rounds = list(run_kills(tmp_path, kills=len(KILLED), seed=2, tasks=KILLED))
    assert {found.task for found in rounds} == {task.name for task in KILLED}
    assert [found for found in rounds if found.faults] == []
    assert f"| all | {len(rounds)} | {len(rounds)} |" in table(rounds)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return Path(shutil.copytree(STORE, tmp_path / "project"))


def test_a_flipped_byte_and_a_changed_loss_are_told(project: Path) -> None:
    before = outcome(project)
    shard = next((project / "artifacts" / "score").glob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-9] + b"x" + shard.read_bytes()[-8:])
    log = next((project / "artifacts" / "runs").glob("kid-*/log.jsonl"))
    log.write_text(log.read_text().replace('"loss": 5', '"loss": 6', 1))
    result = log.with_name("result.json")
    result.write_text(result.read_text().replace('"seconds": 0', '"seconds": 9'))
    changed = [name for name, content in outcome(project).items() if content != before[name]]
    assert changed == sorted(path.relative_to(project).as_posix() for path in (shard, log))


def test_what_is_written_again_or_twice_or_left_is_told(project: Path) -> None:
    before = finished(project)
    assert untouched(before, project, keep=before) == made_twice(project) == leftovers(project) == []
    shards = sorted((project / "artifacts" / "mask").glob("*.parquet"))
    again = shards[0].read_bytes()
    shards[0].unlink()
    shards[0].with_name(".tmp-1").write_bytes(again)
    shards[0].write_bytes(again)
    shards[1].unlink()
    names = [path.relative_to(project).as_posix() for path in shards[:2]]
    assert sorted(untouched(before, project, keep=before)) == names
    assert untouched(before, project, keep=[]) == []
    log = project / "artifacts" / "log" / "shards.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join([*lines, lines[3]]))
    assert len(made_twice(project)) == 1
    assert leftovers(project) == ["artifacts/mask/.tmp-1"]
