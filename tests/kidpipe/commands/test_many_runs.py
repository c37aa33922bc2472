"""`kidpipe status` with many runs and evaluations, and with a broken head."""

import json
from pathlib import Path
from typing import Any

import pytest

from kidcore.errors import KidpipeError
from kidcore.store.manifest import read_head
from kidcore.store.store import Store
from kidpipe.commands.store import _runs


def test_each_summary_is_read_once_however_many_runs_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        (tmp_path / "runs" / f"run-{number}").mkdir(parents=True)
        (tmp_path / "eval" / f"of-{number}").mkdir(parents=True)
        summary = {"model": f"runs/run-{number}/best", "metrics": {"ex_bag": {"all": {"value": number / 10}}}}
        (tmp_path / "eval" / f"of-{number}" / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    read: list[str] = []
    known = Store.known_object

    def noted(store: Store, name: str) -> dict[str, Any]:
        read.append(name)
        return known(store, name)

    monkeypatch.setattr(Store, "known_object", noted)
    assert [run["scores"] for run in _runs(Store(tmp_path))] == [{f"of-{number}": number / 10} for number in range(5)]
    assert sum(name.startswith("eval") for name in read) == 5


def test_a_run_has_no_score_of_another_stores_run_of_its_name(tmp_path: Path) -> None:
    runs = {}
    for store, identity in {"own": "1", "copied": "1", "other": "2"}.items():
        runs[store] = tmp_path / store / "runs" / "kid"
        (runs[store] / "best").mkdir(parents=True)
        (runs[store] / "run.json").write_text(identity, encoding="utf-8")
    judged = [*(runs[store] / "best" for store in runs), Path("/gone/runs/kid/best"), Path("/gone/runs/kid2/best")]
    for number, model in enumerate(judged):
        (tmp_path / "own" / "eval" / f"of-{number}").mkdir(parents=True)
        summary = {"model": str(model), "metrics": {"ex_bag": {"all": {"value": number}}}}
        (tmp_path / "own" / "eval" / f"of-{number}" / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    [run] = _runs(Store(tmp_path / "own"))
    assert run["scores"] == {"of-0": 0, "of-1": 1, "of-3": 3}


@pytest.mark.parametrize("text", ['{"schema_version": 1}', '{"schema_version": 1, "digest": "d", "shards": null}'])
def test_a_head_that_lacks_something_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "head.json").write_text(text, encoding="utf-8")
    with pytest.raises(KidpipeError, match="not a manifest"):
        read_head(Store(tmp_path))
