"""bench.gpu on a CPU: every part runs, a part that fails or takes too long is recorded, and the next ones run."""

import time
from pathlib import Path
from typing import Any

import pytest

from bench.gpu import Part, Report, work
from bench.gpu_bench import Bench
from bench.gpu_parts import PARTS


@pytest.mark.slow(seconds=10)
def test_every_part_runs(tmp_path: Path) -> None:
    report = Report.at(tmp_path)
    work(report, PARTS, lambda: Bench.on("cpu"), time.time() + 3600)
    parts = Report.at(tmp_path).parts
    assert {name: part["status"] for name, part in parts.items()} == {part.name: "done" for part in PARTS}
    assert parts["step"]["gradients that differ between two runs"] == []
    assert parts["padded"]["kid, padded rows: rows"] > parts["step"]["one tree a database: rows"][0]
    assert parts["compiled"]["plain: distance of gradients from float32"] < 0.1
    assert all(value < 1e-2 for name, value in parts["attention"].items() if "distance" in name)
    assert parts["packs"]["512: packs"] > parts["packs"]["1024: packs"]
    assert parts["scoring"]["largest difference of a log-probability"] < 0.1


def test_failures_are_recorded_and_the_rest_is_measured(tmp_path: Path) -> None:
    opened: list[int] = []

    def fails(_bench: Any, record: Any) -> None:
        record("before", 1.0)
        raise ValueError("broken")

    def hangs(_bench: Any, _record: Any) -> None:
        while True:
            time.sleep(60)

    def counts(_bench: Any, record: Any) -> None:
        record("opened", len(opened))

    def loses_the_device(_bench: Any, _record: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    parts = [Part("fails", 1, fails), Part("counts", 1, counts), Part("hangs", 0.00045, hangs), Part("lost", 1, loses_the_device)]
    report = Report.at(tmp_path)
    with pytest.raises(SystemExit):
        work(report, [*parts, Part("later", 1, counts)], lambda: opened.append(1) or "bench", time.time() + 3600)  # type: ignore[func-returns-value]
    found = Report.at(tmp_path).parts
    assert (found["fails"]["status"], found["fails"]["before"]) == ("failed", 1.0)
    assert "broken" in found["fails"]["error"]
    assert (found["counts"]["status"], found["counts"]["opened"]) == ("done", 2)
    assert found["hangs"]["status"] == "out of time"
    assert "later" not in found
    # The next process goes on behind the part that ended the first one.
    again = Report.at(tmp_path)
    again.parts["late"] = {"status": "running"}
    again.settle("its process ended with 3")
    assert Report.at(tmp_path).parts["late"]["error"] == "its process ended with 3"
    work(again, [*parts, Part("later", 1, counts)], lambda: "bench", time.time() + 3600)
    assert Report.at(tmp_path).parts["later"]["status"] == "done"


def test_no_part_begins_without_time(tmp_path: Path) -> None:
    report = Report.at(tmp_path)
    work(report, [Part("late", 1, lambda *_: None)], lambda: "bench", time.time())
    assert report.parts["late"]["status"] == "no time left"
