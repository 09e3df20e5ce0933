"""What a suite asks for."""

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
    """What a suite asks for, so that what is missing is known to be missing."""

    tasks: tuple[str, ...]  # means are over these
    shots: tuple[int, ...]
    seeds: tuple[int, ...]
    upgrades: tuple[Upgrade, ...]
    variants: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of some of the tasks
    retrained: bool = False  # whether modules are also fitted on every target
    development: tuple[str, ...] = ()  # tasks that are measured, but in no mean
    classes: Mapping[str, int] = field(default_factory=dict)  # how many, by task
    unranked: Mapping[str, str] = field(default_factory=dict)  # methods by name, with the reason
    # What 'variants' are: of a protocol, test sets with classes of their own.
    protocol: Protocol = "few-shot"

    def __hash__(self) -> int:
        return hash((self.tasks, self.shots, self.seeds, self.upgrades))

    @property
    def measured_tasks(self) -> tuple[str, ...]:
        """All tasks that the suite asks for."""
        return self.tasks + self.development

    def test_sets(self, tasks: Iterable[str]) -> list[tuple[str, str]]:
        """Each of some tasks with every test set of it: its own, then its variants."""
        return [(task, name) for task in tasks for name in (task, *self.variants.get(task, ()))]

    def restrict(
        self,
        tasks: Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
        shots: Sequence[int] | None = None,
    ) -> Expected:
        """What is asked for, of the suite or beside it: means are over exactly that."""
        asked = {"tasks": tasks, "seeds": seeds, "shots": shots}
        asked["development"] = None if tasks is None else ()
        parts = {name: tuple(values) for name, values in asked.items() if values is not None}
        return replace(self, **parts)

    def seeds_of(self, info: MethodInfo) -> tuple[int, ...]:
        """The seeds a method is run for: one only, if it learns nothing."""
        return self.seeds if info.learns else self.seeds[:1]


def upgrade_pairs(paths: Iterable[Sequence[str]]) -> tuple[Upgrade, ...]:
    """Upgrade paths as (source, target) pairs: every target is measured with the first's module."""
    return tuple(dict.fromkeys((path[0], target) for path in paths for target in path[1:]))


def expect_suite(suite: SuiteCard) -> Expected:
    """What a suite's card asks for; means leave its development tasks out, if it has others."""
    tasks, chosen_on = suite_tasks(suite), development_tasks(suite)
    development = tuple(task for task in tasks if whole_name(task) in chosen_on)
    ranked = tuple(task for task in tasks if task not in development)
    if not ranked:
        ranked, development = tasks, ()
    return Expected(
        tasks=ranked,
        shots=suite.shots,
        seeds=suite.seeds,
        upgrades=upgrade_pairs(suite.upgrades),
        variants=suite_variants(suite),
        retrained=suite.retrained,
        development=development,
        classes={task: len(task_cards.read(task).classes) for task in tasks},
        unranked=suite.unranked,
        protocol=suite.protocol,
    )
