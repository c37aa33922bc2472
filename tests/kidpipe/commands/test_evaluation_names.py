"""What an evaluation is called that was given no name, and what is said where it takes the place of another."""

import json
import shlex
import shutil
from pathlib import Path

from tests.kidpipe.commands.running import Cli


def test_a_run_s_last_student_is_judged_beside_its_best(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    run = tmp_path / "artifacts" / "runs" / "kid-1"
    for name in ("best", "last"):
        shutil.copytree(tiny_model, run / name)
    small = {"eval__max_new_tokens": 2, "sandbox__workers": 1}
    best, last = (cli("eval", str(run / name), "--limit", "1", "--json", **small) for name in ("best", "last"))
    assert [Path(json.loads(done.out)["folder"]).name for done in (best, last)] == ["kid-1-first-1", "kid-1-last-first-1"]
    for done, model in ((best, "kid-1"), (last, str(run / "last"))):
        assert model in shlex.split(json.loads(done.out)["next"])
    assert "takes the place" not in best.err + last.err
    named = cli("eval", str(run / "last"), "--limit", "1", "--name", "kid-1-first-1", **small)
    assert named.code == 0, named.err
    said = f"this takes the place of the evaluation of {run / 'best'}; --name keeps both"
    assert said.replace(" ", "") in "".join(named.err.split())
    voted = cli("eval", str(run / "last"), "--limit", "1", "--samples", "2", **small)
    assert voted.code == 0, voted.err
    said = f"this takes the place of the evaluation of {run / 'last'} with samples 1; --name keeps both"
    assert said.replace(" ", "") in "".join(voted.err.split())
