"""Checkpoints appear whole or not at all, come back as they were saved, and say what to do where they can't."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from kidcore.errors import KidpipeError
from train.checkpoint import Checkpoints, RunProgress, clean_checkpoints, commit_folder, recover_folder
from train.student.ranks import ALONE

CPU = torch.device("cpu")


class Half(nn.Module):
    """A trained layer and a frozen one."""

    def __init__(self, seed: int = 0, width: int = 3) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.trained, self.frozen = nn.Linear(4, width), nn.Linear(4, 4)
        self.frozen.requires_grad_(False)


def optimizer_of(model: nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)


def stepped(model: Half, optimizer: torch.optim.AdamW, times: int = 2) -> None:
    for number in range(times):
        model.trained(torch.full((1, 4), 1.0 + number)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def progress(step: int, **changes: float) -> RunProgress:
    return RunProgress(step=step, best_step=step, best_nll=1.5, log_bytes=10, seconds=2.0, **changes)  # type: ignore[arg-type]


def test_what_was_saved_comes_back_and_goes_on_the_same(tmp_path: Path) -> None:
    model, store = Half(), Checkpoints(tmp_path, 8192)
    optimizer = optimizer_of(model)
    stepped(model, optimizer)
    saved = progress(2, start_nll=3.25, pack_tokens=4096, pack_tokens_asked=8192, held_out=7)
    store.save(saved, model, optimizer, ALONE)
    other = Half(seed=1)
    again = optimizer_of(other)
    frozen = other.frozen.weight.clone()
    assert store.load(other, again, CPU) == saved
    assert (store.newest_step(), store.pack_tokens(), store.held_out()) == (2, 4096, 7)
    asked = [Checkpoints(tmp_path, size).pack_tokens() for size in ("auto", 8192, 4096)]
    assert asked == [4096, 4096, 0], "settings that ask for as much as before have as much room as then"
    for each in ((model, optimizer), (other, again)):
        stepped(*each)
    assert torch.equal(other.trained.weight, model.trained.weight), "moments and their count of steps came along"
    assert torch.equal(other.frozen.weight, frozen), "frozen weights are in the student's folder already"


def test_the_newest_two_are_kept_and_the_newest_is_read(tmp_path: Path) -> None:
    model, store = Half(), Checkpoints(tmp_path)
    optimizer = optimizer_of(model)
    for step in (9, 10, 100):
        stepped(model, optimizer, 1)
        store.save(progress(step), model, optimizer, ALONE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000100"]
    for copy in ("step-00000100.old", "step-00000100-2", "step-x"):  # somebody's own, and not to be read
        (tmp_path / copy).mkdir()
    found = store.load(model, optimizer, CPU)
    assert found is not None
    assert (found.step, store.newest_step()) == (100, 100)
    assert math.isnan(found.start_nll)
    store.clear()
    assert (store.newest_step(), store.pack_tokens(), store.held_out(), store.load(model, optimizer, CPU)) == (0, 0, 0, None)
    store.clear()


def test_a_checkpoint_of_an_older_kidpipe_has_no_pack_and_no_start(tmp_path: Path) -> None:
    model, store = Half(), Checkpoints(tmp_path)
    store.save(progress(3, pack_tokens=512), model, optimizer_of(model), ALONE)
    path = tmp_path / "step-00000003" / "progress.json"
    later = ("start_nll", "pack_tokens", "pack_tokens_asked", "held_out")
    before = {name: value for name, value in json.loads(path.read_text()).items() if name not in later}
    path.write_text(json.dumps(before))
    found = store.load(model, optimizer_of(model), CPU)
    assert found is not None
    assert (found.pack_tokens, store.pack_tokens(), found.held_out, store.held_out()) == (0, 0, -1, -1)


@pytest.mark.parametrize("file", ["model.pt", "optimizer.pt", "progress.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "zeros"])
def test_a_damaged_checkpoint_is_named_with_the_command_that_goes_on(tmp_path: Path, file: str, damage: str) -> None:
    model, store = Half(), Checkpoints(tmp_path)
    store.save(progress(7), model, optimizer_of(model), ALONE)
    path = tmp_path / "step-00000007" / file
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else bytes(len(content)))
    with pytest.raises(KidpipeError, match="a checkpoint cannot be read") as caught:
        store.load(model, optimizer_of(model), CPU)
    assert caught.value.where == str(path.parent)
    assert caught.value.fix.startswith(f"rm -r {path.parent}, then run the same command again")


def test_another_student_is_refused(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    model = Half()
    model.frozen.requires_grad_(True)
    store.save(progress(1), model, optimizer_of(model), ALONE)
    with pytest.raises(KidpipeError, match="other weights than this student trains"):
        store.load(Half(), optimizer_of(Half()), CPU)


def test_a_folder_is_put_in_place_whole_and_the_one_before_stays_where_that_fails(tmp_path: Path) -> None:
    target = tmp_path / "runs" / "best"

    def fill(text: str) -> None:
        commit_folder(target, lambda folder: (folder / "weights").write_text(text) and None)

    fill("one")
    fill("two")
    assert [(path.name, path.read_text()) for path in target.iterdir()] == [("weights", "two")]

    def fail_in_torch(_: Path) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")

    with pytest.raises(KidpipeError, match="the run could not be saved: the disk takes no more"):
        commit_folder(target, fail_in_torch)

    def fail(folder: Path) -> None:
        (folder / "weights").write_text("half")
        raise OSError(28, "No space left on device\nmore")

    with pytest.raises(KidpipeError, match="the run could not be saved") as caught:
        commit_folder(target, fail)
    assert caught.value.what.endswith("No space left on device"), "the first line of what the system said"
    assert "continues from the newest checkpoint" in caught.value.fix
    assert (target / "weights").read_text() == "two"
    assert [path.name for path in target.parent.iterdir()] == ["best"]


@pytest.mark.parametrize(
    ("there", "content"),
    [
        ({}, None),
        ({"best": "old"}, "old"),
        ({".best.new": "half"}, None),
        ({"best": "old", ".best.new": "whole"}, "old"),
        # Killed between the two renames: what was moved aside comes back.
        ({".best.old": "old", ".best.new": "whole"}, "old"),
        ({"best": "new", ".best.old": "old"}, "new"),
    ],
)
def test_whatever_a_kill_left_one_whole_folder_or_none_is_there(
    tmp_path: Path, there: dict[str, str], content: str | None
) -> None:
    for name, text in there.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text(text)
    recover_folder(tmp_path / "best")
    assert [path.name for path in tmp_path.iterdir()] == (["best"] if content else [])
    assert content is None or (tmp_path / "best" / "weights").read_text() == content


def test_half_written_checkpoints_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".step-00000004.new", ".step-00000001.old", "step-00000002"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    clean_checkpoints(tmp_path / "checkpoints")
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    clean_checkpoints(tmp_path / "fresh")
    assert (tmp_path / "fresh").is_dir()
