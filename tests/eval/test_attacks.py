"""Hostile predictions against a real database: nothing changes, nothing hangs, nobody else is harmed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from eval.databases import Databases
from eval.execution import GoldCache
from eval.verdicts import VerdictKind, judge
from kidcore.config.config import EvalSettings, SandboxSettings
from kidcore.sql.datasets import Example
from kidcore.sql.sandbox.job import Job, Limits, ResultKind
from kidcore.sql.sandbox.pool import SandboxPool
from tests.eval.attacks import ATTACKS, MUST_BE_REFUSED, peaks_mib, within_a_second
from tests.eval.worlds import GOLDS, make_world

TIMEOUT_S = 0.5
MEMORY_MIB = 200
LIMITS = Limits(timeout_s=TIMEOUT_S, memory_mib=MEMORY_MIB)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("attacked"))


@pytest.fixture(scope="module")
def pool() -> Iterator[SandboxPool]:
    """One worker for all attacks: what one leaves behind, the next would see."""
    with SandboxPool(LIMITS, workers=1) as pool:
        yield pool


def attack(name: str, world: Path) -> str:
    return ATTACKS[name].replace("{folder}", str(world.parent)).replace("{database}", str(world))


def listing(world: Path) -> list[str]:
    """Every file that an attack could have made: beside the database, in the working folder, in the worker's."""
    return [str(path) for folder in (world.parent, Path(), Path("/")) for path in sorted(folder.iterdir())]


def test_the_list_is_long_enough() -> None:
    assert len(ATTACKS) >= 60


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_harms_nobody(name: str, world: Path, pool: SandboxPool) -> None:
    content, files = world.read_bytes(), listing(world)
    gold = pool.execute(Job(str(world), GOLDS[0]))
    result = within_a_second(pool, Job(str(world), attack(name, world)))
    assert result.kind is not ResultKind.OK or sorted(result.rows, key=str) != sorted(gold.rows, key=str)
    assert world.read_bytes() == content
    assert listing(world) == files
    after = pool.execute(Job(str(world), GOLDS[0]))
    assert after.is_ok
    assert after.rows == gold.rows
    assert len(gold.rows) > 1


@pytest.mark.slow
def test_every_attack_is_judged_and_none_is_correct(world: Path) -> None:
    content = world.read_bytes()
    examples = [Example(name, "world", "", GOLDS[0]) for name in ATTACKS]
    sandbox = SandboxSettings(timeout_s=TIMEOUT_S, memory_mib=MEMORY_MIB, workers=2)
    predictions = {name: attack(name, world) for name in ATTACKS}
    verdicts = judge(examples, predictions, Databases(lambda _db_id: world), GoldCache(EvalSettings(), sandbox))
    assert [verdict.example_id for verdict in verdicts] == list(ATTACKS)
    kinds = {verdict.example_id: verdict.kind for verdict in verdicts}
    assert VerdictKind.CORRECT not in kinds.values()
    assert VerdictKind.GOLD_ERROR not in kinds.values()
    assert {name: kinds[name] for name in MUST_BE_REFUSED} == dict.fromkeys(MUST_BE_REFUSED, VerdictKind.REFUSED)
    assert {kinds["empty"], kinds["blank"]} == {VerdictKind.MISSING}
    assert not any(verdict.ex_bag or verdict.ex_set or verdict.exact_set_match for verdict in verdicts)
    assert world.read_bytes() == content


@pytest.mark.slow
def test_memory_stays_bounded(world: Path) -> None:
    hogs = [name for name in ATTACKS if "bomb" in name or "cross join" in name or "endless" in name]
    peaks = peaks_mib(LIMITS, [Job(str(world), attack(name, world)) for name in hogs])
    assert 30 < max(peaks) < MEMORY_MIB + 50
