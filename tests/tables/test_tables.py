"""The tables besides the ranking, cell by cell, and the parts of a page that show them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from figure_pages import cells_of
from synthetic_results import (
    CELLS,
    COOP,
    TWO_BY_TWO,
    UPGRADE,
    ZEROSHOT,
    flat,
    make_method,
    make_page,
    make_pairs,
    make_row,
    on_tasks,
    refuse,
    through_words,
    with_more,
)

from compatbench.results.expected import Expected, upgrade_pairs
from compatbench.results.method_results import MethodInfo, MethodResults
from compatbench.tables import suite_tables as tables
from compatbench.tables.leaderboard import render_leaderboard, render_suite
from compatbench.tables.method_tables import (
    ablation_table,
    about_method,
    rows_by_method,
    task_figures,
    way_table,
)
from compatbench.tables.suite_page import SuitePage

CONTCOOP = MethodInfo("contcoop", "ContCoOp", "arXiv:2412.20895", "shallow", ("text-input",))


def variant(name: str, right: tuple[int, int, int, int], **config: object) -> MethodResults:
    """A config whose source and target accuracy, and so H, are equal on every cell."""
    info = replace(CONTCOOP, name=name, title=name)
    figures = {cell: (value, value) for cell, value in zip(CELLS, right, strict=True)}
    settings = {"attention": "self", "weight": 8.0} | config
    return make_method(info, make_pairs(figures, method=name), config=settings)


def ablation_page() -> SuitePage:
    page = make_page(
        variant("contcoop", (50, 60, 52, 62)),
        variant("contcoop+cross", (46, 55, 46, 57), attention="cross"),  # -4 -5 -6 -5
        variant("contcoop+no-kd", (54, 56, 54, 58), weight=0.0),  # +4 -4 +2 -4
    )
    names = ("contcoop+no-kd", "contcoop+cross", "contcoop+not-run")
    return replace(page, configs=dict.fromkeys(names, "contcoop"))


def test_an_ablation_is_the_paired_difference_to_its_method_over_datasets() -> None:
    page = ablation_page()
    cross = page.results.methods["contcoop+cross"]
    # What prompts differ by on the source: 0.2 on one task, 0.3 on the other.
    diversity = cross.rows["task"].map({"cats": 0.2, "dogs": 0.3})
    page = with_more(page, replace(cross, rows=cross.rows.assign(prompt_diversity=diversity)))
    header, _, *rows = cells_of(ablation_table(page, UPGRADE, 4))
    assert header == ["Config", "Change", "Diversity", "Source", "Target", "H", "95 % of H"]
    assert rows == [
        ["contcoop", *["–"] * 6],
        # Cats gain 3 and dogs lose 4: the mean is -0.5, and the interval contains 0.
        ["contcoop+no-kd", "`weight`: 8.0 → 0.0", "–", "-0.5", "-0.5", "-0.5", "-4.0 to +3.0"],
        # Both lose 5.
        [
            "contcoop+cross", "`attention`: self → cross", "0.25", *["**-5.0**"] * 3,
            "-5.0 to -5.0",
        ],
    ]  # fmt: skip


def test_an_ablation_of_an_incomplete_method_has_no_difference() -> None:
    page = ablation_page()
    base = page.results.methods["contcoop"]
    page = with_more(page, replace(base, rows=base.rows[:-1]))
    for row in cells_of(ablation_table(page, UPGRADE, 4))[2:]:
        assert row[5:] == ["–", "–"]
    alone = page.restrict(methods=set(page.results.methods) - {"contcoop"})
    for row in cells_of(ablation_table(alone, UPGRADE, 4))[2:]:
        assert row[1:] == ["–"] * 6


def shots_page() -> SuitePage:
    expected = replace(TWO_BY_TWO, shots=(16, 4))
    rows = make_pairs(dict.fromkeys(CELLS, (50, 30)))
    rows += make_pairs(dict.fromkeys(CELLS, (70, 70)), shots=16)
    return make_page(make_method(COOP, rows), flat(ZEROSHOT, 40, 60), expected=expected)


def test_shots_stand_side_by_side_the_fewest_first() -> None:
    page = shots_page()
    header, _, *rows = cells_of(tables.shots_table(page, UPGRADE, "h"))
    assert header == ["Method", "4", "16"]
    assert rows == [
        ["[CoOp][2109.01134]", "37.5", "**70.0**"],
        ["[Zero-shot][2103.00020] (floor)", "**48.0**", "48.0"],
    ]
    assert cells_of(tables.shots_table(page, UPGRADE, "source"))[2][1:] == ["**50.0**", "**70.0**"]
    coop = page.results.methods["coop"]
    rows = coop.rows.query("shots != 4 or task != 'dogs'")
    page = with_more(page, replace(coop, rows=rows))
    assert cells_of(tables.shots_table(page, UPGRADE, "h"))[2][1:] == ["–", "**70.0**"]


def test_transferred_modules_stand_beside_untouched_ones_of_their_method() -> None:
    page = make_page(
        variant("contcoop", (50, 60, 52, 62)),
        through_words(variant("contcoop", (55, 65, 57, 67))),
        through_words(variant("other", (20, 20, 20, 20))),
    )
    first, second = cells_of(tables.transfer_table(page, "words", UPGRADE, 4))[2:]
    assert first[3:] == ["56.0 → 61.0 ± 1.4", "56.0 → 61.0 ± 1.4", "-4.0 → +1.0"]
    assert second[0] == "2"
    assert second[3:] == ["– → 20.0 ± 0.0", "– → 20.0 ± 0.0", "– → -40.0"]
    text = render_suite(page)
    assert "## Attached through: words" in text
    assert "contcoop (words)" not in text.split("## Attached through: words")[0]


def test_the_leaderboard_leads_to_the_pages_of_its_sections() -> None:
    ablation = replace(ablation_page(), name="parts", title="Parts", note="")
    shots = replace(shots_page(), name="by-shots", title="Fewer images", note="One draw.")
    page = make_page(variant("contcoop", (50, 60, 52, 62)), sections=(ablation, shots))
    text = render_leaderboard([page])
    assert "(results/by-shots/README.md): 2 methods" in text
    assert "(results/parts/README.md): 3 methods" in text
    assert "compatbench run --suite parts --methods all" in text
    assert "[2109.01134]: https" not in text  # a paper that only a section cites
    own = render_suite(shots)
    assert own.index("## By shots") < own.index("## Old model → New model, 16 shots")
    assert "> **Note.** One draw." in own
    assert "[2109.01134]: https" in own


def test_the_leaderboard_has_the_ten_best_the_floors_and_what_is_ranked_apart() -> None:
    methods = [variant(f"m{10 + n}", (10 + n,) * 4) for n in range(12)]
    floor, words = flat(ZEROSHOT, 1, 1), through_words(variant("other", (90,) * 4))
    gone = refuse(flat(replace(COOP, name="gone", title="Gone"), 60, 50, 2), "width 128, not 192")
    page = make_page(*methods, floor, words, gone)
    text = render_leaderboard([page])
    names = [row[1].split("]")[0].strip("[") for row in cells_of(text.splitlines())[2:]]
    assert names == [*(f"m{21 - n}" for n in range(10)), "Zero-shot"]
    assert "ranked apart: *words* **other** (H 90.0). Not transferable: Gone." in text
    assert "Judged by the H, choose **m21** (21.0)." in text.replace(
        ", or of prompts and other shallow modules **m21** (21.0)", ""
    )


def test_a_method_s_part_has_settings_costs_ways_and_datasets() -> None:
    coop = replace(
        make_method(COOP, make_pairs(dict(zip(CELLS, [(80, 60), (40, 20)] * 2, strict=True)))),
        config={"recipe": {"lr": 0.1}, "context_words": None},
        differs={"recipe.lr": (0.002, 0.1)},
    )
    page = make_page(coop, through_words(flat(COOP, 50, 50)))
    [(name, rows)] = rows_by_method(page)
    about = about_method(page, rows)
    assert name == "coop"
    assert "Settings: `context_words`: none; `recipe.lr`: 0.1." in about
    assert "Changed by this suite: `recipe.lr`: 0.002 → 0.1." in about
    assert "`compatbench run --suite tiny --methods coop --transfers copied,words`" in about
    ways = cells_of(way_table(page, rows))[2:]
    assert [row[1:6] for row in ways] == [
        ["untouched", "1", "60.0", "40.0", "47.6"],
        ["words", "1", "50.0", "50.0", "50.0"],
    ]
    assert [row[:5] for row in cells_of(task_figures(page, rows[0]))[2:]] == [
        ["Cats", "80.0", "60.0", "68.6", "0.0"],
        ["Dogs", "40.0", "20.0", "26.7", "-40.0"],
    ]


def test_gaps_of_a_section_are_on_its_page_even_if_its_suite_has_no_results() -> None:
    page = ablation_page()
    cross = page.results.methods["contcoop+cross"]
    page = with_more(page, replace(cross, rows=cross.rows[:-1]))
    text = render_leaderboard([make_page(sections=(page,))])
    assert "There are no results yet." in text
    assert "## Failed and missing" in render_suite(page)


def test_average_ranks_are_tested() -> None:
    methods = [on_tasks(f"m{right}", range(right, right + 8)) for right in (10, 50, 60)]
    # The floor has no second seed.
    floor = on_tasks("floor", range(49, 57), ZEROSHOT)
    expected = Expected(tuple("abcdefgh"), (4,), (1, 2), (UPGRADE,))
    page = make_page(*methods, floor, expected=expected)
    text = render_suite(page)
    assert "the methods differ (Friedman's test, χ² = 24.0, p < 0.001)" in text
    assert "1.7 or more apart (Nemenyi, 5 %)" in text


def test_the_table_shows_gains_share_and_interval() -> None:
    # Of 100 images, on a target whose zero-shot has 60 right: attached, and retrained there.
    attached = zip(CELLS, [(50, 62), (50, 70), (50, 64), (50, 68)], strict=True)
    retrained = [
        make_row(right, task=task, seed=seed, source="new", backbone="new")
        for (task, seed), right in zip(CELLS, (64, 88, 68, 84), strict=True)
    ]
    coop = make_method(COOP, [*make_pairs(dict(attached)), *retrained])
    page = make_page(coop, flat(ZEROSHOT, 40, 60), expected=replace(TWO_BY_TWO, retrained=True))
    *_, row = cells_of(tables.retained_table(page, UPGRADE, 4))
    assert row == ["[CoOp][2109.01134]", "+6.0", "+16.0", "38", "35 to 50"]
    assert len(tables.retained_table(page, UPGRADE, 4).rows) == 1  # the floor learns nothing
    assert "## Compared with retraining" in render_suite(page)


@pytest.mark.parametrize("missing", [False, True])
def test_the_table_shows_what_each_step_changes(missing: bool) -> None:
    path = ("old", "middle", "new")
    # Zero-shot has 40 right on the old model, 50 on the middle one and 60 on the new one.
    right = {"old": (60, 70), "middle": (58, 66), "new": (63, 61)}
    rows = [
        make_row(both[task == "dogs"] + 2 * (seed - 1), task=task, seed=seed, backbone=backbone)
        for backbone, both in right.items()
        for task, seed in CELLS
        if not (missing and (task, seed, backbone) == ("dogs", 2, "middle"))
    ]
    expected = replace(TWO_BY_TWO, upgrades=upgrade_pairs([path]))
    page = make_page(make_method(COOP, rows), expected=expected, paths=(path,))
    header, _, gains = cells_of(tables.path_table(page, path, 4, "gain"))
    accuracies = cells_of(tables.path_table(page, path, 4, "accuracy"))[-1]
    assert header == ["Method", "Old model", "middle", "New model", "Per step"]
    if missing:
        assert gains[1:] == ["+26.0", "–", "+3.0", "–"]
        assert accuracies[1:] == ["66.0", "–", "63.0", "–"]
    else:
        assert gains[1:] == ["+26.0", "+13.0 (-13.0)", "+3.0 (-10.0)", "-11.5"]
        assert accuracies[1:] == ["66.0", "63.0 (-3.0)", "63.0 (0.0)", "-1.5"]
    assert "## Step by step" in render_suite(page)
    assert "Step by step" not in render_suite(replace(page, paths=()))


def test_the_page_has_a_table_for_each_group_and_none_without_groups() -> None:
    page = make_page(flat(COOP, 60, 50), groups={"Kin": (UPGRADE,), "Strangers": (UPGRADE,)})
    text = render_suite(page)
    assert "## By kind of upgrade" in text
    summaries = [f"<summary>{title}, 4 shots</summary>" for title in ("Kin", "Strangers")]
    assert text.index(summaries[0]) < text.index(summaries[1])
    assert "By kind of upgrade" not in render_suite(replace(page, groups={}))
