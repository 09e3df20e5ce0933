"""The figure of prices: accuracy on the target against labels per class."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from compatbench.extras.advice.price import (
    access_of,
    count_labels,
    describe_access,
    find_way,
    price_ways,
)
from compatbench.extras.advice.price_tables import has_prices
from compatbench.results.expected import Upgrade
from compatbench.tables.figures.kinds import read_kinds
from compatbench.tables.figures.spec_parts import Shown
from compatbench.tables.figures.values import panel_record, two_digits
from compatbench.tables.suite_page import SuitePage


def price_values(page: SuitePage, upgrade: Upgrade) -> Shown:
    """Accuracy by labels of methods trained anew, the first zero-shot's; the best way by access."""
    anew, values = count_labels(page.results.transfers), []
    labels, shots = [0, *anew], max(page.expected.shots)
    places = [round(math.log2(1 + count), 4) for count in labels]
    rows = {row.standing.info.name: row for row in reversed(page.all_ranks(upgrade, shots))}
    for info in (method.info for method in page.results.methods.values() if method.info.learns):
        prices = price_ways(page.results, page.expected, info.name, upgrade, shots)
        means = {price.transfer: price.target.value for price in prices if price.target}
        if not anew or not means.keys() >= {*anew.values()}:
            continue
        zero = next(p.target.value - p.gain.value for p in prices if p.target and p.gain)
        best: dict[str, tuple[str, float]] = {}
        for name, value in means.items():
            if find_way(name) is not None and "labels" not in access_of(name):
                access = describe_access(name)
                if access not in best or value > best[access][1]:
                    best[access] = name, value
        lines = {
            "trained anew": (
                places,
                [two_digits(zero), *(two_digits(means[way]) for way in anew.values())],
            )
        }
        for access, (_, value) in sorted(best.items()):
            lines[f"best with {access}"] = ([places[0], places[-1]], [two_digits(value)] * 2)
        values.append(panel_record(rows[info.name], lines))
    order = dict.fromkeys(["trained anew", *sorted({*chain(*(each["line"] for each in values))})])
    names = list(map(str, labels))
    return Shown(values, {"ticks": places, "names": names, "order": [*order]})


def price_figures(page: SuitePage) -> Iterator[tuple[str, Shown]]:
    """A figure for each upgrade of a suite that has prices."""
    for upgrade in page.expected.upgrades if has_prices(page) else ():
        yield page.path_title(upgrade), price_values(page, upgrade)


[PRICE_FIGURE] = read_kinds(str(Path(__file__).with_name("price.yaml.jinja")), price=price_figures)
