"""A suite as the pages show it: facts from its cards, and its results."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from compatbench.data.cards import (
    COPIED,
    SuiteCard,
    backbone_cards,
    names_elsewhere,
    suite_cards,
    suite_test_sets,
    task_cards,
)
from compatbench.data.labels import NEEDS
from compatbench.errors import CompatbenchWarning
from compatbench.results.estimate import FEWEST_UNITS
from compatbench.results.expected import Expected, Upgrade, expect_suite, upgrade_pairs
from compatbench.results.method_results import SuiteResults, remembered
from compatbench.results.ranks import Ranked, rank_upgrades
from compatbench.results.result_files import RESULTS, check_name, read_results, result_folders
from compatbench.results.standing import Standing
from compatbench.results.tuning_records import is_tuned

# Marks after a method's title, and what they mean.
MARKS = {
    "†": "not tuned: settings are not as 'compatbench maintain tune' has chosen them.",
    "‡": "a method of this project.",
}
PROJECT = "compatbench"  # the paper of its own methods


class TaskFacts(NamedTuple):
    """A task or variant, as the page names it."""

    title: str
    licence: str


@dataclass(frozen=True)
class SuitePage:
    """A suite as the pages show it: facts from its cards, and its results."""

    name: str
    title: str
    note: str  # what a reader must know first
    tasks: Mapping[str, TaskFacts]  # of tasks and of variants
    backbones: Mapping[str, str]  # name -> title
    expected: Expected
    results: SuiteResults
    views: int | str = 1  # of each training image in the cache; 1 is the plain one alone
    max_steps: int | None = None  # most optimiser steps a fit may take
    # Title -> upgrades, of a suite that keeps kinds of upgrades apart.
    groups: Mapping[str, tuple[Upgrade, ...]] = field(default_factory=dict)
    paths: tuple[tuple[str, ...], ...] = ()  # the upgrade paths of more than one target
    # Named config -> the method that it configures, in the suite's order.
    configs: Mapping[str, str] = field(default_factory=dict)
    extends: str | None = None  # the name of another suite
    sections: tuple[SuitePage, ...] = ()  # suites that extend this one and are shown under it
    # Suites that extend it and have many targets of a kind; they have no pages of their own.
    replications: tuple[SuitePage, ...] = ()
    likeness: str = ""  # one line: how far its results are like those of other suites
    about: str = ""  # the page that says more
    predictions: bool = False  # whether they are kept beside the results
    elsewhere: frozenset[str] = frozenset()  # backbones and test sets that no clone has
    first_seeds: tuple[int, ...] = ()  # those of a run that asks for none
    first_transfers: tuple[str, ...] = (COPIED,)
    out: Path | None = None  # the folder of results/, where the page was read
    whole: Expected | None = None  # what the suite asks for, if ``expected`` is only a part of it
    memory: dict[Any, Any] = field(default_factory=dict, init=False)

    @remembered
    def ranks(self, upgrade: Upgrade, shots: int, transfer: str = COPIED) -> list[Ranked]:
        """The methods of one transfer in the order of the ranking."""
        methods = self.results.of(transfer).values()
        return rank_upgrades(methods, self.expected, (upgrade,), shots)

    def by_name(self, upgrade: Upgrade, shots: int) -> dict[str, Standing]:
        """The standings of untouched modules, by method."""
        standings = [ranked.standing for ranked in self.ranks(upgrade, shots)]
        return {standing.info.name: standing for standing in standings}

    def all_ranks(self, upgrade: Upgrade, shots: int) -> list[Ranked]:
        """All methods on an upgrade: the untouched modules first, then those of each transfer."""
        return [
            ranked for name in self.results.transfers for ranked in self.ranks(upgrade, shots, name)
        ]

    def restrict(
        self,
        methods: Collection[str] | None = None,
        transfers: Collection[str] | None = None,
        **asked: Sequence[Any] | None,
    ) -> SuitePage:
        """The page of some methods and transfers, and of what ``Expected.restrict`` is asked."""
        results, expected = self.results.restrict(methods, transfers), self.expected
        return replace(
            self, expected=expected.restrict(**asked), results=results, whole=self.whole or expected
        )

    def run_command(self, method: str = "all") -> str:
        """The command that gives these results, or those of one method."""
        shown = [
            method_results
            for method_results in self.results.all
            if method in ("all", method_results.info.name)
        ]
        ways_used = {
            method_results.transfer
            for method_results in shown
            if method_results.transfer is not None
        }
        command = f"compatbench run --suite {check_name(self.name, 'suite')} --methods {method}"
        if self.first_seeds and set(self.first_seeds) != {*self.expected.seeds}:
            command += f" --seeds {','.join(map(str, self.expected.seeds))}"
        if not ways_used <= {*self.first_transfers}:
            ways = sorted(ways_used, key=lambda name: (name != COPIED, name))
            command += f" --transfers {','.join(check_name(way, 'transfer') for way in ways)}"
        return command

    @property
    def mark(self) -> str:
        """What stands beside figures that no clone of the project alone can compute again."""
        return "reported, not verified" if self.elsewhere else ""

    @property
    def whole_title(self) -> str:
        """The title with its mark."""
        return f"{self.title} ({self.mark})" if self.mark else self.title

    @property
    def legend(self) -> str:
        """What the ``MARKS`` after titles mean, and what else some methods are given."""
        last = [method.info.title.rpartition(" ")[2] for method in self.results.all]
        used = {mark for marks in last if {*marks} <= {*MARKS} for mark in marks}
        parts = [f"{mark} {text}" for mark, text in MARKS.items() if mark in used]
        by_need = {
            words: [
                method.info.title.rstrip("".join(MARKS)).rstrip()
                for method in self.results.methods.values()
                if need in method.info.needs
            ]
            for need, words in NEEDS.items()
        }
        if told := [f"{words}: {', '.join(names)}" for words, names in by_need.items() if names]:
            parts.append(f"Also given, by method: {'; '.join(told)}.")
        return " ".join(parts)

    @property
    def part(self) -> str:
        """Which tasks and seeds these are: ``1 of 8 tasks, seeds 7``; empty if the suite's."""
        if self.whole is None:
            return ""
        parts = []
        for what in ("tasks", "seeds"):
            some, every = getattr(self.expected, what), getattr(self.whole, what)
            if not set(some) <= set(every):
                parts.append(f"{what} {', '.join(map(str, some))}")
            elif len(some) < len(every):
                parts.append(f"{len(some)} of {len(every)} {what}")
        return ", ".join(parts)

    def backbone_title(self, name: str) -> str:
        return self.backbones.get(name, name)

    def task_title(self, name: str) -> str:
        return self.tasks[name].title if name in self.tasks else name

    def path_title(self, path: Sequence[str]) -> str:
        """The backbones of an upgrade or a path by their titles."""
        return " → ".join(map(self.backbone_title, path))


def read_suite_page(suite: SuiteCard, out: Path, results: SuiteResults | None = None) -> SuitePage:
    """A suite with its results in the folder that holds ``results/``, or these in their place."""
    whole = expect_suite(suite)
    cards = [task_cards.read(name) for name in suite_test_sets(suite)]
    results = results or read_results(out / RESULTS / suite.name)
    run = {
        seed for method in results.all for seed in method.rows["seed"]
    }  # a user's may be a first one
    seeds = tuple(seed for seed in suite.seeds if seed in run) or suite.seeds
    return SuitePage(
        name=suite.name,
        title=suite.title,
        note=suite.note,
        likeness=suite.likeness,
        about=suite.about,
        tasks={card.name: TaskFacts(card.title, card.licence) for card in cards},
        backbones={name: _backbone_title(name) for pair in whole.upgrades for name in pair},
        expected=replace(whole, seeds=seeds),
        results=_mark_titles(results, suite, out),
        views=suite.training.views,
        max_steps=suite.training.max_steps,
        groups={title: upgrade_pairs(paths) for title, paths in suite.groups.items()},
        paths=tuple(path for path in suite.upgrades if len(path) > 2),
        extends=suite.extends,
        configs={name: suite.base_method(name) for name in suite.configs},
        elsewhere=frozenset(names_elsewhere(suite)),
        predictions=suite.predictions,
        first_seeds=tuple(seed for seed in suite.seeds if seed in suite.run_seeds) or suite.seeds,
        first_transfers=tuple(suite.transfers),
        out=out,
        whole=None if seeds == suite.seeds else whole,
    )


def _mark_titles(results: SuiteResults, suite: SuiteCard, out: Path) -> SuiteResults:
    """The results with ``MARKS`` after the titles."""
    marked = []
    for method in results.all:
        info, untuned = method.info, False
        tuning = None if info.name in suite.configs else suite.tuning
        if tuning and ("recipe" in method.config or (info.learns and tuning.trainings)):
            untuned = not is_tuned(out, suite, info.name, method.config)
        marks = "†" * untuned + "‡" * (info.paper == PROJECT)
        marked.append(replace(method, info=replace(info, title=f"{info.title} {marks}".rstrip())))
    return replace(results, all=tuple(marked))


def _backbone_title(name: str) -> str:
    """The title on a backbone's card; a backbone without a card has its name."""
    return name if any(mark in name for mark in "/@:") else backbone_cards.read(name).title


def suites_with_results(out: Path, also: SuiteCard | None = None) -> list[SuiteCard]:
    """The suites that have a folder of results, by name; warns of folders of unknown suites."""
    suites = []
    for folder in result_folders(out):
        if folder.name in suite_cards.names():
            suites.append(suite_cards.read(folder.name))
        elif also is not None and folder.name == also.name:
            suites.append(also)
        else:
            message = f"{folder} is left out: no suite has that name; a file's pages come of 'run'"
            warnings.warn(message, CompatbenchWarning, 2)
    return suites


def published_pages(out: Path, also: SuiteCard | None = None) -> list[SuitePage]:
    """The suites that are published and have results, each with its sections, by name.

    ``also`` is a suite from a file of its own, which is not among the installed ones.
    """
    known = suites_with_results(out, also)
    sections, replications = dict[str, list[SuitePage]](), dict[str, list[SuitePage]]()
    for suite in known:
        if suite.extends not in suite_cards.names():
            continue
        if suite.publish == "section":
            sections.setdefault(suite.extends, []).append(read_suite_page(suite, out))
        elif not suite.publish and any(len(of) >= FEWEST_UNITS for of in suite.groups.values()):
            replications.setdefault(suite.extends, []).append(read_suite_page(suite, out))
    shown = {suite.name: suite for suite in known if suite.publish is True}
    # A section may have results before its suite has any.
    for name in sections:
        shown.setdefault(name, suite_cards.read(name))
    return [
        replace(
            read_suite_page(shown[name], out),
            sections=tuple(sections.get(name, ())),
            replications=tuple(replications.get(name, ())),
        )
        for name in sorted(shown)
    ]
