"""Does a module survive? The verdicts on untouched modules."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made_results import (
    COOP,
    PROBE,
    UPGRADE,
    ZEROSHOT,
    make_method,
    make_page,
    make_pairs,
    refuse,
    through_words,
)

from compatbench.results.expected import Expected
from compatbench.results.stored_method import MethodInfo, StoredMethod
from compatbench.tables.pages.method_pages import list_verdicts
from compatbench.tables.suite_page import SuitePage
from compatbench.tables.survival_tables import (
    count_survivors,
    describe_counts,
    has_survival,
    read_survival,
    survival_by_method,
    survival_table,
)

TASKS = ("a", "b", "c", "d", "e", "f")
KIND = "The new model is kin"
EXPECTED = Expected(TASKS, (4,), (1,), (UPGRADE,))


def gaining(info: MethodInfo, name: str, title: str, gains: list[int]) -> StoredMethod:
    """Return a method with these gains over the target's zero-shot, which has 60 right of 100."""
    cells = {}
    for task, gain in zip(TASKS, gains, strict=False):
        cells[task, 1] = (70, 60 + gain)
    return make_method(replace(info, name=name, title=title), make_pairs(cells, method=name))


def page_of(*methods: StoredMethod) -> SuitePage:
    titles = {task: task for task in TASKS}
    return make_page(*methods, expected=EXPECTED, tasks=titles, groups={KIND: (UPGRADE,)})


@pytest.fixture
def page() -> SuitePage:
    steady = gaining(COOP, "steady", "Steady", [3, 4, 3, 4, 3, 4])
    mixed = gaining(COOP, "mixed", "mixed", [9, -8, 9, -8, 9, -8])
    lost = gaining(PROBE, "lost", "Lost", [-9, -8, -9, -8, -9, -8])
    refused = refuse(gaining(PROBE, "sizes", "Sizes", [0] * 6), "other sizes")
    partial = gaining(COOP, "partial", "Partial", [3, 4, 3])
    reader = gaining(replace(COOP, needs=("words",)), "reader", "Reader", [5, 6, 5, 6, 5, 6])
    moved = through_words(gaining(COOP, "lost", "Lost", [9] * 6))
    floor = gaining(ZEROSHOT, "zeroshot", "Zero-shot", [0] * 6)
    return page_of(steady, mixed, lost, refused, partial, reader, moved, floor)


def test_each_untouched_module_has_the_verdict_of_its_interval(page: SuitePage) -> None:
    frame = read_survival(page)
    assert dict(zip(frame["title"], frame["verdict"], strict=True)) == {
        "Lost": "loses",
        "mixed": "cannot tell",
        "Partial": "not measured",
        "Reader": "gains",
        "Sizes": "cannot be attached",
        "Steady": "gains",
    }
    row = frame.set_index("title").loc["Steady"]
    assert row["gain_low"] < 3.5 == row["gain"] < row["gain_high"]
    assert frame.set_index("title")["with_words"].to_dict()["Reader"]


def test_modules_are_counted_without_those_that_read_words(page: SuitePage) -> None:
    assert count_survivors(page) == {
        KIND: {
            "gains": 1,
            "cannot tell": 1,
            "loses": 1,
            "cannot be attached": 1,
            "not ranked": 0,
            "not measured": 0,
            "all": 4,
            "attached": 3,
            "gains corrected": 1,
            "loses corrected": 1,
        }
    }


def test_methods_that_the_suite_does_not_rank_are_shown_apart_and_not_counted() -> None:
    """Neither their verdicts nor Holm's correction count them."""
    losses = [-9, -8, -9, -8, -9, -8]
    methods = [gaining(PROBE, name, name.title(), losses) for name in ("lost", "unsuited")]
    page = page_of(*methods)
    unranked = replace(EXPECTED, unranked={"unsuited": "it reads sentences"})
    apart = replace(page, expected=unranked)
    assert count_survivors(page)[KIND]["loses corrected"] == 2
    counts = count_survivors(apart)[KIND]
    assert [counts[name] for name in ("all", "loses", "loses corrected", "attached")] == [1] * 4
    frame = read_survival(apart).set_index("method")
    assert frame.loc["unsuited", "verdict"] == "not ranked"
    rows = {row[0].text: row[1].text for row in survival_by_method(apart).rows}
    assert rows["Unsuited"].startswith("not ranked -8.5 (")
    assert describe_counts(apart).endswith("Listed but not counted: Unsuited (it reads sentences).")
    sentence = list_verdicts(apart)["unsuited"][0].sentence
    assert sentence.startswith("We do not judge Unsuited if the new model is kin (-8.5 points, -9.")
    assert sentence.endswith(": it reads sentences.")


def test_counts_in_words_are_grammatical(page: SuitePage) -> None:
    said = describe_counts(page)
    first = "1 gains, 1 loses and 1 cannot be attached if the new model is kin"
    assert said.startswith(f"Of 4 modules copied unchanged, {first}. ")
    assert "After Holm's correction for the number of modules, 1 gains and 1 loses. " in said
    assert said.endswith("Listed but not counted: Reader (it also reads a list of words).")
    steady = gaining(COOP, "steady", "Steady", [3, 4, 3, 4, 3, 4])
    assert "Of 1 module copied unchanged, 1 gains, none loses" in describe_counts(page_of(steady))


def test_the_table_lists_the_methods_of_each_verdict_by_title(page: SuitePage) -> None:
    rows = {
        row[0].text: row[1].text.replace("\N{NO-BREAK SPACE}", " ")
        for row in survival_table(page).rows
    }
    assert rows["gains over zero-shot"] == "Reader with words +5.5 · Steady +3.5"
    assert rows["loses: drop it"] == "Lost -8.5"
    assert rows["we cannot tell"] == "mixed +0.5"
    assert rows["cannot be attached"] == "Sizes"


def test_the_table_by_method_has_intervals(page: SuitePage) -> None:
    rows = {row[0].text: row[1].text for row in survival_by_method(page).rows}
    assert rows["Steady"] == "gains +3.5 (+2.9 to +4.1)"
    assert rows["Sizes"] == "cannot be attached"


def test_with_fewer_than_six_tasks_there_is_no_verdict() -> None:
    steady = gaining(COOP, "steady", "Steady", [3, 4, 3, 4, 3])
    few = replace(page_of(steady), expected=replace(EXPECTED, tasks=TASKS[:5]))
    assert read_survival(few)["verdict"].tolist() == ["cannot tell"]


def test_a_suite_that_does_not_name_kinds_of_upgrades_has_no_such_table() -> None:
    steady = gaining(COOP, "steady", "Steady", [3, 4, 3, 4, 3, 4])
    assert has_survival(page_of(steady))
    assert not has_survival(replace(page_of(steady), groups={}))
    assert not has_survival(page_of())
