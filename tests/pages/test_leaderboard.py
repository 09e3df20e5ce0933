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
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from synthetic_results import (
    COOP,
    PROBE,
    TWO_BY_TWO,
    ZEROSHOT,
    lines_of,
    make_method,
    make_page,
    make_pairs,
    make_row,
    through_words,
)

from compatbench.data.cards import SuiteCard, suite_cards
from compatbench.errors import CompatbenchError
from compatbench.pages.leaderboard import SHOWN, render_leaderboard, render_pages
from compatbench.pages.suite_page import SuitePage, TaskFacts
from compatbench.results.store import MethodInfo, MethodResults, write_results

BEGIN, END = "<!-- leaderboard:begin -->\n", "<!-- leaderboard:end -->\n"
CELLS = [("cats", 1), ("dogs", 1), ("cats", 2), ("dogs", 2)]
MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def flat(info: MethodInfo, source: int, target: int) -> MethodResults:
    """A method with the same accuracy on every task; the seeds differ by two."""
    cells = CELLS if info.learns else CELLS[:2]
    figures = {cell: (source + cell[1] % 2 * 2, target + cell[1] % 2 * 2) for cell in cells}
    if not info.learns:
        figures = dict.fromkeys(cells, (source, target))
    return make_method(info, make_pairs(figures, method=info.name))


def whole_page() -> SuitePage:
    refused = MethodInfo("visual", "Visual prompt", "", "deep", ("image-layers",))
    gone = MethodInfo("gone", "Gone", "a book", "deep", ("feature",))
    rows = [row for row in lines_of(flat(refused, 60, 50)) if row.backbone == "old"] + [
        make_row(
            None, method="visual", task=task, seed=seed, backbone="new",
            status="not transferable", reason="width 128, not 192",
        )
        for task, seed in CELLS
    ]  # fmt: skip
    broken = lines_of(flat(gone, 55, 55))
    broken[0] = make_row(None, method="gone", status="failed", reason="RuntimeError: no | <b>")
    return make_page(
        flat(ZEROSHOT, 40, 60),
        flat(COOP, 62, 57),
        flat(PROBE, 80, 5),
        make_method(refused, rows),
        make_method(gone, broken[:-1]),
        views=8,
        max_steps=200,
    )


def section(page: str, heading: str) -> str:
    """The text under a heading, up to the next of any level."""
    start = page.index(f"\n{heading}\n") + len(heading) + 2
    end = re.search(r"^#", page[start:], re.MULTILINE)
    return page[start : start + end.start()] if end else page[start:]


def folded(page: str, summary: str) -> str:
    """What opens under a summary, the first of its name."""
    return page.split(f"<summary>{summary}</summary>", 1)[1].split("</details>", 1)[0]


def cells_of(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_the_ranking_comes_first_and_the_rest_is_folded() -> None:
    text = render_leaderboard([whole_page()])
    assert re.findall(r"^#+ .*$|<summary>.*</summary>", text, re.MULTILINE) == [
        "# Leaderboard",
        "## Tiny suite",
        "### Old model → New model, 4 shots",
        "<summary>Average ranks</summary>",
        "### Failed and missing",
        "### What breaks",
        "<summary>Old model → New model</summary>",
        "### By dataset",
        "<summary>H: Old model → New model</summary>",
        "<summary>Target accuracy: New model</summary>",
        "<summary>Source accuracy: Old model</summary>",
        "### Details",
        "<summary>What it costs</summary>",
        "<summary>Test sets, with the licence of the images</summary>",
        "<summary>Software and hardware, from the result files</summary>",
        "## How to reproduce a row",
        "## How to read it",
    ]
    assert text.count("<details>") == text.count("</details>")
    # A table is Markdown inside HTML only behind an empty line.
    assert not re.search(r"</summary>\n\S|\S\n</details>", text)


def test_main_table() -> None:
    text = section(render_leaderboard([whole_page()]), "### Old model → New model, 4 shots")
    header, rule, *rows = cells_of(text.split("<details>")[0])
    assert header[:3] == ["Rank", "Method", "Depth"]
    assert all(cell.endswith(":") for cell in (rule[0], *rule[3:]))
    assert [row[0] for row in rows] == ["1", "2", "3", "–", "–"]
    assert rows[0] == [
        "1", "[CoOp][2109.01134]", "shallow", "63.0 ± 1.4", "58.0 ± 1.4", "**60.4 ± 1.4**",
        "60.4 to 60.4", "-2.0",
    ]  # fmt: skip
    assert rows[1] == [
        "2", "[Zero-shot][2103.00020] (floor)", "–", "40.0", "**60.0**", "48.0",
        "48.0 to 48.0", "0.0",
    ]  # fmt: skip
    assert rows[2][3] == "**81.0 ± 1.4**"
    assert rows[3][1:6] == ["Visual prompt", "deep", "61.0 ± 1.4", "not transferable", "–"]
    assert rows[4][1:6] == ["Gone", "deep", "–", "–", "incomplete"]
    assert (
        "Visual prompt is **not transferable** in all 4 cells (source 61.0): width 128, not 192."
        in text
    )
    assert "Gone is **incomplete** with 2 of 4 cells measured, so no mean is given." in text


def test_the_breakage_table_has_flips_calibration_and_harmed_datasets() -> None:
    flips = dict(negative_flips=8, positive_flips=4, inconsistent_errors=6)
    rows = [
        make_row(
            source if backbone == "old" else source - 4,
            task=task,
            seed=seed,
            backbone=backbone,
            ece=2.0 if backbone == "old" else 5.0,
            **({} if backbone == "old" else flips),
        )
        for task, source in (("cats", 70), ("dogs", 60))
        for seed in (1, 2)
        for backbone in ("old", "new")
    ]
    page = make_page(make_method(COOP, rows), flat(ZEROSHOT, 40, 60))
    text = render_leaderboard([page])
    shown = cells_of(folded(text, "Old model → New model"))[2]
    # Expected of independent errors: the mean of 70 % × 34 % and 60 % × 44 % is 25.1 %.
    assert shown[1:] == ["8.0", "4.0", "0.32", "6.0", "2.0 → 5.0", "1 of 2", "-4.0 (Dogs)"]


def test_failures_and_missing_rows_are_listed() -> None:
    rows = cells_of(section(render_leaderboard([whole_page()]), "### Failed and missing"))[2:]
    assert rows == [
        [
            "Gone", "failed", "1", "cats, 4 shots, seed 1, on old",
            r"RuntimeError: no \| \<b\>",
        ],
        ["Gone", "missing", "1", "dogs, 4 shots, seed 2, on new", "–"],
    ]  # fmt: skip


def test_dataset_tables_have_no_mean_where_a_cell_is_missing() -> None:
    rows = cells_of(folded(render_leaderboard([whole_page()]), "Source accuracy: Old model"))
    assert rows[0] == ["Method", "Cats", "Dogs", "Mean"]
    assert rows[-1] == ["Gone", "–", "56.0", "–"]
    assert rows[2:5] == [
        ["[CoOp][2109.01134]", "63.0", "63.0", "63.0"],
        ["[Zero-shot][2103.00020] (floor)", "40.0", "40.0", "40.0"],
        ["[Linear probe][2103.00020]", "**81.0**", "**81.0**", "**81.0**"],
    ]


def test_variants_show_both_sides_and_their_mean() -> None:
    expected = replace(TWO_BY_TWO, variants={"cats": ("cats-flat", "cats-3d")})
    rows = make_pairs(dict.fromkeys(CELLS, (60, 50)))
    for variant, both in (("cats-flat", (40, 30)), ("cats-3d", (20, 10))):
        rows += make_pairs({cell: both for cell in CELLS if cell[0] == "cats"}, test_set=variant)
    page = make_page(make_method(COOP, rows), expected=expected)
    facts = {"cats-flat": TaskFacts("Flat", "MIT"), "cats-3d": TaskFacts("3D", "MIT")}
    text = render_leaderboard([replace(page, tasks={**page.tasks, **facts})])
    table = cells_of(folded(text, "Cats: Old model → New model"))
    assert table[0] == ["Method", "Cats", "Flat", "3D", "Mean of variants"]
    assert [cell.replace("*", "") for cell in table[2][1:]] == [
        "60.0 → 50.0",
        "40.0 → 30.0",
        "20.0 → 10.0",
        "30.0 → 20.0",
    ]
    fewer = make_method(COOP, [row for row in rows if row.test_set != "cats-3d"])
    text = render_leaderboard([replace(page, results=make_page(fewer).results)])
    assert cells_of(folded(text, "Cats: Old model → New model"))[2][-1] == "– → –"
    assert "cats/cats-3d, 4 shots, seed 1, on old" in text


def test_settings_and_provenance_are_joined() -> None:
    first = replace(flat(COOP, 60, 50), differs={"epochs": (200, 50), "norm": (None, [1, 2])})
    second = replace(
        flat(PROBE, 60, 50), differs={"epochs": (200, 50)}, provenance={"torch": ("2.5", "2.6")}
    )
    text = render_leaderboard([make_page(first, second, views=8, max_steps=200)])
    settings = folded(text, "Settings that differ from the published recipes")
    assert "8 cached augmentations per training image, and at most 200 optimiser steps" in section(
        text, "### Details"
    )
    assert cells_of(settings)[2:] == [
        ["`epochs`", "200", "50", "CoOp, Linear probe"],
        ["`norm`", "none", r"\[1, 2\]", "CoOp"],
    ]
    assert cells_of(folded(text, "Software and hardware, from the result files"))[2:] == [
        ["torch", "2.5, 2.6"]
    ]


def test_rows_that_disagree_on_zero_shot_accuracy_are_named() -> None:
    other = flat(PROBE, 60, 50)
    rows = other.rows.assign(zero_shot_correct=[41, *other.rows["zero_shot_correct"][1:]])
    text = render_leaderboard([make_page(flat(COOP, 60, 50), replace(other, rows=rows))])
    assert "`old` on `cats`" in section(text, "### Rows that disagree")


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
    methods = list(page.results.methods.values())
    rng.shuffle(methods)
    shuffled = [
        replace(one, rows=one.rows.iloc[rng.sample(range(n), n)], costs=one.costs[::-1])
        for one in methods
        if (n := len(one.rows))
    ]
    again = replace(page, results=make_page(*shuffled).results)
    assert render_leaderboard([again]) == render_leaderboard([page])


def kinds(text: str) -> list[str]:
    """The markup of a page: its tokens without what they hold."""
    found = []
    for token in MARKDOWN.parse(text):
        found.append(token.type)
        found += [child.type for child in token.children or []]
    return [kind for kind in found if not kind.startswith("text")]


INJECTIONS = [
    "a | b", "<script>x</script>", "[x](http://x)", "![x](y)", "`x`", "**x**", "_x_ __y__", "~~x~~",
    "# x", "> x", "- x", "1. x", "---", "a\n\n# b", "x\\", "&lt;", "<http://x>", "[x]: http://x",
    "x\u2028y", "\u202ex", "`", "|", "\\|", "]", "[^1]", "$x$", "~~~", "```", "=", "a\r| b |\r",
]  # fmt: skip


def hostile_page(text: str) -> SuitePage:
    info = replace(COOP, title=text)
    rows = lines_of(flat(info, 60, 50))
    rows[0] = make_row(None, status="failed", reason=text)
    rows[-1] = make_row(
        None, task="dogs", seed=2, backbone="new", status="not transferable", reason=text
    )
    method = make_method(
        info, rows, differs={f"{text}!": (text, [text])}, provenance={text: (text,)}
    )
    config = flat(replace(info, name="coop+config"), 60, 50)
    aligned = through_words(flat(info, 60, 50))
    facts = TaskFacts(text, text)
    page = make_page(
        method,
        replace(config, config={f"{text}!": text}),
        aligned,
        title=text,
        note=text,
        tasks={"cats": facts, "dogs": facts},
        backbones={"old": text, "new": text},
        expected=replace(TWO_BY_TWO, shots=(4, 16), retrained=True),
        groups={text: (("old", "new"),)},
        paths=(("old", "new"),),
        configs={"coop+config": "coop"},
    )
    plain = replace(page, groups={}, paths=(), configs={}, expected=TWO_BY_TWO)
    return replace(page, sections=(page, plain))


@pytest.mark.parametrize("text", INJECTIONS)
def test_no_file_or_card_can_inject_markup(text: str) -> None:
    pages = [hostile_page(text), hostile_page("plain")]
    hostile, plain = (kinds(render_leaderboard([page])) for page in pages)
    assert hostile == plain


@pytest.mark.slow
def test_the_leaderboard_starts_without_torch_and_matplotlib() -> None:
    code = (
        "import sys, compatbench.pages.leaderboard, compatbench.pages.terminal;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'open_clip', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


SMOKE = suite_cards.read("smoke")
MINE = SMOKE.model_copy(update={"name": "mine", "title": "My suite", "publish": True})


def flat_on_mini(info: MethodInfo, right: int) -> MethodResults:
    rows = [
        make_row(
            right, method=info.name, task="mini-weather", source="mini-clip", backbone=backbone
        )
        for backbone in ("mini-clip", "mini-eva-clip")
    ]
    return make_method(info, rows)


def write(out: Path, suite: SuiteCard, methods: int = 2) -> None:
    for number in range(methods):
        info = replace(COOP, name=f"m{number:02}", title=f"Method {number}")
        write_results(out / "results" / suite.name, flat_on_mini(info, 90 - number))
    write_results(out / "results" / suite.name, flat_on_mini(ZEROSHOT, 10))


def test_the_readme_shows_the_first_and_the_floor_and_links_to_the_rest(tmp_path: Path) -> None:
    few = tmp_path / "few"
    for out, methods in ((tmp_path, SHOWN + 3), (few, 2)):
        write(out, MINE, methods)
        (out / "README.md").write_text(f"before\n{BEGIN}old\n{END}after\n")
    text = render_pages(tmp_path, MINE)[tmp_path / "README.md"]
    assert text.startswith(f"before\n{BEGIN}")
    assert text.endswith(f"{END}after\n")
    assert [line.split("|")[2].strip() for line in text.splitlines() if line.startswith("|")][
        2:
    ] == [
        *(f"[Method {number}][2109.01134]" for number in range(SHOWN)),
        "[Zero-shot][2103.00020] (floor)",
    ]
    assert "The other 3 methods, and the other tables: [leaderboard.md](leaderboard.md)." in text
    assert "[2109.01134]: https://arxiv.org/abs/2109.01134" in text
    assert "The other" not in render_pages(few, MINE)[few / "README.md"]


def test_a_section_is_shown_under_the_suite_that_it_extends(tmp_path: Path) -> None:
    values = MINE.model_dump() | {
        "title": "My shots", "publish": "section", "extends": "mini", "shots": [4, 2],
    }  # fmt: skip
    section = SuiteCard.model_validate(values)
    write(tmp_path, section)
    text = render_pages(tmp_path, section)[tmp_path / "leaderboard.md"]
    assert text.index("## Mini\n") < text.index("### My shots\n")
    assert "## My shots" not in text.replace("### My shots", "")


def test_a_suite_that_is_not_published_makes_no_page(tmp_path: Path) -> None:
    write(tmp_path, SMOKE)
    with pytest.raises(CompatbenchError, match="holds no results"):
        render_pages(tmp_path)


def test_pictures_are_shown_where_they_have_been_drawn(tmp_path: Path) -> None:
    write(tmp_path, MINE)
    page = tmp_path / "leaderboard.md"
    assert "![" not in render_pages(tmp_path, MINE)[page]
    folder = tmp_path / "results" / "figures"
    folder.mkdir()
    (folder / "mine-scatter-1.svg").write_text("<svg/>")
    (folder / "other-scatter-1.svg").write_text("<svg/>")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the folder is no suite, and needs no warning
        text = render_pages(tmp_path, MINE)[page]
    assert text.count("![") == 1
    assert re.search(
        r"^!\[Accuracy on .*\]\(results/figures/mine-scatter-1\.svg\)$", text, re.MULTILINE
    )
