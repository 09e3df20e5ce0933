"""What ``compatbench.advise`` returns: verdicts as frames, and in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from textwrap import fill
from typing import Any

import pandas as pd

from compatbench.data.cards import COPIED, backbone_cards
from compatbench.data.cards.shots import count_shots
from compatbench.extras.advice.asked import Asked, option_table
from compatbench.extras.advice.measurements import Measurements
from compatbench.extras.advice.price import count_labels, format_prices, show_labels
from compatbench.extras.advice.targets import (
    Facts,
    compare_targets,
    judge_target,
    say_which,
    target_table,
)
from compatbench.extras.advice.verdicts import VERDICTS, describe_options, describe_prices, judge
from compatbench.messages import count
from compatbench.results.choice import act
from compatbench.results.costs import access_of
from compatbench.results.differences import ZERO_SHOT
from compatbench.results.estimate import FEWEST_UNITS
from compatbench.results.verdict_lines import IS_NULL, show_needed, verdict_lines
from compatbench.tables.numbers import with_interval
from compatbench.tables.table import Table
from compatbench.tables.terminal import as_text

WIDTH = 79


@dataclass(frozen=True, repr=False)
class Advice:
    """Verdicts; accuracies in percent, gains in points, ``_low`` and ``_high`` bound 95 %.

    ``frame`` has a row per upgrade and method: ``verdict``; the ``transfer`` to use, also while we
    cannot tell, or if the old model must go; the ``expected`` accuracy; its ``gain`` over
    zero-shot; ``over_old``, how much better it is than the module on the old model; how many test
    images (or tasks, from six tasks on) are ``needed`` to decide; ``worth``, the labels per class
    with which the best retrained method is as good, and ``worth_same``, the same for its own
    method; and the least labels with which any retrained method is significantly better,
    ``better_labels``, and that method, ``better_method``. ``options`` has a row per transfer.
    ``prices`` has one, too, if modules were retrained with labels: what the option ``needs``, the
    ``seconds`` that it takes, its ``worth``, infinite if more labels than were measured, and the
    ``share`` of the tasks on which it is worth any. ``targets`` has a row per new model if several
    are compared, first the one to take, if one is ``chosen``: of its ``methods``, those whose
    modules gain untouched (``survives``); what to do; the model's ``parameters``, ``width``,
    ``tokens`` of the longest text, and ``licence``. ``str()`` gives it in words, and
    ``details()`` every number.
    """

    measured: tuple[Measurements, ...]  # one for each upgrade
    facts: Mapping[str, Facts] = field(default_factory=dict)  # of targets that are compared
    asked: Asked | None = None  # about modules that were measured for this advice

    @property
    def targets(self) -> pd.DataFrame:
        return pd.DataFrame(self._targets())

    def _targets(self) -> list[dict[str, Any]]:
        return compare_targets(self.measured, self.facts) if self.facts else []

    @cached_property
    def _judged(self) -> list[dict[str, Any]]:
        """Return the rows of ``frame``."""
        return [judge(*case) for case in self._cases()]

    def _cases(self) -> Iterator[tuple[Measurements, str]]:
        for measured in self.measured:
            for method in measured.methods:
                yield measured, method

    @property
    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self._judged)

    @property
    def options(self) -> pd.DataFrame:
        return pd.DataFrame([row for case in self._cases() for row in describe_options(*case)])

    @property
    def prices(self) -> pd.DataFrame:
        parts = [describe_prices(measured) for measured in self.measured]
        return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)

    def as_dict(self) -> pd.DataFrame:
        """Return what JSON has: a row per target, if some are compared, or else per verdict."""
        return self.targets if self.facts else self.frame

    def parts(self) -> list[Table | str]:
        """Return what a terminal shows: the verdicts in words, and a table."""
        if self.asked is not None:
            return [self.summary(), option_table(self.measured)]
        if not self.facts:
            return [self.summary()]
        return [self.summary(), target_table(self._targets())]

    def __repr__(self) -> str:
        return f"<Advice: {count(len(self._judged), 'verdict')}>"

    def __str__(self) -> str:
        shown = [part if isinstance(part, str) else as_text(part, WIDTH) for part in self.parts()]
        return "\n".join(shown)

    def summary(self) -> str:
        """Return three lines for each new model, or one for each method of a suite."""
        parts = list[str]()
        if len(self.facts) > 1 or (self.facts and self.asked is None):
            parts.append(_wrap(say_which(self._targets())))
        if self.asked is not None:
            for measured in self.measured:
                case = judge_target(measured)
                parts += verdict_lines(case, self.asked.next_command(case))
            notes = [_wrap(note) for note in (*self.asked.notes, _basis(self.measured))]
            return "\n".join([*parts, *notes])
        rows = iter(self._judged)
        for measured in self.measured:
            parts.append(_name_upgrade(measured))
            for method in measured.methods:
                parts.append(_wrap(_state_verdict(measured, method, next(rows))))
        more = "Every number: --verbose (in Python: .details())."
        return "\n".join([*parts, _wrap(f"{_basis(self.measured)} {more}")])

    def details(self) -> str:
        """Return every option with its numbers, and what else an owner should know."""
        parts = list[str]()
        rows = iter(self._judged)
        for measured in self.measured:
            parts.append(_name_upgrade(measured))
            prices = describe_prices(measured)
            for method in measured.methods:
                of_method = prices[prices["method"] == method]
                parts += _explain(measured, method, next(rows), of_method)
        return "\n".join([*parts, _wrap(_basis(self.measured))])


def _name_upgrade(measured: Measurements) -> str:
    shots = "" if measured.shots is None else f", {count_shots(measured.shots)}"
    return f"{' → '.join(measured.upgrade)}{shots}"


def _state_verdict(measured: Measurements, method: str, row: Mapping[str, Any]) -> str:
    """Return the verdict on a method's modules in a sentence, with the accuracy and the gain."""
    title = f"{method}: {VERDICTS[row['verdict']].format(row['transfer'])}"
    if row["verdict"] == "cannot tell" and measured.is_null(measured.options_of(method).index):
        title = f"{method}: {IS_NULL}; use zero-shot"
    elif row["verdict"] == "cannot tell":
        title += (
            f"{show_needed(row['needed'], measured.units)}; meanwhile {_go_on(row['transfer'])}"
        )
    if row["verdict"] != "unknown" and row["expected"] is not None:
        title += f"; expect {with_interval(row, 'expected', '{:.1f}'.format)} %"
    if row["gain"] is not None:
        # The accuracy to expect is that on the old model, so say that the gain is not.
        where = " on the new model" if row["verdict"] == "stay" else ""
        title += f", gain{where} {with_interval(row, 'gain', '{:+.1f}'.format)}"
    return title


def _explain(
    measured: Measurements, method: str, row: Mapping[str, Any], prices: pd.DataFrame
) -> Iterator[str]:
    """Yield a verdict in a line, and below it the figures."""
    plain = "{:.1f}".format
    signed = "{:+.1f}".format
    yield _wrap(_state_verdict(measured, method, row))
    for option in describe_options(measured, method):
        name = "untouched" if option["option"] == COPIED else option["option"]
        gain = ""
        if option["gain"] is not None:
            gain = f"gain {with_interval(option, 'gain', signed)}"
        text = f"{with_interval(option, 'accuracy', plain):23}{gain}"
        if option["accuracy"] is None:
            text = option["reason"] or "not measured on all tasks and seeds"
        yield _wrap(f"{name:20} {text}".rstrip(), "  ")
    remarks = list(_remarks(measured, method, row))
    if remarks:
        yield _wrap(" ".join(remarks), "  ")
    for line in format_prices(prices):
        yield f"  {line}"


def _remarks(measured: Measurements, method: str, row: Mapping[str, Any]) -> Iterator[str]:
    """Yield what an owner should know besides the verdict, in sentences."""
    signed = "{:+.1f}".format
    if row["verdict"] == "stay":
        yield (
            f"The upgrade loses against the module on the old model: "
            f"{with_interval(row, 'over_old', signed)}. If the old model must go, "
            f"{_go_on(row['transfer'])}."
        )
    elif row["verdict"] != "unknown" and row["over_old"] is not None and row["over_old"] < 0:
        yield (
            f"The upgrade changes accuracy by {with_interval(row, 'over_old', signed)} points from "
            "the module on the old model, which is not significant: staying is an option."
        )
    options = measured.options_of(method)
    labels = count_labels(list(options["transfer"]))
    if row["worth"] is not None and labels:
        show = partial(show_labels, most=max(labels))
        text = f"That is worth {show(row['worth'])} labels per class of the best retrained method"
        same = row["worth_same"]
        yield text + ("." if same is None else f", and {show(same)} of the same method.")
    if row["better_method"]:
        number = count(row["better_labels"], "label")
        yield f"With {number} per class, {row['better_method']} retrained is significantly better."
    elif measured.retrained and row["transfer"] and act(row["transfer"]) != "retrain":
        most = max(measured.retrained)
        yield f"No method retrained with up to {most} labels per class is significantly better."
    if not _has_retraining(options):
        yield "Retraining was not measured."


def _go_on(transfer: str) -> str:
    verdict = act(transfer) if transfer else ZERO_SHOT
    return VERDICTS[verdict].format(transfer)


def _has_retraining(options: pd.DataFrame) -> bool:
    return any("labels" in access_of(transfer) for transfer in options["transfer"])


def _basis(every: Sequence[Measurements]) -> str:
    """Return what all verdicts rest on."""
    described = []
    for measured in every:
        tasks = f"{count(len(measured.tasks), 'task')} ({', '.join(measured.tasks)})"
        images = count(measured.images, "test image")
        described.append(f"{tasks}, {count(measured.seeds, 'seed')} and {images}")
    many = any(len(measured.tasks) >= FEWEST_UNITS for measured in every)
    units = "tasks (Student's t)" if many else "images and seeds"
    text = f"This rests on {'; '.join(dict.fromkeys(described))}. Accuracies are in percent, gains "
    text += f"over the new model's zero-shot; 95 % intervals are over {units}."
    upgrades = {name for measured in every for name in measured.upgrade}
    miniatures = upgrades & set(backbone_cards.builtin_names())
    if any(backbone_cards.read(name).weights for name in miniatures):
        text += " The models are miniatures: these are not the figures of CLIP or EVA-CLIP."
    return text


def _wrap(text: str, indent: str = "") -> str:
    return fill(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
