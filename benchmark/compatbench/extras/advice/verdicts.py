"""What the owner of a module should do in an upgrade: keep it, port it, retrain it, or drop it.

The verdict of a method on one upgrade, from what each transfer of its modules gives: of the ways
whose gain over the new model's zero-shot is above 0 as a whole interval, the cheapest that is not
clearly worse than the best (``choice``), with ways that need no labels before all others. It is

* ``keep`` for the module untouched, ``port`` for another way without labels, else ``retrain``;
* ``stay`` with the old model, where that is clearly better than this way;
* without any such way ``zero-shot``, if all are clearly worse than that; ``retrain or zero-shot``
  if no way with labels was measured, either;
* else ``cannot tell``, with the number of test images (or tasks) that would decide;
* ``unknown`` if the module untouched was not measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from compatbench.data.cards import COPIED
from compatbench.extras.advice.cases import OLD, ZERO_SHOT, Case
from compatbench.results.choice_of_ways import Way, choose_way, first_better, units_to_decide
from compatbench.results.estimate import interval_columns
from compatbench.results.ways import access_of, cost_of

VERDICTS = {
    "keep": "keep it untouched",
    "port": "port it by {}",
    "retrain": "retrain it ({})",
    "stay": "stay with the old model",
    "zero-shot": "use zero-shot",
    "retrain or zero-shot": "retrain it, or use zero-shot",
    "cannot tell": "cannot tell",
    "unknown": "no verdict, for measurements are missing",
}


def judge(case: Case) -> dict[str, Any]:
    """The verdict with what it rests on, a row of ``Advice.frame``."""
    gains = {way: case.estimate(way, ZERO_SHOT) for way in case.ways}
    ways = [
        Way(name, gain, cost_of(name), case.accuracy[name]) for name, gain in gains.items() if gain
    ]
    verdict, chosen, needed = "unknown", "", None
    if {COPIED} & {*(way.name for way in ways), *case.reasons}:
        way = choose_way(ways, case.difference)
        verdict, chosen = act(way.name) if way else "cannot tell", way.name if way else ""
    if verdict == "cannot tell":
        likely = max(ways, key=lambda way: (not way.cost[0], way.gain.value), default=None)
        if all(way.gain.sign == -1 for way in ways):
            labels = any(way.cost[0] for way in ways)
            verdict = "zero-shot" if labels else "retrain or zero-shot"
        elif likely is not None:
            chosen = likely.name if likely.gain.value > 0 else ""
            needed = units_to_decide(likely.gain, case.units[0])
    over_old = case.estimate(chosen or ZERO_SHOT, OLD)
    if verdict != "unknown" and over_old is not None and over_old.sign == -1:
        verdict = "stay"
    price = better = None
    if chosen and act(chosen) != "retrain":
        price = next((price for price in case.prices if price.transfer == chosen), None)
        better = first_better(case.accuracy[chosen], case.anew, case.difference)
    expected = OLD if verdict == "stay" else chosen or ZERO_SHOT
    return {
        **case.about,
        "shots": case.shots,
        "verdict": verdict,
        "transfer": chosen,
        **interval_columns("expected", case.estimate(expected)),
        **interval_columns("gain", gains.get(chosen)),
        **interval_columns("over_old", over_old),
        "needed": needed,
        **interval_columns("worth", price and price.worth),
        "worth_same": price and price.worth_same,
        "better_labels": better and better[0],
        "better_method": better[1] if better else "",
        "tasks": len(case.tasks),
        "seeds": len(case.accuracy[case.ways[0]]),
        "images": case.images.sum(),
    }


def act(way: str) -> str:
    """The verdict of a way that is taken."""
    return "keep" if way == COPIED else "retrain" if "labels" in access_of(way) else "port"


def describe_ways(case: Case) -> Iterator[dict[str, Any]]:
    """The old model, zero-shot, and every way that was measured: rows of ``Advice.ways``."""
    for name in case.accuracy:
        yield {
            **case.about,
            "way": name,
            "needs": ", ".join(sorted(access_of(name))) if name in case.ways else "",
            **interval_columns("accuracy", case.estimate(name)),
            **interval_columns("gain", None if name == OLD else case.estimate(name, ZERO_SHOT)),
            "reason": case.reasons.get(name, ""),
        }
