"""The reference pages say what the code says."""

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_the_reference_is_current() -> None:
    made = runpy.run_path(str(DOCS / "make_reference.py"))["pages"]()
    assert set(made) == {path.name for path in (DOCS / "reference").glob("*.md")}
    for name, text in made.items():
        assert (DOCS / "reference" / name).read_text(encoding="utf-8") == text, f"python docs/make_reference.py ({name})"


def test_every_page_is_in_the_site() -> None:
    listed = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    for page in DOCS.rglob("*.md"):
        assert f": {page.relative_to(DOCS)}\n" in listed, page
