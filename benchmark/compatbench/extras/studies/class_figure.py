"""The figure of own and other classes: accuracies before and after an upgrade."""

from __future__ import annotations

from collections.abc import Iterator

from compatbench.extras.studies.class_tables import has_other_classes, measure_page
from compatbench.results.expected import Upgrade
from compatbench.results.four_ways import CLASSES, MODELS
from compatbench.results.ranks import exact
from compatbench.tables.figures.kinds import FigureKind
from compatbench.tables.figures.spec_parts import (
    ROWS,
    Shown,
    Spec,
    calculate,
    field,
    kind_of_method,
    names,
    points,
)
from compatbench.tables.figures.values import record, two_digits
from compatbench.tables.suite_page import SuitePage


def class_values(page: SuitePage, upgrade: Upgrade) -> Shown:
    """Accuracies on own and on other classes, source then target, of the methods that have all."""
    shots, values = max(page.expected.shots), []
    rows = {row.standing.info.name: row for row in page.ranks(upgrade, shots)}
    for ways in measure_page(page, upgrade, shots):
        if ways.state == "complete" and ways.info.name in rows:
            means = {
                classes: [two_digits(exact(ways.mean(f"{classes}_{m}"))) for m in MODELS]
                for classes in CLASSES
            }
            values.append(record(rows[ways.info.name], **means))
    return Shown(values, {})


def class_figures(page: SuitePage) -> Iterator[tuple[str, Shown]]:
    """A figure for each upgrade of a suite with a protocol."""
    for upgrade in page.expected.upgrades if has_other_classes(page) else ():
        yield page.path_title(upgrade), class_values(page, upgrade)


def class_spec() -> Spec:
    """Accuracy on other classes against that on own ones: from the source to the target."""
    x, y = (
        field(name, title=f"accuracy on {title}, %", scale={"zero": False})
        for name, title in (("x1", "the classes trained on"), ("y1", "other classes"))
    )
    colour = kind_of_method("color")
    ends = calculate(x0="datum.own[0]", y0="datum.other[0]", x1="datum.own[1]", y1="datum.other[1]")
    both = "format(datum.{0}[0], '.1f') + ' → ' + format(datum.{0}[1], '.1f')"
    tip = (
        f"datum.title + ': own classes ' + {both.format('own')} + ', others ' + "
        f"{both.format('other')}"
    )
    end = points(tip, x=x, y=y)
    named = names(x=x, y=y)
    return {
        "height": 380,
        "data": ROWS,
        "transform": [*ends, *calculate(name="datum.title")],
        "layer": [
            {
                "mark": {"type": "rule", "strokeWidth": 1, "opacity": 0.7, "aria": False},
                "encoding": {
                    "x": {**x, "field": "x0"},
                    "y": {**y, "field": "y0"},
                    "x2": {"field": "x1"},
                    "y2": {"field": "y1"},
                    "color": colour,
                },
            },
            {
                "mark": {"type": "point", "size": 18, "filled": False, "aria": False},
                "encoding": {"x": {**x, "field": "x0"}, "y": {**y, "field": "y0"}, "color": colour},
            },
            end,
            named,
        ],
    }


CLASSES_FIGURE = FigureKind(
    name="classes",
    title="Known against other classes",
    alt="Accuracy on other classes against accuracy on the classes trained on, source to target",
    about=(
        "A module is trained on some classes and attached to others by their names alone. A line "
        "leads from the source model, a hollow mark, to the target: to the right, if the target is "
        "better on the classes that the module was trained on; upwards, if it is better on others."
    ),
    spec=class_spec,
    of_suite=class_figures,
)
