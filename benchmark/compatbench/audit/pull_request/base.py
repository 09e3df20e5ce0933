"""Result files against those of the base: nothing removed, and how far figures moved."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compatbench.audit.pull_request.git import Change
from compatbench.audit.tolerance import Tolerance
from compatbench.errors import CompatbenchError
from compatbench.pages.suite_page import RESULTS
from compatbench.results.rows import Order, Row
from compatbench.results.store import MethodResults, check_name, read_methods


@dataclass(frozen=True)
class Moved:
    """How a method's rows in a suite differ from the base's.

    Attributes:
        added, removed: places of rows on one side alone.
        equal: rows with the same counts.
        largest: the greatest difference of correct answers, in images, and where.
        within: rows whose counts differ by no more than rounding may cause.
        forged: rows with the base's key and data, but other counts than rounding may cause.
    """

    added: tuple[Order, ...]
    removed: tuple[Order, ...]
    equal: int
    within: int
    beyond: int
    largest: tuple[int, Order] | None
    forged: tuple[tuple[Order, int, int], ...]


def read_base_results(change: Change, suite: str) -> Mapping[str, MethodResults]:
    """A suite's results as they are at the base.

    Raises:
        CompatbenchError: the base's own files are broken.
    """
    with tempfile.TemporaryDirectory(prefix="compatbench-base-") as place:
        folder = Path(place) / RESULTS / check_name(suite, "suite")
        folder.mkdir(parents=True)
        for path in change.list_base(f"{RESULTS}/{suite}"):
            name = check_name(Path(path).name, "file")
            content = change.read_base(path)
            if content is not None:
                (folder / name).write_bytes(content)
        try:
            return read_methods(folder)
        except CompatbenchError as error:
            said = str(error).replace(f"{place}/", "")
            raise CompatbenchError(f"at the base '{change.name}': {said}") from None


def compare_with_base(
    before: MethodResults | None, after: MethodResults | None, tolerance: Tolerance
) -> Moved:
    """Row by row, by place; ``tolerance`` is what another machine's rounding may cause."""
    old = {row.order: row for row in before.rows} if before else {}
    new = {row.order: row for row in after.rows} if after else {}
    both = [place for place in old if place in new]
    differences = {place: _difference(old[place], new[place]) for place in both}
    moved = {place: images for place, images in differences.items() if images}
    beyond = {
        place: images
        for place, images in moved.items()
        if abs(images) > tolerance.of(new[place].total or 0)
    }
    largest = max(moved, key=lambda place: (abs(moved[place]), place), default=None)
    return Moved(
        added=tuple(sorted(set(new) - set(old))),
        removed=tuple(sorted(set(old) - set(new))),
        equal=len(both) - len(moved),
        within=len(moved) - len(beyond),
        beyond=len(beyond),
        largest=None if largest is None else (moved[largest], largest),
        forged=tuple(
            (place, old[place].correct or 0, new[place].correct or 0)
            for place in sorted(beyond)
            if (old[place].key, old[place].data) == (new[place].key, new[place].data)
        ),
    )


def _difference(old: Row, new: Row) -> int:
    """Images more that are right; all of them, if one side has no number."""
    if old.correct is None or new.correct is None:
        return 0 if old.status == new.status else (new.total or old.total or 1)
    return new.correct - old.correct
