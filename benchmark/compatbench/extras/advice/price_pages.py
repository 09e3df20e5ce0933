"""What pages say and draw of the price of an upgrade, by transfer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from compatbench.data.cards import COPIED
from compatbench.extras.advice.price import (
    Price,
    count_labels,
    describe_access,
    price_ways,
    show_labels,
)
from compatbench.results.estimate import interval_columns
from compatbench.results.expected import Upgrade
from compatbench.results.method_results import MethodInfo
from compatbench.results.ranks import exact
from compatbench.results.ways import UNKNOWN, access_of, needs_of
from compatbench.tables.figures.kinds import read_kinds
from compatbench.tables.figures.spec_parts import Shown
from compatbench.tables.figures.values import dodge_labels, panel_record, two_digits
from compatbench.tables.numbers import NOTHING, bounds, duration, interval_text, percent, signed
from compatbench.tables.pages.sections import Section
from compatbench.tables.suite_page import SuitePage
from compatbench.tables.table import Column, Table, code, make_table, number, plain_table, text

_FOLDER = Path(__file__).parent
# What one has, and what a way may need then; each has what the one before it has.
_LEVELS: dict[str, set[str]] = {
    "nothing": set(),
    "words": {"words"},
    "unlabelled images": {"words", "unlabelled"},
    "the old model": {"words", "unlabelled", "old model", "source weights"},
}
_LABEL = 0.09  # the height of a line's name, as a share of the axis


def has_prices(page: SuitePage) -> bool:
    """Whether modules were trained anew on the target, by which ways can be measured."""
    return bool(count_labels(page.results.transfers) and learning_methods(page))


def learning_methods(page: SuitePage) -> list[MethodInfo]:
    """Return the methods whose modules have something to bring along."""
    infos = [method.info for method in page.results.methods.values()]
    return [info for info in infos if info.learns]


def price_table(page: SuitePage, upgrade: Upgrade, method: str) -> Table:
    """Every transfer of a method's modules; by access, then by accuracy."""
    header = ["Way", "Access", "Target", "95 %", "Gain", "Time", "Worth", "95 % of worth"]
    rows, show = [], partial(_labels, page)
    for price in _sorted(page, upgrade, method):
        worth = interval_columns("worth", price.worth)
        figures = (
            *(percent(exact(price.target)), bounds(price.target), signed(exact(price.gain))),
            *(duration(price.seconds), show(worth["worth"]), interval_text(worth, "worth", show)),
            show(price.worth_same),
            NOTHING if price.share is None else f"{round(100 * price.share)} %",
        )
        way = code(price.transfer), text(describe_access(price.transfer))
        rows.append([*way, *map(number, figures)])
    return plain_table([*header, "Same method", "Datasets"], rows, left=(0, 1))


def worth_table(page: SuitePage, upgrade: Upgrade) -> Table:
    """What each way is worth for each method, in labels per class."""
    by_way: dict[str, dict[str, Any]] = {}
    for info in learning_methods(page):
        for price in _sorted(page, upgrade, info.name):
            worth = price.worth and price.worth.value
            by_way.setdefault(price.transfer, {})[info.name] = number(_labels(page, worth), worth)
    columns = [
        Column("way", "Way", left=True),
        Column("access", "Access", left=True),
        *(Column(info.name, info.title, paper=info.paper) for info in learning_methods(page)),
    ]
    records = (
        {"way": code(way), "access": text(describe_access(way)), **by_way[way]}
        for way in sorted(by_way, key=_by_access)
        if any(cell.value is not None for cell in by_way[way].values())
    )
    return make_table(columns, records)


def _labels(page: SuitePage, labels: float | None) -> str:
    """Labels per class: ``0``, ``3.4``, or ``> 16`` where more would be needed than there are."""
    if not labels:
        return NOTHING if labels is None else "0"
    return show_labels(labels, max(count_labels(page.results.transfers)))


def _sorted(page: SuitePage, upgrade: Upgrade, method: str) -> list[Price]:
    prices = price_ways(page.results, page.expected, method, upgrade)
    prices = sorted(prices, key=lambda price: -(price.target.value if price.target else -1))
    return sorted(prices, key=lambda price: _by_access(price.transfer)[:2])


def _by_access(transfer: str) -> tuple[list[str], int, str]:
    """Ways of equal access stand together, those without any first; more labels later."""
    needs = [each for each in access_of(transfer) if each != UNKNOWN]
    return needs, needs_of(transfer).shots, transfer


PRICE = Section(
    "suite",
    60,
    "The price of an upgrade",
    has_prices,
    str(_FOLDER / "price.md.jinja"),
    {function.__name__: function for function in (price_table, worth_table)},
)


def price_values(page: SuitePage, upgrade: Upgrade) -> Shown:
    """Accuracy by labels of methods trained anew, the first zero-shot's; the best by access."""
    anew, values = count_labels(page.results.transfers), []
    labels = [0, *anew]
    places = [round(math.log2(1 + count), 4) for count in labels]
    ranks = reversed(page.all_ranks(upgrade, max(page.expected.shots)))
    # A panel is named after the row of modules as they are, where there is one.
    ranks = sorted(ranks, key=lambda row: row.standing.results.transfer == COPIED)
    rows = {row.standing.info.name: row for row in ranks}
    for info in learning_methods(page):
        prices = price_ways(page.results, page.expected, info.name, upgrade)
        means = {price.transfer: price.target.value for price in prices if price.target}
        if not anew or not means.keys() >= {*anew.values()}:
            continue
        zero = next(p.target.value - p.gain.value for p in prices if p.target and p.gain)
        curve = [two_digits(value) for value in (zero, *(means[way] for way in anew.values()))]
        lines = {"trained anew": (places, curve)}
        highest = -math.inf
        for access, needs in _LEVELS.items():
            within = [v for name, v in means.items() if {*access_of(name)} <= needs]
            if within and max(within) > highest:  # what needs more, and helps no more, is no line
                highest = max(within)
                lines[f"with {access}"] = ([places[0], places[-1]], [two_digits(highest)] * 2)
        values.append(panel_record(rows[info.name], lines))
    known = {*chain(*(each["line"] for each in values))}
    order = [line for line in ("trained anew", *(f"with {a}" for a in _LEVELS)) if line in known]
    every = [value for each in values for line in each["accuracy"] for value in line]
    least = _LABEL * (max(every) - min(every)) if every else 0.0
    for each in values:
        each["label"] = dodge_labels([line[-1] for line in each["accuracy"]], least)
    signals = {"ticks": places, "names": list(map(str, labels)), "order": order}
    return Shown(values, signals)


def price_figures(page: SuitePage) -> Iterator[tuple[str, Shown]]:
    """A figure for each upgrade of a suite that has prices."""
    for upgrade in page.expected.upgrades if has_prices(page) else ():
        yield page.path_title(upgrade), price_values(page, upgrade)


PRICE_FIGURE = read_kinds(_FOLDER / "price.yaml.jinja", price=price_figures)["price"]
