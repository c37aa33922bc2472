"""A run and its evaluation in; the study's JSON of it out, with a bit a question, by which runs of other machines are paired.

python bench/studies/spider/record.py artifacts/runs/RUN artifacts/eval/FOLDER --arm kid --seed 0 > spider-kid-seed0.json
python bench/studies/spider/record.py --pair study_data/dev.json sft0.json,sft1.json kid0.json,kid1.json
"""

import argparse
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.session import environment
from eval.report import read_verdicts
from eval.statistics import estimate_crossed
from kidpipe.commands.demo_real import bfloat16_units
from kidpipe.study.trial import logged_sums


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the JSON of one run, or the paired difference of two arms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "places", nargs=2, help="a run's folder and its evaluation's; with --pair the JSONs of two arms, a seed each"
    )
    parser.add_argument("--pair", type=Path, metavar="DEV", help="the held-out questions' file: the second arm minus the first")
    parser.add_argument("--arm", default="")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commit", default="", help="of the kidpipe that trained")
    parser.add_argument("--beside", default="nothing", help="what else the machine did")
    parser.add_argument("--settings", default="", help="how they differ from study.toml")
    options = parser.parse_args(arguments)
    if options.pair:
        golds = [row["query"] for row in json.loads(options.pair.read_text(encoding="utf-8"))]
        print(_paired(*(place.split(",") for place in options.places), golds=golds))
        return
    run, evaluation = (Path(place) for place in options.places)
    print(json.dumps(_record(run, evaluation, options), indent=1, sort_keys=True))


def _record(run: Path, evaluation: Path, options: argparse.Namespace) -> dict[str, Any]:
    result, summary = (
        json.loads(path.read_text(encoding="utf-8")) for path in (run / "result.json", evaluation / "summary.json")
    )
    # In the questions' order, whatever the order in which they were judged.
    verdicts = sorted(read_verdicts(evaluation / "verdicts.parquet"), key=lambda verdict: int(verdict.example_id.split(":")[-1]))
    scores: dict[str, Any] = {"questions": summary["judged"], "kinds": {name: n for name, n in summary["kinds"].items() if n}}
    for metric in ("ex_bag", "ts_bag"):
        right = [getattr(verdict, metric) for verdict in verdicts]
        if None not in right:
            mean = summary["metrics"][metric]["all"]
            scores[metric] = {name: mean[name] for name in ("value", "low", "high")} | {"bits": _packed(right)}
    return {
        "arm": options.arm,
        "seed": options.seed,
        "settings": options.settings,
        "machine": environment("cpu")
        | {
            "processor": ", ".join([platform.machine(), *sorted(bfloat16_units())[:1]]),
            "beside": options.beside,
            "commit": options.commit,
        },
        "on_gold": [result["start_knowledge"], result["final_knowledge"]],
        "scores": scores,
        "training": logged_sums(run)
        | {"steps": result["steps"], "train_seconds": round(result["seconds"], 2), "final_nll": result["final_nll"]},
    }


def _packed(bits: Sequence[bool]) -> str:
    """A bit a held-out question, in their order, as hexadecimal digits."""
    return np.packbits(bits).tobytes().hex()


def _unpacked(digits: str, count: int) -> NDArray[np.float64]:
    return np.unpackbits(np.frombuffer(bytes.fromhex(digits), np.uint8), count=count).astype(np.float64)


def _paired(first: list[str], second: list[str], *, golds: list[str]) -> str:
    lines = []
    for metric in ("ex_bag", "ts_bag"):
        arms = [[json.loads(Path(place).read_text())["scores"].get(metric) for place in arm] for arm in (first, second)]
        if not all(all(arm) for arm in arms):
            continue
        one, other = (np.stack([_unpacked(scores["bits"], len(golds)) for scores in arm]) for arm in arms)
        gain = estimate_crossed(other - one, golds)
        interval = f"{100 * gain.value:+.1f} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
        lines.append(f"{metric} {interval}, {(other > one).sum()} questions won, {(other < one).sum()} lost")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
