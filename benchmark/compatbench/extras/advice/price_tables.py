"""The price of an upgrade: ways of bringing a module along, by what they need."""

from __future__ import annotations

import math
from typing import Any

from compatbench.extras.advice.price import (
    Price,
    access_of,
    count_labels,
    describe_access,
    find_way,
    price_ways,
)
from compatbench.results.estimate import Interval
from compatbench.results.expected import Upgrade
from compatbench.results.ranks import exact
from compatbench.tables import markdown
from compatbench.tables.numbers import NOTHING, bounds, duration, percent, signed
from compatbench.tables.suite_page import SuitePage
from compatbench.tables.table import Column, Table, code, make_table, number, text

_WAY = Column("way", "Way", left=True)
_ACCESS = Column("access", "Access", left=True)


def has_prices(page: SuitePage) -> bool:
    """Whether modules were trained anew on the target, by which ways can be measured."""
    return bool(count_labels(page.results.transfers))


def price_table(page: SuitePage, upgrade: Upgrade, shots: int, method: str) -> Table:
    """Every way of bringing a method's modules along; by access, then by accuracy."""
    columns = [
        _WAY,
        _ACCESS,
        Column("target", "Target", show=percent),
        Column("interval", "95 %"),
        Column("gain", "Gain", show=signed),
        Column("seconds", "Time", show=duration),
        Column("worth", "Worth"),
        Column("worth_interval", "95 % of worth"),
        Column("share", "Datasets", show=lambda share: f"{round(100 * share)} %"),
    ]
    return make_table(
        columns,
        (
            _named(price.transfer)
            | {
                "target": exact(price.target),
                "interval": number(bounds(price.target)),
                "gain": exact(price.gain),
                "seconds": price.seconds,
                "worth": number(show_worth(page, price.worth)),
                "worth_interval": number(_show_bounds(page, price.worth)),
                "share": price.share,
            }
            for price in _sorted(page, upgrade, shots, method)
        ),
    )


def worth_table(page: SuitePage, upgrade: Upgrade, shots: int) -> Table:
    """What each way is worth for each method, in labels per class."""
    methods = [method.info for method in page.results.methods.values() if method.info.learns]
    by_method = {
        info.name: {price.transfer: price for price in _sorted(page, upgrade, shots, info.name)}
        for info in methods
    }
    ways = {way for prices in by_method.values() for way, price in prices.items() if price.worth}
    columns = [Column(info.name, info.title, paper=info.paper) for info in methods]
    records = (
        _named(way)
        | {
            name: number(show_worth(page, prices[way].worth))
            for name, prices in by_method.items()
            if way in prices
        }
        for way in sorted(ways, key=_by_access)
    )
    return make_table([_WAY, _ACCESS, *columns], records)


def price_answer(page: SuitePage, upgrade: Upgrade, shots: int) -> str:
    """What the owner of a module should do, in sentences: with nothing else, then by access."""
    best = _best_by_access(page, upgrade, shots)
    if (without := best.pop("nothing", None)) is None:
        return ""
    price, title = without
    if price.gain is None or price.gain.sign < 1:
        answer = "With nothing but the module, no method is clearly better than zero-shot: drop it."
    else:
        measured = count_labels(page.results.transfers)
        enough = next((k for k in measured if price.worth and k >= price.worth.value), None)
        advice = (
            f"No number of labels up to {max(measured)} per class does as well."
            if enough is None
            else f"With {enough} labels per class or more, train anew."
        )
        answer = (
            f"With nothing but the module, {title} ({markdown.code(price.transfer)}) does best: "
            f"{percent(exact(price.target))} %, {signed(price.gain.value)} over "
            f"zero-shot. That is worth {show_worth(page, price.worth)} labels per class "
            f"(95 %: {_show_bounds(page, price.worth)}). {advice}"
        )
    more = [
        f"\n  - with {access}: {title} ({markdown.code(price.transfer)}), "
        f"{percent(price.target.value)} %, "
        f"worth {show_worth(page, price.worth)} ({_show_bounds(page, price.worth)})"
        for access, (price, title) in best.items()
        if price.target is not None and price.gain is not None and price.gain.sign > 0
    ]
    if not more:
        return answer
    head = "With more access, these do best, with their worth in labels per class:"
    return f"{answer} {head}\n{''.join(more)}"


def _best_by_access(page: SuitePage, upgrade: Upgrade, shots: int) -> dict[str, tuple[Price, str]]:
    """The most accurate way of each access that has a worth, with the method's linked title."""
    best: dict[str, tuple[Price, str]] = {}
    for info in (method.info for method in page.results.methods.values() if method.info.learns):
        for price in price_ways(page.results, page.expected, info.name, upgrade, shots):
            if find_way(price.transfer) is None or price.worth is None or price.target is None:
                continue
            access = describe_access(price.transfer)
            known = best[access][0].target if access in best else None
            if known is None or price.target.value > known.value:
                best[access] = price, markdown.linked(info.title, info.paper)
    places = {access: _by_access(price.transfer) for access, (price, _) in best.items()}
    return {access: best[access] for access in sorted(best, key=places.__getitem__)}


def show_worth(page: SuitePage, worth: Interval | None) -> str:
    """Labels per class: ``0``, ``3.4``, or ``> 16`` where more would be needed than there are."""
    return NOTHING if worth is None else _show(page, worth.value)


def _show(page: SuitePage, labels: float) -> str:
    if math.isinf(labels):
        return f"> {max(count_labels(page.results.transfers))}"
    return "0" if labels == 0 else percent(labels)


def _show_bounds(page: SuitePage, worth: Interval | None) -> str:
    if worth is None or worth.low == -math.inf:
        return NOTHING
    return f"{_show(page, worth.low)} to {_show(page, worth.high)}"


def _named(way: str) -> dict[str, Any]:
    return {"way": code(way), "access": text(describe_access(way))}


def _sorted(page: SuitePage, upgrade: Upgrade, shots: int, method: str) -> list[Price]:
    prices = price_ways(page.results, page.expected, method, upgrade, shots)

    def place(price: Price) -> tuple[object, ...]:
        return (*_by_access(price.transfer)[:2], -(price.target.value if price.target else -1))

    return sorted(prices, key=place)  # type: ignore[arg-type]


def _by_access(transfer: str) -> tuple[list[str], int, str]:
    """Ways of equal access stand together, those without any first; more labels later."""
    way = find_way(transfer)
    return access_of(transfer), getattr(way and way.config, "shots", 0), transfer
