"""Advice on modules that were measured for it: the commands that go on, and one table."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from compatbench.data.cards import COPIED
from compatbench.engine.port import TRANSFERS
from compatbench.extras.advice.measurements import Measurements
from compatbench.results.differences import ZERO_SHOT
from compatbench.results.estimate import Interval
from compatbench.results.verdict_lines import (
    UNTOUCHED,
    Case,
    is_out_of_reach,
    python_call,
    show_interval,
    suggest_method,
)
from compatbench.tables.numbers import NOTHING
from compatbench.tables.table import Table, plain_table


@dataclass(frozen=True)
class Asked:
    """How advice on modules was asked for.

    Attributes:
        words: the command without its command name, so that it can be repeated.
        files: the file of a module, by the option that it serves: its name and a new model.
        labels: with how many labels per class modules were retrained; None if they were not.
        places: those of the words that name folders: of images, cards and results.
        cards: words with which commands on a module find the cards of its task and models.
        data_root: words with which ``evaluate`` finds its images.
        methods: words with which commands on a module find its method.
        notes: lines that an owner should read, below the verdicts.
    """

    words: tuple[str, ...]
    files: Mapping[tuple[str, str], str] = field(default_factory=dict)
    labels: int | None = None
    places: tuple[str, ...] = ()
    cards: tuple[str, ...] = ()
    data_root: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    task: str = ""  # of a module in memory, which no command can name

    def next_command(self, case: Case) -> str:
        """Return the command that goes on from a verdict, as it can be typed."""
        verdict = case.decision.verdict
        target = case.upgrade[1]
        if self.task:
            return python_call(self.task, target)
        file = self.files.get((case.module, ""), "")
        if case.does_nothing:
            words = ["advise", self.words[1], "--source", case.upgrade[0], "--target", target]
            words += ["--methods", suggest_method(case.module), *self.places]
            return f"{self._join(words)}  # or use zero-shot"
        if verdict in ("keep", "port") and file and case.transfer in TRANSFERS:
            words = ["module", "port", file, "--target", target, "--transfer", case.transfer]
        elif verdict == "retrain" and (case.module, target) in self.files:
            words = ["evaluate", self.files[case.module, target], "--target", target]
        elif self.labels is None:
            words = [*self.words, "--labels", "4"]
        elif verdict == "cannot tell" and not is_out_of_reach(case.decision.needed, case.units):
            again = self._join([*self.words, "--labels", str(self.labels)])
            return f"{again}  # once you have added images"
        else:
            return "compatbench list methods  # others to train"
        return self._join(words)

    def _join(self, words: Sequence[str]) -> str:
        options: tuple[str, ...] = ()
        if words[0] == "evaluate":
            options = self.methods + self.cards + self.data_root
        elif words[0] == "module":
            options = self.methods + self.cards
        return shlex.join(["compatbench", *words, *options])


def option_table(every: Sequence[Measurements]) -> Table:
    """Return the accuracy and the gain of every option on every new model."""
    rows = []
    for measured in every:
        source, target = measured.upgrade
        for method, old in measured.options.drop_duplicates("method")[["method", "old"]].to_numpy():
            row = [source, method, *_numbers(measured, old)]
            if row not in rows:  # the old model is the same for all new ones
                rows.append(row)
        rows.append([target, ZERO_SHOT, *_numbers(measured, ZERO_SHOT)])
        for method in measured.methods:
            for name, option in measured.options_of(method).iterrows():
                how = UNTOUCHED if option["transfer"] == COPIED else option["transfer"]
                rows.append([target, f"{method} {how}", *_numbers(measured, str(name))])
    return plain_table(["model", "option", "accuracy", "gain"], rows, left=(0, 1))


def _numbers(measured: Measurements, option: str) -> tuple[str, str]:
    """Return an option's accuracy and gain; the old model's gain is not one over zero-shot here."""
    accuracy = measured.difference(option)
    gain: Interval | None = None
    if option in measured.options.index:
        gain = measured.difference(option, ZERO_SHOT)
    shown = [(accuracy, ".1f"), (gain, "+.1f")]
    return tuple(NOTHING if each is None else show_interval(each, form) for each, form in shown)  # type: ignore[return-value]
