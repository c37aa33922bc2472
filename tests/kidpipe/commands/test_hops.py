"""Short ways: from a command to the work, counted on the stack of a real build."""

import sys
from pathlib import Path
from types import FrameType

from kidcore.models.backends.transformers import TransformersBackend
from kidcore.store.store import Store
from tests.kidpipe.commands.running import Cli

ROOT = Path(__file__).parents[3]
OURS = tuple(str(ROOT / name) for name in ("kidcore", "kidpipe", "pipeline", "train", "eval"))


def our_calls(frame: FrameType | None) -> list[str]:
    """Functions of ours on the stack, outermost first; comprehensions are part of theirs."""
    found: list[str] = []
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(OURS) and not code.co_name.startswith("<"):
            found.append(f"{Path(code.co_filename).stem}.{code.co_name}")
        frame = frame.f_back
    return found[::-1]


def test_the_way_from_the_command_to_the_commit_and_to_the_engine(cli: Cli) -> None:
    ways: dict[str, list[str]] = {}
    watched = {Store.commit.__code__: "commit", TransformersBackend.score.__code__: "engine"}

    def watch(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code in watched:
            ways[watched[frame.f_code]] = our_calls(frame)

    sys.setprofile(watch)
    try:
        assert cli("build-imperfect").code == 0
    finally:
        sys.setprofile(None)
    for target, most in (("commit", 6), ("engine", 9)):
        way = ways[target]
        command = way.index("cli.build_imperfect")
        assert len(way) - 1 - command <= most, way
