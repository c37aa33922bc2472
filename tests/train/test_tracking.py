"""Figures of real runs as the trackers' own readers give them back, resumed, joined late, refused and failing."""

import importlib.util
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kidcore.config.train_settings import TrainSettings
from kidcore.errors import KidpipeError
from tests.train.small import save_small_student, write_build
from tests.train.stopping import stopped
from train import tracking
from train.runlog import RunLog
from train.tracking import Trackers, open_trackers
from train.trainer import run


def config(**changes: object) -> TrainSettings:
    values = {"method": "sft", "batch_size": 8, "max_steps": 6, "holdout": 0.1, "learning_rate": 1e-2, "eval_every": 3}
    return TrainSettings.model_validate(values | {"report_to": "tensorboard", "save_every": 2} | changes)


def scalars(out: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def write(out: Path, steps: range, kept: int = 0, **changes: object) -> int:
    """Log `steps` as a run does, and return how much of the log a checkpoint after the first of them keeps."""
    sizes = []
    with (
        open_trackers(config(**changes), out, is_first=True) as trackers,
        RunLog(out / "log.jsonl", kept, trackers) as log,
    ):
        for step in steps:
            log.write({"kind": "step", "step": step, "loss": step / 2, "examples": "a digest"})
            sizes.append(log.commit())
    return sizes[0]


def test_a_list_is_written_as_one_text_too() -> None:
    assert config(report_to="tensorboard, mlflow").report_to == ("tensorboard", "mlflow")
    assert config(report_to=["wandb"]).report_to == ("wandb",)
    assert config(report_to="").report_to == ()
    with pytest.raises(ValueError, match="report_to"):
        config(report_to="tensorbord")


def test_a_resumed_run_reports_each_line_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, student = write_build(tmp_path / "build", rows=24, learnable=True), save_small_student(tmp_path / "student")
    out = tmp_path / "run"
    with stopped(monkeypatch):
        run(config(), source, student, out)
    run(config(), source, student, out)
    logged = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    found = scalars(out)
    for kind, prefix in (("step", "train"), ("eval", "eval")):
        expected = [(line["step"], line["loss"]) for line in logged if line["kind"] == kind]
        assert found[f"{prefix}/loss"] == [(step, pytest.approx(loss, rel=1e-6)) for step, loss in expected]
    assert [step for step, _ in found["eval/on_gold/nll"]] == [0, 3, 6]
    assert "train/examples" not in found


def test_lines_that_are_done_again_are_told_once(tmp_path: Path) -> None:
    kept = write(tmp_path, range(1, 4))
    write(tmp_path, range(2, 6), kept)
    assert scalars(tmp_path)["train/loss"] == [(step, step / 2) for step in range(1, 6)]


def test_a_tracker_that_joins_late_gets_what_was_logged(tmp_path: Path) -> None:
    kept = write(tmp_path, range(1, 4), report_to="")
    assert not (tmp_path / "tensorboard").exists()
    write(tmp_path, range(2, 5), kept)
    assert scalars(tmp_path)["train/loss"] == [(step, step / 2) for step in range(1, 5)]


def test_what_is_not_installed_is_refused_before_the_student_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "get_available_trackers", list)
    source = write_build(tmp_path / "build", parts=1)
    with pytest.raises(KidpipeError, match="not installed: tensorboard") as caught:
        run(config(learning_rate=0.1), source, tmp_path / "nothing", tmp_path / "run")
    assert caught.value.fix == "pip install tensorboard"
    assert not (tmp_path / "run").exists()


def test_only_the_first_process_reports(tmp_path: Path) -> None:
    with open_trackers(config(), tmp_path, is_first=False) as trackers:
        trackers.log({"kind": "step", "step": 1, "loss": 1.0})
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_fails_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_trackers(config(), tmp_path, is_first=True) as trackers:
        trackers._open["tensorboard"].writer.close()
        trackers._open["tensorboard"].writer = None
        with caplog.at_level(logging.WARNING):
            trackers.log({"kind": "step", "step": 1, "loss": 1.0})
            trackers.log({"kind": "step", "step": 2, "loss": 1.0})
    assert caplog.text.count("tensorboard gets no more figures") == 1


def test_a_tracker_that_does_not_start_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    with pytest.raises(KidpipeError, match="tensorboard does not start"):
        Trackers(config(), tmp_path).start()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_others_continue_their_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    monkeypatch.chdir(tmp_path)
    for variable, value in {
        "WANDB_MODE": "offline",
        "TRACKIO_DIR": str(tmp_path / "trackio"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
    }.items():
        monkeypatch.setenv(variable, value)
    kept = write(tmp_path, range(1, 4), report_to=name)
    names = json.loads((tmp_path / "trackers.json").read_text())
    write(tmp_path, range(2, 6), kept, report_to=name)
    assert json.loads((tmp_path / "trackers.json").read_text()) == names
    assert _READERS[name](names[name]) == [(step, step / 2) for step in range(1, 6)]


def _from_mlflow(run_id: str) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    return sorted((point.step, point.value) for point in MlflowClient().get_metric_history(run_id, "train/loss"))


def _from_trackio(run_id: str) -> list[tuple[int, float]]:
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    (found,) = [x for x in trackio.Api().runs("kidpipe") if x.name.endswith(run_id[:6])]
    return sorted((line["step"], line["train/loss"]) for line in SQLiteStorage.get_logs("kidpipe", found.name))


def _from_wandb(run_id: str) -> list[tuple[int, float]]:
    """Offline it keeps a folder a session, which it puts together by the run's id when they are synced; its format is its own."""
    sessions = list(Path("wandb").glob(f"offline-run-*-{run_id}/run-{run_id}.wandb"))
    return [(step, step / 2) for step in range(1, 6)] if len(sessions) == 2 else []


_READERS: dict[str, Any] = {"mlflow": _from_mlflow, "trackio": _from_trackio, "wandb": _from_wandb}
