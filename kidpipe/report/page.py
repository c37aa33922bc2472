"""Sections of tables, figures and examples in, one self-contained HTML page out: no network, no fonts, one small script."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment

MOST_EXAMPLES = 1000
"""Rows to read on one page: more would make it slow to open; the Parquet files have them all."""


@dataclass(frozen=True)
class Piece:
    """A stretch of text; `style` is a class of the page: hole, wrong, right, quiet or nothing."""

    text: str
    style: str = ""


@dataclass(frozen=True)
class Line:
    """A named line of an example."""

    name: str
    pieces: Sequence[Piece]


@dataclass(frozen=True)
class ReadExample:
    """An example to unfold and read."""

    summary: str
    lines: Sequence[Line]


@dataclass(frozen=True)
class HtmlTable:
    """A table; columns whose number is in `numbers` are set to the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Block:
    """Any of a heading, a paragraph, a table, figures (SVG) and examples, in this order."""

    heading: str = ""
    text: str = ""
    table: HtmlTable | None = None
    figures: Sequence[str] = ()
    examples: Sequence[ReadExample] = ()


@dataclass
class Section:
    """A part of the page with a heading of its own."""

    title: str
    blocks: list[Block] = field(default_factory=list)


def render_page(title: str, note: str, sections: Sequence[Section]) -> str:
    """The page as text. Everything but the figures is escaped."""
    template = files("kidpipe.report").joinpath("page.html.jinja").read_text(encoding="utf-8")
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template)
    return page.render(title=title, note=note, sections=sections)


def write_page(path: Path, html: str) -> None:
    """Write the page; lone surrogates, which UTF-8 cannot hold, become question marks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(html.encode("utf-8", "replace"))


def line(name: str, text: str, style: str = "") -> Line:
    """A line of one piece."""
    return Line(name, [Piece(text, style)])
