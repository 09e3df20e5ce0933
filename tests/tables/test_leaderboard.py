"""The leaderboard as its readers see it, and the README's short ranking."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from figure_pages import cells_of
from hypothesis import given
from hypothesis import strategies as st
from synthetic_results import (
    CELLS,
    COOP,
    PROBE,
    TWO_BY_TWO,
    ZEROSHOT,
    flat,
    lines_of,
    make_method,
    make_page,
    make_pairs,
    make_row,
    make_suite,
    refuse,
)

from compatbench.data.cards import SuiteCard, suite_cards
from compatbench.errors import CompatbenchError
from compatbench.results.method_results import MethodInfo
from compatbench.results.result_files import write_results
from compatbench.tables.leaderboard import render_leaderboard, render_pages, render_suite
from compatbench.tables.sections import TOP
from compatbench.tables.suite_page import (
    SuitePage,
    TaskFacts,
    published_pages,
    read_suite_page,
)

BEGIN, END = "<!-- leaderboard:begin -->\n", "<!-- leaderboard:end -->\n"


def whole_page() -> SuitePage:
    visual = MethodInfo("visual", "Visual prompt", "", "deep", ("image-layers",))
    gone = MethodInfo("gone", "Gone", "a book", "deep", ("feature",))
    broken = lines_of(flat(gone, 55, 55, 2))
    broken[0] = make_row(None, method="gone", status="failed", reason="RuntimeError: no | <b>")
    return make_page(
        flat(ZEROSHOT, 40, 60),
        flat(COOP, 62, 57, 2),
        flat(PROBE, 80, 5, 2),
        refuse(flat(visual, 60, 50, 2), "width 128, not 192"),
        make_method(gone, broken[:-1]),
        views=8,
        max_steps=200,
    )


def section(page: str, heading: str) -> str:
    """The text under a heading, up to the next of any level."""
    return re.split(r"^#", page.split(f"\n{heading}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]


def folded(page: str, summary: str) -> list[list[str]]:
    """The cells that open under a summary, the first of its name."""
    text = page.split(f"<summary>{summary}</summary>", 1)[1].split("</details>", 1)[0]
    return cells_of(text.splitlines())


def test_main_table() -> None:
    text = section(render_suite(whole_page()), "## Old model → New model, 4 shots")
    header, rule, *rows = cells_of(text.split("<details>")[0].splitlines())
    assert header[:3] == ["Rank", "Method", "Depth"]
    assert all(cell.endswith(":") for cell in (rule[0], *rule[3:]))
    assert rows[0] == [
        "1", "[CoOp][2109.01134]", "shallow", "63.0 ± 1.4", "58.0 ± 1.4", "**60.4 ± 1.4**",
        "60.4 to 60.4", "-2.0",
    ]  # fmt: skip
    assert rows[1] == [
        "2", "[Zero-shot][2103.00020] (floor)", "–", "40.0", "**60.0**", "48.0",
        "48.0 to 48.0", "0.0",
    ]  # fmt: skip
    assert rows[2][3] == "**81.0 ± 1.4**"
    assert rows[3][:6] == ["–", "Visual prompt", "deep", "61.0 ± 1.4", "not transferable", "–"]
    assert rows[4][:6] == ["–", "Gone", "deep", "–", "–", "incomplete"]
    assert (
        "Visual prompt is **not transferable** in all 4 cells (source 61.0): width 128, not 192."
        in text
    )
    assert "Gone is **incomplete** with 2 of 4 cells measured, so no mean is given." in text


def test_the_command_gives_the_seeds_and_transfers_that_were_run() -> None:
    copied = flat(COOP, 50, 60)
    words = replace(copied, rows=copied.rows.assign(transfer="words"), transfer="words")
    page = make_page(flat(PROBE, 50, 60), copied, words, first_seeds=(1,))
    assert page.run_command().endswith("--methods all --seeds 1,2 --transfers copied,words")
    assert page.run_command("linear_probe").endswith("--methods linear_probe --seeds 1,2")
    usual = replace(page, first_seeds=(1, 2), first_transfers=("copied", "words"))
    assert usual.run_command() == "compatbench run --suite tiny --methods all"


def test_what_check_refuses_is_measured_and_not_ranked() -> None:
    bad = replace(PROBE, refused="check 'no-image': attach gave the target's image tower an image")
    page = make_page(flat(COOP, 62, 57, 2), flat(bad, 90, 90), flat(ZEROSHOT, 40, 60))
    text = section(render_suite(page), "## Old model → New model, 4 shots")
    _, _, *rows = cells_of(text.split("<details>")[0].splitlines())
    assert [row[0] for row in rows] == ["1", "2", "–"]
    assert [cell[:6] for cell in rows[2][3:5]] == ["**90.0", "**90.0"]
    assert (rows[0][5][:2], rows[2][5]) == ("**", "refused")
    assert f"Linear probe is **refused** by {bad.refused}." in text


def test_what_sees_test_images_is_ranked_apart_and_what_is_given_is_told() -> None:
    tda = MethodInfo("tda", "TDA", "", "deep", ("classifier",), needs=("stream",))
    kdpl = MethodInfo("kdpl", "KDPL", "", "shallow", ("text-input",), needs=("teacher",))
    methods = [flat(ZEROSHOT, 40, 60), flat(COOP, 62, 57, 2), flat(tda, 90, 90), flat(kdpl, 50, 50)]
    plain, whole = render_suite(make_page(*methods[:2])), make_page(*methods)
    assert "transductive" not in plain
    assert "Also given" not in plain
    page = render_suite(whole)
    text = section(page, "## Old model → New model, 4 shots").split("<details>")[0]
    ours, theirs = (cells_of(part.splitlines())[2:] for part in text.split("These methods"))
    assert [row[:2] for row in ours] == [
        ["1", "[CoOp][2109.01134]"], ["2", "KDPL"], ["3", "[Zero-shot][2103.00020] (floor)"],
    ]  # fmt: skip
    assert [row[:2] for row in theirs] == [["transductive 1", "TDA (transductive)"]]
    assert "Two of these 3 methods" in text
    assert "another backbone as a teacher (outside information): KDPL;" in page
    assert "all test images at once, in a drawn order: TDA." in page
    assert [one.sees_tests for one in whole.ranks(("old", "new"), 4)] == [False] * 3 + [True]


def test_the_breakage_table_has_flips_calibration_and_harmed_datasets() -> None:
    flips = dict(negative_flips=8, positive_flips=4, inconsistent_errors=6)
    rows = []
    for task, seed in CELLS:
        where, right = {"task": task, "seed": seed}, 70 if task == "cats" else 60
        rows.append(make_row(right, **where, ece=2.0))
        rows.append(make_row(right - 4, **where, backbone="new", ece=5.0, **flips))
    page = make_page(make_method(COOP, rows), flat(ZEROSHOT, 40, 60))
    shown = folded(render_suite(page), "Old model → New model")[2]
    # Expected of independent errors: the mean of 70 % × 34 % and 60 % × 44 % is 25.1 %.
    assert shown[1:] == ["8.0", "4.0", "0.32", "6.0", "2.0 → 5.0", "1 of 2", "-4.0 (Dogs)"]


def test_failures_and_missing_rows_are_listed() -> None:
    text = section(render_suite(whole_page()), "## Failed and missing")
    assert cells_of(text.splitlines())[2:] == [
        ["Gone", "failed", "1", "cats, 4 shots, seed 1, on old", r"RuntimeError: no \| \<b\>"],
        ["Gone", "missing", "1", "dogs, 4 shots, seed 2, on new", "–"],
    ]


def test_dataset_tables_have_no_mean_where_a_cell_is_missing() -> None:
    rows = folded(render_suite(whole_page()), "Source accuracy: Old model")
    assert rows[0] == ["Method", "Cats", "Dogs", "Mean"]
    assert rows[-1] == ["Gone", "–", "56.0", "–"]
    assert rows[2:5] == [
        ["[CoOp][2109.01134]", "63.0", "63.0", "63.0"],
        ["[Zero-shot][2103.00020] (floor)", "40.0", "40.0", "40.0"],
        ["[Linear probe][2103.00020]", "**81.0**", "**81.0**", "**81.0**"],
    ]


def test_development_tasks_are_in_no_mean_and_shown_apart() -> None:
    one, other = ("cats",), ("dogs",)
    expected = replace(TWO_BY_TWO, tasks=one, development=other)
    cells = dict(zip(CELLS, [(80, 60), (10, 20)] * 2, strict=True))
    gone = make_method(PROBE, make_pairs(cells, method="linear_probe")[:-1])
    page = make_page(make_method(COOP, make_pairs(cells)), gone, expected=expected)
    text = render_suite(page)
    assert "Suite `tiny`: 1 task, 1 development task, 4 shots" in text
    assert "On the development tasks (Dogs) settings" in text
    [coop, _] = page.ranks(("old", "new"), 4)
    assert (coop.value("source"), coop.value("target")) == (80, 60)
    assert folded(text, "Source accuracy: Old model")[0] == ["Method", "Cats", "Mean"]
    apart = folded(text, "H on the development tasks: Old model → New model")
    assert [row[:2] for row in (apart[0], apart[2])] == [
        ["Method", "Dogs"],
        ["[CoOp][2109.01134]", "**13.3**"],
    ]
    # They are measured all the same, and asked for by name they are ranked.
    assert ["Linear probe", "missing", "1", "dogs, 4 shots, seed 2, on new", "–"] in cells_of(
        section(text, "## Failed and missing").splitlines()
    )
    [only, _] = page.restrict(tasks=other).ranks(("old", "new"), 4)
    assert only.value("source") == 10
    assert page.restrict(seeds=[1]).expected.development == other


def test_a_suite_s_page_holds_its_development_tasks_out(tmp_path: Path) -> None:
    card = suite_cards.read("smoke").model_copy(
        update={"tasks": ("mini-food", "mini-weather"), "development": ("mini-food",)}
    )
    expected = read_suite_page(card, tmp_path, make_suite()).expected
    assert (expected.tasks, expected.development) == (("mini-weather",), ("mini-food",))
    alone = card.model_copy(update={"tasks": ("mini-food",)})  # nothing is held out
    assert read_suite_page(alone, tmp_path, make_suite()).expected.tasks == ("mini-food",)


def test_means_are_over_the_seeds_that_were_run(tmp_path: Path) -> None:
    card = suite_cards.read("smoke").model_copy(update={"seeds": (1, 2, 3)})
    pages = [
        read_suite_page(card, tmp_path, make_suite(make_method(COOP, make_pairs(cells))))
        for cells in ({("cats", 2): (80, 60)}, {("cats", 1): (80, 60), ("cats", 3): (80, 60)}, {})
    ]
    assert [page.expected.seeds for page in pages] == [(2,), (1, 3), (1, 2, 3)]
    assert [page.part for page in pages] == ["1 of 3 seeds", "2 of 3 seeds", ""]
    assert "4 shots per class, 2 of 3 seeds, 1 upgrade" in render_leaderboard(pages[1:2])


def test_methods_of_this_project_are_marked(tmp_path: Path) -> None:
    ours = replace(PROBE, paper="compatbench")
    results = make_suite(flat(COOP, 62, 57, 2), flat(ours, 80, 5, 2))
    page = read_suite_page(suite_cards.read("smoke"), tmp_path, results)
    assert [one.title for one in page.results.all] == ["CoOp", "Linear probe ‡"]
    assert page.legend == "‡ a method of this project."
    assert page.legend in render_leaderboard([replace(page, expected=TWO_BY_TWO)])


def test_variants_show_both_sides_and_their_mean() -> None:
    expected = replace(TWO_BY_TWO, variants={"cats": ("cats-flat", "cats-3d")})
    rows = make_pairs(dict.fromkeys(CELLS, (60, 50)))
    for variant, both in (("cats-flat", (40, 30)), ("cats-3d", (20, 10))):
        rows += make_pairs({cell: both for cell in CELLS if cell[0] == "cats"}, test_set=variant)
    page = make_page(make_method(COOP, rows), expected=expected)
    facts = {"cats-flat": TaskFacts("Flat", "MIT"), "cats-3d": TaskFacts("3D", "MIT")}
    text = render_suite(replace(page, tasks={**page.tasks, **facts}))
    table = folded(text, "Cats: Old model → New model")
    assert table[0] == ["Method", "Cats", "Flat", "3D", "Mean of variants"]
    shown = "; ".join(table[2][1:]).replace("*", "")
    assert shown == "60.0 → 50.0; 40.0 → 30.0; 20.0 → 10.0; 30.0 → 20.0"
    fewer = make_method(COOP, [row for row in rows if row.test_set != "cats-3d"])
    text = render_suite(replace(page, results=make_suite(fewer)))
    assert folded(text, "Cats: Old model → New model")[2][-1] == "– → –"
    assert "cats/cats-3d, 4 shots, seed 1, on old" in text


def test_provenance_is_joined() -> None:
    second = replace(flat(PROBE, 60, 50), provenance={"torch": ("2.5", "2.6")})
    text = render_suite(make_page(flat(COOP, 60, 50), second, views=8, max_steps=200))
    assert "8 cached augmentations per training image, and at most 200 optimiser steps" in text
    software = folded(text, "Software and hardware, from the result files")
    assert software[2:] == [["torch", "2.5, 2.6"]]


def test_rows_that_disagree_on_zero_shot_accuracy_are_named() -> None:
    other = flat(PROBE, 60, 50)
    rows = other.rows.assign(zero_shot_correct=[41, *other.rows["zero_shot_correct"][1:]])
    text = render_suite(make_page(flat(COOP, 60, 50), replace(other, rows=rows)))
    assert "`old` on `cats`" in section(text, "## Rows that disagree")


def test_a_suite_without_results_says_so() -> None:
    text = render_leaderboard([make_page()])
    assert "There are no results yet." in text
    assert "compatbench run --suite tiny --methods all" in text
    with pytest.raises(CompatbenchError):
        render_leaderboard([make_page(name="tiny; rm -r")])


@pytest.mark.slow
@given(st.randoms(use_true_random=False))
def test_the_order_of_rows_and_methods_does_not_show(rng: random.Random) -> None:
    page = whole_page()
    shuffled = []
    for one in rng.sample(page.results.all, len(page.results.all)):
        order = rng.sample(range(len(one.rows)), len(one.rows))
        shuffled.append(replace(one, rows=one.rows.iloc[order], costs=one.costs[::-1]))
    again = replace(page, results=make_suite(*shuffled))
    assert render_suite(again) == render_suite(page)
    assert render_leaderboard([again]) == render_leaderboard([page])


@pytest.mark.slow
def test_the_leaderboard_starts_without_torch_and_matplotlib() -> None:
    code = (
        "import sys, compatbench.tables.leaderboard, compatbench.tables.ranking;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'open_clip', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


SMOKE = suite_cards.read("smoke")
MINE = SMOKE.model_copy(update={"name": "mine", "title": "My suite", "publish": True})


def write(out: Path, suite: SuiteCard, methods: int = 2) -> None:
    infos = [replace(COOP, name=f"m{i:02}", title=f"Method {i}") for i in range(methods)]
    for right, info in enumerate([ZEROSHOT, *infos[::-1]], 10):
        where = dict(method=info.name, task="mini-weather", source="mini-clip")
        rows = [make_row(right, **where, backbone=name) for name in ("mini-clip", "mini-eva-clip")]
        write_results(out / "results" / suite.name, make_method(info, rows))


def test_the_readme_shows_ten_rows_with_the_floor_and_links_to_the_rest(tmp_path: Path) -> None:
    write(tmp_path, MINE, TOP + 3)
    (tmp_path / "README.md").write_text(f"before\n{BEGIN}old\n{END}after\n")
    text = render_pages(tmp_path, published_pages(tmp_path, MINE))[tmp_path / "README.md"]
    assert text.startswith(f"before\n{BEGIN}")
    assert text.endswith(f"{END}after\n")
    assert [row[1] for row in cells_of(text.splitlines())][2:] == [
        *(f"[Method {number}][2109.01134]" for number in range(TOP - 1)),
        "[Zero-shot][2103.00020] (floor)",
    ]
    assert (
        f"All {TOP + 4} methods and the other upgrades: [leaderboard.md](leaderboard.md)." in text
    )
    assert "choose **Method 0** (23.0)" in text
    assert "[2109.01134]: https://arxiv.org/abs/2109.01134" in text


def test_pictures_are_shown_where_they_have_been_drawn(tmp_path: Path) -> None:
    write(tmp_path, MINE)
    page = tmp_path / "leaderboard.md"
    assert "![" not in render_pages(tmp_path, published_pages(tmp_path, MINE))[page]
    folder = tmp_path / "results" / "figures"
    folder.mkdir()
    (folder / "mine-scatter-1.svg").write_text("<svg/>")
    (folder / "other-scatter-1.svg").write_text("<svg/>")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the folder is no suite, and needs no warning
        text = render_pages(tmp_path, published_pages(tmp_path, MINE))[page]
        suite = render_pages(tmp_path, published_pages(tmp_path, MINE))[
            tmp_path / "results" / "mine" / "README.md"
        ]
    for shown, root in ((text, ""), (suite, r"\.\./\.\./")):
        assert shown.count("![") == 1
        picture = rf"(?m)^!\[Accuracy on .*\]\({root}results/figures/mine-scatter-1\.svg\)$"
        assert re.search(picture, shown)
