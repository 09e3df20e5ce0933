"""Own and other classes, before and after an upgrade, against sums written out."""

from __future__ import annotations

from dataclasses import replace
from statistics import harmonic_mean, mean

import numpy as np
import pytest
from synthetic_results import (
    COOP,
    PROBE,
    UPGRADE,
    ZEROSHOT,
    make_method,
    make_page,
    make_row,
)

from compatbench.errors import CompatbenchError
from compatbench.results.estimate import draw_resamples
from compatbench.results.expected import Expected
from compatbench.results.four_ways import list_pairs, measure_four_ways
from compatbench.results.method_results import MethodInfo, MethodResults
from compatbench.results.ranking_table import Results
from compatbench.tables.figures.plan import plan_figures
from compatbench.tables.pages.leaderboard import render_leaderboard, render_suite
from compatbench.tables.suite_page import SuitePage, TaskFacts

TASKS = ("cats.base", "dogs.base", "rats.base")
NEW = {task: (task.replace("base", "new"),) for task in TASKS}
EXPECTED = Expected(TASKS, (4,), (1, 2), (UPGRADE,), NEW, protocol="base-to-new")
# Right of 100 by seed and task: base and new on the source, base and new on the target.
RIGHT = {
    1: [(60, 50, 55, 40), (80, 45, 70, 61), (30, 20, 66, 62)],
    2: [(62, 48, 57, 44), (79, 47, 71, 60), (34, 22, 60, 65)],
}
ZERO = {"old": 40, "new": 60}
NOT_APPLICABLE = "not applicable: the module knows the classes it was fitted for and no others"


def of(info: MethodInfo, applies: bool = True) -> MethodResults:
    rows = []
    for seed in (1, 2) if info.learns else (1,):
        for task, right in zip(TASKS, RIGHT[seed], strict=True):
            sets = ((task, 0), (NEW[task][0], 1))
            for (name, number), model in [(s, m) for s in sets for m in (0, 1)]:
                where = dict(method=info.name, task=task, test_set=name, seed=seed)
                where |= dict(backbone=UPGRADE[model])
                if number and not applies:
                    where |= dict(status="not transferable", reason=NOT_APPLICABLE)
                    rows.append(make_row(None, **where))
                    continue
                flips = {}
                if model:
                    before = right[number]
                    lost = max(before - right[2 + number], 0) + 1
                    gained = right[2 + number] - before + lost
                    flips = dict(negative_flips=lost, positive_flips=gained, inconsistent_errors=0)
                rows.append(make_row(right[2 * model + number], **where, **flips))
    return make_method(info, rows)


def page_of(*methods: MethodResults) -> SuitePage:
    tasks = {name: TaskFacts(name, "CC0") for pair in list_pairs(EXPECTED) for name in pair}
    return make_page(*methods, expected=EXPECTED, tasks=tasks)


def test_figures_are_the_sums_written_out() -> None:
    assert list_pairs(EXPECTED) == tuple((task, NEW[task][0]) for task in TASKS)
    [one] = measure_four_ways([of(COOP)], EXPECTED, UPGRADE, 4)
    assert one.state == "complete"
    cells = [right for seed in RIGHT.values() for right in seed]
    base, new, base_after, new_after = (mean(c[i] for c in cells) for i in range(4))
    # The field's H is of means; this project's is a mean.
    source, target = one.over_classes("source"), one.over_classes("target")
    assert source is not None
    assert target is not None
    assert source.value == pytest.approx(harmonic_mean([base, new]), abs=1e-9)
    assert target.value == pytest.approx(harmonic_mean([base_after, new_after]), abs=1e-9)
    by_task = np.array([[*map(mean, zip(*both, strict=True))] for both in
                        zip(RIGHT[1], RIGHT[2], strict=True)])  # fmt: skip
    drawn = [harmonic_mean([*by_task[rows, :2].mean(axis=0)]) for rows in draw_resamples(3)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert (source.low, source.high) == pytest.approx((low, high), abs=1e-9)
    for classes, i in (("own", 0), ("other", 1)):
        found = one.over_models(classes)  # type: ignore[arg-type]
        assert found is not None
        expected = mean(harmonic_mean([c[i], c[2 + i]]) for c in cells)
        assert found.value == pytest.approx(expected, abs=1e-9)
    assert one.four is not None
    assert one.four.value == pytest.approx(mean(map(harmonic_mean, cells)), abs=1e-9)
    lost = [
        ((c[1] - ZERO["old"]) - (c[3] - ZERO["new"]))
        - ((c[0] - ZERO["old"]) - (c[2] - ZERO["new"]))
        for c in cells
    ]
    assert one.forgotten is not None
    assert one.forgotten.value == pytest.approx(mean(lost), abs=1e-9)
    flips = one.mean("other_negative_flips")
    assert flips is not None
    assert flips.value == pytest.approx(mean(max(c[1] - c[3], 0) + 1 for c in cells), abs=1e-9)


def test_what_does_not_apply_says_so_and_is_ordered_last() -> None:
    methods = [of(PROBE, applies=False), of(COOP), of(ZEROSHOT)]
    found = measure_four_ways(methods, EXPECTED, UPGRADE, 4)
    assert [one.info.name for one in found] == ["coop", "zeroshot", "linear_probe"]
    assert [one.state for one in found] == ["complete", "complete", "not applicable"]
    assert found[-1].four is None
    assert found[-1].over_models("own") is not None
    part = of(COOP)
    part = replace(part, rows=part.rows.iloc[:-1])
    assert measure_four_ways([part], EXPECTED, UPGRADE, 4)[0].state == "incomplete"
    other = of(COOP, applies=False)
    other = replace(other, rows=other.rows.replace(NOT_APPLICABLE, "no descriptions"))
    assert measure_four_ways([other], EXPECTED, UPGRADE, 4)[0].state == "not transferable"
    page = page_of(*methods)
    frame = Results(page.results, page.expected).classes(*UPGRADE).set_index("method")
    assert frame.loc["coop", "own_source"] == pytest.approx(
        mean(c[0] for s in RIGHT.values() for c in s)
    )
    assert frame.loc["linear_probe", "state"] == "not applicable"
    assert frame.loc["linear_probe", "reason"] == NOT_APPLICABLE
    assert np.isnan(frame.loc["linear_probe", "four"])
    text = render_suite(page)
    assert "## Known and other classes" in text
    assert "## Style shift" not in text
    assert "Methods that apply to other classes: 1; to their own classes only: 1." in text
    [line] = [line for line in text.splitlines() if "Linear probe" in line and "n/a" in line][:1]
    assert line.count("n/a") == 5
    assert "### Known and other classes: Tiny suite" in render_leaderboard([page])
    plain = replace(page.expected, protocol="few-shot")
    assert "Known and other classes" not in render_suite(replace(page, expected=plain))
    with pytest.raises(CompatbenchError, match="tests no other classes than those trained on"):
        Results(page.results, plain).classes(*UPGRADE)


def test_the_picture_leads_from_the_source_to_the_target() -> None:
    page = page_of(of(ZEROSHOT), of(COOP), of(PROBE, applies=False))
    [planned] = [one for one in plan_figures([page]) if one.section == "classes"]
    values = {one["title"]: one for one in planned.shown.values}
    assert PROBE.title not in values  # it knows its own classes only
    cells = [right for seed in RIGHT.values() for right in seed]
    base, new, base_after, new_after = (mean(c[i] for c in cells) for i in range(4))
    shown = [*values[COOP.title]["own"], *values[COOP.title]["other"]]
    assert shown == pytest.approx([base, base_after, new, new_after], abs=0.005)
    assert f"{COOP.title}: own classes {base:.1f} → {base_after:.1f}" in planned.render().decode()
