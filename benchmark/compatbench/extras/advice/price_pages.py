"""The price of an upgrade by transfer, as pages show and draw it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import altair as alt

from compatbench.data.cards import COPIED
from compatbench.extras.advice.price import (
    count_labels,
    describe_access,
    price_options,
    show_labels,
)
from compatbench.results.costs import UNKNOWN, access_of, labels_of
from compatbench.results.expected import Upgrade
from compatbench.results.stored_method import MethodInfo
from compatbench.tables.figures.charts import FigureData, panels
from compatbench.tables.figures.colours import BLUE, INK, ORANGE, PURPLE, SKY
from compatbench.tables.figures.figure_kinds import FigureKind
from compatbench.tables.figures.values import dodge_labels, panel_row, two_digits
from compatbench.tables.numbers import NOTHING, duration, interval_text, percent, signed
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
# What one has, and what an option may need then; each has what the one before it has.
_LEVELS: dict[str, set[str]] = {
    "nothing": set(),
    "words": {"words"},
    "unlabelled images": {"words", "unlabelled"},
    "the old model": {"words", "unlabelled", "old model", "source weights"},
}
_CURVE = "retrained"
_LABEL = 0.09  # the height of a line's name, as a share of the axis


def has_prices(page: SuitePage) -> bool:
    """Return True if modules were retrained on the target, by which options can be measured."""
    return bool(count_labels(page.results.transfers) and learning_methods(page))


def learning_methods(page: SuitePage) -> list[MethodInfo]:
    """Return the methods whose modules have something to bring along."""
    return [info for info in page.results.infos if info.learns]


def price_table(page: SuitePage, upgrade: Upgrade, method: str) -> Table:
    """Return every transfer of a method's modules; by access, then by accuracy."""
    header = ["Option", "Access", "Target", "95 %", "Gain", "Time", "Worth", "95 % of worth"]
    rows = []
    show = partial(_labels, page)
    for price in _sort_prices(page, upgrade, method):
        shown = [
            percent(price["target"]),
            interval_text(price, "target", percent),
            signed(price["gain"]),
            duration(price["seconds"]),
            show(price["worth"]),
            interval_text(price, "worth", show),
            show(price["worth_same"]),
            NOTHING if price["share"] is None else f"{round(100 * price['share'])} %",
        ]
        rows.append([code(price["option"]), text(price["needs"]), *map(number, shown)])
    return plain_table([*header, "Same method", "Datasets"], rows, left=(0, 1))


def worth_table(page: SuitePage, upgrade: Upgrade) -> Table:
    """Return what each option is worth for each method, in labels per class."""
    by_option: dict[str, dict[str, Any]] = {}
    for info in learning_methods(page):
        for price in _sort_prices(page, upgrade, info.name):
            cells = by_option.setdefault(price["option"], {})
            cells[info.name] = number(_labels(page, price["worth"]), price["worth"])
    columns = [
        Column("option", "Option", left=True),
        Column("access", "Access", left=True),
        *(Column(info.name, info.title, paper=info.paper) for info in learning_methods(page)),
    ]
    lines = []
    for option in sorted(by_option, key=_by_access):
        cells = by_option[option]
        if any(cell.value is not None for cell in cells.values()):
            lines.append({"option": code(option), "access": text(describe_access(option)), **cells})
    return make_table(columns, lines)


def _labels(page: SuitePage, labels: float | None) -> str:
    """Return labels per class: ``0``, ``3.4``, or ``> 20`` where more would be needed."""
    if not labels:
        return NOTHING if labels is None else "0"
    return show_labels(labels, max(count_labels(page.results.transfers)))


def _sort_prices(page: SuitePage, upgrade: Upgrade, method: str) -> list[dict[str, Any]]:
    """Return the prices of a method's options as records; by access, then by accuracy."""
    prices = price_options(page.results, page.expected, upgrade)
    of_method = records(prices[prices["method"] == method])
    of_method.sort(key=lambda price: -1 if price["target"] is None else -price["target"])
    return sorted(of_method, key=lambda price: _by_access(price["option"])[:2])


def _by_access(transfer: str) -> tuple[list[str], int, str]:
    """Return a key: options of equal access together, those without any first; labels later."""
    needs = [each for each in access_of(transfer) if each != UNKNOWN]
    return needs, labels_of(transfer), transfer


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
    """Return accuracy by labels of retrained methods, and of the best option by access.

    The curve begins with zero-shot, which has no labels.
    """
    retrained = count_labels(page.results.transfers)
    labels = [0, *retrained]
    places = [round(math.log2(1 + count), 4) for count in labels]
    rows = []
    every = price_options(page.results, page.expected, upgrade)
    every = every[every["target"].notna()]
    for info in learning_methods(page):
        known = every[every["method"] == info.name].set_index("option")
        means = {str(name): mean for name, mean in known["target"].items()}
        if not retrained or not means.keys() >= set(retrained.values()):
            continue
        zero_shot = (known["target"] - known["gain"]).iloc[0]
        curve = [zero_shot, *(means[transfer] for transfer in retrained.values())]
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


def price_chart(params: Iterable[str]) -> alt.FacetChart:
    """Draw accuracy on the target against labels per class, a panel for each method."""
    return panels(
        params,
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
    caption=(
        "Each panel is a method: its accuracy on the new model when it is retrained, by labelled "
        "images per class. Dashed lines are the best options that need no labels, by what they "
        "need instead."
    ),
    about=(
        "How accuracy on the new model grows with labelled images per class, and which option of "
        "bringing the old module along is best for what it needs: with nothing but the module, "
        "with words, with images."
    ),
    draw=price_chart,
    of_suite=price_figures,
)
