"""The ranking of a run that has not ended: over the tasks that all ranked methods have finished."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from compatbench.results.collect import ResultCache

if TYPE_CHECKING:
    from compatbench.engine.plan import Plan
    from compatbench.tables.suite_page import SuitePage

SHARE = 20  # a look may take this part of a processor's time: one twentieth ...
SOONEST, LATEST = 5.0, 25.0  # ... in so many seconds after the last look


class RankingSoFar:
    """The ranking of a plan's suite, which is read again now and then."""

    def __init__(self, plan: Plan, out: Path, width: int) -> None:
        self._plan = plan
        self._out = out
        self._width = width
        self._cache = ResultCache()
        self._next = 0.0
        self._shown: RenderableType = Text()

    def render(self) -> RenderableType:
        """Return the ranking, read again if the last look was some time ago."""
        if time.monotonic() >= self._next:
            before = time.thread_time()
            self._read()
            wait = SHARE * (time.thread_time() - before)
            self._next = time.monotonic() + min(max(wait, SOONEST), LATEST)
        return self._shown

    def _read(self) -> None:
        from compatbench.results.collect import partial_results
        from compatbench.tables.suite_page import read_suite_page
        from compatbench.tables.terminal_ranking import render_ranking

        measured = partial_results(self._plan, self._cache)
        page = read_suite_page(self._plan.suite, self._out, measured)
        page = page.restrict(**self._plan.matrix.selection)
        part = finished_part(page)
        if part is not None:
            self._shown = Group(Text(describe_part(page, part)), render_ranking(part, self._width))


def finished_part(page: SuitePage) -> SuitePage | None:
    """Return the part of a page in which every method that is shown has finished every task.

    It has at least half of the tasks as soon as a method has so many, and then as many methods as
    possible, of the first seeds; before, methods times tasks are as many as possible. None if no
    method has finished any task.
    """
    expected = page.expected
    parts: dict[tuple[Any, ...], dict[str, Any]] = {}
    for last in range(1, len(expected.seeds) + 1):
        seeds = expected.seeds[:last]
        tasks_of = tasks_finished(page.restrict(seeds=seeds))
        for least in range(1, len(expected.tasks) + 1):
            many = [done for done in tasks_of.values() if len(done) >= least]
            tasks = [task for task in expected.tasks if all(task in done for done in many)]
            if not many or not tasks:
                continue
            methods = {name for name, done in tasks_of.items() if done.issuperset(tasks)}
            enough = 2 * len(tasks) >= len(expected.tasks)
            size = len(methods) if enough else len(methods) * len(tasks)
            order = enough, size, len(tasks), len(seeds)
            parts[order] = {"methods": methods, "tasks": tasks, "seeds": seeds}
    return page.restrict(**parts[max(parts)]) if parts else None


def tasks_finished(page: SuitePage) -> dict[str, set[str]]:
    """Return the tasks on which each method has H for all seeds, of methods that can be ranked."""
    expected = page.expected
    ranks = page.ranks(expected.upgrades[0], max(expected.shots))
    standings = [ranked.standing for ranked in ranks]
    return {
        standing.info.name: {task for task, h in standing.by_task("h").items() if h is not None}
        for standing in standings
        if standing.state in ("complete", "incomplete")
    }


def describe_part(page: SuitePage, part: SuitePage) -> str:
    """Return how many methods are ranked, and how far others are: ``coop 3/7, maple 1/7``."""
    names = {result.info.name for result in part.results.methods.values()}
    first = page.restrict(seeds=page.expected.seeds[:1])
    others = {n: len(done) for n, done in tasks_finished(first).items() if n not in names and done}
    far = sorted(others.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{name} {done}/{len(page.expected.tasks)}" for name, done in far]
    return ", ".join([part.results.methods_in_words, *parts])
