"""A run and its evaluation in; the study's JSON of it out, with a bit a question, by which runs of other machines are paired.

python bench/studies/spider/record.py artifacts/runs/RUN artifacts/eval/FOLDER --arm kid --seed 0 > spider-kid-seed0.json
python bench/studies/spider/record.py --pair study_data/dev.json sft0.json,sft1.json kid0.json,kid1.json
"""

import argparse
import json
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import transformers
from numpy.typing import NDArray

from eval.statistics import estimate, estimate_crossed

_FIGURES = ("trunk_tokens", "naive_tokens", "gold_tokens", "teacher_tokens")


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
    result, steps = json.loads((run / "result.json").read_text()), _steps(run / "log.jsonl")
    verdicts = pl.read_parquet(evaluation / "verdicts.parquet")
    # In the questions' order, whatever the order in which they were judged.
    verdicts = verdicts.sort(verdicts["example_id"].str.split(":").list.last().cast(int))
    scores: dict[str, Any] = {"questions": len(verdicts), "kinds": dict(verdicts["kind"].value_counts().iter_rows())}
    for metric in ("ex_bag", "ts_bag"):
        values = verdicts[metric].cast(float)
        if values.null_count():
            continue
        mean = estimate(values.to_list(), verdicts["gold_sql"].to_list())
        scores[metric] = {"value": mean.value, "low": mean.low, "high": mean.high, "bits": _packed(values.to_numpy() > 0)}
    return {
        "arm": options.arm,
        "seed": options.seed,
        "settings": options.settings,
        "machine": {
            "date": datetime.now(UTC).date().isoformat(),
            "beside": options.beside,
            "commit": options.commit,
            "processor": _processor(),
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "on_gold": [result["start_knowledge"], result["final_knowledge"]],
        "scores": scores,
        "training": {name: sum(step.get(name, 0) for step in steps) for name in _FIGURES}
        | {"steps": result["steps"], "train_seconds": round(result["seconds"], 2), "final_nll": result["final_nll"]},
    }


def _steps(log: Path) -> list[dict[str, Any]]:
    """Of a run that was interrupted the last record of each step counts."""
    records = (json.loads(line) for line in log.read_text(encoding="utf-8").splitlines())
    return list({record["step"]: record for record in records if record["kind"] == "step"}.values())


def _packed(bits: NDArray[np.bool_]) -> str:
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


def _processor() -> str:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    kinds = [kind for kind in ("amx_bf16", "avx512_bf16") if kind in flags]
    return ", ".join([platform.machine(), *kinds[:1]])


if __name__ == "__main__":
    main()
