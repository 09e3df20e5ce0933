"""The questions of docs/laws.md: their analyses find what was put in, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import laws_anchoring
import laws_properties
import numpy as np
import pandas as pd
import pytest

from compatbench.results.estimate import Interval
from compatbench.tables.figures.kinds import read_kinds
from compatbench.tables.figures.render import render_svg_figure

METHODS, TASKS = ("coop", "gda", "maple", "taskres"), tuple(f"t{i}" for i in range(8))
LINEAGES = ("mini-eva-clip", "mini-eva-clip-anew", "mini-eva-clip-apart")
GEOMETRY = {"words": 0.1, "residual": 0.3, "images": 1.0, "token_cosine": 0.9, "inherited": 0.5}
MODULES = pd.MultiIndex.from_product([METHODS, TASKS], names=["method", "task"])


def make_upgrades(effect: float, seed: int = 0) -> tuple[pd.DataFrame, pd.Series, pd.DataFrame]:
    """24 targets whose losses are ``effect`` times their text cosine, less a little noise."""
    rng = np.random.default_rng(seed)
    gains, rows, zero_shot = {}, [], {}
    for (lineage, level), length in product(
        zip(LINEAGES, (0.2, 0.5, 0.9), strict=True), ("", "-length-0.5")
    ):
        for number in range(5, 9):
            name, cosine = f"{lineage}-{number}{length}", level + 0.2 * rng.random()
            gains[name] = rng.normal(size=len(MODULES)) - effect * cosine
            zero_shot[name] = rng.normal()
            drawn = {each: rng.random() for each in ("text_procrustes", "image_cka")}
            facts = GEOMETRY | drawn | {"text_cosine": cosine}
            rows += [{"target": name, "task": task} | facts for task in TASKS]
    return pd.DataFrame(gains, MODULES), pd.Series(zero_shot), pd.DataFrame(rows)


def read_targets(effect: float, seed: int = 0) -> pd.DataFrame:
    """The targets, whose losses are 5 points less their gains."""
    gains, *known = make_upgrades(effect, seed)
    return laws_properties.read_targets(5 - gains, *known)


def test_targets_of_the_question_are_read_with_their_lineage_and_length():
    gains, zero_shot, properties = make_upgrades(10)
    others = gains.assign(**{"mini-eva-clip": 1.0, "mini-eva-clip-anew-5-anchored-3": 1.0})
    targets = laws_properties.read_targets(5 - others, zero_shot, properties)
    assert targets.groupby(["lineage", "length"]).size().tolist() == [4] * 6
    first = targets.set_index("target").loc["mini-eva-clip-5"]
    assert first["loss"] == pytest.approx(5 - gains["mini-eva-clip-5"].mean())
    assert first["zero_shot"] == zero_shot["mini-eva-clip-5"]


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
def decided() -> tuple[pd.DataFrame, dict[str, Interval]]:
    """Targets whose losses go with one property, and the judgement of all."""
    targets = read_targets(20)
    return targets, laws_properties.judge(targets)


def test_the_property_that_decides_is_found_and_others_are_not(decided: Any):
    _, judged = decided
    shares = {name: judged[title] for name, title in laws_properties.PROPERTIES.items()}
    assert shares["text_cosine"].value > 0.9
    known = {name for name, share in shares.items() if share.low > 0}
    assert known == {"text_cosine"}
    assert "cosine of old and new text features (R²" in laws_properties.answer(judged)


@pytest.mark.slow
def test_where_nothing_decides_no_property_is_named():
    judged = [laws_properties.judge(read_targets(0, seed)) for seed in range(5)]
    named = [laws_properties.answer(each) for each in judged]
    assert sum(each.startswith("No property was shown") for each in named) >= 4


def test_properties_help_to_predict_gains_where_these_go_with_them():
    helped = {}
    for effect in (0, 40):
        gains, zero_shot, properties = make_upgrades(effect)
        targets = laws_properties.read_targets(5 - gains, zero_shot, properties)
        rows = laws_properties.describe_gains(gains, targets, properties)
        assert len(rows) == 24 * len(METHODS) * len(TASKS)
        place = (rows["target"] == "mini-eva-clip-8") & (rows["task"] == "t2")
        gain = gains.loc[("gda", "t2"), "mini-eva-clip-8"]
        assert 100 * rows[place]["gain"].iloc[1] == pytest.approx(gain)
        helped[effect] = laws_properties.measure_help(rows, targets)
    assert helped[40].low > 1
    assert helped[0].low < 0.2


def make_anchored(gained: float, lost: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Targets whose penalty gains modules and costs zero-shot so much for each unit of weight."""
    rng, gains, accuracy = np.random.default_rng(3), {}, {}
    for weight in (0.0, *laws_anchoring.WEIGHTS):
        for name in laws_anchoring.name_targets(weight):
            gains[name] = rng.normal(size=len(MODULES)) + gained * weight
            accuracy[name] = 60 + rng.normal(size=len(TASKS)) - lost * weight
    return pd.DataFrame(gains, MODULES), pd.DataFrame(accuracy, [*TASKS])


def test_a_weight_is_named_that_keeps_modules_and_is_free():
    gains, accuracy = make_anchored(gained=2, lost=0.5)
    prices = laws_anchoring.price_weights(gains, accuracy)
    assert [price.weight for price in prices] == [*laws_anchoring.WEIGHTS]
    without = [f"mini-eva-clip-anew-{seed}" for seed in (5, 6)]
    third = [f"{name}-anchored-3" for name in without]
    gained, lost = (table[third].mean() for table in (gains, accuracy))
    assert prices[2].gain.value == pytest.approx(gained.mean() - gains[without].mean().mean())
    lost = lost.mean() - accuracy[without].mean().mean()
    assert prices[2].zero_shot.value == pytest.approx(lost)
    assert [price.keeps for price in prices[1:]] == [True] * 3
    assert not prices[-1].is_free
    assert "less than 2 points are lost" in laws_anchoring.answer(prices)
    assert "at weight 10" not in laws_anchoring.answer(prices)


def test_levels_are_means_over_both_seeds():
    gains, _ = make_anchored(gained=2, lost=0.5)
    inherited = gains.assign(**{"mini-eva-clip-5": 1.0, "mini-eva-clip-6": 1.0})
    levels = laws_anchoring.mean_gains(inherited)
    columns = gains.to_numpy()
    assert levels["without"] == pytest.approx(columns[:, :2].mean())
    assert levels["10"] == pytest.approx(columns[:, -2:].mean())
    assert levels["inherited"] == 1


def test_a_penalty_that_helps_no_module_is_not_named():
    prices = laws_anchoring.price_weights(*make_anchored(gained=0, lost=1))
    assert "At no weight" in laws_anchoring.answer(prices)


def test_figures_are_drawn_of_every_target_and_weight():
    losses = laws_properties.show_losses(read_targets(5))
    assert len(losses.values) == 24 * len(laws_properties.PROPERTIES)
    prices = laws_anchoring.show_prices(laws_anchoring.price_weights(*make_anchored(1, 1)))
    kinds = read_kinds(Path(laws_properties.__file__).with_name("laws.yaml.jinja"))
    drawn = {
        name: render_svg_figure(kinds[name], shown).decode()
        for name, shown in {"properties": losses, "anchoring": prices}.items()
    }
    assert [*laws_properties.PANELS] == [*laws_properties.PROPERTIES]
    for title in (*laws_properties.PANELS.values(), *laws_properties.SERIES.values()):
        assert title in drawn["properties"]
    assert all(f">{weight:g}</text>" in drawn["anchoring"] for weight in laws_anchoring.WEIGHTS)


def test_losses_are_listed_by_lineage_and_length_and_by_joint_space(decided: Any):
    targets, _ = decided
    groups = dict(laws_properties.list_groups(targets))
    assert [len(group) for group in groups.values()] == [4] * 6
    first = groups["text tower and joint space inherited, half the steps"]
    assert set(first["target"]) == {f"mini-eva-clip-{i}-length-0.5" for i in range(5, 9)}
    spaces = laws_properties.compare_spaces(targets)
    assert spaces["inherited"] < spaces["own"] == targets["loss"].iloc[8:].min()
    shown = laws_properties.show_r2(Interval(-11060.06, -12.4, 0.5, 24))
    assert shown == "-11,060 (-12 to 0.50)"
