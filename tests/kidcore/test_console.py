"""Texts that would be markup or emoji to rich in; the same texts on every console out, and one place that opens consoles."""

import ast
from io import StringIO
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from kidcore.console import open_console

ROOT = Path(__file__).parents[2]
PACKAGES = ("kidcore", "pipeline", "train", "eval", "kidpipe")
TEXT = st.text("[]/:\\ab=@#(). ", min_size=1, max_size=30)


@given(text=TEXT)
@example("sales [eu] :cat:")
@example("Answer in SQL. [/INST]")
@example("\\[bold] [link=x]y[/link]")
def test_a_text_is_printed_as_it_is(text: str) -> None:
    out = StringIO()
    console = open_console(file=out, width=200)
    console.print(text)
    console.print(text, style="bold")
    console.print(text, soft_wrap=True)
    assert out.getvalue().splitlines() == [text] * 3


def opens_a_console(file: Path) -> bool:
    names = {
        node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    }
    return bool(names & {"Console", "from_markup"})


def test_one_place_opens_consoles() -> None:
    """A console opened elsewhere reads people's own names as markup."""
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py") if opens_a_console(file)]
    assert {file.relative_to(ROOT).as_posix() for file in files} == {"kidcore/console.py"}
