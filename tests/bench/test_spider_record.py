"""The study's JSON of a run says what its verdicts say, and two of them are paired as the verdicts themselves are."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from bench.studies.spider.record import main
from eval.comparison import compare_runs
from eval.report import summarize, write_evaluation
from eval.verdicts import Verdict, VerdictKind
from kidcore.method.knowledge import GoldKnowledge
from tests.eval.made_verdicts import verdict

_GOLDS = [f"SELECT {number // 2}" for number in range(21)]


def _verdicts(right: set[int]) -> list[Verdict]:
    return [
        verdict(f"dev:{n}", VerdictKind.CORRECT if n in right else VerdictKind.WRONG, gold_sql=gold)
        for n, gold in enumerate(_GOLDS)
    ]


def _recorded(folder: Path, verdicts: list[Verdict], capsys: pytest.CaptureFixture[str]) -> str:
    folder.mkdir()
    known = asdict(GoldKnowledge(answers=3, tokens=10, nll_sum=5.0))
    result = {"start_knowledge": known, "final_knowledge": known, "steps": 2, "seconds": 1.5, "final_nll": 0.5}
    (folder / "result.json").write_text(json.dumps(result))
    steps = [{"kind": "step", "step": n, "trunk_tokens": 10 * n} for n in (1, 2)]
    (folder / "log.jsonl").write_text("\n".join(json.dumps(step) for step in steps) + "\n")
    write_evaluation(verdicts, summarize(verdicts), folder / "verdicts.parquet", folder / "summary.json")
    capsys.readouterr()
    main([str(folder), str(folder), "--arm", "kid"])
    (folder / "record.json").write_text(capsys.readouterr().out)
    return str(folder / "record.json")


def test_pairs_of_records_are_pairs_of_verdicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = _verdicts(set(range(0, 12))), _verdicts(set(range(3, 20)))
    first = _recorded(tmp_path / "one", one, capsys)
    # Judged in another order.
    second = _recorded(tmp_path / "other", other[::-1], capsys)
    found = json.loads(Path(second).read_text())
    assert found["training"]["trunk_tokens"] == 30
    assert found["scores"]["kinds"] == {"correct": 17, "wrong": 4}
    assert found["scores"]["ex_bag"]["value"] == pytest.approx(17 / 21)
    assert "ts_bag" not in found["scores"]
    (tmp_path / "dev.json").write_text(json.dumps([{"query": gold} for gold in _GOLDS]))
    main([first, second, "--pair", str(tmp_path / "dev.json")])
    (difference,) = (item for item in compare_runs(one, other).differences if item.metric == "ex_bag")
    gain = f"ex_bag {100 * difference.gain.value:+.1f} ("
    assert capsys.readouterr().out.startswith(gain)
    main([f"{first},{first}", f"{second},{first}", "--pair", str(tmp_path / "dev.json")])
    assert ", 8 questions won, 3 lost" in capsys.readouterr().out
