"""The report: what is on the page, and that a real browser shows it, searches it, and reports no error."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from kidcore.errors import KidpipeError
from kidpipe.commands.evaluate import evaluate
from kidpipe.commands.report import report
from kidpipe.commands.session import Session, open_session
from kidpipe.commands.train import train
from kidpipe.report import plots
from kidpipe.report.page import Block, Section, render_page
from kidpipe.report.train import read_log
from tests.conftest import configure
from tests.pipeline.running import run_build

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
# What matplotlib calls the groups that bars, lines, histograms and intervals are drawn in.
MARKS = ("patch", "line2d", "StepPatch", "LineCollection")
needs_browser = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed")


@pytest.fixture(scope="module")
def session(world: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Session:
    """A store with a build, a run of two steps, two evaluations and the rows of a comparison."""
    folder = tmp_path_factory.mktemp("report")
    settings: dict[str, object] = {
        "data.path": str(world),
        "teacher.model": str(tiny_model),
        "train.student": str(tiny_model),
        "engine.backend": "transformers",
        "ingest.shard_rows": 20,
        "score.top_k": 8,
        "train.max_steps": 2,
        "store.path": str(folder / "artifacts"),
    }
    run_build(configure(settings))
    opened = open_session(None, [], settings, use_file=False)
    train(opened, name="mine", as_json=True)
    golds = [row["query"] for row in json.loads((world / "dev.json").read_text(encoding="utf-8"))]
    for name, wrong in (("first", 3), ("second", 5)):
        file = folder / f"{name}.sql"
        file.write_text("\n".join(["SELECT 'café </script>'"] * wrong + golds[wrong:]) + "\n", encoding="utf-8")
        evaluate(opened, "", name=name, as_json=True, predictions_file=file)
    rows = [
        {
            "method": method,
            "mask.ratio": ratio,
            "seed": seed,
            "error": None,
            "ex_bag": ex + seed / 100,
            "train_seconds": cost,
        }
        for method, ratio, ex, cost in (("sft", None, 0.4, 10.0), ("kid", 0.2, 0.5, 20.0), ("kid", 0.4, 0.45, 21.0))
        for seed in (0, 1)
    ]
    (folder / "artifacts" / "compare" / "ratios").mkdir(parents=True)
    pl.DataFrame(rows).write_parquet(folder / "artifacts" / "compare" / "ratios" / "runs.parquet")
    return opened


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"):
        options.add_argument(f"--{flag}")
    options.add_argument("--disable-component-update")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    yield opened
    opened.quit()


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_shows_every_figure_and_reports_no_error(session: Session, browser: Any, tmp_path: Path, width: int) -> None:
    path = report(session, "all", [], tmp_path / "report.html", as_json=True)
    assert path.stat().st_size < 5_000_000
    browser.set_window_size(width, 900)
    browser.get(path.as_uri())
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    figures = browser.find_elements(By.TAG_NAME, "figure")
    assert len(figures) >= 15
    for figure in figures:
        svg = figure.find_element(By.TAG_NAME, "svg")
        assert svg.size["width"] > 200, figure.text
        marks = svg.find_elements(
            By.CSS_SELECTOR, "g[id^=patch] path, g[id^=line2d] path, g[id^=StepPatch] path, g[id^=LineCollection] path"
        )
        assert len(marks) > 4, figure.text
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth"), "nothing runs off the page"
    screenshot = tmp_path / f"{width}.png"
    assert browser.save_screenshot(str(screenshot))
    assert screenshot.stat().st_size > 10_000


@needs_browser
def test_search_hides_what_does_not_match(session: Session, browser: Any, tmp_path: Path) -> None:
    path = report(session, "eval", ["second"], tmp_path / "eval.html", as_json=True)
    browser.get(path.as_uri())
    box = browser.find_element(By.CSS_SELECTOR, ".searchable")
    rows = box.find_elements(By.TAG_NAME, "details")
    assert len(rows) == 24
    box.find_element(By.TAG_NAME, "input").send_keys("café </script>")
    assert sum(row.is_displayed() for row in rows) == 5
    assert box.find_element(By.CSS_SELECTOR, ".count").text == "5 of 24"
    box.find_element(By.TAG_NAME, "input").send_keys(" nothing like it")
    assert not any(row.is_displayed() for row in rows)


def test_each_kind_has_its_sections(session: Session, tmp_path: Path) -> None:
    def page(kind: str, *names: str) -> str:
        return report(session, kind, names, tmp_path / "page.html", as_json=True).read_text(encoding="utf-8")

    build = page("build")
    assert "Entropy of the teacher" in build
    assert 'class="wrong"' in build
    assert "mine" in page("train")
    flips = page("compare", "first", "second")
    assert "second loses 2 and wins 0" in flips
    assert "By masking ratio" in page("compare", "ratios")
    assert "http://" not in build.replace("http://www.w3.org", ""), "nothing is fetched"


def test_mistakes_are_named(session: Session, tmp_path: Path) -> None:
    for kind, names, said in (
        ("bild", [], "bild"),
        ("build", ["x"], "x"),
        ("eval", ["nothing"], "nothing"),
        ("compare", ["one"], "one"),
    ):
        with pytest.raises(KidpipeError, match=said):
            report(session, kind, names, tmp_path / "page.html", as_json=True)


@pytest.mark.slow
def test_the_same_store_gives_the_same_page(session: Session, tmp_path: Path) -> None:
    pages = [report(session, "all", [], tmp_path / f"{number}.html", as_json=True).read_bytes() for number in range(2)]
    assert pages[0] == pages[1]


def test_an_empty_store_has_a_page_that_says_so(tmp_path: Path) -> None:
    empty = open_session(None, [], {"store.path": str(tmp_path / "nothing")}, use_file=False)
    page = report(empty, "all", [], tmp_path / "page.html", as_json=True).read_text(encoding="utf-8")
    assert "kidpipe train" in page
    assert "kidpipe eval" in page


def test_everything_but_figures_is_escaped() -> None:
    page = render_page("<t>", "<n>", [Section("<s>", [Block("<h>", "<p>")])])
    assert not any(f"<{letter}>" in page.replace("<p>&lt;p&gt;</p>", "") for letter in "tns")


def test_a_figure_takes_the_colours_of_the_page() -> None:
    svg = plots.bars("a & b", {"<x>": 1.0, "y": 2.0}, unit="%")
    assert "var(--ink)" in svg
    assert "#010203" not in svg
    assert "a &amp; b" in svg
    assert "&lt;x&gt;" in svg


def test_a_torn_line_of_a_log_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(b'{"kind": "step", "step": 1, "loss": 2.0}\n{"kind": "st\xff')
    log = read_log(tmp_path)
    assert log is not None
    assert len(log) == 1
