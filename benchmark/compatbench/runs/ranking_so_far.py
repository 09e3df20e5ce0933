"""The ranking of a run that has not ended: over the tasks that all ranked methods have finished."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from compatbench.errors import CompatbenchError
from compatbench.results.collect import ResultCache
from compatbench.results.ranking import rank_transfer
from compatbench.results.result_files import ResultFiles
from compatbench.results.upgrade_rows import tabulate_tasks

if TYPE_CHECKING:
    from compatbench.engine.plan import Plan
    from compatbench.tables.suite_page import SuitePage

# Reading takes at most this share of a processor's time, as far as the limits allow.
READING_SHARE = 0.05
MIN_WAIT_SECONDS = 5.0  # until the ranking is read again
MAX_WAIT_SECONDS = 25.0


class RankingSoFar:
    """The ranking of a plan's suite, which is read again from time to time."""

    def __init__(self, plan: Plan, out: Path, width: int) -> None:
        self._plan = plan
        self._files = ResultFiles(out)
        self._width = width
        self._cache = ResultCache()
        self._next_reading = 0.0
        self._shown: RenderableType = Text()

    def render(self) -> RenderableType:
        """Return the ranking, read again if the last reading was some time ago."""
        if time.monotonic() >= self._next_reading:
            before = time.thread_time()
            # The run itself reports a store that cannot be read; the display stays as it was.
            with suppress(CompatbenchError):
                self._read()
            wait = (time.thread_time() - before) / READING_SHARE
            wait = min(max(wait, MIN_WAIT_SECONDS), MAX_WAIT_SECONDS)
            self._next_reading = time.monotonic() + wait
        return self._shown

    def _read(self) -> None:
        from compatbench.results.collect import partial_results
        from compatbench.tables.suite_page import read_suite_page
        from compatbench.tables.terminal_ranking import render_ranking

        # All rows come from the store: the run itself opens each result file once, and this none.
        measured = partial_results(self._plan, self._cache)
        page = read_suite_page(self._plan.suite, self._files, measured)
        page = page.restrict(**self._plan.selection)
        part = finished_part(page)
        if part is not None:
            self._shown = Group(Text(describe_part(page, part)), render_ranking(part, self._width))


def finished_part(page: SuitePage) -> SuitePage | None:
    """Return the part of a page in which every method that is shown has finished every task.

    As soon as some method has finished half of the tasks, the part has at least half of them, and
    as many methods as possible. Before that, methods times tasks are as many as possible. None if
    no method has finished any task.
    """
    expected = page.expected
    parts: dict[tuple[Any, ...], dict[str, Any]] = {}  # by how good they are
    for seed_count in range(1, len(expected.seeds) + 1):
        seeds = expected.seeds[:seed_count]
        finished = tasks_finished(page.restrict(seeds=seeds))
        for min_tasks in range(1, len(expected.tasks) + 1):
            methods_so_far = [done for done in finished.values() if len(done) >= min_tasks]
            if not methods_so_far:
                continue
            common = set.intersection(*methods_so_far)
            tasks = [task for task in expected.tasks if task in common]
            if not tasks:
                continue
            methods = {name for name, done in finished.items() if done.issuperset(tasks)}
            is_half = 2 * len(tasks) >= len(expected.tasks)
            size = len(methods) if is_half else len(methods) * len(tasks)
            quality = (is_half, size, len(tasks), len(seeds))
            parts[quality] = {"methods": methods, "tasks": tasks, "seeds": seeds}
    if not parts:
        return None
    return page.restrict(**parts[max(parts)])


def tasks_finished(page: SuitePage) -> dict[str, set[str]]:
    """Return the tasks on which each method has H for all seeds, of methods that can be ranked."""
    expected = page.expected
    upgrade = expected.upgrades[0]
    ranking = rank_transfer(page.ranking(upgrade, page.most_shots))
    ranking = ranking[ranking["state"].isin(["complete", "incomplete"])]
    rows = page.upgrade_rows(upgrade, page.most_shots)
    has_h = tabulate_tasks(rows, ["h"])["h"].notna()
    finished = {}
    for module, method in zip(ranking["module"], ranking["method"], strict=True):
        done = has_h.loc[module]
        finished[method] = set(done.index[done])
    return finished


def describe_part(page: SuitePage, part: SuitePage) -> str:
    """Return how many methods are ranked, and how far others are: ``coop 3/7, maple 1/7``."""
    first = page.restrict(seeds=page.expected.seeds[:1])
    others = {}
    for name, done in tasks_finished(first).items():
        if done and name not in part.results.methods:
            others[name] = len(done)
    far = sorted(others.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{name} {done}/{len(page.expected.tasks)}" for name, done in far]
    return ", ".join([part.results.methods_in_words, *parts])
