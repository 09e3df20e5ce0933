"""Which tasks and variants a suite means."""

from __future__ import annotations

from functools import lru_cache

from compatbench.data.cards.select import select_names
from compatbench.data.cards.suite import SuiteCard
from compatbench.data.cards.task import TaskCard


def suite_tasks(suite: SuiteCard) -> tuple[str, ...]:
    """The suite's tasks, variants excluded, by name.

    Raises:
        CompatbenchError: a name that no task bears, or a broken card.
    """
    tasks = [name for name, card in _all_tasks().items() if card.parent is None]
    return tuple(select_names(suite.tasks, tasks, "task"))


def suite_variants(suite: SuiteCard, task: str) -> tuple[str, ...]:
    """The suite's variants of a task, by name."""
    if not suite.variants:
        return ()
    cards = _all_tasks()
    variants = [name for name, card in cards.items() if card.parent is not None]
    chosen = select_names(suite.variants, variants, "variant")
    return tuple(name for name in chosen if cards[name].parent == task)


@lru_cache(maxsize=1)
def _all_tasks() -> dict[str, TaskCard]:
    from compatbench.data.cards import task_cards

    return {name: task_cards.read(name) for name in task_cards.names()}
