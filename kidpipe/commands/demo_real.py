"""`kidpipe demo --teacher T --student S`: the demo's story on two pre-trained models, from their folders. Nothing is fetched.

Data made on the spot, what the teacher thinks of gold, imperfect queries, SFT and KID from the student as it comes, and
what each of them answers to held-out questions.
"""

import sys
import time
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from eval.comparison import compare_runs
from eval.evaluate import VERDICTS_FILE
from eval.report import read_verdicts
from kidcore.atomic import write_text
from kidcore.config.config_load import FILE, template
from kidcore.config.digests import FileDigests
from kidcore.errors import KidpipeError
from kidcore.models.sources import resolve
from kidcore.models.tokenizers import load_tokenizer, require_same
from kidcore.models.weights import weight_files
from kidcore.store.store import Store
from kidpipe.commands.build import build_imperfect
from kidpipe.commands.evaluate import evaluate
from kidpipe.commands.train import train
from kidpipe.demo.look import look_lines
from kidpipe.demo.recipe import QUICK_REAL, RealRecipe
from kidpipe.demo.scores import kept_figures, print_end, print_scores
from kidpipe.demo.steps import DemoSteps
from kidpipe.demo.world import make_world
from train.memory import fitted, free_bytes
from train.schedule import settled
from train.student.ranks import Ranks

SUMMARY = "summary.json"
_BF16_FLAGS = {"amx_bf16", "avx512_bf16"}
_NAMES = {"teacher": "teacher", "start": "student, as it comes", "sft": "student, SFT", "kid": "student, KID"}
_PAIRS = (("start", "sft"), ("start", "kid"), ("sft", "kid"))


@dataclass
class RealDemo(DemoSteps):
    """One run of it in its folder."""

    folder: Path
    teacher: Path
    student: Path
    recipe: RealRecipe
    backend: str
    verbose: bool
    seconds: dict[str, float] = field(default_factory=dict)

    def settings(self, folder: Path) -> dict[str, Any]:
        """Its settings; `folder` is where it lies, as they name it."""
        recipe = self.recipe
        return {
            "data.path": str(folder / "data"),
            "store.path": str(folder),
            "teacher.model": str(self.teacher),
            "train.student": str(self.student),
            "engine.backend": self.backend,
            "mask.views": recipe.views,
            "train.epochs": recipe.epochs,
            "train.batch_size": recipe.batch_size,
            "train.pack_tokens": recipe.pack_tokens,
            "train.holdout": recipe.holdout,
            "train.dtype": training_dtype(),
            "eval.max_new_tokens": recipe.max_new_tokens,
        }


def demo_real(
    folder: Path, teacher: str, student: str, *, quick: bool, backend: str, verbose: bool, as_json: bool
) -> dict[str, Any]:
    """Run all of it and write summary.json; what an earlier run finished is reused.

    Raises:
        KidpipeError: before anything is made, where a folder holds no model, the two do not read text alike, or memory is short.
    """
    folders = _model_folder(teacher, "--teacher"), _model_folder(student, "--student")
    run = RealDemo(folder, *folders, QUICK_REAL if quick else RealRecipe(), backend, verbose)
    check_pair(run)
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        summary = _run_steps(run)
    if as_json:
        run.session().print_json(summary)
    else:
        _print(run, summary)
    return summary


def _model_folder(name: str, option: str) -> Path:
    path = Path(name).expanduser().resolve()
    if not (path / "config.json").is_file():
        raise KidpipeError(
            f"{name} is no folder of a model: it has no config.json" if path.is_dir() else f"there is no folder {name}",
            where=f"{option} {name}",
            fix="the demo fetches nothing: name a folder that holds config.json, the weights and the tokenizer",
        )
    return path


def check_pair(run: RealDemo) -> None:
    """Refuse models that cannot teach and learn here, in seconds."""
    digests = FileDigests(run.folder / "digests.json")
    for path in (run.teacher, run.student):
        resolve(str(path), digests=digests)  # refuses weights that are cut or missing
    require_same(load_tokenizer(run.teacher), load_tokenizer(run.student))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size, free = sum(file.stat().st_size for file in weight_files(run.teacher)), free_bytes(device)
    if size > free:
        raise KidpipeError(
            f"the teacher's weights are {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free",
            where=str(run.teacher),
            fix="free memory, or take a smaller teacher",
        )
    # It refuses, or says that it takes smaller packs, as the trainer would in half an hour.
    fitted(settled(run.session().config.train, run.student), run.student, Ranks(device=device))


def training_dtype() -> str:
    """`bfloat16` where the processor multiplies it; a GPU is asked by the trainer itself."""
    if torch.cuda.is_available():
        return "auto"
    return "bfloat16" if bfloat16_units() else "float32"


def bfloat16_units() -> set[str]:
    """The processor's units that multiply bfloat16, as Linux names them; empty where it names none."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return set()
    return flags & _BF16_FLAGS


def _run_steps(run: RealDemo) -> dict[str, Any]:
    recipe = run.recipe
    run.step(
        "world",
        f"1. Make 14 databases, {recipe.num_train} questions with gold SQL and {recipe.num_dev} held-out ones",
        lambda: make_world(run.folder / "data", num_train=recipe.num_train, num_dev=recipe.num_dev, seed=recipe.seed),
    )
    built = run.step(
        "build", "2. Ask the teacher what it knows; mask gold SQL, let it fill the holes, score both", lambda: _build(run)
    )
    for number, (method, title) in enumerate((("sft", "supervised fine-tuning"), ("kid", "KID")), start=3):
        run.step(method, f"{number}. From the student as it comes, {title}", partial(_train, run, method))
    models = {"teacher": str(run.teacher), "start": str(run.student), "sft": "sft", "kid": "kid"}
    scores = run.step(
        "eval",
        "5. Execute what they answer to the held-out questions",
        lambda: {name: _evaluate(run, name, model) for name, model in models.items()},
    )
    write_text(run.folder / FILE, template(run.settings(Path())))
    summary = {
        "models": scores,
        "gains": {f"{second} - {first}": _gain(run, first, second) for first, second in _PAIRS},
        "rewrite_rate": round(built["rewrite_rate"], 4),
        "seconds": run.seconds | {f"build.{stage}": seconds for stage, seconds in built["seconds"].items()},
        "teacher": run.teacher.name,
        "student": run.student.name,
        "recipe": asdict(recipe),
    }
    Store(run.folder).write_json(SUMMARY, summary)
    return summary


def _train(run: RealDemo, method: str) -> dict[str, Any]:
    return train(run.session(train__method=method), name=method, as_json=False)


def _build(run: RealDemo) -> dict[str, Any]:
    session = run.session()
    built = build_imperfect(session, until="score", as_json=False)
    for line in look_lines(session, "imperfect queries:"):
        session.console.print(line, soft_wrap=True)
    return built


def _evaluate(run: RealDemo, name: str, model: str) -> dict[str, Any]:
    began = time.perf_counter()
    session = run.session()
    summary = evaluate(session, model, name=name, as_json=False, quiet=True)
    session.console.print(
        f"{_NAMES[name]:<21} {summary['metrics']['ex_bag']['all']['value']:.1%} in {time.perf_counter() - began:.0f} s"
    )
    return kept_figures(summary)


def _gain(run: RealDemo, first: str, second: str) -> dict[str, float]:
    """`ex_bag` of the second less that of the first, paired by question."""
    pair = (read_verdicts(run.folder / "eval" / name / VERDICTS_FILE) for name in (first, second))
    gain = next(x.gain for x in compare_runs(*pair).differences if x.metric == "ex_bag")
    return {name: round(value, 4) for name, value in (("value", gain.value), ("low", gain.low), ("high", gain.high))}


def _print(run: RealDemo, summary: dict[str, Any]) -> None:
    console = run.session().console
    print_scores(console, _NAMES, summary["models"])
    for (first, second), gain in zip(_PAIRS, summary["gains"].values(), strict=True):
        points = f"{100 * gain['value']:+.1f} points ({100 * gain['low']:+.1f} to {100 * gain['high']:+.1f})"
        console.print(f"{_NAMES[second]} against {_NAMES[first]}: {points}, the same questions")
    print_end(console, summary, run.folder / SUMMARY)
    console.print(f"look around: kidpipe inspect train:0 -c {run.folder / FILE}")
