"""Step ``tasks``: writes splits, drawings and cards of all tasks into the suite's folder."""

from __future__ import annotations

from pathlib import Path

from rich.progress import track

from .cards import write_cards
from .classes import Finder, task_specs
from .sheets import write_sheets
from .splits import Task, make_task


def facts_folder(work: Path) -> Path:
    """Where the tables stay that say which classes had how many drawings."""
    return work / "tasks"


def write_tasks(work: Path) -> None:
    """Chooses classes and drawings, then writes splits, sprite sheets and cards."""
    finder = Finder(work)
    tasks: list[Task] = []
    facts_folder(work).mkdir(exist_ok=True)
    for spec in track(list(task_specs().values()), "tasks"):
        task = make_task(work, spec, finder)
        task.facts.to_csv(facts_folder(work) / f"{spec.name}.csv", index=False)
        tasks.append(task)
    write_sheets(work, [split for task in tasks for split in task.splits])
    write_cards(tasks)
