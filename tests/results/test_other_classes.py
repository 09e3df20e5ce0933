"""Own and other classes, before and after an upgrade, against sums written out."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from statistics import harmonic_mean, mean

import numpy as np
import pandas as pd
import pytest
from made_results import (
    COOP,
    PROBE,
    UPGRADE,
    ZEROSHOT,
    make_method,
    make_page,
    make_row,
    make_suite,
    render_sections,
)

from compatbench.errors import CompatbenchError
from compatbench.results.estimate import estimate
from compatbench.results.expected import Expected
from compatbench.results.other_classes import list_pairs, measure_other_classes
from compatbench.results.public_results import Results
from compatbench.results.stored_method import MethodInfo, StoredMethod
from compatbench.tables.pages.leaderboard import render_leaderboard
from compatbench.tables.suite_page import SuitePage

TASKS = ("cats.base", "dogs.base", "rats.base")
NEW = {task: (task.replace("base", "new"),) for task in TASKS}
EXPECTED = Expected(TASKS, (4,), (1, 2), (UPGRADE,), NEW, protocol="base-to-new")
# Right of 100 by seed and task: base and new on the source, base and new on the target.
RIGHT = {
    1: [(60, 50, 55, 40), (80, 45, 70, 61), (30, 20, 66, 62)],
    2: [(62, 48, 57, 44), (79, 47, 71, 60), (34, 22, 60, 65)],
}
CELLS = [*RIGHT[1], *RIGHT[2]]
MEANS = [mean(cell[i] for cell in CELLS) for i in range(4)]
NOT_APPLICABLE = "not applicable: the module knows the classes it was fitted for and no others"


def of(info: MethodInfo, applies: bool = True) -> StoredMethod:
    rows = []
    for seed in (1, 2) if info.learns else (1,):
        for task, right in zip(TASKS, RIGHT[seed], strict=True):
            sets = ((task, 0), (NEW[task][0], 1))
            for (name, number), model in product(sets, (0, 1)):
                where = dict(method=info.name, task=task, test_set=name, seed=seed)
                where |= dict(backbone=UPGRADE[model])
                if number and not applies:
                    where |= dict(status="not transferable", reason=NOT_APPLICABLE)
                    rows.append(make_row(None, **where))
                    continue
                flips = {}
                if model:
                    before = right[number]
                    after = right[2 + number]
                    lost = max(before - after, 0) + 1
                    flips = dict(negative_flips=lost, positive_flips=after - before + lost)
                    flips["inconsistent_errors"] = 0
                rows.append(make_row(right[2 * model + number], **where, **flips))
    return make_method(info, rows)


def measure(*methods: StoredMethod) -> pd.DataFrame:
    return measure_other_classes(make_suite(*methods), EXPECTED, UPGRADE, 4).set_index("method")


def page_of(*methods: StoredMethod) -> SuitePage:
    tasks = {}
    for base, new in list_pairs(EXPECTED):
        tasks[base] = base
        tasks[new] = new
    return make_page(*methods, expected=EXPECTED, tasks=tasks)


def test_means_of_classes_equal_the_sums_written_out() -> None:
    assert list_pairs(EXPECTED) == [(task, NEW[task][0]) for task in TASKS]
    one = measure(of(COOP)).loc["coop"]
    assert one["state"] == "complete"
    base, new, base_after, new_after = MEANS
    expected = {
        # The field's H is of means; this project's is a mean.
        "h_source": harmonic_mean([base, new]),
        "h_target": harmonic_mean([base_after, new_after]),
        "h_own": mean(harmonic_mean([c[0], c[2]]) for c in CELLS),
        "h_other": mean(harmonic_mean([c[1], c[3]]) for c in CELLS),
        "four": mean(map(harmonic_mean, CELLS)),
        # Zero-shot has 40 right on the source and 60 on the target, so that it cancels.
        "forgotten": mean((c[1] - c[3]) - (c[0] - c[2]) for c in CELLS),
        "other_negative_flips": mean(max(c[1] - c[3], 0) + 1 for c in CELLS),
    }
    assert one[list(expected)].to_dict() == pytest.approx(expected, abs=1e-9)
    four = [[harmonic_mean(cell) for cell in seed] for seed in RIGHT.values()]
    interval = estimate(np.mean(four, axis=0))
    assert (one["four_low"], one["four_high"]) == pytest.approx((interval.low, interval.high))


def test_methods_that_do_not_apply_say_so_and_come_last() -> None:
    methods = [of(PROBE, applies=False), of(COOP), of(ZEROSHOT)]
    found = measure(*methods)
    assert found.index.tolist() == ["coop", "zeroshot", "linear_probe"]
    assert found["state"].tolist() == ["complete", "complete", "not applicable"]
    assert np.isnan(found.loc["linear_probe", "four"])
    assert not np.isnan(found.loc["linear_probe", "h_own"])
    part = of(COOP)
    part = replace(part, rows=part.rows.iloc[:-1])
    other = of(COOP, applies=False)
    other = replace(other, rows=other.rows.replace(NOT_APPLICABLE, "no descriptions"))
    assert measure(part)["state"].tolist() == ["incomplete"]
    assert measure(other)["state"].tolist() == ["not transferable"]
    page = page_of(*methods)
    frame = Results(page.results, page.expected).classes(*UPGRADE).set_index("method")
    assert frame.loc["coop", "own_source"] == pytest.approx(MEANS[0])
    assert frame.loc["linear_probe", "state"] == "not applicable"
    assert frame.loc["linear_probe", "reason"] == NOT_APPLICABLE
    assert np.isnan(frame.loc["linear_probe", "four"])
    text = render_sections(page)
    assert "## Known and other classes" in text
    assert "## Style shift" not in text
    lines = [line for line in text.splitlines() if "Linear probe" in line]
    line = next(line for line in lines if "n/a" in line)
    assert line.count("n/a") == 5
    assert "\n## Known and other classes: Tiny suite\n" in render_leaderboard([page])
    plain = replace(page.expected, protocol="few-shot")
    assert "Known and other classes" not in render_sections(replace(page, expected=plain))
    with pytest.raises(CompatbenchError, match="tests no other classes than those trained on"):
        Results(page.results, plain).classes(*UPGRADE)
