"""docs/laws.md: its components and questions find what was put in, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import laws_anchoring
import laws_properties
import numpy as np
import pandas as pd
import pytest
from laws_kinds import (
    EFFECTS,
    Kind,
    over_targets,
    read_kinds,
    reversals,
    reversed_orders,
    share_of_targets,
    spread_of_means,
    variance_components,
)
from laws_page import TELLINGS, answer, show

from compatbench.data.cards import suite_cards
from compatbench.results.estimate import Interval

METHODS, TASKS = ("coop", "gda", "maple", "taskres"), tuple(f"t{i}" for i in range(8))
LINEAGES = ("mini-eva-clip", "mini-eva-clip-anew", "mini-eva-clip-apart")
GEOMETRY = {"words": 0.1, "residual": 0.3, "images": 1.0, "token_cosine": 0.9, "inherited": 0.5}


def make_upgrades(effect: float, seed: int = 0) -> tuple[list[Kind], pd.Series, pd.DataFrame]:
    """24 targets whose losses are ``effect`` times their text cosine, less a little noise."""
    rng = np.random.default_rng(seed)
    kinds, rows, zero_shot = [], [], {}
    for lineage, level in zip(LINEAGES, (0.2, 0.5, 0.9), strict=True):
        for length in ("", "-length-0.5"):
            names = tuple(f"{lineage}-{i}{length}" for i in range(5, 9))
            cosines = level + 0.2 * rng.random(4)
            noise = rng.normal(size=(len(METHODS), len(TASKS), 4))
            gains = noise - effect * cosines
            kinds.append(Kind(lineage + length, METHODS, TASKS, names, gains, 5 - gains))
            for name, cosine in zip(names, cosines, strict=True):
                zero_shot[name] = rng.normal()
                drawn = {each: rng.random() for each in ("text_procrustes", "image_cka")}
                facts = GEOMETRY | drawn | {"text_cosine": cosine}
                rows += [{"target": name, "task": task} | facts for task in TASKS]
    return kinds, pd.Series(zero_shot), pd.DataFrame(rows)


def test_targets_of_the_question_are_read_with_their_lineage_and_length():
    kinds, zero_shot, properties = make_upgrades(10)
    other = Kind("shipped", METHODS, TASKS, ("mini-eva-clip",), *(2 * [np.zeros((4, 8, 1))]))
    targets = laws_properties.read_targets([*kinds, other], zero_shot, properties)
    assert len(targets) == laws_properties.TARGETS
    assert targets.groupby(["lineage", "length"]).size().tolist() == [4] * 6
    first = targets.set_index("target").loc["mini-eva-clip-5"]
    assert first["loss"] == pytest.approx(kinds[0].losses[..., 0].mean())
    assert first["zero_shot"] == zero_shot["mini-eva-clip-5"]
    fewer = laws_properties.read_targets(kinds[:5], zero_shot, properties)
    assert laws_properties.answer(fewer, laws_properties.judge(fewer)) == (
        "Not answered yet: 20 of 24 targets have been measured."
    )


def test_what_a_property_explains_is_that_of_lines_through_the_other_lineages():
    rng = np.random.default_rng(1)
    losses, values, lineages = rng.normal(size=24), rng.normal(size=24), np.repeat([0, 1, 2], 8)
    left = plain = 0.0
    for lineage in range(3):
        rest, judged = lineages != lineage, lineages == lineage
        slope, start = np.polyfit(values[rest], losses[rest], 1)
        left += ((losses[judged] - start - slope * values[judged]) ** 2).sum()
        plain += ((losses[judged] - losses[rest].mean()) ** 2).sum()
    told = laws_properties.explained(losses, values[:, None], lineages, 1e-9)
    assert told == pytest.approx(1 - left / plain, abs=1e-6)


@pytest.fixture(autouse=True, scope="module")
def _few_resamples() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(laws_properties, "RESAMPLES", 400)
        yield


@pytest.fixture(scope="module")
def decided() -> tuple[pd.DataFrame, dict[str, laws_properties.Judged]]:
    """Targets whose losses go with one property, and the judgement of all."""
    targets = laws_properties.read_targets(*make_upgrades(20))
    return targets, laws_properties.judge(targets)


def test_the_property_that_decides_is_found_and_others_are_not(decided: Any):
    targets, judged = decided
    assert judged["text_cosine"].predicts
    assert judged["text_cosine"].share.value > 0.9
    for name in ("text_procrustes", "image_cka", "zero_shot", "token_cosine", "inherited"):
        assert not judged[name].predicts
    assert "cosine of old and new text features (R²" in laws_properties.answer(targets, judged)


def test_the_law_is_the_line_of_the_property_that_decides(decided: Any):
    targets, judged = decided
    law = laws_properties.fit_law(targets, judged)
    (line,) = law.lines
    assert (line.name, law.targets) == ("text_cosine", laws_properties.TARGETS)
    assert line.slope == pytest.approx(20, rel=0.05)
    assert line.intercept == pytest.approx(5, abs=0.5)
    assert 0 < line.error < 1
    assert (line.low, line.high) == pytest.approx(
        (targets["text_cosine"].min(), targets["text_cosine"].max()), abs=1e-4
    )
    inside, *_, last = law.tell({"text_cosine": 0.5})
    assert "at 0.50 copied modules lost 15." in inside
    assert last == "these are lines of 24 upgrades of miniature models"
    assert "cannot tell what modules lose" in law.tell({"text_cosine": 0.01})[0]


def test_without_a_property_that_predicts_the_law_says_so(decided: Any):
    few = decided[0].head(20)
    (told,) = laws_properties.fit_law(few, laws_properties.judge(few)).tell({})
    assert "cannot be told yet: 20 of 24 upgrades" in told
    nothing = dict.fromkeys(
        laws_properties.PROPERTIES, laws_properties.Judged("", Interval(0.1, -0.2, 0.4, 24))
    )
    (told,) = laws_properties.fit_law(decided[0], nothing).tell({})
    assert "none of these figures was shown" in told


def test_where_nothing_decides_no_property_is_named():
    drawn = [laws_properties.read_targets(*make_upgrades(0, seed)) for seed in range(5)]
    named = [laws_properties.answer(each, laws_properties.judge(each)) for each in drawn]
    assert sum(each.startswith("No property was shown") for each in named) >= 4


def test_properties_help_to_predict_gains_where_these_go_with_them():
    helped = {}
    for effect in (0, 40):
        kinds, zero_shot, properties = make_upgrades(effect)
        targets = laws_properties.read_targets(kinds, zero_shot, properties)
        rows = laws_properties.describe_gains(kinds, targets, properties)
        assert len(rows) == 24 * len(METHODS) * len(TASKS)
        gain = kinds[0].gains[1, 2, 3]
        place = (rows["target"] == "mini-eva-clip-8") & (rows["task"] == "t2")
        assert 100 * rows[place]["gain"].iloc[1] == pytest.approx(gain)
        helped[effect] = laws_properties.measure_help(rows, targets)
    assert helped[40].low > 1
    assert helped[0].low < 0.2


def make_anchored(gained: float, lost: float) -> tuple[list[Kind], pd.DataFrame]:
    """Targets whose penalty gains modules and costs zero-shot so much for each unit of weight."""
    rng, kinds, accuracy = np.random.default_rng(3), [], {}
    for weight in ("", "-anchored-0.3", "-anchored-1", "-anchored-3", "-anchored-10"):
        names = tuple(f"mini-eva-clip-anew-{seed}{weight}" for seed in (5, 6))
        strength = float(weight.rpartition("-")[2] or 0)
        gains = rng.normal(size=(4, 8, 2)) + gained * strength
        kinds.append(Kind(weight, METHODS, TASKS, names, gains, -gains))
        for name in names:
            accuracy[name] = 60 + rng.normal(size=8) - lost * strength
    return kinds, pd.DataFrame(accuracy, index=[*TASKS]).T


def test_a_weight_is_named_that_keeps_modules_and_is_free():
    prices = laws_anchoring.price_weights(*make_anchored(gained=2, lost=0.5))
    assert [price.weight for price in prices] == [*laws_anchoring.WEIGHTS]
    kinds, accuracy = make_anchored(gained=2, lost=0.5)
    without, third = kinds[0].gains.mean((0, 2)), kinds[3].gains.mean((0, 2))
    assert prices[2].gain.value == pytest.approx((third - without).mean())
    lost = accuracy.loc["mini-eva-clip-anew-5-anchored-3"] - accuracy.loc["mini-eva-clip-anew-5"]
    other = accuracy.loc["mini-eva-clip-anew-6-anchored-3"] - accuracy.loc["mini-eva-clip-anew-6"]
    assert prices[2].zero_shot.value == pytest.approx(((lost + other) / 2).mean())
    assert [price.keeps for price in prices[1:]] == [True] * 3
    assert not prices[-1].is_free
    assert "less than 2 points are lost" in laws_anchoring.answer(prices)
    assert "at weight 10" not in laws_anchoring.answer(prices)


def test_a_penalty_that_helps_no_module_is_not_named():
    kinds, accuracy = make_anchored(gained=0, lost=1)
    prices = laws_anchoring.price_weights(kinds, accuracy)
    assert "At no weight" in laws_anchoring.answer(prices)
    assert laws_anchoring.answer(prices[:2]) == (
        "Not answered yet: 2 of 4 weights have been measured."
    )
    # Without both seeds a weight has no price.
    one_seed = [Kind(k.title, METHODS, TASKS, k.targets[:1], k.gains, k.losses) for k in kinds[:2]]
    assert laws_anchoring.price_weights(one_seed, accuracy) == []


def draw_cells(shape: tuple[int, int, int], spreads: dict, seed: int) -> np.ndarray:
    """Sums of crossed random effects with these standard deviations."""
    rng = np.random.default_rng(seed)
    cells = np.zeros(shape)
    for effect, spread in spreads.items():
        sizes = [shape[axis] if axis in effect else 1 for axis in range(3)]
        cells = cells + spread * rng.normal(size=sizes)
    return cells


def make_kind(targets: int, cells: np.ndarray | None = None) -> Kind:
    if cells is None:
        cells = draw_cells((5, 8, targets), dict.fromkeys(EFFECTS, 1.0), 0)
    names = tuple(f"t{i}" for i in range(targets))
    tasks = tuple(f"task{i}" for i in range(8))
    return Kind("kind", tuple("abcde"), tasks, names, cells, -cells)


def test_components_are_those_of_the_analysis_of_variance():
    cells = draw_cells((4, 3, 5), dict.fromkeys(EFFECTS, 1.0), 7)
    # From anova_lm's mean squares of ols("y ~ (C(m) + C(t) + C(u)) ** 2") in statsmodels 0.15.0.
    known = [0.010773, 0.223005, 1.907657, 0.165348, 0.786588, 1.924434, 0.694388]
    assert [*variance_components(cells).values()] == pytest.approx(known, abs=1e-6)


def test_what_targets_share_is_nothing_where_they_are_equal_and_all_where_only_they_differ():
    equal = np.repeat(draw_cells((5, 8, 1), {(0,): 3.0, (1,): 2.0, (0, 1): 1.0}, 1), 6, axis=2)
    assert share_of_targets(equal) == pytest.approx(0, abs=1e-6)
    assert spread_of_means(equal) == pytest.approx(0, abs=1e-6)
    apart = np.broadcast_to(np.arange(6.0), (5, 8, 6))
    assert share_of_targets(apart) == pytest.approx(100)
    assert spread_of_means(apart) == pytest.approx(np.std(range(6), ddof=1))


def test_intervals_over_six_targets_hold_the_true_figures():
    fixed = draw_cells((12, 8, 1), {(0,): 3.0, (1,): 3.0, (0, 1): 2.0}, 99)
    parts = variance_components(np.repeat(fixed, 2, axis=2))
    share = 100 * 3 / (3 + sum(part for effect, part in parts.items() if 2 not in effect))
    held = []
    for seed in range(100):
        cells = fixed + draw_cells((12, 8, 6), {(2,): 1.0, (0, 2): 1.0, (0, 1, 2): 1.0}, seed)
        spread = over_targets(cells, spread_of_means)
        changing = over_targets(cells, share_of_targets, 100)
        spreads = spread.low <= (2 + 1 / 8) ** 0.5 <= spread.high
        held.append((spreads, changing.low <= share <= changing.high))
    assert (np.mean(held, axis=0) > 0.85).all()


def test_clear_orders_that_every_target_has_are_never_reversed_and_opposite_ones_always():
    rng = np.random.default_rng(2)
    cells = np.array([0.0, 5.0])[:, None, None] + rng.normal(size=(2, 8, 2)) / 10
    assert reversed_orders(cells) == 0
    cells[..., 1] *= -1
    assert reversed_orders(cells) == 100
    unclear = np.zeros((2, 8, 2)) + np.array([1.0, -1.0] * 4)[:, None]
    assert np.isnan(reversals(unclear))


def test_fewer_than_six_targets_answer_nothing():
    assert answer(make_kind(5)) == "cannot tell from 5 of the 6 targets."
    assert "(" not in show(make_kind(5), *next(iter(TELLINGS.values())))
    assert "points between targets" in answer(make_kind(6))


def test_a_target_without_the_rows_of_every_method_is_left_out():
    suite = suite_cards.read("mini-upgrades")
    names = sorted({name for path in suite.upgrades for name in path})
    rows = pd.DataFrame(
        [
            dict(method=m, transfer="copied", task=t, test_set=t, backbone=b, status="ok", gain=1.0)
            for m in ("coop", "gda", "zeroshot")
            for t in suite.tasks
            for b in names
        ]
    )
    last = suite.upgrades[0][-1]
    missing = (rows.method == "gda") & (rows.backbone == last) & (rows.task == suite.tasks[0])
    full, fewer = read_kinds(suite, rows), read_kinds(suite, rows[~missing])
    assert full[0].methods == ("coop", "gda")
    assert set(full[0].targets) - set(fewer[0].targets) == {last}
    assert (full[0].losses == 0).all()
