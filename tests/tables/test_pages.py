"""The pages of suites made up: as snapshots, and what no snapshot can show.

Snapshots are files beside these tests, which COMPATBENCH_SNAPSHOTS=write writes anew.
"""

from __future__ import annotations

import os
import random
import re
import warnings
from dataclasses import replace
from functools import cache
from html import unescape
from io import StringIO
from pathlib import Path
from typing import Any

import made_up_suites as suites
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_results import (
    COOP,
    PROBE,
    TWO_BY_TWO,
    ZEROSHOT,
    flat,
    make_method,
    make_page,
    make_pairs,
    make_row,
    make_suite,
    render_sections,
    through_words,
    with_card,
)
from rich.console import Console

from compatbench.data.cards import SuiteCard, suite_cards
from compatbench.errors import CompatbenchError
from compatbench.messages import lower_first
from compatbench.results.public_results import Results
from compatbench.results.result_files import ResultFiles
from compatbench.tables.pages.leaderboard import (
    render_leaderboard,
    render_pages,
    render_suite,
    render_summary,
)
from compatbench.tables.pages.report_site import render_site
from compatbench.tables.pages.sections import TOP
from compatbench.tables.pages.site_data import choose_columns
from compatbench.tables.suite_page import SuitePage, published_pages, read_suite_page
from compatbench.tables.survival_tables import describe_counts
from compatbench.tables.terminal_ranking import list_rankings, print_ranking

BEGIN = "<!-- leaderboard:begin -->\n"
END = "<!-- leaderboard:end -->\n"
SMOKE = suite_cards.read("smoke")
MINE = SMOKE.model_copy(update={"name": "mine", "title": "My suite", "publish": True})
PAGES = ("small", "states", "apart", "breakage", "ablation", "shots", "path", "retained", "tested")
SNAPSHOTS = Path(__file__).parent / "snapshots"


def same_as_before(name: str, text: str) -> None:
    """Compares a text with the snapshot of a name."""
    path = SNAPSHOTS / name
    if os.environ.get("COMPATBENCH_SNAPSHOTS") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def on_terminal(page: SuitePage, width: int = 80) -> str:
    console = Console(width=width, file=StringIO(), record=True)
    print_ranking(console, page)
    return console.export_text()


@pytest.mark.parametrize("name", PAGES)
def test_a_suite_in_markdown_on_the_site_on_a_terminal_and_as_a_frame(name: str) -> None:
    """With the values of all figures, which the site's data hold."""
    page = getattr(suites, f"{name}_page")()
    same_as_before(f"{name}.md", f"{render_suite(page)}\n{render_sections(page)}")
    same_as_before(f"{name}.js", render_site([page])["data/tiny.js"].decode())
    same_as_before(f"{name}.txt", on_terminal(page))
    frame = Results(page.results, page.expected).ranking(*page.expected.upgrades[0])
    same_as_before(f"{name}.csv", frame.to_csv(index=False, float_format="%.6g"))


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_ranking_fits_any_terminal_and_keeps_its_figures(width: int) -> None:
    lines = on_terminal(suites.states_page(), width).splitlines()
    assert max(map(len, lines)) <= width
    [first] = [line for line in lines if "60.4" in line]
    assert "-2.0" in first
    assert ("shallow" in first) == (width >= 110)
    assert "Visual prompt: not transferable in all cells" in " ".join(" ".join(lines).split())


def test_means_are_over_exactly_the_requested_cells() -> None:
    """Other tasks, seeds and shots than the suite's are named, and what is left out is no gap."""
    page = suites.partial_page()
    asked: list[dict[str, Any]] = [
        {},
        dict(tasks=["dogs"], seeds=[2], methods=["coop", "zeroshot"]),
        dict(shots=[8], methods=["coop", "zeroshot"]),
        dict(shots=[8]),
        dict(tasks=["birds"], seeds=[7]),
        dict(transfers=["copied"]),
        dict(transfers=["words"]),
    ]
    shown = (f"{only}\n{on_terminal(page.restrict(**only))}" for only in asked)
    same_as_before("restricted.txt", "\n".join(shown))


def test_the_leaderboard_has_the_best_the_floors_what_is_apart_and_sections() -> None:
    many = [suites.variant(f"m{10 + n}", (10 + n,) * 4) for n in range(TOP + 2)]
    words = through_words(suites.variant("other", (90,) * 4))
    parts = with_card(suites.ablation_page(), name="parts", title="Parts", note="")
    empty = with_card(make_page(sections=(parts,)), name="empty", title="Empty")
    _, *others = suites.states_page().results.methods.values()
    page = make_page(*many, flat(ZEROSHOT, 1, 1), words, *others)
    same_as_before("leaderboard.md", render_leaderboard([suites.on_six_tasks(page), empty]))


def test_a_registered_measure_is_shown_where_rows_have_it() -> None:
    coop = flat(COOP, 60, 50)
    floor = flat(ZEROSHOT, 40, 60)
    page = make_page(replace(coop, rows=coop.rows.assign(agreement=75.0)), floor)
    columns = choose_columns([page])
    assert "Agreement" in {column.title for column in columns.ranking}
    assert [*columns.measures][-1] == "agreement"
    plain = make_page(coop, floor)
    assert "agreement" not in choose_columns([plain]).measures


def test_the_command_gives_the_seeds_and_transfers_that_were_run() -> None:
    page = suites.apart_page()
    assert page.run_command().endswith("--methods all --seeds 1,2 --transfers copied,words")
    assert page.run_command("tda").endswith("--methods tda --seeds 1,2")
    usual = with_card(page, run_seeds=(), transfers=("copied", "words"))
    assert usual.run_command() == "compatbench run --suite tiny --methods all"
    with pytest.raises(CompatbenchError):
        render_leaderboard([with_card(make_page(), name="tiny; rm -r")])


def test_more_upgrades_are_on_the_suite_s_page_and_not_on_the_leaderboard() -> None:
    page = suites.survival_page()
    page = replace(page, more_upgrades=frozenset([("old", "other")]))
    kind, other_kind = suites.KINDS
    leaderboard = render_leaderboard([page])
    assert f"| Method | {kind} |" in leaderboard
    assert "Other model" not in leaderboard
    assert other_kind not in leaderboard
    of_suite = render_suite(page)
    assert f"| Method | {other_kind} |" in of_suite
    assert "## Old model → Other model" in of_suite
    shown = StringIO()
    print_ranking(Console(file=shown, width=100), page)
    assert "Old model → Other model" not in shown.getvalue()
    assert "1 more upgrade: see results/" in shown.getvalue()
    # JSON has all upgrades.
    assert set(list_rankings(page)["upgrade"]) == {"old → new", "old → other"}


def test_one_module_gains_and_two_gain() -> None:
    page = suites.survival_page()
    kind, other_kind = map(lower_first, suites.KINDS)
    first = f"9 gain, 1 loses and 1 cannot be attached if {kind}"
    second = f"1 gains, 10 lose and 0 cannot be attached if {other_kind}"
    shown = render_summary(page)
    assert f"{first}; {second}." in shown
    assert "9 gain and 1 loses in the first case; " in shown
    # The site has the same words.
    site = unescape(render_site([page])["index.html"].decode())
    assert describe_counts(page) in site


def test_a_part_of_a_suite_keeps_its_development_tasks(tmp_path: Path) -> None:
    page = suites.breakage_page()
    ranking = page.restrict(tasks=("dogs",)).ranking(("old", "new"), 4)
    assert ranking["source"][0] == 60
    assert page.restrict(seeds=[1]).expected.development == ("dogs",)
    tasks = {"tasks": ("mini-food", "mini-weather"), "development": ("mini-food",)}
    card = SMOKE.model_copy(update=tasks)
    expected = read_suite_page(card, ResultFiles(tmp_path), make_suite()).expected
    assert (expected.tasks, expected.development) == (("mini-weather",), ("mini-food",))
    alone = card.model_copy(update={"tasks": ("mini-food",)})  # nothing is held out
    assert read_suite_page(alone, ResultFiles(tmp_path), make_suite()).expected.tasks == (
        "mini-food",
    )


def test_means_are_over_the_seeds_that_were_run(tmp_path: Path) -> None:
    card = SMOKE.model_copy(update={"seeds": (1, 2, 3)})
    pages = [
        read_suite_page(
            card, ResultFiles(tmp_path), make_suite(make_method(COOP, make_pairs(cells)))
        )
        for cells in ({("cats", 2): (80, 60)}, {("cats", 1): (80, 60), ("cats", 3): (80, 60)}, {})
    ]
    assert [page.expected.seeds for page in pages] == [(2,), (1, 3), (1, 2, 3)]
    assert [page.part for page in pages] == ["1 of 3 seeds", "2 of 3 seeds", ""]
    text = render_leaderboard(pages[1:2])
    assert "4 training images per class (*shots*), 2 of 3 seeds, 1 upgrade" in text


def test_methods_of_this_project_are_marked(tmp_path: Path) -> None:
    ours = replace(PROBE, paper="compatbench")
    results = make_suite(flat(COOP, 62, 57, 2), flat(ours, 80, 5, 2))
    page = read_suite_page(SMOKE, ResultFiles(tmp_path), results)
    assert [info.title for info in page.results.infos] == ["CoOp", "Linear probe ‡"]
    assert page.legend == "‡ a method of this project."
    assert page.legend in render_leaderboard([replace(page, expected=TWO_BY_TWO)])


@cache
def states_in_order() -> tuple[str, ...]:
    return render_all(suites.states_page())


def render_all(page: SuitePage) -> tuple[str, ...]:
    return render_suite(page), render_sections(page), render_leaderboard([page])


@pytest.mark.slow
@settings(max_examples=10)
@given(st.randoms(use_true_random=False))
def test_the_order_of_rows_and_methods_does_not_show(rng: random.Random) -> None:
    page = suites.states_page()
    shuffled = []
    methods = list(page.results.methods.values())
    for method in rng.sample(methods, len(methods)):
        order = rng.sample(range(len(method.rows)), len(method.rows))
        shuffled.append(replace(method, rows=method.rows.iloc[order], costs=method.costs[::-1]))
    assert render_all(replace(page, results=make_suite(*shuffled))) == states_in_order()


def write(out: Path, suite: SuiteCard, methods: int = 2) -> None:
    """Results of a suite: the last method is the best, the floor the worst."""
    infos = [replace(COOP, name=f"m{i:02}", title=f"Method {i}") for i in range(methods)]
    for right, of in enumerate([ZEROSHOT, *infos[::-1]], 10):
        where = dict(method=of.name, task="mini-weather", source="mini-clip")
        rows = [make_row(right, **where, backbone=name) for name in ("mini-clip", "mini-eva-clip")]
        ResultFiles(out).write(suite.name, [make_method(of, rows)])


def test_readme_answers_first_and_links_to_the_complete_ranking(tmp_path: Path) -> None:
    write(tmp_path, MINE, TOP + 3)
    (tmp_path / "README.md").write_text(f"before\n{BEGIN}old\n{END}after\n")
    pages = published_pages(ResultFiles(tmp_path), MINE)
    text = render_pages(tmp_path, pages)[tmp_path / "README.md"]
    assert text.startswith(f"before\n{BEGIN}")
    assert text.endswith(f"{END}after\n")
    everything = f"The complete ranking of {TOP + 4} methods: [leaderboard.md](leaderboard.md)."
    assert everything in text
    # One small task is not enough for advice, and the page says so before all else.
    assert "cannot tell; zero-shot, or **[Method 0]" in text
    assert text.index("cannot tell") < text.index(everything)
    assert "[2109.01134]: https://arxiv.org/abs/2109.01134" in text
    # The suite does not name kinds of upgrades.
    assert "Does my module survive?" not in text


def test_the_readme_of_a_suite_with_kinds_answers_first_whether_modules_survive(
    tmp_path: Path,
) -> None:
    kind = "The new model is kin"
    suite = MINE.model_copy(update={"groups": {kind: MINE.upgrades}})
    write(tmp_path, suite)
    (tmp_path / "README.md").write_text(f"{BEGIN}{END}")
    pages = published_pages(ResultFiles(tmp_path), suite)
    texts = render_pages(tmp_path, pages)
    readme = texts[tmp_path / "README.md"]
    assert readme.index("cannot be attached if the new model is kin") < readme.index("## Does my")
    assert readme.index("Does my module survive?") < readme.index("What can I do about it?")
    leaderboard = texts[tmp_path / "leaderboard.md"]
    assert leaderboard.index("Does my module survive?") < leaderboard.index("## Complete ranking")


def test_pictures_are_shown_where_they_have_been_drawn(tmp_path: Path) -> None:
    write(tmp_path, MINE)
    folder = tmp_path / "results" / "figures"
    folder.mkdir()
    names = "leaderboard.md", "results/mine/README.md"
    for drawn in (0, 1):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # the folder is no suite, and needs no warning
            pages = render_pages(tmp_path, published_pages(ResultFiles(tmp_path), MINE))
        for name, root in zip(names, ("", r"\.\./\.\./"), strict=True):
            picture = rf"(?m)^!\[Accuracy on .*\]\({root}results/figures/mine-scatter-1\.svg\)$"
            assert len(re.findall(picture, pages[tmp_path / name])) == drawn
            caption = "(EVA-02, patch 12). Each mark is a method: the accuracy of its module before"
            assert (caption in pages[tmp_path / name]) == bool(drawn)
            assert pages[tmp_path / name].count("![") == drawn
        for kind in ("mine-scatter", "other-scatter", "mine-unknown"):
            (folder / f"{kind}-1.svg").write_text("<svg/>")
