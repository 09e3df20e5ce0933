"""The ranking in the terminal: at any width, of what was asked for, with what has no mean."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from made_up_suites import info, long_page, method
from rich.console import Console
from synthetic_results import (
    COOP,
    TWO_BY_TWO,
    flat,
    make_method,
    make_page,
    make_pairs,
    make_row,
    on_tasks,
    refuse,
)

from compatbench.data.cards import suite_cards
from compatbench.engine.matrix import select_matrix
from compatbench.method.registry import builtin_methods
from compatbench.results.expected import Expected
from compatbench.runs.progress import finished_part
from compatbench.tables.suite_page import SuitePage
from compatbench.tables.table import plain_table
from compatbench.tables.terminal import render_table
from compatbench.tables.terminal_ranking import print_ranking


def shown(page: SuitePage, width: int = 80) -> str:
    console = Console(width=width, file=StringIO(), record=True)
    print_ranking(console, page)
    return console.export_text()


def refused_page() -> SuitePage:
    failed = make_row(None, method="gone", status="failed", reason="RuntimeError: no | <b>")
    return make_page(
        method(info("coop", "CoOp, a title of many words and letters", "shallow"), 60, 50),
        method(info("zeroshot", "Zero-shot", "none"), 35, 55),
        refuse(flat(info("r", "Refused"), 60, 60), "width 128, not 192"),
        make_method(info("gone", "Gone"), [failed]),
    )


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_ranking_fits_any_width_and_keeps_its_figures(width: int) -> None:
    text = shown(refused_page(), width=width)
    assert max(map(len, text.splitlines())) <= width
    first = next(line for line in text.splitlines() if line.lstrip().startswith("1 "))
    assert "-5.0" in first
    assert ("65.0 ± 0.0" in first) == (width >= 76)
    assert ("shallow" in first) == (width >= 110)
    words = " ".join(text.split())
    assert "Refused: not transferable in all 4 cells (source 60.0): width 128, not 192" in words
    assert "Gone: incomplete with 0 of 4 cells measured" in words
    assert "Gone: 1 row failed: RuntimeError: no | <b>" in words


def test_files_cannot_add_markup() -> None:
    page = make_page(method(replace(COOP, title="[bold]x[/nope]\x1b[31m"), 60, 50))
    assert "[bold]x[/nope] [31m" in shown(page)


def test_means_are_taken_over_exactly_what_was_asked_for() -> None:
    page = make_page(
        make_method(info("coop", "CoOp"), make_pairs({("dogs", 2): (70, 50)})),
        method(info("zeroshot", "Zero-shot", "none"), 35, 55),
        method(info("other", "Other"), 80, 80),
        expected=replace(TWO_BY_TWO, seeds=(1, 2, 3)),
    )
    assert "70.0" not in shown(page)  # incomplete as a whole
    text = shown(page.restrict(tasks=["dogs"], seeds=[2], methods=["coop", "zeroshot"]))
    assert "Old model → New model, 4 shots, 1 of 2 tasks, 1 of 3 seeds" in text
    coop = next(line for line in text.splitlines() if "CoOp" in line)
    # The other seeds and the cats are not there, and do not count.
    assert coop.split()[3:7] == ["70.0", "50.0", "58.3", "-10.0"]
    # The floor was measured once, for all seeds.
    assert "Zero-shot (floor)" in text
    assert "Other" not in text
    assert "missing" not in text


def test_shots_that_the_suite_does_not_have_are_ranked_if_asked_for() -> None:
    page = make_page(
        method(info("coop", "CoOp"), 60, 40, shots=(8, 16)),
        method(info("probe", "Probe"), 80, 80, shots=(16,)),
        method(info("zeroshot", "Zero-shot", "none"), 35, 55, shots=(16,)),
        expected=replace(TWO_BY_TWO, shots=(16,)),
    )
    assert "Probe: 8 rows missing" not in shown(page)
    text = shown(page.restrict(shots=[8], methods=["coop", "zeroshot"]))
    assert text.splitlines()[0].strip() == "Old model → New model, 8 shots"
    coop, floor = (line for line in text.splitlines() if "CoOp" in line or "Zero-shot" in line)
    assert coop.split()[3:] == ["65.0", "±", "0.0", "45.0", "±", "0.0", "53.2", "±", "0.0", "-15.0"]
    # It looks at no image, so its row at 16 shots is that of 8.
    assert "(floor)" in floor
    assert "48.0" in floor
    assert "16 shots" not in text
    assert "missing" not in text
    assert "Probe: 8 rows missing" in " ".join(shown(page.restrict(shots=[8])).split())


def test_a_seed_and_a_task_that_the_suite_does_not_have_are_named() -> None:
    page = make_page(make_method(COOP, make_pairs({("birds", 7): (70, 50)})))
    text = shown(page.restrict(tasks=["birds"], seeds=[7]))
    assert "4 shots, tasks birds, seeds 7" in text
    assert "70.0" in text
    assert "missing" not in text


def test_transfers_are_ranked_in_a_table_of_their_own() -> None:
    text = shown(long_page())
    assert "Old model → New model, 4 shots, through words" in text
    assert shown(long_page().restrict(methods=["m03"])).count("words 1") == 2  # upgrades
    copied, words = (
        [line for line in shown(long_page().restrict(transfers=[one])).splitlines() if "→" in line]
        for one in ("copied", "words")
    )
    assert ["through words" in line for line in (*copied, *words)] == [False, False, True, True]


def test_a_run_asks_for_what_its_options_select() -> None:
    matrix = select_matrix(
        suite_cards.read("smoke"),
        builtin_methods(),
        methods=["linear_probe", "zeroshot"],
        shots=[8],
        seeds=[7],
        transfers=["words"],
    )
    only = matrix.asked
    assert (only["methods"], only["transfers"]) == ({"linear_probe"}, {"words"})
    assert (only["shots"], only["seeds"]) == ((8,), (7,))


def test_a_ranking_in_the_making_rests_on_tasks_that_all_shown_methods_have_finished() -> None:
    expected = Expected(tuple("abcd"), (4,), (1, 2), (("old", "new"),))
    done = {"quick": (60, 60, 60, 90), "late": (50, 70, 70), "slow": (90,)}
    methods = {n: on_tasks(n, values, info(n, n)) for n, values in done.items()}
    part = finished_part(make_page(*methods.values(), expected=expected))
    assert part is not None
    # Two methods on three tasks, not one on four, nor three on one, which is less than half.
    assert part.expected.tasks == ("a", "b", "c")
    assert part.part == "3 of 4 tasks"
    h = {r.standing.info.name: r.value("h") for r in part.ranks(("old", "new"), 4)}
    # Both seeds are done; the second has two more, and source and target are equal.
    assert h == {"quick": 61.0, "late": round((50 + 70 + 70) / 3 + 1, 4)}
    # Of the first moments whatever is most: three methods on a task, or one on two.
    first = {"quick": (60,), "late": (50,), "slow": (90,)}
    page = make_page(*(on_tasks(n, v, info(n, n)) for n, v in first.items()), expected=expected)
    assert len(finished_part(page).results.methods) == 3  # type: ignore[union-attr]
    assert finished_part(make_page(expected=expected)) is None


LONG = "visual.transformer.resblocks.11.attn.out_proj.lora_A.default.weight"
RECALL = ["target", "queries", "way", "pairs", "recall@1", "recall@5", "recall@10", "map"]


@pytest.mark.parametrize(
    ("columns", "row", "whole"),
    [
        # A name is whole as long as the other columns have ten characters.
        (["tensor", "shape", "type"], [LONG, "768 × 768", "float32"], ["768 × 768", "float32"]),
        (["tensor", "shape"], [LONG, "4"], [LONG]),
        (RECALL, ["ViT-L-14/datacomp_xl", "images", "old model", 0, *[99.9] * 4], ["old model"]),
        (["name", "what it does", "n"], ["a", "some words " * 20, 12345], ["12345"]),
        (["", "ViT-B-16-quickgelu/openai (source)", "ViT-L-14/datacomp_xl_s13b_b90k"],
         ["with the module", "93.8", "94.1"], ["with the module", "93.8"]),
    ],
)  # fmt: skip
def test_a_table_of_long_names_loses_nothing_on_80_columns(
    columns: list[str], row: list[Any], whole: list[str]
) -> None:
    numbers = [place for place, value in enumerate(row) if value == "93.8" or value == "94.1"]
    left = [i for i, value in enumerate(row) if isinstance(value, str) and i not in numbers]
    console = Console(width=80, file=StringIO(), record=True)
    console.print(render_table(plain_table(columns, [row], left), 80))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("\n") <= 6  # of columns that are squeezed to letters there are more
    letters = "".join(map(str, [*columns, *row]))
    assert sorted("".join(text.split())) == sorted("".join(letters.split()))
    assert all(value in text for value in whole)
