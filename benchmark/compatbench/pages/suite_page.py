"""A suite as the pages show it: facts from its cards, and its results."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from compatbench.data.cards import (
    SuiteCard,
    backbone_cards,
    suite_cards,
    suite_tasks,
    suite_variants,
    task_cards,
)
from compatbench.errors import CompatbenchWarning
from compatbench.results.gaps import Gap, find_gaps
from compatbench.results.measures import (
    Expected,
    Standing,
    Upgrade,
    compute_standing,
    upgrade_pairs,
)
from compatbench.results.ranks import Ranked, rank_methods
from compatbench.results.store import MethodResults, SuiteResults, read_results

RESULTS = "results"
FIGURES = "figures"  # below results/


@dataclass(frozen=True)
class TaskFacts:
    """A task or variant, as the page names it."""

    title: str
    licence: str


@dataclass(frozen=True)
class Restriction:
    """The part of a suite that was asked for; None stands for all.

    Attributes:
        methods: names of methods and configs.
    """

    tasks: Collection[str] | None = None
    seeds: Collection[int] | None = None
    shots: Collection[int] | None = None
    methods: Collection[str] | None = None


@dataclass(frozen=True)
class SuitePage:
    """A suite as the pages show it: facts from its cards, and its results.

    Attributes:
        note: what a reader must know first.
        tasks: name -> facts, of tasks and of variants.
        backbones: name -> title.
        views: cached augmentations per training image; 1 is the plain view alone.
        max_steps: most optimiser steps a fit may take; None is no cap.
        groups: title -> upgrades, of a suite that keeps kinds of upgrades apart.
        paths: the upgrade paths of more than one target.
        configs: named config -> the method that it configures, in the suite's order.
        sections: suites that extend this one and are shown under it.
        whole: what the suite asks for, if ``expected`` is only a part of it.
    """

    name: str
    title: str
    note: str
    tasks: Mapping[str, TaskFacts]
    backbones: Mapping[str, str]
    expected: Expected
    results: SuiteResults
    views: int = 1
    max_steps: int | None = None
    groups: Mapping[str, tuple[Upgrade, ...]] = field(default_factory=dict)
    paths: tuple[tuple[str, ...], ...] = ()
    configs: Mapping[str, str] = field(default_factory=dict)
    sections: tuple[SuitePage, ...] = ()
    whole: Expected | None = None

    @property
    def copied(self) -> list[MethodResults]:
        """The methods whose modules are attached untouched: those of the main ranking."""
        return list(self.results.methods.values())

    @property
    def transferred(self) -> dict[str, list[MethodResults]]:
        """Methods whose modules reach the target through another transfer, by its name."""
        return {name: list(of.values()) for name, of in self.results.transferred.items()}

    @cached_property
    def measured(self) -> list[MethodResults]:
        """All methods that have results, those of other transfers last."""
        return [one for group in self._by_transfer.values() for one in group.values()]

    def method(self, name: str, transfer: str = "") -> MethodResults:
        """The results of a method through a transfer; by default those of its untouched modules."""
        return self._by_transfer[transfer][name]

    @cached_property
    def _by_transfer(self) -> dict[str, dict[str, MethodResults]]:
        groups = {"": self.copied, **self.transferred}
        return {
            transfer: {one.info.name: one for one in group} for transfer, group in groups.items()
        }

    @cached_property
    def _ranks(self) -> dict[tuple[Upgrade, int, str], list[Ranked]]:
        return {}

    def ranks(self, upgrade: Upgrade, shots: int, transfer: str = "") -> list[Ranked]:
        """The methods in the order of the ranking.

        Args:
            transfer: rank the modules attached through it, in place of the untouched ones.
        """
        key = (upgrade, shots, transfer)
        if key not in self._ranks:
            methods = self.transferred[transfer] if transfer else self.copied
            self._ranks[key] = rank_methods(self.standings(methods, upgrade, shots))
        return self._ranks[key]

    def standings(
        self, methods: Iterable[MethodResults], upgrade: Upgrade, shots: int
    ) -> list[Standing]:
        """How these methods do on one upgrade."""
        return [
            compute_standing(method, self._expected_of(method), upgrade, shots)
            for method in methods
        ]

    def gaps(self) -> list[Gap]:
        """What failed or is missing, by method and reason."""
        found: list[Gap] = []
        for one in self.results.all:
            alone = SuiteResults(self.name, {}, {one.transfer or "": {one.info.name: one}})
            found += find_gaps(alone, self._expected_of(one))
        return found

    def _expected_of(self, method: MethodResults) -> Expected:
        if self.whole is None or method.info.learns:
            return self.expected
        # Measured once for all seeds and shots, so any row of the suite will do.
        return replace(self.expected, seeds=self.whole.seeds, shots=self.whole.shots)

    def restrict(self, only: Restriction) -> SuitePage:
        """The page of a part of the suite: means are taken over exactly that part."""
        expected, kept = self.expected, only.methods
        narrowed = replace(
            expected,
            tasks=tuple(t for t in expected.tasks if only.tasks is None or t in only.tasks),
            seeds=expected.seeds if only.seeds is None else tuple(only.seeds),
            shots=expected.shots if only.shots is None else tuple(only.shots),
        )

        def keep(methods: Mapping[str, MethodResults]) -> dict[str, MethodResults]:
            return {n: one for n, one in methods.items() if kept is None or n in kept}

        transferred = {n: keep(of) for n, of in self.results.transferred.items()}
        results = replace(
            self.results,
            methods=keep(self.results.methods),
            transferred={n: of for n, of in transferred.items() if of},
        )
        return replace(self, expected=narrowed, results=results, whole=self.whole or expected)

    @property
    def part(self) -> str:
        """What part of the suite this is: ``1 of 8 tasks, 1 of 3 seeds``; empty if all of it."""
        if self.whole is None:
            return ""
        parts = []
        for what in ("tasks", "seeds", "shots"):
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
    """A suite with its results in a folder.

    Args:
        out: the folder that holds ``results/``.
        results: in place of those in the folder.

    Raises:
        CompatbenchError: a broken card or results file.
    """
    if results is None:
        results = read_results(out / RESULTS / suite.name)
    tasks = suite_tasks(suite)
    variants = {task: suite_variants(suite, task) for task in tasks}
    names = [name for task in tasks for name in (task, *variants[task])]
    cards = {name: task_cards.read(name) for name in names}
    upgrades = upgrade_pairs(suite.upgrades)
    return SuitePage(
        name=suite.name,
        title=suite.title,
        note=suite.note,
        tasks={name: TaskFacts(card.title, card.licence) for name, card in cards.items()},
        backbones={name: _backbone_title(name) for pair in upgrades for name in pair},
        expected=Expected(tasks, suite.shots, suite.seeds, upgrades, variants, suite.retrained),
        results=results,
        views=suite.training.views,
        max_steps=suite.training.max_steps,
        groups={title: upgrade_pairs(paths) for title, paths in suite.groups.items()},
        paths=tuple(path for path in suite.upgrades if len(path) > 2),
        configs={name: suite.base_method(name) for name in suite.configs},
    )


def _backbone_title(name: str) -> str:
    """The title on a backbone's card; a backbone without a card has its name."""
    return name if any(mark in name for mark in "/@:") else backbone_cards.read(name).title


def suites_with_results(out: Path, also: SuiteCard | None = None) -> list[SuiteCard]:
    """The suites that have a folder of results, by name; warns of folders of unknown suites.

    Args:
        out: the folder that holds ``results/``.
        also: a suite from a file of its own, which is not among the installed ones.
    """
    suites = []
    for folder in sorted(path for path in (out / RESULTS).glob("*") if path.is_dir()):
        name = folder.name
        if name in suite_cards.names():
            suites.append(suite_cards.read(name))
        elif also is not None and name == also.name:
            suites.append(also)
        elif name != FIGURES:
            message = f"{folder} is left out: no suite has that name"
            warnings.warn(message, CompatbenchWarning, 2)
    return suites
