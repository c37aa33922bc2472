"""One direction of imports, heavy libraries in leaves only, and short files."""

import ast
import re
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from kidcore.config.config import BackendName

ROOT = Path(__file__).parent.parent
# kidpipe -> pipeline, train, eval -> kidcore: without an exception, whether an import is lazy or for types only.
BELOW = {
    "kidpipe": ("pipeline", "train", "eval", "kidcore"),
    "pipeline": ("kidcore",),
    "train": ("kidcore",),
    "eval": ("kidcore",),
    "kidcore": (),
}
HEAVY = ("torch", "vllm", "transformers", "polars", "pyarrow", "duckdb", "numpy", "sqlglot")


def imported_packages(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names.add((node.module or "").partition(".")[0])
    return names


def test_packages_import_in_one_direction() -> None:
    for package, below in BELOW.items():
        for file in (ROOT / package).rglob("*.py"):
            assert imported_packages(file) & set(BELOW) <= {package, *below}, file


def test_the_rule_sees_a_violation(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text("def f():\n    from train.trainer import run\n")
    assert "train" in imported_packages(file)


def test_what_is_imported_is_asked_for() -> None:
    """What comes today because another library asks for it may be gone with that library's next version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    asked = {re.split(r"[^A-Za-z0-9_-]", line)[0].replace("-", "_") for line in lines}
    known = asked | set(BELOW) | set(sys.stdlib_module_names)
    for package in (*BELOW, "bench", "examples"):
        for file in (ROOT / package).rglob("*.py"):
            assert imported_packages(file) <= known | {"bench"}, file


def test_package_files_hold_a_docstring_only() -> None:
    for package in BELOW:
        for file in (ROOT / package).rglob("__init__.py"):
            if file == ROOT / "kidpipe" / "__init__.py":
                continue  # the one that users import from
            assert len(ast.parse(file.read_text(encoding="utf-8")).body) <= 1, file


@pytest.mark.parametrize("module", ["kidpipe", "kidpipe.cli", "kidcore.config.config_load", "kidpipe.commands.session"])
def test_the_command_line_loads_nothing_heavy(module: str) -> None:
    allowed = () if module in ("kidpipe", "kidpipe.cli") else ("pyarrow", "numpy")
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules and m not in {allowed!r}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_imports_inside_functions_stay_few() -> None:
    """Each has its reason beside it: a heavy or optional library, or a body that loads when its command is called."""
    found = [
        (file.relative_to(ROOT), node.lineno)
        for package in BELOW
        for file in (ROOT / package).rglob("*.py")
        for function in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    assert len(set(found)) <= 50, sorted(set(found))


def test_files_stay_short() -> None:
    """A file past the limit holds a second thing, which has a name."""
    files = [file for package in BELOW for file in (ROOT / package).rglob("*.py")]
    lines = {file.relative_to(ROOT).as_posix(): len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert {name: count for name, count in lines.items() if count > 350} == {}
    assert statistics.median(lines.values()) <= 200


def test_where_to_add_things_is_where_the_architecture_says() -> None:
    """Each row of its table names at most two places; files are there, and names are in the file that follows them."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ((?:a|an) [^|]+)\| ([^|]+)\|$", text, re.MULTILINE)
    assert len(rows) == 6
    for what, where in rows:
        files = re.findall(r"`((?:kidcore|pipeline|train|eval|kidpipe)/[\w/]+\.py)`", where)
        assert len(files) <= 2, what
        assert all((ROOT / file).is_file() for file in files), what
        for name, file in re.findall(r"`(\w+)` \(`([\w/]+\.py)`\)", where):
            assert re.search(rf"\b{name}\b", (ROOT / file).read_text(encoding="utf-8")), (name, file)
    assert set(get_args(BackendName)) - {"auto"} <= {
        path.stem for path in (ROOT / "kidcore" / "models" / "backends").glob("*.py")
    }
