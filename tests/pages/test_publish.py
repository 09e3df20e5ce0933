"""The pages of a folder: sections, pictures, and the README's short table."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_results import COOP, ZEROSHOT, make_method, make_row

from compatbench.data.cards import SuiteCard, suite_cards
from compatbench.errors import CompatbenchError
from compatbench.pages.figures import SHOWS, drawn_figures, embed
from compatbench.pages.publish import SHOWN, render_pages
from compatbench.results.store import MethodInfo, MethodResults, write_results

SMOKE = suite_cards.read("smoke")
MINE = SMOKE.model_copy(update={"name": "mine", "title": "My suite", "publish": True})
BEGIN, END = "<!-- leaderboard:begin -->\n", "<!-- leaderboard:end -->\n"


def method(info: MethodInfo, right: int) -> MethodResults:
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
        write_results(out / "results" / suite.name, method(info, 90 - number))
    write_results(out / "results" / suite.name, method(ZEROSHOT, 10))


def test_the_readme_shows_the_first_and_the_floor_and_links_to_the_rest(tmp_path: Path) -> None:
    write(tmp_path, MINE, methods=SHOWN + 3)
    (tmp_path / "README.md").write_text(f"before\n{BEGIN}old\n{END}after\n")
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


def test_a_readme_that_shows_every_method_promises_no_others(tmp_path: Path) -> None:
    write(tmp_path, MINE)
    (tmp_path / "README.md").write_text(BEGIN + END)
    assert "The other" not in render_pages(tmp_path, MINE)[tmp_path / "README.md"]


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
    assert f"![{SHOWS['scatter']}](results/figures/mine-scatter-1.svg)" in text


def test_pictures_are_embedded_in_the_order_that_is_asked_for() -> None:
    drawn = {"mini-scatter-2", "mini-matrix-2", "mini-shots-1"}
    lines = embed(drawn, "mini", 2, "matrix", "shots", "scatter")
    assert [line.rsplit("/", 1)[-1] for line in lines if line] == [
        "mini-matrix-2.svg)",
        "mini-scatter-2.svg)",
    ]
    assert embed((), "mini", 1, "scatter") == []


def test_a_folder_without_pictures_has_none(tmp_path: Path) -> None:
    assert drawn_figures(tmp_path) == frozenset()
