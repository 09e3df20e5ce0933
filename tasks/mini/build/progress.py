"""Progress bars with an estimate of the time left."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")


def bar() -> Progress:
    """A bar that shows the step, the count, the time used, the time left and a note."""
    return Progress(
        TextColumn("{task.description:>12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )


def track(items: Sequence[T], name: str) -> Iterable[T]:
    """Goes through the items and shows how far it got."""
    with bar() as progress:
        task = progress.add_task(name, total=len(items), note="")
        for item in items:
            yield item
            progress.advance(task)
