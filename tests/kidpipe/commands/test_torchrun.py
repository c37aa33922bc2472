"""`kidpipe train` in several processes: one voice, one exit code, and the folder that one process would leave.

torchrun's agent starts forks here; tests/test_readme.py has it start programs.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.conftest import configure
from tests.forks import command, start_ranks
from tests.kidpipe.commands.running import Cli
from tests.pipeline.running import run_build

SMALL = {
    "engine.device": "cpu",
    "train.max_steps": 4,
    "train.save_every": 2,
    "train.pack_tokens": 256,
    "train.batch_size": 8,
    "score.top_k": 8,
}


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def words(settings: dict[str, object], *arguments: str) -> list[str]:
    """What follows `kidpipe` on the command line."""
    return ["train", *arguments, *(text for name, value in settings.items() for text in ("--set", f"{name}={value}"))]


def torchrun(settings: dict[str, object], *arguments: str, second: dict[str, str] | None = None) -> Done:
    """Two processes on the CPU under torchrun's agent; the environment of the second one has `second`, too."""
    with start_ranks(2, command, *words(settings, *arguments), environments={1: second or {}}) as run:
        return Done(run.wait(), run.out, run.err)


@pytest.fixture(scope="module")
def store(world: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with everything that kid trains on."""
    places = {"data.path": str(world), "teacher.model": str(tiny_model), "engine.backend": "transformers"}
    folder = tmp_path_factory.mktemp("built") / "artifacts"
    run_build(configure(SMALL | places | {"ingest.shard_rows": 20, "store.path": str(folder)}))
    return folder


@pytest.fixture
def built(cli: Cli, store: Path, tmp_path: Path) -> dict[str, object]:
    """Settings of a copy of it."""
    shutil.copytree(store, tmp_path / "artifacts")
    cli.settings.update(SMALL)
    return cli.settings


@pytest.mark.engine
def test_two_processes_speak_with_one_voice(built: dict[str, object], cli: Cli) -> None:
    done = torchrun(built, "--json", "--name", "together")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["steps"] == 4
    assert not summary["was_finished"]
    again = cli("train", "--json", "--name", "together")
    assert json.loads(again.out)["was_finished"]
    assert (Path(summary["run"]) / "last" / "model.safetensors").exists()


@pytest.mark.engine
def test_sft_ingests_once_for_all_processes(cli: Cli) -> None:
    cli.settings.update(SMALL)
    done = torchrun(cli.settings, "--method", "sft")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("sft ") == 1
    assert done.stdout.count("4 steps") == 1


@pytest.mark.engine
@pytest.mark.parametrize("mistake", [("--student", "no/such/folder"), ("--set", "train.divergence=backward_kl")])
def test_a_mistake_that_all_processes_see_is_said_once(built: dict[str, object], mistake: tuple[str, str]) -> None:
    """Before the processes have found each other, and after."""
    done = torchrun({name: value for name, value in built.items() if name != "train.student"}, *mistake)
    assert done.returncode == 1
    assert done.stderr.count("error: ") == 1, done.stderr
    assert "no/such/folder" in done.stderr or "backward_kl" in done.stderr


@pytest.mark.engine
@pytest.mark.parametrize("moment", ["start", "training"])
def test_a_mistake_of_one_process_ends_all(built: dict[str, object], tmp_path: Path, moment: str) -> None:
    """The second process has a setting that does not exist, or a store with a broken shard."""
    second = {"KIDPIPE_TRAIN__DIVERGENCE": "backward_kl"}
    if moment == "training":
        broken = tmp_path / "broken"
        shutil.copytree(str(built.pop("store.path")), broken)
        for shard in (broken / "score").rglob("*.parquet"):
            shard.write_bytes(b"PAR1 and nothing else")
        second = {"KIDPIPE_STORE__PATH": str(broken)}
    done = torchrun(built, second=second)
    assert done.returncode == 1
    assert done.stderr.count("error: ") == 1, done.stderr
    assert ("a shard cannot be read" if moment == "training" else "backward_kl") in done.stderr


@pytest.mark.engine
@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_an_online_method_divides_what_it_prepares(cli: Cli, tiny_model: Path, tmp_path: Path, parallel: str) -> None:
    """Each process generates and scores its share of the examples, and the step is that of one process."""
    # The teacher with other weights: a student that equals it has nothing to learn from it.
    student = shutil.copytree(tiny_model, tmp_path / "student")
    model = AutoModelForCausalLM.from_pretrained(student)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    model.save_pretrained(student)
    cli.settings.update({"train.student": str(student), "train.method": "gkd", "train.rollout_tokens": 8})
    alone = json.loads(cli("train", "--json", "--name", "alone").out)
    together = torchrun(cli.settings | {"train.parallel": parallel}, "--json", "--name", "together")
    assert together.returncode == 0, together.stderr
    mine, theirs = (
        [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
        for folder in (json.loads(together.stdout)["run"], alone["run"])
    )
    for left, right in zip(mine, theirs, strict=True):
        for name in ("kind", "step", "examples", "teacher_tokens", "generated_tokens", "trunk_tokens"):
            assert left.get(name) == right.get(name), name
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-4)
        assert left["loss"] > 1e-3
