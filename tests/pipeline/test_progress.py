"""A build with several engines tells the rate of each stage and of each engine."""

import time
from dataclasses import dataclass

import pytest

from pipeline.progress import ManyStagesProgress


@dataclass
class Figures:
    kind: str = "engine"
    is_there: bool = True
    rows: int = 0
    shards: int = 0
    computed_s: float = 0.0
    idle_s: float = 0.0


def test_stages_and_engines_have_rates(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    engines = [Figures(), Figures(is_there=False), Figures(kind="sql", rows=9, shards=9, computed_s=1.0)]
    with ManyStagesProgress(True) as bar:
        bar.add("ingest", 0, 60, 0, 3)
        bar.add("gold_score", 40, 60, 2, 3)
        bar.start("gold_score")
        now[0] += 10
        bar.advance("gold_score", 20, is_last=False)
        bar.show({"gold_score": (5, 15)})
        engines[0] = Figures(rows=20, shards=1, computed_s=8.0, idle_s=2.0)
        now[0] += 21
        bar.tick(engines)
        now[0] += 9
        bar.advance("gold_score", 20, is_last=True)
        engines[1] = Figures(rows=20, shards=1, computed_s=4.0)
        bar.finish(engines)
        assert bar.seconds == {"ingest": 0.0, "gold_score": 40.0}
    said = [line.rstrip() for line in capsys.readouterr().err.splitlines()]
    assert said == [
        "ingest      reused, 3 shards",
        "engines     1 of 2 are there, the others are waited for",
        "engines     rows/s: 2.5",
        "gold_score  60 of 60, 1.0 rows/s, 0 s left",
        "gold_score  2 of 3 shards, 40 rows in 40.0 s (1 rows/s)",
        "engine 0    1 shards, 20 rows (2 rows/s), waited 20% of the time",
        "engine 1    1 shards, 20 rows (5 rows/s), waited 0% of the time",
    ]
