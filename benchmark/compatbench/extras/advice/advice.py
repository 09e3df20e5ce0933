"""What ``compatbench.advise`` returns: verdicts as frames, and said in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd

from compatbench.data.cards import COPIED, backbone_cards
from compatbench.data.cards.shots import count_shots
from compatbench.extras.advice.cases import Case
from compatbench.extras.advice.price import (
    count_labels,
    describe_prices,
    format_prices,
    show_labels,
)
from compatbench.extras.advice.targets import Facts, compare_targets, say_which, target_table
from compatbench.extras.advice.verdicts import VERDICTS, act, describe_ways, judge
from compatbench.messages import count
from compatbench.results.estimate import FEWEST_UNITS
from compatbench.results.ways import access_of
from compatbench.tables.numbers import with_interval
from compatbench.tables.table import Table

WIDTH = 79


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
    worth any. ``targets`` has a row per new model where several are compared, first the one to
    take, if that can be told (``chosen``): of its ``methods``, those whose modules gain untouched
    (``survives``); what to do; the model's ``parameters``, ``width``, ``tokens`` of the longest
    text, ``image_seconds`` and ``licence``. ``str()`` says it in words.
    """

    cases: tuple[Case, ...]
    facts: Mapping[str, Facts] = field(default_factory=dict)  # of targets that are compared

    @property
    def targets(self) -> pd.DataFrame:
        return pd.DataFrame(self._targets())

    def _targets(self) -> list[dict[str, Any]]:
        return compare_targets(self.cases, self.facts) if self.facts else []

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

    def as_dict(self) -> pd.DataFrame:
        """What JSON has: a row per target, if some are compared, or else per verdict."""
        return self.targets if self.facts else self.frame

    def parts(self) -> list[Table | str]:
        """What a terminal shows: the targets, if some are compared, and the verdicts in words."""
        return [*([target_table(self._targets())] if self.facts else ()), str(self)]

    def __repr__(self) -> str:
        return f"<Advice: {len(self.cases)} verdicts>"

    def __str__(self) -> str:
        parts, last = list[str](), ""
        if self.facts:
            parts.append(_wrap(say_which(self._targets())))
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
    elif case.anew and row["transfer"] in case.ways and act(row["transfer"]) != "retrain":
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
    return VERDICTS[act(way) if way else "zero-shot"].format(way)


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
