"""Cores that a process may use: its affinity, and the CPU time that control groups grant."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kidcore.config.processes import usable_cores
from kidcore.sql.sandbox.pool import SandboxPool


def machine(root: Path, groups: str, **files: str) -> Path:
    """A root folder with /proc/self/cgroup and limits under /sys/fs/cgroup; `__` in a name stands for a slash."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("_max", ".max").replace("cpu_cfs", "cpu.cfs")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture(autouse=True)
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(os, "cpu_count", lambda: 128)


@pytest.mark.parametrize(
    ("limit", "cores"), [("max 100000\n", 16), ("400000 100000\n", 4), ("250000 100000\n", 3), ("10000 100000\n", 1)]
)
def test_a_quota_of_version_2_bounds_the_cores(tmp_path: Path, limit: str, cores: int) -> None:
    assert usable_cores(machine(tmp_path, "0::/job/step\n", job__step__cpu_max=limit)) == cores


def test_the_tightest_group_above_counts(tmp_path: Path) -> None:
    limits = {"job__cpu_max": "200000 100000\n", "job__step__cpu_max": "max 100000\n", "cpu_max": "800000 100000\n"}
    assert usable_cores(machine(tmp_path, "0::/job/step\n", **limits)) == 2


def test_a_container_that_sees_its_own_group_as_the_top(tmp_path: Path) -> None:
    assert usable_cores(machine(tmp_path, "0::/../../docker/abc\n", cpu_max="300000 100000\n")) == 3


def test_a_quota_of_version_1_bounds_the_cores(tmp_path: Path) -> None:
    limits = {"cpu__job__cpu_cfs_quota_us": "150000\n", "cpu__job__cpu_cfs_period_us": "100000\n"}
    root = machine(tmp_path / "a", "5:memory:/job\n4:cpu,cpuacct:/job\n", **limits)
    assert usable_cores(root) == 2
    unlimited = limits | {"cpu__job__cpu_cfs_quota_us": "-1\n"}
    assert usable_cores(machine(tmp_path / "b", "4:cpu,cpuacct:/job\n", **unlimited)) == 16


def test_without_control_groups_affinity_decides_and_not_the_machine(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == 16
    with SandboxPool() as pool:
        assert pool._num_workers <= 16


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_a_process_bound_to_one_core_starts_one_worker() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from kidcore.sql.sandbox.pool import SandboxPool; print(SandboxPool()._num_workers)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
