"""The tables of average ranks, retraining, paths and kinds of upgrades, cell by cell."""

from __future__ import annotations

from dataclasses import replace

from synthetic_results import (
    COOP,
    TWO_BY_TWO,
    ZEROSHOT,
    make_method,
    make_page,
    make_pairs,
    make_row,
)

from compatbench.pages.leaderboard import render_leaderboard
from compatbench.pages.tables import average_ranks, path_table, retained_table
from compatbench.results.measures import Expected, upgrade_pairs
from compatbench.results.store import MethodInfo, MethodResults

UPGRADE = ("old", "new")
CELLS = [("cats", 1), ("dogs", 1), ("cats", 2), ("dogs", 2)]


def flat(info: MethodInfo, source: int, target: int) -> MethodResults:
    figures = dict.fromkeys(CELLS, (source, target))
    return make_method(info, make_pairs(figures, method=info.name))


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_average_ranks_are_shown_with_their_groups() -> None:
    tasks = tuple("abcdefgh")
    methods = []
    for name, right in (("best", 60), ("next", 50), ("third", 40), ("worst", 10)):
        figures = {(task, 1): (right + i, right + i) for i, task in enumerate(tasks)}
        methods.append(make_method(replace(COOP, name=name), make_pairs(figures, method=name)))
    page = make_page(*methods, expected=Expected(tasks, (4,), (1,), (UPGRADE,)))
    found = average_ranks(page, UPGRADE, 4)
    assert found is not None
    text, table = found
    assert "the methods differ (Friedman's test, χ² = 24.0, p < 0.001)" in text
    assert "1.7 or more apart (Nemenyi, 5 %)" in text
    rows = [cells_of(line) for line in table[2:]]
    assert [row[1:] for row in rows] == [["1.0", "a"], ["2.0", "a b"], ["3.0", "b c"], ["4.0", "c"]]


def test_the_table_shows_gains_share_and_interval() -> None:
    floor = make_method(ZEROSHOT, make_pairs(dict.fromkeys(CELLS[:2], (40, 60)), "zeroshot"))
    # Of 100 images, on a target whose zero-shot has 60 right: attached, and retrained there.
    attached = zip(CELLS, [(50, 62), (50, 70), (50, 64), (50, 68)], strict=True)
    retrained = [
        make_row(right, task=task, seed=seed, source="new", backbone="new")
        for (task, seed), right in zip(CELLS, (64, 88, 68, 84), strict=True)
    ]
    coop = make_method(COOP, [*make_pairs(dict(attached)), *retrained])
    page = make_page(coop, floor, expected=replace(TWO_BY_TWO, retrained=True))
    *_, row = retained_table(page, UPGRADE, 4)
    assert cells_of(row) == ["[CoOp][2109.01134]", "+6.0", "+16.0", "38 %", "35 to 50"]
    assert len(retained_table(page, UPGRADE, 4)) == 3  # the floor learns nothing


def test_the_table_shows_what_each_step_changes() -> None:
    path = ("old", "middle", "new")
    # Zero-shot has 40 right on the old model, 50 on the middle one and 60 on the new one.
    right = {"old": (60, 70), "middle": (58, 66), "new": (63, 61)}
    rows = [
        make_row(correct + 2 * (seed - 1), task=task, seed=seed, backbone=backbone)
        for backbone, both in right.items()
        for task, correct in zip(("cats", "dogs"), both, strict=True)
        for seed in (1, 2)
    ]
    expected = replace(TWO_BY_TWO, upgrades=upgrade_pairs([path]))
    page = make_page(make_method(COOP, rows), expected=expected, paths=(path,))
    header, _, row = map(cells_of, path_table(page, path, 4, "gain"))
    assert header == ["Method", "Old model", "middle", "New model", "Per step"]
    assert row == ["[CoOp][2109.01134]", "+26.0", "+13.0 (-13.0)", "+3.0 (-10.0)", "-11.5"]
    accuracies = path_table(page, path, 4, "accuracy")[-1]
    assert "63.0 (-3.0)" in accuracies
    assert "63.0 (0.0)" in accuracies
    text = render_leaderboard([page])
    assert "### Step by step" in text
    assert "Step by step" not in render_leaderboard([replace(page, paths=())])


def test_the_page_has_a_table_for_each_group_and_none_without_groups() -> None:
    page = make_page(flat(COOP, 60, 50), groups={"Kin": (UPGRADE,), "Strangers": (UPGRADE,)})
    text = render_leaderboard([page])
    assert "### By kind of upgrade" in text
    summaries = [f"<summary>{title}, 4 shots</summary>" for title in ("Kin", "Strangers")]
    assert text.index(summaries[0]) < text.index(summaries[1])
    assert "By kind of upgrade" not in render_leaderboard([replace(page, groups={})])
