"""A suite as the leaderboard shows it: facts from its cards, and its results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from compatbench.results.measures import Expected, Standing, Upgrade, compute_standing
from compatbench.results.ranks import Ranked, rank_methods
from compatbench.results.store import MethodResults, SuiteResults


@dataclass(frozen=True)
class TaskFacts:
    """A task or variant, as the page names it."""

    title: str
    licence: str


@dataclass(frozen=True)
class SuitePage:
    """A suite as the leaderboard shows it: facts from its cards, and its results.

    Attributes:
        note: what a reader must know first.
        tasks: name -> facts, of tasks and of variants.
        backbones: name -> title.
        views: cached augmentations per training image; 1 is the plain view alone.
        max_steps: most optimiser steps a fit may take; None is no cap.
        groups: title -> upgrades, of a suite that keeps kinds of upgrades apart.
        paths: the upgrade paths of more than one target.
        configs: named config -> the method that it sets, in the suite's order.
        sections: suites that extend this one and are shown under it.
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

    @cached_property
    def copied(self) -> list[MethodResults]:
        """The methods whose modules are attached as they are: those that are ranked."""
        return list(self.results.methods.values())

    @cached_property
    def aligned(self) -> list[MethodResults]:
        """The methods whose modules are attached through a map."""
        return list(self.results.of("words").values())

    @cached_property
    def _ranks(self) -> dict[tuple[Upgrade, int], list[Ranked]]:
        return {
            (upgrade, shots): rank_methods(self.standings(self.copied, upgrade, shots))
            for upgrade in self.expected.upgrades
            for shots in self.expected.shots
        }

    def standings(
        self, methods: Iterable[MethodResults], upgrade: Upgrade, shots: int
    ) -> list[Standing]:
        """How these methods do on one upgrade."""
        return [compute_standing(method, self.expected, upgrade, shots) for method in methods]

    def ranks(self, upgrade: Upgrade, shots: int) -> list[Ranked]:
        """The methods in the order of the main table, without those attached through a map."""
        return self._ranks[upgrade, shots]

    def backbone_title(self, name: str) -> str:
        return self.backbones.get(name, name)

    def task_title(self, name: str) -> str:
        return self.tasks[name].title if name in self.tasks else name
