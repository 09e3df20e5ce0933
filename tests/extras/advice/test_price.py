"""What a transfer of a module is worth in labels per class."""

from __future__ import annotations

import math

import numpy as np
import pytest
from made_results import TWO_BY_TWO, UPGRADE, coop_by_way, make_page
from scipy.stats import norm, t

from compatbench.extras.advice.price import break_even, price_options, worth_intervals
from compatbench.extras.advice.price_pages import (
    PRICE,
    price_chart,
    price_figures,
    price_table,
    price_values,
)
from compatbench.results.estimate import Interval, draw_resamples
from compatbench.tables.figures.render import compile_chart
from compatbench.tables.markdown import render_table

LABELS = (0, 1, 2, 4, 8, 16)
CURVE = (50, 48, 54, 58, 60, 61)  # one label per class falls below zero-shot


@pytest.mark.parametrize(
    ("accuracy", "worth"),
    [
        (49, 0),
        (50, 0),
        (52, 2 ** (1 + 0.5 * (math.log2(3) - 1)) - 1),
        (54, 2),
        (59, 2 ** ((math.log2(5) + math.log2(9)) / 2) - 1),
        (61, 16),
        (61.1, math.inf),
    ],
)
def test_the_break_even_is_interpolated_on_the_running_maximum(
    accuracy: float, worth: float
) -> None:
    assert break_even(accuracy, CURVE, LABELS) == pytest.approx(worth, abs=1e-9)


def test_the_interval_is_a_bootstrap_over_datasets_as_wide_as_student_s() -> None:
    rng = np.random.default_rng(3)
    curves = np.sort(50 + 10 * rng.random((6, 6)), axis=1) + rng.normal(0, 1, (6, 6))
    accuracy = curves[:, 3] + rng.normal(0, 2, 6)
    [found] = worth_intervals([accuracy], np.array([curves, curves - 1]), LABELS)
    assert found.value == break_even(accuracy.mean(), curves.mean(axis=0), LABELS)
    drawn = sorted(
        break_even(accuracy[rows].mean(), curves[rows].mean(axis=0), LABELS)
        for rows in draw_resamples(6)
    )
    outside = norm.sf(t.ppf(0.975, 5) * math.sqrt(6 / 5))
    assert (found.low, found.high) == (drawn[int(2000 * outside)], drawn[-int(2000 * outside) - 1])
    assert found.low <= found.value <= found.high
    # What is never reached stays unbounded.
    flat = np.tile(CURVE, (4, 1)).astype(float)
    never = Interval(math.inf, math.inf, math.inf, units=4)
    assert worth_intervals([np.full(4, 70.0)], flat[None], LABELS) == [never]
    [alone] = worth_intervals([np.array([52.0])], flat[None, :1], LABELS)
    assert not alone.bounded


def test_a_page_says_what_each_option_needs_and_is_worth() -> None:
    options = {"copied": 62, "warm+2": 70, "retrained+1": 58, "retrained+2": 64}
    page = make_page(*(coop_by_way(name, target) for name, target in options.items()))
    prices = price_options(page.results, TWO_BY_TWO, UPGRADE).set_index("option")
    # retrained+1 has 2 labels per class and 58 %, retrained+2 has 4 and 64 %.
    expected = 2 ** ((math.log2(3) + math.log2(5)) / 2) - 1
    worth = prices.loc["copied", ["worth", "worth_low", "worth_high"]]
    assert worth.tolist() == [pytest.approx(expected)] * 3
    assert prices.loc["copied", "share"] == 1
    assert prices.loc["warm+2", ["worth", "worth_low", "worth_high"]].tolist() == [math.inf] * 3
    assert np.isnan(prices.loc["retrained+1", "worth"])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in
            render_table(price_table(page, UPGRADE, "coop")).splitlines()]  # fmt: skip
    # Fewer labels first; of equal access the most accurate first.
    order = ["copied", "retrained+1", "warm+2", "retrained+2"]
    assert [row[0].strip("`") for row in rows[2:]] == order
    assert [row[1] for row in rows[2:4]] == ["nothing", "2 labels per class"]
    assert [row[6] for row in rows[2:]] == ["2.9", "–", "> 4", "–"]
    assert [row[8] for row in rows[2:]] == ["2.9", "–", "> 4", "–"]
    assert "Worth in labels per class" in PRICE.render(page)


def test_the_picture_has_the_curve_and_the_best_option_of_each_access() -> None:
    options = {"copied": 62, "words": 63, "words+raw": 61, "warm+2": 70, "retrained+1": 58}
    page = make_page(*(coop_by_way(name, target) for name, target in options.items()))
    [panel], signals = price_values(page, UPGRADE)
    assert signals["names"] == ["0", "2"]
    lines = dict(zip(panel["line"], panel["accuracy"], strict=True))
    assert lines == {
        "retrained": [60, 58], "with nothing": [62, 62], "with words": [63, 63],
    }  # fmt: skip
    [(title, data)] = price_figures(page)
    assert title == "Old model → New model"
    assert compile_chart(price_chart(data.params))["signals"]
    assert data.params["order"] == ["retrained", "with nothing", "with words"]
