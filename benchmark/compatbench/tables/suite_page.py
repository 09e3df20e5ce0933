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
from compatbench.results.expected import Expected, Upgrade, expect_suite, upgrade_pairs
from compatbench.results.ranking import rank_methods
from compatbench.results.reports import Origin, RowReports
from compatbench.results.result_files import ResultFiles, check_name, result_folders
from compatbench.results.stored_method import StoredMethod
from compatbench.results.suite_results import SuiteResults
from compatbench.results.tuning_records import is_tuned
from compatbench.results.upgrade_rows import pair_rows

# Marks after a method's title, and what they mean.
MARKS = {
    "†": "not tuned: settings are not as 'compatbench maintain tune' has chosen them.",
    "‡": "a method of this project.",
}
PROJECT = "compatbench"  # the paper of its own methods


@dataclass(frozen=True, eq=False)
class SuitePage:
    """A suite as the pages show it: facts from its cards, and its results."""

    card: SuiteCard
    tasks: Mapping[str, str]  # title by name, of tasks and of variants
    backbones: Mapping[str, str]  # title by name
    expected: Expected
    results: SuiteResults
    # Title -> upgrades, of a suite that keeps kinds of upgrades apart.
    groups: Mapping[str, tuple[Upgrade, ...]] = field(default_factory=dict)
    # Upgrades that the suite's own page shows, but not the leaderboard.
    more_upgrades: frozenset[Upgrade] = frozenset()
    paths: tuple[tuple[str, ...], ...] = ()  # the upgrade paths of more than one target
    # Named config -> the method that it configures, in the suite's order.
    configs: Mapping[str, str] = field(default_factory=dict)
    sections: tuple[SuitePage, ...] = ()  # suites that extend this one and are shown under it
    elsewhere: frozenset[str] = frozenset()  # backbones and test sets that no clone has
    # Of a suite whose rows were reported: the reports, and who measured the rows of each method.
    reports: RowReports | None = None
    origins: Mapping[str, Origin] = field(default_factory=dict)
    out: Path | None = None  # the folder of results/, where the page was read
    whole: Expected | None = None  # what the suite asks for, if ``expected`` is only a part of it

    @property
    def is_reported(self) -> bool:
        """Return True if somebody has reported its rows, which are of real models."""
        return self.reports is not None and bool(self.results.methods)

    @property
    def most_shots(self) -> int:
        """Return the largest number of shots, at which methods are compared."""
        return max(self.expected.shots)

    @property
    def leaderboard_upgrades(self) -> list[Upgrade]:
        """Return the upgrades that the leaderboard shows."""
        return [pair for pair in self.expected.upgrades if pair not in self.more_upgrades]

    @property
    def kinds(self) -> dict[str, Upgrade]:
        """Return the kinds of upgrade that the leaderboard shows and that have one upgrade each."""
        return self._kinds_of(self.leaderboard_upgrades)

    @property
    def more_kinds(self) -> dict[str, Upgrade]:
        """Return the kinds of one upgrade that only the suite's own page shows."""
        return self._kinds_of(self.more_upgrades)

    def _kinds_of(self, shown: Collection[Upgrade]) -> dict[str, Upgrade]:
        kinds = {}
        for title, upgrades in self.groups.items():
            if len(upgrades) == 1 and upgrades[0] in shown:
                kinds[title] = upgrades[0]
        return kinds

    def ranking(self, upgrade: Upgrade, shots: int) -> pd.DataFrame:
        """Return all methods on an upgrade: copied modules first, then those of each transfer.

        See ``rank_methods`` for the columns. The frame is cached: never change it in place.
        """
        return rank_methods(self.results, self.expected, (upgrade,), shots)

    def group_ranking(self, upgrades: Sequence[Upgrade], shots: int) -> pd.DataFrame:
        """Return the same by the mean over several upgrades."""
        return rank_methods(self.results, self.expected, upgrades, shots)

    def upgrade_rows(self, upgrade: Upgrade, shots: int) -> pd.DataFrame:
        """Return a row for each module, seed and task of an upgrade (see ``pair_rows``)."""
        return pair_rows(self.results, self.expected, upgrade, shots)

    def restrict(
        self,
        methods: Collection[str] | None = None,
        transfers: Collection[str] | None = None,
        **asked: Sequence[Any] | None,
    ) -> SuitePage:
        """Return the page of some methods and transfers, and of a part (``Expected.restrict``)."""
        results = self.results
        if methods is not None or transfers is not None:
            results = results.restrict(methods, transfers)
        return replace(
            self,
            expected=self.expected.restrict(**asked),
            results=results,
            whole=self.whole or self.expected,
        )

    def run_command(self, method: str = "all") -> str:
        """Return the command that gives these results, or those of one method."""
        card = self.card
        frame = self.results.frame
        if method != "all":
            frame = frame[frame["method"] == method]
        command = f"compatbench run --suite {check_name(card.name, 'suite')} --methods {method}"
        # The seeds of a run that asks for none.
        first = {*card.seeds} & {*card.run_seeds} or {*card.seeds}
        if first != {*self.expected.seeds}:
            command += f" --seeds {','.join(map(str, self.expected.seeds))}"
        transfers = set(frame["transfer"].unique())
        if not transfers <= {*card.transfers}:
            ordered = sorted(transfers, key=lambda name: (name != COPIED, name))
            names = [check_name(transfer, "transfer") for transfer in ordered]
            command += f" --transfers {','.join(names)}"
        return command

    @property
    def mark(self) -> str:
        """Return what stands beside numbers that no clone of the project can compute again."""
        return "reported, not verified" if self.elsewhere else ""

    @property
    def whole_title(self) -> str:
        """Return the title with its mark."""
        return f"{self.card.title} ({self.mark})" if self.mark else self.card.title

    @property
    def legend(self) -> str:
        """Return what the ``MARKS`` after titles mean, and what else some methods are given."""
        infos = self.results.infos
        used = set()
        for info in infos:
            last_word = info.title.rpartition(" ")[2]
            if set(last_word) <= set(MARKS):
                used |= set(last_word)
        parts = [f"{mark} {text}" for mark, text in MARKS.items() if mark in used]
        given = []
        for need, words in NEEDS.items():
            titles = [info.title for info in infos if need in info.needs]
            if titles:
                plain = [title.rstrip("".join(MARKS)).rstrip() for title in titles]
                given.append(f"{words} ({', '.join(plain)})")
        if given:
            parts.append(f"Besides labelled images, some methods are given {'; '.join(given)}.")
        return " ".join(parts)

    @property
    def part(self) -> str:
        """Return the tasks and seeds (``1 of 8 tasks, seed 7``); empty if they are the suite's."""
        if self.whole is None:
            return ""
        parts = []
        for what in ("tasks", "seeds"):
            some = getattr(self.expected, what)
            every = getattr(self.whole, what)
            if not set(some) <= set(every):
                noun = what.removesuffix("s") if len(some) == 1 else what
                parts.append(f"{noun} {', '.join(map(str, some))}")
            elif len(some) < len(every):
                parts.append(f"{len(some)} of {len(every)} {what}")
        return ", ".join(parts)

    def backbone_title(self, name: str) -> str:
        """Return the title of a backbone."""
        return self.backbones.get(name, name)

    def kind_title(self, upgrade: Upgrade) -> str:
        """Return the kind of an upgrade if the suite names it, or else its target."""
        for title, upgrades in self.groups.items():
            if tuple(upgrades) == (upgrade,):
                return title
        return self.backbone_title(upgrade[1])

    def task_title(self, name: str) -> str:
        """Return the title of a task or a variant."""
        return self.tasks.get(name, name)

    def path_title(self, path: Sequence[str]) -> str:
        """Return the titles of the backbones of an upgrade or a path, with arrows."""
        return " → ".join(map(self.backbone_title, path))


def read_suite_page(
    suite: SuiteCard, files: ResultFiles, results: SuiteResults | None = None
) -> SuitePage:
    """Return a suite with its results in these files, or with other results in their place."""
    whole = expect_suite(suite)
    cards = [task_cards.read(name) for name in suite_test_sets(suite)]
    if results is None:
        results = files.read_suite(suite.name)
    # The seeds of a user's run may be the first ones of the suite.
    run = set(results.frame["seed"].unique())
    seeds = tuple(seed for seed in suite.seeds if seed in run) or suite.seeds
    elsewhere = frozenset(names_elsewhere(suite))
    return SuitePage(
        card=suite,
        tasks={card.name: card.title for card in cards},
        backbones={name: _backbone_title(name) for pair in whole.upgrades for name in pair},
        expected=replace(whole, seeds=seeds),
        results=_mark_titles(results, suite, files.out),
        groups={title: upgrade_pairs(paths) for title, paths in suite.groups.items()},
        more_upgrades=frozenset(upgrade_pairs(suite.more_upgrades)),
        paths=tuple(path for path in suite.upgrades if len(path) > 2),
        configs={name: suite.base_method(name) for name in suite.configs},
        elsewhere=elsewhere,
        # Rows that any clone can make are not taken as reported.
        reports=files.read_reports(suite.name) if elsewhere else None,
        origins=files.read_origins(suite.name) if elsewhere else {},
        out=files.out,
        whole=None if seeds == suite.seeds else whole,
    )


def _mark_titles(results: SuiteResults, suite: SuiteCard, out: Path) -> SuiteResults:
    """Return the results with ``MARKS`` after the titles of methods."""
    marked = {}
    for name, method in results.methods.items():
        marks = ""
        if not _settings_are_chosen(method, suite, out):
            marks += "†"
        if method.info.paper == PROJECT:
            marks += "‡"
        title = f"{method.info.title} {marks}".rstrip()
        marked[name] = replace(method, info=replace(method.info, title=title))
    return replace(results, methods=marked)


def _settings_are_chosen(method: StoredMethod, suite: SuiteCard, out: Path) -> bool:
    """Return False if a method has settings to choose and they are not as ``tune`` chose them."""
    tuning = suite.tuning
    if tuning is None or method.info.name in suite.configs:
        return True
    if "recipe" not in method.config and not (method.info.learns and tuning.trainings):
        return True
    return is_tuned(out, suite, method.info.name, method.config)


def _backbone_title(name: str) -> str:
    """Return the title on a backbone's card; a backbone without a card has its name."""
    return backbone_cards.read(name).title if name in backbone_cards.names() else name


def suites_with_results(out: Path, also: SuiteCard | None = None) -> list[SuiteCard]:
    """Return the suites that have a folder of results, by name; warn of folders of others."""
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
    """Return the suites that are published and have results, each with its sections, by name.

    Args:
        also: a suite from a file of its own, which is not among the installed ones.
    """
    known = suites_with_results(files.out, also)
    sections: dict[str, list[SuitePage]] = {}
    for suite in known:
        if suite.extends not in suite_cards.names():
            continue
        if suite.publish == "section":
            sections.setdefault(suite.extends, []).append(read_suite_page(suite, files))
    shown = {suite.name: suite for suite in known if suite.publish is True}
    # A section may have results before its suite has any.
    for name in sections:
        shown.setdefault(name, suite_cards.read(name))
    pages = []
    for name in sorted(shown):
        page = read_suite_page(shown[name], files)
        pages.append(replace(page, sections=tuple(sections.get(name, ()))))
    return pages
