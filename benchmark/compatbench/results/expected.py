"""The measurements that a suite asks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from compatbench.data.cards import (
    SuiteCard,
    development_tasks,
    suite_tasks,
    suite_variants,
    task_cards,
    whole_name,
)
from compatbench.data.cards.schemas import Protocol
from compatbench.results.stored_method import MethodInfo

Upgrade = tuple[str, str]


@dataclass(frozen=True)
class Expected:
    """The measurements that a suite asks for; those without a row are missing."""

    tasks: tuple[str, ...]  # means are over these
    shots: tuple[int, ...]
    seeds: tuple[int, ...]
    upgrades: tuple[Upgrade, ...]
    # The variants of some of the tasks. In a protocol, these are test sets with other classes.
    variants: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    retrained: bool = False  # True if modules are also fitted on every target
    development: tuple[str, ...] = ()  # tasks that are measured, but in no mean
    classes: Mapping[str, int] = field(default_factory=dict)  # the number of classes of each task
    unranked: Mapping[str, str] = field(default_factory=dict)  # the reason, by name of the method
    protocol: Protocol = "few-shot"

    def __hash__(self) -> int:
        return hash((self.tasks, self.shots, self.seeds, self.upgrades))

    @property
    def measured_tasks(self) -> tuple[str, ...]:
        """All tasks that the suite asks for."""
        return self.tasks + self.development

    def test_sets(self, tasks: Iterable[str]) -> list[tuple[str, str]]:
        """Return pairs of a task and a test set: its own images, then each of its variants."""
        pairs = []
        for task in tasks:
            pairs.append((task, task))
            for variant in self.variants.get(task, ()):
                pairs.append((task, variant))
        return pairs

    def restrict(
        self,
        tasks: Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
        shots: Sequence[int] | None = None,
    ) -> Expected:
        """Return what is asked for with other tasks, seeds or shots; means are over exactly those.

        They need not be the suite's. Tasks that are given count as ranked, so none of them is a
        development task.
        """
        changes: dict[str, tuple[object, ...]] = {}
        if tasks is not None:
            changes["tasks"] = tuple(tasks)
            changes["development"] = ()
        if seeds is not None:
            changes["seeds"] = tuple(seeds)
        if shots is not None:
            changes["shots"] = tuple(shots)
        return replace(self, **changes)

    def seeds_of(self, info: MethodInfo) -> tuple[int, ...]:
        """Return the seeds a method is run for: only one if it learns nothing."""
        return self.seeds if info.learns else self.seeds[:1]


def upgrade_pairs(paths: Iterable[Sequence[str]]) -> tuple[Upgrade, ...]:
    """Return the (source, target) pairs of upgrade paths, each once.

    The source is a path's first model. Its module is measured on every later one.
    """
    pairs = []
    for source, *targets in paths:
        for target in targets:
            if (source, target) not in pairs:
                pairs.append((source, target))
    return tuple(pairs)


def expect_suite(suite: SuiteCard) -> Expected:
    """Return what a suite's card asks for.

    Development tasks are left out of means, unless the suite has no other tasks.
    """
    tasks = suite_tasks(suite)
    development_names = development_tasks(suite)
    ranked = []
    development = []
    for task in tasks:
        if whole_name(task) in development_names:
            development.append(task)
        else:
            ranked.append(task)
    if not ranked:
        ranked = development
        development = []
    return Expected(
        tasks=tuple(ranked),
        shots=suite.shots,
        seeds=suite.seeds,
        upgrades=upgrade_pairs(suite.upgrades),
        variants=suite_variants(suite),
        retrained=suite.retrained,
        development=tuple(development),
        classes={task: len(task_cards.read(task).classes) for task in tasks},
        unranked=suite.unranked,
        protocol=suite.protocol,
    )
