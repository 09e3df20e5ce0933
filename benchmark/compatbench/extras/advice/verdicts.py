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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd

from compatbench.data.cards import COPIED, backbone_cards
from compatbench.data.cards.shots import count_shots
from compatbench.extras.advice.cases import OLD, ZERO_SHOT, Case
from compatbench.extras.advice.price import (
    count_labels,
    describe_prices,
    format_prices,
    show_labels,
)
from compatbench.messages import count
from compatbench.results.choice import Way, choose_way, first_better, units_to_decide
from compatbench.results.estimate import FEWEST_UNITS, interval_columns
from compatbench.results.ways import access_of, cost_of
from compatbench.tables.numbers import with_interval

WIDTH = 79
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
        verdict, chosen = _act(way.name) if way else "cannot tell", way.name if way else ""
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
    if chosen and _act(chosen) != "retrain":
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


def _act(way: str) -> str:
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


@dataclass(frozen=True, repr=False)
class Advice:
    """Verdicts; accuracies in percent, gains in points, ``_low`` and ``_high`` bound 95 %.

    ``frame`` has a row per upgrade and method: ``verdict``; the ``transfer`` that it names, or that
    is the one to go on with while it cannot be told, or if the old model must go; the ``expected``
    accuracy; its ``gain`` over zero-shot; ``over_old``, what it is better than the module on the
    old model; how many test images, or tasks from six tasks on, are ``needed`` to tell; ``worth``,
    the labels per class at which the best method trained anew is as good, and ``worth_same``, the
    same method; and the least labels with which any is clearly better, ``better_labels``, by
    ``better_method``. ``ways`` has a row per transfer; ``prices`` too, where modules were trained
    anew with labels: what it needs (``needs``), the ``seconds`` that it takes, what it is
    ``worth``, infinite if more than were measured, and the ``share`` of the tasks on which it is
    worth any. ``str()`` says it in words.
    """

    cases: tuple[Case, ...]

    @property
    def frame(self) -> pd.DataFrame:
        return pd.DataFrame([judge(case) for case in self.cases])

    @property
    def ways(self) -> pd.DataFrame:
        return pd.DataFrame([row for case in self.cases for row in describe_ways(case)])

    @property
    def prices(self) -> pd.DataFrame:
        rows = [case.about | row for case in self.cases for row in describe_prices(case.prices)]
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        return f"<Advice: {len(self.cases)} verdicts>"

    def __str__(self) -> str:
        parts, last = list[str](), ""
        for case in self.cases:
            shots = "" if case.shots is None else f", {count_shots(case.shots)}"
            if (upgrade := f"{' → '.join(case.upgrade)}{shots}") != last:
                parts.append(last := upgrade)
            parts += _explain(case)
        return "\n".join([*parts, _wrap(_basis(self.cases))])


def _explain(case: Case) -> Iterator[str]:
    """A verdict in a line, and below it the figures."""
    plain, signed = "{:.1f}".format, "{:+.1f}".format
    row = judge(case)
    title = f"{case.method}: {VERDICTS[row['verdict']].format(row['transfer'])}"
    if row["verdict"] == "cannot tell":
        title += f"{_needed(case, row['needed'])}; meanwhile {_go_on(row['transfer'])}"
    if row["verdict"] != "unknown" and row["expected"] is not None:
        title += f"; expect {with_interval(row, 'expected', plain)} %"
    yield _wrap(title)
    for way in describe_ways(case):
        name = "untouched" if way["way"] == COPIED else way["way"]
        gain = "" if way["gain"] is None else f"gain {with_interval(way, 'gain', signed)}"
        text = f"{with_interval(way, 'accuracy', plain):23}{gain}"
        if way["accuracy"] is None:
            text = way["reason"] or "not measured on all tasks and seeds"
        yield _wrap(f"{name:20} {text}".rstrip(), "  ")
    if said := [*_remarks(case, row)]:
        yield _wrap(" ".join(said), "  ")
    yield from (f"  {line}" for line in format_prices(case.prices))


def _remarks(case: Case, row: dict[str, Any]) -> Iterator[str]:
    """What an owner should know beside the verdict, in sentences."""
    signed = "{:+.1f}".format
    if row["verdict"] == "stay":
        yield (
            f"The upgrade loses against the module on the old model: "
            f"{with_interval(row, 'over_old', signed)}. If the old model must go, "
            f"{_go_on(row['transfer'])}."
        )
    elif row["verdict"] != "unknown" and row["over_old"] is not None and row["over_old"] < 0:
        yield (
            f"With this the upgrade loses against the module on the old model "
            f"({with_interval(row, 'over_old', signed)}), though not for certain: staying is a way."
        )
    labels = count_labels(case.ways)
    if row["worth"] is not None and labels:
        show = partial(show_labels, most=max(labels))
        text = (
            f"That is worth {show(row['worth'])} labels per class of the best method trained anew"
        )
        same = row["worth_same"]
        yield text + ("." if same is None else f", and {show(same)} of the same method.")
    if row["better_method"]:
        number = count(row["better_labels"], "label")
        yield f"With {number} per class, {row['better_method']} trained anew is better."
    elif case.anew and row["transfer"] in case.ways and _act(row["transfer"]) != "retrain":
        yield f"No method trained anew with up to {max(case.anew)} labels is shown to be better."
    if not _retraining(case):
        yield "Retraining was not measured."


def _needed(case: Case, needed: float) -> str:
    """How much more would have to be measured: ``, about 1,200 test images would decide``."""
    units, noun = case.units
    if needed > 100 * units:
        return f", and 100 times the {noun}s would not decide"
    # Two digits: the spread is an estimate, too.
    digits = max(0, len(str(int(needed))) - 2)
    return f", about {round(needed, -digits):,.0f} {noun}s would decide"


def _go_on(way: str) -> str:
    return VERDICTS[_act(way) if way else "zero-shot"].format(way)


def _retraining(case: Case) -> bool:
    return any("labels" in access_of(name) for name in case.ways)


def _basis(cases: Sequence[Case]) -> str:
    """What all verdicts rest on."""

    def basis(case: Case) -> str:
        tasks, seeds = count(len(case.tasks), "task"), len(case.accuracy[case.ways[0]])
        images = count(int(np.nan_to_num(case.images).sum()), "test image")
        return f"{tasks} ({', '.join(case.tasks)}), {count(seeds, 'seed')} and {images}"

    many = any(len(case.tasks) >= FEWEST_UNITS for case in cases)
    chance = "Student's t over tasks" if many else "the counts of images and the seeds"
    text = f"This rests on {'; '.join(dict.fromkeys(map(basis, cases)))}. Accuracies are in "
    text += f"percent, gains over the new model's zero-shot; 95 % intervals are from {chance}."
    if not all(map(_retraining, cases)):
        text += " What retraining gives, 'run --transfers copied,words,retrained+4' measures."
    names = {name for case in cases for name in case.upgrade} & {*backbone_cards.builtin_names()}
    if any(backbone_cards.read(name).weights for name in names):
        text += " The models are miniatures: these are not the figures of CLIP or EVA-CLIP."
    return text


def _wrap(text: str, indent: str = "") -> str:
    return fill(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
