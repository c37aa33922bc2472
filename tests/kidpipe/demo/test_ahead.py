"""What the demo does beside its teacher's training is what it asks for afterwards."""

from pathlib import Path

import pytest

from kidpipe.commands.build import build_imperfect
from kidpipe.commands.demo import STUDENTS_ALONE, Demo
from kidpipe.demo.ahead import first_look, train_ahead, wait_for
from kidpipe.demo.recipe import QUICK
from kidpipe.demo.setup import prepare_world


@pytest.mark.slow
def test_runs_done_ahead_are_found_and_imperfect_queries_shown_early(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo = Demo(tmp_path, QUICK, "transformers", verbose=False)
    prepare_world(tmp_path, QUICK)
    untrained = {"teacher__model": "", "train__student": str(tmp_path / "models" / "teacher")}
    few = build_imperfect(demo.session(**untrained), until="ingest", as_json=False)
    build_imperfect(demo.session(**untrained, data__limit=0), until="ingest", as_json=False)
    demo.train("teacher", untrained["train__student"], "sft", QUICK.teacher_steps, QUICK.teacher_rate, data__limit=0)
    capsys.readouterr()
    wait_for(tmp_path / "runs" / "teacher" / "best")
    lines = first_look(demo).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["gold", "imperfect"] * 3
    assert lines[1].split()[1:] != lines[2].split()[1:]
    train_ahead(demo, few["manifest"])
    assert capsys.readouterr().out == ""
    build_imperfect(demo.session(), until="score", as_json=False)
    demo.reused.clear()
    for name in STUDENTS_ALONE:
        demo.train_student(name)
    assert demo.reused == set(STUDENTS_ALONE)
