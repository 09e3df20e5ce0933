"""What pages say and draw of the price of an upgrade, by transfer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import altair as alt

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
from compatbench.tables.figures.charts import FigureData, panels
from compatbench.tables.figures.colours import BLUE, INK, ORANGE, PURPLE, SKY
from compatbench.tables.figures.figure_kinds import FigureKind
from compatbench.tables.figures.values import dodge_labels, panel_row, two_digits
from compatbench.tables.numbers import NOTHING, bounds, duration, interval_text, percent, signed
from compatbench.tables.pages.sections import Section
from compatbench.tables.suite_page import SuitePage
from compatbench.tables.table import (
    Column,
    Table,
    code,
    make_table,
    number,
    plain_table,
    records,
    text,
)

_FOLDER = Path(__file__).parent
# What one has, and what a way may need then; each has what the one before it has.
_LEVELS: dict[str, set[str]] = {
    "nothing": set(),
    "words": {"words"},
    "unlabelled images": {"words", "unlabelled"},
    "the old model": {"words", "unlabelled", "old model", "source weights"},
}
_CURVE = "retrained"
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


def price_figures(page: SuitePage) -> Iterator[tuple[str, FigureData]]:
    """Return a figure for each upgrade of a suite that has prices."""
    if has_prices(page):
        for upgrade in page.expected.upgrades:
            yield page.path_title(upgrade), price_values(page, upgrade)


def price_values(page: SuitePage, upgrade: Upgrade) -> FigureData:
    """Return accuracy by labels of methods trained anew, and of the best option by access.

    The curve begins with zero-shot, which has no labels.
    """
    anew = count_labels(page.results.transfers)
    labels = [0, *anew]
    places = [round(math.log2(1 + count), 4) for count in labels]
    rows = []
    for info in learning_methods(page):
        prices = price_ways(page.results, page.expected, info.name, upgrade)
        means = {price.transfer: price.target.value for price in prices if price.target}
        if not anew or not means.keys() >= {*anew.values()}:
            continue
        zero_shot = next(p.target.value - p.gain.value for p in prices if p.target and p.gain)
        curve = [zero_shot, *(means[transfer] for transfer in anew.values())]
        lines: dict[str, Any] = {_CURVE: (places, [two_digits(value) for value in curve])}
        highest = -math.inf
        for access, allowed in _LEVELS.items():
            within = [mean for name, mean in means.items() if {*access_of(name)} <= allowed]
            # An access that allows more, and helps no more, is no line.
            if within and max(within) > highest:
                highest = max(within)
                lines[f"with {access}"] = ([places[0], places[-1]], [two_digits(highest)] * 2)
        rows.append(panel_row(_titled(page, upgrade, info.name), lines))
    drawn = {line for row in rows for line in row["line"]}
    order = [line for line in (_CURVE, *(f"with {access}" for access in _LEVELS)) if line in drawn]
    accuracies = [value for row in rows for line in row["accuracy"] for value in line]
    for row in rows:
        apart = _LABEL * (max(accuracies) - min(accuracies))
        row["label"] = dodge_labels([line[-1] for line in row["accuracy"]], apart)
    names = [str(count) for count in labels]
    return FigureData(rows, {"ticks": places, "names": names, "order": order})


def _titled(page: SuitePage, upgrade: Upgrade, method: str) -> dict[str, Any]:
    """Return the method that names a panel, with copied modules where there are such."""
    ranking = page.ranking(upgrade, page.most_shots)
    of_method = ranking[ranking["method"] == method]
    copied = of_method[of_method["transfer"] == COPIED]
    return records(of_method if copied.empty else copied)[0]


def price_chart(data: FigureData) -> alt.FacetChart:
    """Draw accuracy on the target against labels per class, a panel for each method."""
    return panels(
        data,
        x_title="labels per class",
        y_title="target accuracy, %",
        colours=(BLUE, ORANGE, PURPLE, SKY, INK),
        solid=1,
        width=230,
        height=130,
        columns=2,
        named_at_end=True,
    )


PRICE_FIGURE = FigureKind(
    name="price",
    title="Accuracy against labels",
    alt_text="Accuracy on the target against labels per class, and options that need none as lines",
    about=(
        "How accuracy on the new model grows with labelled images per class, and which option of "
        "bringing the old module along is best for what it needs: with nothing but the module, "
        "with words, with images."
    ),
    draw=price_chart,
    of_suite=price_figures,
)
