"""The verdict on a module as a row of figures; the rule itself is ``results/choice.py``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from compatbench.extras.advice.measurements import Measurements
from compatbench.results.choice import act, decide, first_better
from compatbench.results.costs import access_of
from compatbench.results.differences import OLD, ZERO_SHOT
from compatbench.results.estimate import interval_columns
from compatbench.results.options import option_name
from compatbench.tables.table import records

VERDICTS = {
    "keep": "keep it untouched",
    "port": "port it by {}",
    "retrain": "retrain it ({})",
    "stay": "stay with the old model",
    "zero-shot": "use zero-shot",
    "retrain or zero-shot": "retrain it, or use zero-shot",
    "cannot tell": "cannot tell",
    "unknown": "no verdict, because measurements are missing",
}


def judge(measured: Measurements, method: str) -> dict[str, Any]:
    """Return the verdict on a method's modules and what it rests on, a row of ``Advice.frame``."""
    options = measured.options_of(method)
    old = option_name(method, OLD)
    decision = decide(options, measured.difference)
    transfer = ""
    if decision.option:
        transfer = str(options.loc[decision.option, "transfer"])
    price = None
    better = None
    if transfer and act(transfer) != "retrain":
        price = _find_price(measured.prices, method, transfer)
        better = first_better(decision.option, measured.retrained, measured.difference)
    expected = old if decision.verdict == "stay" else decision.option or ZERO_SHOT
    row = {
        **_about(measured, method),
        "shots": measured.shots,
        "verdict": decision.verdict,
        "transfer": transfer,
        **interval_columns("expected", measured.difference(expected)),
        **interval_columns("gain", decision.gain),
        **interval_columns("over_old", decision.over_old),
        "needed": decision.needed,
        "worth": None,
        "worth_low": None,
        "worth_high": None,
        "worth_same": None,
    }
    if price is not None:
        row.update({name: price[name] for name in row if name.startswith("worth")})
    return row | {
        "better_labels": better and better[0],
        "better_method": better[1].rpartition(" ")[0] if better else "",
        "tasks": len(measured.tasks),
        "seeds": measured.seeds,
        "images": measured.images,
    }


def _about(measured: Measurements, method: str) -> dict[str, Any]:
    """Return the names of a case, in the rows of frames."""
    source, target = measured.upgrade
    return {"source": source, "target": target, "method": method}


def _find_price(prices: pd.DataFrame, method: str, transfer: str) -> dict[str, Any] | None:
    if prices.empty:
        return None
    of_option = prices[(prices["method"] == method) & (prices["option"] == transfer)]
    return next(iter(records(of_option)), None)


def describe_options(measured: Measurements, method: str) -> Iterator[dict[str, Any]]:
    """Yield the old model, zero-shot, and every option that was measured: ``Advice.options``."""
    about = _about(measured, method)
    old = option_name(method, OLD)
    for shown, name in ((OLD, old), (ZERO_SHOT, ZERO_SHOT)):
        yield {
            **about,
            "option": shown,
            "needs": "",
            **interval_columns("accuracy", measured.difference(name)),
            **interval_columns("gain", None),
            "reason": "",
        }
    for name, option in measured.options_of(method).iterrows():
        yield {
            **about,
            "option": option["transfer"],
            "needs": ", ".join(sorted(access_of(option["transfer"]))),
            **interval_columns("accuracy", measured.difference(str(name))),
            **interval_columns("gain", measured.difference(str(name), ZERO_SHOT)),
            "reason": option["reason"],
        }


def describe_prices(measured: Measurements) -> pd.DataFrame:
    """Return what each option needs, takes and is worth, as rows of ``Advice.prices``."""
    source, target = measured.upgrade
    shown = ["method", "option", "needs", "seconds", "worth", "worth_low", "worth_high"]
    prices = measured.prices[[*shown, "worth_same", "share"]]
    if measured.units[1] != "task":  # so few tasks are not a sample
        prices = prices.assign(worth_low=None, worth_high=None)
    order = {name: place for place, name in enumerate(measured.methods)}
    prices = prices.sort_values("method", key=lambda names: names.map(order), kind="stable")
    prices.insert(0, "source", source)
    prices.insert(1, "target", target)
    return prices.reset_index(drop=True)
