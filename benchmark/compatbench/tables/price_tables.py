"""The price of an upgrade: ways of bringing a module along, by what they need."""

from __future__ import annotations

import math

from compatbench.results.bootstrap import Interval
from compatbench.results.expected import Upgrade
from compatbench.results.price import (
    Price,
    access_of,
    count_labels,
    describe_access,
    find_way,
    price_ways,
)
from compatbench.tables import markdown as md
from compatbench.tables.markdown import NOTHING, code, percent, signed, table
from compatbench.tables.suite_page import SuitePage


def has_prices(page: SuitePage) -> bool:
    """Whether modules were trained anew on the target, by which ways can be measured."""
    return bool(count_labels(page.results.transfers))


def price_table(page: SuitePage, upgrade: Upgrade, shots: int, method: str) -> list[str]:
    """Every way of bringing a method's modules along; by access, then by accuracy."""
    rows = []
    for price in _sorted(page, upgrade, shots, method):
        target = price.target and price.target.value
        share = NOTHING if price.share is None else f"{round(100 * price.share)} %"
        rows.append(
            [
                code(price.transfer),
                describe_access(price.transfer),
                percent(target),
                md.bounds(price.target),
                signed(price.gain and price.gain.value),
                md.duration(price.seconds),
                show_worth(page, price.worth),
                _show_bounds(page, price.worth),
                share,
            ]
        )
    header = ["Way", "Access", "Target", "95 %", "Gain", "Time"]
    return table([*header, "Worth", "95 % of worth", "Datasets"], rows, left=(0, 1))


def worth_table(page: SuitePage, upgrade: Upgrade, shots: int) -> list[str]:
    """What each way is worth for each method, in labels per class."""
    methods = [one.info for one in page.results.methods.values() if one.info.learns]
    by_method = {
        info.name: {one.transfer: one for one in _sorted(page, upgrade, shots, info.name)}
        for info in methods
    }
    ways = {
        name: None for prices in by_method.values() for name, one in prices.items() if one.worth
    }
    rows = [
        [code(way), describe_access(way)]
        + [
            show_worth(page, prices[way].worth) if way in prices else NOTHING
            for prices in by_method.values()
        ]
        for way in sorted(ways, key=_by_access)
    ]
    titles = [md.linked(info.title, info.paper) for info in methods]
    return table(["Way", "Access", *titles], rows, left=(0, 1))


def price_answer(page: SuitePage, upgrade: Upgrade, shots: int) -> str:
    """What the owner of a module should do, in sentences: with nothing else, then by access."""
    best = _best_by_access(page, upgrade, shots)
    if (found := best.pop("nothing", None)) is None:
        return ""
    price, title = found
    if price.gain is None or price.gain.sign < 1:
        text = "With nothing but the module, no method is clearly better than zero-shot: drop it."
    else:
        measured = count_labels(page.results.transfers)
        enough = next((k for k in measured if price.worth and k >= price.worth.value), None)
        advice = (
            f"No number of labels up to {max(measured)} per class does as well."
            if enough is None
            else f"With {enough} labels per class or more, train anew."
        )
        text = (
            f"With nothing but the module, {title} ({code(price.transfer)}) does best: "
            f"{percent(price.target and price.target.value)} %, {signed(price.gain.value)} over "
            f"zero-shot. That is worth {show_worth(page, price.worth)} labels per class "
            f"(95 %: {_show_bounds(page, price.worth)}). {advice}"
        )
    more = [
        f"\n  - with {access}: {title} ({code(one.transfer)}), {percent(one.target.value)} %, "
        f"worth {show_worth(page, one.worth)} ({_show_bounds(page, one.worth)})"
        for access, (one, title) in best.items()
        if one.target is not None and one.gain is not None and one.gain.sign > 0
    ]
    return text + (
        f" With more access, these do best, with their worth in labels per class:\n{''.join(more)}"
        if more
        else ""
    )


def _best_by_access(page: SuitePage, upgrade: Upgrade, shots: int) -> dict[str, tuple[Price, str]]:
    """The most accurate way of each access that has a worth, with the method's linked title."""
    best: dict[str, tuple[Price, str]] = {}
    for info in (one.info for one in page.results.methods.values() if one.info.learns):
        for price in price_ways(page.results, page.expected, info.name, upgrade, shots):
            if find_way(price.transfer) is None or price.worth is None or price.target is None:
                continue
            access = describe_access(price.transfer)
            known = best[access][0].target if access in best else None
            if known is None or price.target.value > known.value:
                best[access] = price, md.linked(info.title, info.paper)
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


def _sorted(page: SuitePage, upgrade: Upgrade, shots: int, method: str) -> list[Price]:
    prices = price_ways(page.results, page.expected, method, upgrade, shots)

    def place(price: Price) -> tuple[object, ...]:
        return (*_by_access(price.transfer)[:2], -(price.target.value if price.target else -1))

    return sorted(prices, key=place)  # type: ignore[arg-type]


def _by_access(transfer: str) -> tuple[list[str], int, str]:
    """Ways of equal access stand together, those without any first; more labels later."""
    way = find_way(transfer)
    return access_of(transfer), getattr(way and way.config, "shots", 0), transfer
