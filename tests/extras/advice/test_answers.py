"""The first table of the leaderboard: what you have, what to try, what to expect."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd
from made_results import (
    COOP,
    PROBE,
    TWO_BY_TWO,
    UPGRADE,
    by_transfer,
    make_method,
    make_page,
    make_pairs,
    on_tasks,
)

from compatbench.extras.advice.answers import (
    ANSWERS,
    answer_table,
    describe_tied,
)
from compatbench.extras.advice.measurements import read_measurements
from compatbench.extras.advice.verdicts import judge
from compatbench.tables.suite_page import SuitePage

SIX = replace(TWO_BY_TWO, tasks=tuple("abcdef"))


def read_rows(page: SuitePage) -> dict[str, list[str]]:
    """Return the cells of a row, but its gain, by each thing that an owner may have to get it."""
    cells = [[cell.text for cell in row] for row in answer_table(page).rows]
    assert cells[0][0] == "New model"
    return {held: [*row[2:5], *row[6:]] for row in cells for held in re.split(",? or |, ", row[1])}


def make_options(options: Mapping[str, Sequence[int]], **changes: object) -> SuitePage:
    """Return the page of one method, with accuracies by transfer and task; zero-shot is 60."""
    methods = [by_transfer(name, on_tasks("coop", values)) for name, values in options.items()]
    return make_page(*methods, expected=SIX, **changes)  # type: ignore[arg-type]


def test_a_row_for_what_an_owner_has() -> None:
    """Zero-shot is 60 on every task; the old model's accuracy is the target's."""
    page = make_options(
        {
            "copied": [70, 71, 72, 73, 74, 75],
            "words": [71, 70, 73, 74, 73, 76],
            "distilled": [80, 81, 82, 83, 84, 86],
            "retrained+1": [50, 60, 62, 58, 61, 63],
            "retrained+2": [90, 91, 92, 93, 94, 96],
        }
    )
    rows = read_rows(page)
    assert rows["nothing but the module"] == ["coop, untouched", "73.5", "60.0", "yes", "2.7", "6"]
    assert rows["a list of words"][0] == "coop, untouched"  # words are not clearly better
    assert rows["unlabelled images"][0] == "coop, moved by *distilled*"
    assert rows["the old model kept"][0] == "coop, untouched"  # as good as it is on the old
    # retrained+1 has two labels, and is no better than the module untouched, which is free.
    assert rows["2 labels per class"][0] == "coop, untouched"
    assert "4 labels per class" not in rows  # every other number
    free = "nothing but the module, a list of words, the old model kept, or 2 labels per class"
    assert [row[1].text for row in answer_table(page).rows] == [free, "unlabelled images"]
    cells = {(task, seed): (80, 70 + seed) for task in SIX.tasks for seed in (1, 2)}
    loses = make_page(make_method(COOP, make_pairs(cells)), expected=SIX)
    stay = ["stay with the old model: CoOp", "80.0", "60.0", "yes", "–", "6"]
    assert read_rows(loses)["the old model kept"] == stay
    assert "untouched | 73.5 | 60.0 | +13.5 (+11.5 to +15.5) | yes" in ANSWERS.render(page)
    assert "untouched | 73.5, +13.5 (+11.5 to +15.5) |" in ANSWERS.render(page, short=True)


def test_what_cannot_be_told_says_so_before_what_is_likely() -> None:
    wide = make_options({"copied": [40, 90, 55, 80, 62, 70]})
    [tried, *_, beats, worth, _] = read_rows(wide)["nothing but the module"]
    assert tried == "cannot tell; coop, untouched"
    assert beats.startswith("not shown (takes about ")
    assert worth == "–"
    worse = read_rows(make_options({"copied": [40, 42, 41, 44, 40, 43]}))["nothing but the module"]
    assert worse == ["zero-shot", "60.0", "60.0", "no", "–", "6"]
    undecided = read_rows(make_options({"copied": [10, 90, 55, 60, 62, 70]}))
    assert undecided["nothing but the module"][0] == "cannot tell; zero-shot, or coop, untouched"
    few = make_page(on_tasks("coop", [90, 91]), expected=replace(TWO_BY_TWO, tasks=("a", "b")))
    assert "yes" not in str(read_rows(few))
    single = make_page(on_tasks("coop", [90]), expected=replace(TWO_BY_TWO, tasks=("a",)))
    assert read_rows(single)["nothing but the module"][3] == "not shown (takes 6 tasks or more)"


def test_nobody_is_told_to_collect_labels_for_what_is_not_shown_to_gain() -> None:
    """The table and the verdict on the method name the same option while we cannot tell."""
    options = {"copied": [50, 90, 55, 60, 64, 70], "retrained+1": [46, 97, 50, 72, 64, 76]}
    page = make_options(options)
    assert read_rows(page)["2 labels per class"][0] == "cannot tell; coop, untouched"
    verdict = judge(read_measurements(page.results, SIX, UPGRADE, ["coop"]), "coop")
    assert (verdict["verdict"], verdict["transfer"]) == ("cannot tell", "copied")


def test_a_row_is_of_the_suite_that_can_decide() -> None:
    few = make_page(
        *(
            by_transfer(name, on_tasks("linear_probe", [70, 80], PROBE))
            for name in ("copied", "distilled", "retrained+1")
        ),
        expected=replace(TWO_BY_TWO, tasks=("a", "b")),
    )
    page = make_options({"copied": [70, 71, 72, 73, 74, 75]}, sections=(few,))
    rows = read_rows(page)
    free, unlabelled = (rows[name] for name in ("nothing but the module", "unlabelled images"))
    assert (free[-1], unlabelled[-1]) == ("6", "2")
    assert COOP.name in free[0]


def test_options_on_the_same_tasks_are_compared_whichever_page_has_them() -> None:
    """The best module is in the suite, the labels that it is worth are measured in a section."""
    prices = make_options(
        {
            "copied": [61, 63, 60, 62, 61, 64],
            "distilled": [65, 66, 64, 67, 65, 66],
            "retrained+1": [62, 64, 62, 63, 64, 63],
            "retrained+2": [72, 74, 72, 73, 74, 73],
            "retrained+4": [82, 84, 82, 83, 84, 83],
        }
    )
    probe = by_transfer("copied", on_tasks("linear_probe", [72, 74, 72, 73, 74, 73], PROBE))
    page = make_page(probe, expected=SIX, sections=(prices,))
    rows = read_rows(page)
    untouched = ["linear_probe, untouched", "74.0", "60.0", "yes", "4.0", "6"]
    assert rows["nothing but the module"] == rows["unlabelled images"] == untouched
    retrained = ["coop, retrained with 8 labels per class", "84.0", "60.0", "yes", "–", "6"]
    assert rows["8 labels per class"] == retrained


def test_options_with_different_seeds_are_compared_on_those_that_all_have() -> None:
    """On seed 1 both options are about equal, but the second seed of one is worse."""
    first = [70, 71, 72, 73, 74, 75]
    swings = [0, 1, -1, 2, -1, 0]
    both = {}
    alone = {}
    for task, value, swing in zip(SIX.tasks, first, swings, strict=True):
        both[task, 1] = (value, value)
        both[task, 2] = (value - 6, value - 6)
        alone[task, 1] = (value + swing, value + swing)
    distilled = by_transfer("distilled", make_method(COOP, make_pairs(alone)))
    prices = make_page(
        distilled,
        by_transfer("retrained+1", distilled),
        expected=replace(SIX, seeds=(1,)),
    )
    page = make_page(make_method(COOP, make_pairs(both)), expected=SIX, sections=(prices,))
    rows = read_rows(page)
    assert rows["nothing but the module"][:2] == ["CoOp, untouched", "69.5"]
    assert rows["unlabelled images"] == rows["nothing but the module"]
    assert "Some transfers have 1 seed instead of 2;" in ANSWERS.render(page, short=True)


def test_the_old_model_is_one_option() -> None:
    """The transfer ``kept`` is the same as to stay with the old model."""
    page = make_options({"copied": [70, 71, 72, 73, 74, 75], "kept": [80, 81, 82, 83, 84, 85]})
    assert read_rows(page)["the old model kept"][0] == "coop, untouched"


def test_cannot_tell_is_explained_where_it_is_said() -> None:
    explained = "*Cannot tell* is about the choice"
    assert explained in ANSWERS.render(make_options({"copied": [40, 90, 55, 80, 62, 70]}), True)
    assert explained not in ANSWERS.render(make_options({"copied": [70, 71, 72, 73, 74, 75]}), True)


def test_options_of_equal_cost_are_listed_unless_they_are_significantly_worse() -> None:
    base = [70, 71, 72, 73, 74, 75]
    names = ("first", "second", "third", "fourth", "fifth")
    equal = [on_tasks(name, [value + step for value in base]) for step, name in enumerate(names)]
    noisy = [on_tasks("first", [73, 70, 75, 72, 77, 74]), on_tasks("second", base)]
    worse = on_tasks("worse", [61, 62, 63, 64, 65, 66])
    free = "nothing but the module"
    assert (
        read_rows(make_page(*noisy, worse, expected=SIX))[free][0] == "first or second, untouched"
    )
    # Every step of one point is significant, because it is the same on all tasks.
    assert read_rows(make_page(*equal, expected=SIX))[free][0] == "fifth, untouched"
    swings = [(0, 2, 0, 2, 0, 2), (2, 0, 2, 0, 2, 0), (0, 0, 2, 2, 0, 0), (2, 2, 0, 0, 2, 2)]
    same = []
    for name, swing in zip(names, swings, strict=False):
        values = [value + more for value, more in zip(base, swing, strict=True)]
        same.append(on_tasks(name, values))
    named = read_rows(make_page(*same, expected=SIX))[free][0]
    assert named.endswith(", untouched; and 1 more")
    assert named.count(" or ") == 2


def test_options_that_do_the_same_stand_together() -> None:
    rows = [("Old one", "the old model"), ("One", "copied"), ("Old two", "the old model")]
    options = [
        {"title": title, "paper": "", "action": action, "needs": ()} for title, action in rows
    ]
    said = describe_tied(pd.DataFrame(options)).text
    assert said == "stay with the old model: Old one or Old two; or One, untouched"
