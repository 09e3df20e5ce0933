"""A suite as the pages show it: facts from its cards, and its results."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

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
from compatbench.results.method_results import (
    MethodResults,
    SuiteResults,
    remembered,
    split_results,
)
from compatbench.results.ranks import Ranked, rank_upgrades
from compatbench.results.result_files import ResultFiles, check_name, result_folders
from compatbench.results.rows import Cost
from compatbench.results.standing import Standing
from compatbench.results.stored_method import StoredMethod
from compatbench.results.suite_results import SuiteResults as TidyResults
from compatbench.results.suite_results import gather_results
from compatbench.results.tuning_records import is_tuned

# Marks after a method's title, and what they mean.
MARKS = {
    "†": "not tuned: settings are not as 'compatbench maintain tune' has chosen them.",
    "‡": "a method of this project.",
}
PROJECT = "compatbench"  # the paper of its own methods


@dataclass(frozen=True)
class SuitePage:
    """A suite as the pages show it: facts from its cards, and its results."""

    card: SuiteCard
    tasks: Mapping[str, str]  # title by name, of tasks and of variants
    backbones: Mapping[str, str]  # title by name
    expected: Expected
    results: SuiteResults
    # Title -> upgrades, of a suite that keeps kinds of upgrades apart.
    groups: Mapping[str, tuple[Upgrade, ...]] = field(default_factory=dict)
    paths: tuple[tuple[str, ...], ...] = ()  # the upgrade paths of more than one target
    # Named config -> the method that it configures, in the suite's order.
    configs: Mapping[str, str] = field(default_factory=dict)
    sections: tuple[SuitePage, ...] = ()  # suites that extend this one and are shown under it
    # Suites that extend it and have many targets of a kind; they have no pages of their own.
    replications: tuple[SuitePage, ...] = ()
    elsewhere: frozenset[str] = frozenset()  # backbones and test sets that no clone has
    out: Path | None = None  # the folder of results/, where the page was read
    whole: Expected | None = None  # what the suite asks for, if ``expected`` is only a part of it
    # Replaces ``results`` as soon as all code reads it.
    tidy: TidyResults = None  # type: ignore[assignment]
    memory: dict[Any, Any] = field(default_factory=dict, init=False)

    @remembered
    def ranks(self, upgrade: Upgrade, shots: int, transfer: str = COPIED) -> list[Ranked]:
        """The methods of one transfer in the order of the ranking."""
        methods = self.results.of(transfer).values()
        return rank_upgrades(methods, self.expected, (upgrade,), shots)

    def by_name(self, upgrade: Upgrade, shots: int) -> dict[str, Standing]:
        """The standings of untouched modules by method, in the order of the ranking."""
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
            self,
            expected=expected.restrict(**asked),
            results=results,
            tidy=self.tidy.restrict(methods, transfers) if self.tidy else None,
            whole=self.whole or expected,
        )

    def run_command(self, method: str = "all") -> str:
        """The command that gives these results, or those of one method."""
        card, shown = self.card, self.results.restrict(None if method == "all" else [method])
        ways = {results.transfer for results in shown.all if results.transfer is not None}
        command = f"compatbench run --suite {check_name(card.name, 'suite')} --methods {method}"
        first = {*card.seeds} & {*card.run_seeds} or {*card.seeds}  # of a run that asks for none
        if first != {*self.expected.seeds}:
            command += f" --seeds {','.join(map(str, self.expected.seeds))}"
        if not ways <= {*card.transfers}:
            ordered = sorted(ways, key=lambda name: (name != COPIED, name))
            command += f" --transfers {','.join(check_name(way, 'transfer') for way in ordered)}"
        return command

    @property
    def mark(self) -> str:
        """What stands beside figures that no clone of the project alone can compute again."""
        return "reported, not verified" if self.elsewhere else ""

    @property
    def whole_title(self) -> str:
        """The title with its mark."""
        return f"{self.card.title} ({self.mark})" if self.mark else self.card.title

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
        return self.tasks.get(name, name)

    def path_title(self, path: Sequence[str]) -> str:
        """The backbones of an upgrade or a path by their titles."""
        return " → ".join(map(self.backbone_title, path))


def read_suite_page(
    suite: SuiteCard, files: ResultFiles, results: TidyResults | None = None
) -> SuitePage:
    """Return a suite with its results in these files, or with other results in their place."""
    whole = expect_suite(suite)
    cards = [task_cards.read(name) for name in suite_test_sets(suite)]
    tidy = results or files.read_suite(suite.name)
    results = _old_results(tidy)
    run = {
        seed for method in results.all for seed in method.rows["seed"]
    }  # a user's may be a first one
    seeds = tuple(seed for seed in suite.seeds if seed in run) or suite.seeds
    marked = _mark_titles(results, suite, files.out)
    return SuitePage(
        tidy=_tidy(marked),
        card=suite,
        tasks={card.name: card.title for card in cards},
        backbones={name: _backbone_title(name) for pair in whole.upgrades for name in pair},
        expected=replace(whole, seeds=seeds),
        results=marked,
        groups={title: upgrade_pairs(paths) for title, paths in suite.groups.items()},
        paths=tuple(path for path in suite.upgrades if len(path) > 2),
        configs={name: suite.base_method(name) for name in suite.configs},
        elsewhere=frozenset(names_elsewhere(suite)),
        out=files.out,
        whole=None if seeds == suite.seeds else whole,
    )


def _old_results(tidy):
    methods = []
    for stored in tidy.methods.values():
        frame = tidy.frame[tidy.frame["method"] == stored.info.name]
        kept = stored.rows["transfer"].isin(set(frame["transfer"]))
        methods.append(
            MethodResults(
                stored.info,
                stored.config,
                stored.differs,
                stored.provenance,
                stored.rows[kept],
                stored.costs,
                transfer=None,
            )
        )
    return split_results(tidy.name, methods, tidy.digest)


def _tidy(results):
    methods = {}
    for old in results.all:
        both = [old]
        if old.info.name in methods:
            both = [methods[old.info.name], old]
        rows = pd.concat([each.rows for each in both])
        costs = pd.concat([each.costs for each in both]).drop_duplicates(Cost.place)
        methods[old.info.name] = StoredMethod(
            old.info, old.config, old.differs, old.provenance, rows, costs
        )
    return gather_results(results.name, dict(sorted(methods.items())), results.digest)


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
    return backbone_cards.read(name).title if name in backbone_cards.names() else name


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


def published_pages(files: ResultFiles, also: SuiteCard | None = None) -> list[SuitePage]:
    """The suites that are published and have results, each with its sections, by name.

    Args:
        also: a suite from a file of its own, which is not among the installed ones.
    """

    def page_of(suite: SuiteCard) -> SuitePage:
        return read_suite_page(suite, files)

    known = suites_with_results(files.out, also)
    sections, replications = dict[str, list[SuitePage]](), dict[str, list[SuitePage]]()
    for suite in known:
        if suite.extends not in suite_cards.names():
            continue
        if suite.publish == "section":
            sections.setdefault(suite.extends, []).append(page_of(suite))
        elif not suite.publish and any(len(of) >= FEWEST_UNITS for of in suite.groups.values()):
            replications.setdefault(suite.extends, []).append(page_of(suite))
    shown = {suite.name: suite for suite in known if suite.publish is True}
    # A section may have results before its suite has any.
    for name in sections:
        shown.setdefault(name, suite_cards.read(name))
    return [
        replace(
            page_of(shown[name]),
            sections=tuple(sections.get(name, ())),
            replications=tuple(replications.get(name, ())),
        )
        for name in sorted(shown)
    ]
