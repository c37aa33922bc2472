"""Tables on screens of every width: no line is wider, no word is cut, nothing is lost."""

from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from kidcore.console import open_console
from kidpipe.commands.shown_tables import print_table

WORD = st.text("abcdefgh_", min_size=1, max_size=14) | st.sampled_from(["[eu]", "[/b]", "c[a]", ":cat:", "[bold]", "\\[x]"])
CELL = st.lists(WORD, max_size=4).map(" ".join)


def shown(names: list[str], rows: list[list[str]], width: int, *, boxed: bool) -> str:
    table = Table(*names, title="title") if boxed else Table(*names, title="title", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    out = StringIO()
    print_table(open_console(file=out, width=width), table)
    return out.getvalue()


@given(data=st.data(), columns=st.integers(1, 6), width=st.sampled_from([40, 60, 80, 160]), boxed=st.booleans())
def test_no_line_is_wider_and_no_word_is_cut(data: st.DataObject, columns: int, width: int, boxed: bool) -> None:
    names = data.draw(st.lists(WORD, min_size=columns, max_size=columns, unique=True))
    rows = data.draw(st.lists(st.lists(CELL, min_size=columns, max_size=columns), max_size=3))
    text = shown(names, rows, width, boxed=boxed)
    assert max(map(len, text.splitlines())) <= width
    words = [word for row in rows for cell in row for word in cell.split()]
    seen = text.split()
    for word in {*words, *(names if rows else ())}:
        assert word in seen, text


@pytest.mark.parametrize(("width", "lines"), [(160, 2), (30, 5)])
def test_what_fits_is_a_table_and_what_does_not_is_blocks(width: int, lines: int) -> None:
    names, rows = ["first_name", "second_name", "third_name"], [["a", "b", "c"], ["d", "e", "f"]]
    text = shown(names, rows, width, boxed=False)
    heads = [line for line in text.splitlines() if "first_name" in line]
    assert len(heads) == (1 if width == 160 else 2)
    assert text.strip().startswith("title")
    assert len(text.splitlines()) >= lines


@pytest.mark.parametrize("width", [160, 24])
def test_titles_names_and_captions_are_shown_as_they_are(width: int) -> None:
    table = Table("first[b]", "second [/i]", ":cat:", title="[eu] p[a]", caption="[/c] :dog:")
    table.add_row("a[b]", "[bold]b", ":smile:")
    out = StringIO()
    print_table(open_console(file=out, width=width), table)
    for word in ("first[b]", "second [/i]", ":cat:", "[eu] p[a]", "[/c] :dog:", "a[b]", "[bold]b", ":smile:"):
        assert word in out.getvalue(), out.getvalue()
