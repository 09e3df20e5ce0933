"""The state of a task's images on this machine: found, missing or wrong, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from compatbench.data.cards import task_cards
from compatbench.data.cards.task import ClassFoldersSource, DrawingsSource, WebdatasetSource
from compatbench.data.images import SPLITS, DataMissing, FileMissing, ImageFiles, WrongClasses
from compatbench.data.labels import CLASS_NAMES
from compatbench.data.roots import VARIABLE, dataset_folder
from compatbench.data.sources import open_source
from compatbench.data.task import Task, describe_classes
from compatbench.errors import CompatbenchError
from compatbench.files.project_folders import tasks_folder


@dataclass(frozen=True)
class TaskReport:
    """The state of a task's images on this machine.

    Attributes:
        name: the task's, or the variant's.
        state: ``missing`` if there is no data root or no folder; ``wrong`` if the folder
            exists and something in it is not as the card says.
        folder: where the images were looked for; None if no data root is set.
        found: images by split, as far as the split could be read.
        expected: images by split, as the card counts them.
        missing_file: the first file that is listed and does not exist.
        class_order: whether names and order of the classes are the card's; None if nothing
            on the disk says.
        message: what is wrong, in one line; empty if all is well.
        fix: what to do about it, in one line; empty if all is well.
    """

    name: str
    state: Literal["found", "missing", "wrong"]
    folder: Path | None
    found: Mapping[str, int] = field(default_factory=dict)
    expected: Mapping[str, int] = field(default_factory=dict)
    missing_file: Path | None = None
    class_order: bool | None = None
    message: str = ""
    fix: str = ""


def inspect_task(name: str) -> TaskReport:
    """Looks at a task's images without decoding any.

    Every file that a split lists is looked for; where the folders are the list, as ImageNet's
    are, they are read and counted.

    Raises:
        CompatbenchError: no such card, or a broken card. What is wrong with the images is in
            the report.
    """
    card = task_cards.read(name)
    labels, classes, parent_labels = describe_classes(card)
    drawn = isinstance(card.source, DrawingsSource)
    folder = tasks_folder() if drawn else dataset_folder(name, card.source)
    report = TaskReport(name, "wrong", folder, expected={**card.counts})
    fix = "fetch it again, see docs/datasets.md; the files that are there can stay"
    try:
        source = open_source(card, classes)
        found = {split: len(source.samples[split]) for split in SPLITS if source.samples[split]}
        report = replace(report, found=found, class_order=True)
        # Numbers mean something only with a list of the names beside them.
        numbered = isinstance(card.source, ClassFoldersSource) and card.source.numbered
        if (numbered or isinstance(card.source, WebdatasetSource)) and folder is not None:
            report = replace(report, class_order=(folder / CLASS_NAMES).is_file() or None)
        if isinstance(source, ImageFiles):
            source.check_files()
        Task(card, labels, source, parent_labels)
    except DataMissing as error:
        fix = f"set {VARIABLE} or give --data-root; docs/datasets.md says what goes there"
        if folder is not None:
            fix = f"get it ({card.homepage}), or say where it is: --data-root {name}=FOLDER"
        return replace(report, state="missing", message=str(error), fix=fix)
    except FileMissing as error:
        return replace(report, missing_file=error.path, message=str(error), fix=fix)
    except WrongClasses as error:
        fix = "use the dataset's own files; labels in another order would all be wrong"
        return replace(report, class_order=False, message=str(error), fix=fix)
    except CompatbenchError as error:
        return replace(report, message=str(error), fix=fix)
    return replace(report, state="found")
