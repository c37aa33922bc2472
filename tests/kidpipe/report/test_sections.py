"""The sections of a report from files made on the spot: every number on the page is one of the file's, and text stays text."""

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.report import summarize, write_evaluation
from eval.verdicts import Verdict, VerdictKind
from kidcore.store.store import Store
from kidpipe.report import plots
from kidpipe.report.build import _entropy
from kidpipe.report.evaluation import comparison_section, evaluation_section
from kidpipe.report.page import Block, HtmlTable, Line, Piece, ReadExample, Section, line, render_page, write_page
from kidpipe.report.study import study_section
from kidpipe.report.train import read_log, train_section
from tests.eval.made_verdicts import verdict

ODD = "<b>&\"'</b>日\u2028"


def table(section: Section, heading: str) -> HtmlTable:
    (block,) = [block for block in section.blocks if block.heading == heading]
    assert block.table is not None
    return block.table


def stored(folder: Path, rows: list[Verdict]) -> Path:
    folder.mkdir()
    write_evaluation(rows, summarize(rows), folder / "verdicts.parquet", folder / "summary.json")
    return folder


@settings(max_examples=30, deadline=None)
@given(counts=st.lists(st.integers(0, 4), min_size=1, max_size=6), seed=st.integers(0, 10**6))
def test_entropy_is_the_sum_over_stored_ids_and_the_rest(counts: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = [random.dirichlet(np.ones(count + 1)) for count in counts]
    flat = np.concatenate([np.log(row[:-1]) for row in rows])
    found = _entropy(np.array(counts), flat, np.array([row[-1] for row in rows]))
    assert found == pytest.approx([-(row * np.log(row)).sum() for row in rows])


def test_a_token_that_the_teacher_excludes_adds_no_entropy() -> None:
    assert _entropy(np.array([2]), np.array([0.0, -np.inf]), np.zeros(1)).tolist() == [pytest.approx(0.0, abs=1e-30)]


def test_a_teacher_that_is_sure_has_no_entropy() -> None:
    assert _entropy(np.array([1, 1]), np.zeros(2), np.zeros(2)).tolist() == [0.0, 0.0]


def test_scores_of_evaluations_stand_side_by_side_and_wrong_rows_come_first(tmp_path: Path) -> None:
    rows = [verdict("a", question=ODD, soft_f1=0.5), verdict("b", VerdictKind.WRONG, message=ODD, soft_f1=0.25)]
    section = evaluation_section([stored(tmp_path / "one", rows), stored(tmp_path / "two", rows[:1])])
    shown = {(row[0], row[1]): row[2:] for row in table(section, "Scores").rows}
    assert shown["one", "ex_bag"][0] == "50.0%"
    assert shown["one", "ex_bag"][2] == "2 of 2"
    assert shown["two", "soft_f1"] == ("50.0%", "50.0% to 50.0%", "1 of 1")
    last = section.blocks[-1]
    assert last.text == "two: 1 of 1 rows, those that are not correct first."
    section = evaluation_section([tmp_path / "one"])
    assert [example.summary.split()[1] for example in section.blocks[-1].examples] == ["b", "a"]
    page = render_page("t", "n", [section])
    assert ODD not in page
    assert "&lt;b&gt;&amp;" in page
    assert "Nothing is evaluated here yet" in evaluation_section([]).blocks[0].text


def test_a_difference_without_a_p_value_has_an_empty_cell(tmp_path: Path) -> None:
    one = stored(tmp_path / "one", [verdict("a", soft_f1=0.5), verdict("b", VerdictKind.WRONG, soft_f1=0.5)])
    two = stored(tmp_path / "two", [verdict("a", VerdictKind.WRONG, soft_f1=0.75), verdict("b", soft_f1=0.5)])
    section = comparison_section(one, two)
    shown = {row[0]: row[1:] for row in table(section, "Difference").rows}
    assert shown["ex_bag"] == ("50.0%", "50.0%", "+0.0", "-100.0 to +100.0", "1")
    assert shown["soft_f1"][-1] == ""
    flips = section.blocks[-1]
    assert flips.text == "2 questions flipped in ex_bag: two loses 1 and wins 1."
    assert flips.examples[0].summary.startswith("one correct, two wrong  a")


def write_run(root: Path, name: str, lines: list[str], **result: object) -> None:
    folder = root / "runs" / name
    folder.mkdir(parents=True)
    (folder / "log.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "run.json").write_text(json.dumps({"settings": {"method": "kid"}}))
    if result:
        (folder / "result.json").write_text(json.dumps(result))


def test_runs_are_told_with_steps_seconds_and_settings(tmp_path: Path) -> None:
    steps = [json.dumps({"kind": "step", "step": n, "loss": 3.0 - n, "seconds": 1.5, "lr": 0.1}) for n in (1, 2)]
    held = json.dumps({"kind": "eval", "step": 2, "gold_nll": 1.0, "on_gold": {"first_choice": 0.5}, "overlap": "odd"})
    write_run(tmp_path, "done", [*steps, held], best_nll=1.25)
    write_run(tmp_path, "begun", [steps[0], "{torn", "[1]", '{"kind": "step"}'])
    write_run(tmp_path, "none", [""])
    section = train_section(Store(tmp_path), ["done", "begun", "none", "missing"])
    assert [row[:5] for row in table(section, "Runs").rows] == [
        ("done", "finished", "2", "1.2500", "3"),
        ("begun", "unfinished", "1", "", "2"),
    ]
    assert table(section, "Runs").rows[0][5] == "method kid"
    figures = " ".join(section.blocks[-1].figures)
    assert all(title in figures for title in ("Training loss", "Learning rate", "first choice"))
    assert "Gradient norm" not in figures, "what no log has is not drawn"
    assert "No run here has a log yet" in train_section(Store(tmp_path), ["none"]).blocks[0].text


def test_no_more_is_drawn_than_there_are_colours_to_tell_apart(tmp_path: Path) -> None:
    evaluations = [stored(tmp_path / f"eval{n}", [verdict("a")]) for n in range(8)]
    for n in range(8):
        write_run(tmp_path, f"run{n}", [json.dumps({"kind": "step", "step": 1, "loss": 3.0, "seconds": 1.5})])
    for section, name, heading, what in (
        (evaluation_section(evaluations), "eval", "Scores", "evaluations"),
        (train_section(Store(tmp_path), [f"run{n}" for n in range(8)]), "run", "Side by side", "runs"),
    ):
        [block] = [block for block in section.blocks if block.heading == heading]
        assert block.text == f"The figures show the last 6 of 8 {what}."
        figures = " ".join(block.figures)
        assert [f"{name}{n}" in figures for n in range(8)] == [False] * 2 + [True] * 6
    assert {row[0] for row in table(evaluation_section(evaluations), "Scores").rows} == {f"eval{n}" for n in range(8)}


def test_a_log_of_a_run_that_diverged_is_read(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"kind": "step", "step": 1, "loss": 2}\n{"kind": "step", "step": 2, "loss": NaN}\n')
    log = read_log(tmp_path)
    assert log is not None
    assert log["step"].to_list() == [1, 2]
    assert math.isnan(log["loss"][1])
    assert read_log(tmp_path / "nowhere") is None


def test_a_comparison_s_means_are_over_its_finished_seeds(tmp_path: Path) -> None:
    rows = [
        {"method": "kid", "mask.ratio": ratio, "seed": seed, "error": error, "ex_bag": ex, "train_seconds": 10.0 + seed}
        for ratio, seed, error, ex in ((0.1, 0, None, 0.5), (0.1, 1, None, 0.7), (0.2, 0, None, 0.4), (0.2, 1, "killed", None))
    ]
    pl.DataFrame(rows).write_parquet(tmp_path / "runs.parquet")
    section = study_section("ratios", tmp_path / "runs.parquet")
    assert section.title == "Comparison ratios"
    assert [row[:3] for row in table(section, "Means over seeds").rows] == [
        ("kid, mask.ratio 0.1", "2", "60.0"),
        ("kid, mask.ratio 0.2", "1", "40.0"),
    ]
    (first, second) = table(section, "Means over seeds").rows
    assert (first[4], second[3]) == ("10", ""), "a single seed has no interval"
    assert "By masking ratio" in " ".join(section.blocks[-1].figures)
    pl.DataFrame([rows[3]], schema_overrides={"ex_bag": pl.Float64}).write_parquet(tmp_path / "runs.parquet")
    assert study_section("x", tmp_path / "runs.parquet").blocks[0].text == "None of its 1 runs is finished."


def test_figures_are_the_same_bytes_and_say_what_they_are() -> None:
    for draw in (
        lambda: plots.bars(ODD, {"a": 1.0, "b": 0.0}, intervals={"a": (0.5, 1.5)}),
        lambda: plots.grouped_bars(ODD, ["x", "y"], {"one": [1.0, None], "two": [None, None]}),
        lambda: plots.histogram(ODD, [0, 1, 2], [0, 10**6], label="n", log=True),
        lambda: plots.lines(ODD, {"r": ([1], [2.0]), "s": (list(range(30)), [0.0] * 30)}, x="step", y="loss"),
        lambda: plots.points(ODD, [plots.Point("p", 1, 2), plots.Point("q", 1, 2, 1.5, 2.5)], x="x", y="y"),
    ):
        figure = draw()
        assert figure.startswith("<figure><figcaption>&lt;b&gt;&amp;")
        assert 'role="img" aria-label="&lt;b&gt;' in figure
        assert "<b>" not in figure
    assert draw() == figure


def test_a_page_takes_any_text_and_is_put_where_no_folder_was(tmp_path: Path) -> None:
    example = ReadExample(ODD, [line("question", ODD, "wrong"), Line("pieces", [Piece("a"), Piece("b\ud800", "hole")])])
    page = render_page(ODD, ODD, [Section(ODD, [Block(ODD, ODD, HtmlTable((ODD,), [(ODD,)]), examples=[example])])])
    assert "<b>" not in page
    write_page(tmp_path / "deep" / "page.html", page)
    text = (tmp_path / "deep" / "page.html").read_text(encoding="utf-8")
    assert "b?" in text, "half a character is shown as missing"
    assert "http" not in text.replace("http://www.w3.org", ""), "nothing is fetched"
