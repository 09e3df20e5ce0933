"""A task: a card with its labels and images, checked against each other; and their state."""

from __future__ import annotations

import copy
import os
import shlex
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from compatbench.data.cards import TaskCard, task_cards, whole_name
from compatbench.data.cards.names import half_labels, split_half
from compatbench.data.dataset_folders import VARIABLE, dataset_folder, find_dataset, variable_of
from compatbench.data.images.dataset_files import BrokenImages, DataMissing, WrongClasses, inside
from compatbench.data.images.source import ImageSource, Sample
from compatbench.data.labels import Labels
from compatbench.data.layouts.containers import hub_class_names
from compatbench.data.layouts.descriptions import read_descriptions
from compatbench.data.layouts.drawings import Drawings
from compatbench.data.layouts.listing import CLASS_NAMES, Classes, open_images, scan_list
from compatbench.data.layouts.scanners import open_layout
from compatbench.errors import CompatbenchError
from compatbench.files.hashes import sha256_json
from compatbench.files.project_folders import tasks_folder

if TYPE_CHECKING:
    from torch import Tensor


class Part(NamedTuple):
    """Some of a task's classes."""

    whole: Task
    kept: Sequence[int]  # their labels there, in order


class Task:
    """A dataset, or a variant of one.

    Images that do not agree with the card (counts, labels) are ``BrokenImages``.
    """

    def __init__(
        self,
        card: TaskCard,
        labels: Labels,
        source: ImageSource,
        parent_labels: tuple[int, ...] | None = None,
        part: Part | None = None,
    ) -> None:
        self.card = card
        self.name = card.name
        self.parent = card.parent  # the task whose classes this variant shares
        self.labels = labels
        self.source = source
        # Of a variant with some of its parent's classes, the parent's label of each.
        self.parent_labels = parent_labels
        self.part = part  # of a half of a task's classes: which
        for split, samples in source.samples.items():
            self._check(split, Counter(sample.label for sample in samples))

    def labels_for(self, needs: Collection[str]) -> Labels:
        """The labels, with what a method's card says that it needs besides names and templates.

        Raises:
            CompatbenchError: descriptions are needed, and their file lacks a class or is broken.
        """
        owner = self.card if self.parent is None else task_cards.read(self.parent)
        if "descriptions" not in needs or owner.descriptions is None:
            return self.labels
        path = inside(_home(whole_name(owner.name)), owner.descriptions.file)
        return replace(self.labels, descriptions=read_descriptions(path, self.labels.names))

    @property
    def most_shots(self) -> int:
        """The number of training images of the largest class; more shots draw no more."""
        return max(Counter(s.label for s in self.split("train")).values(), default=0)

    def split(self, name: str) -> Sequence[Sample]:
        """The samples of ``train``, ``val`` or ``test``; what a draw takes images from.

        For a task without validation images ``val`` is ``train``: they are drawn from what
        the training draw leaves of it.
        """
        return self.source.samples[name] or (self.split("train") if name == "val" else ())

    def fingerprint(self, samples: Sequence[Sample]) -> str:
        """Hash of everything about some of the task's images that decides a result."""
        return sha256_json(
            [
                self.source.fingerprint(samples),
                [sample.label for sample in samples],
                self.labels.names,
                self.labels.templates,
                self.labels.teacher_template,
                self.parent_labels,
            ]
        )

    def select_columns(self, logits: Tensor) -> Tensor:
        """Of logits ``[batch, classes]`` of the parent's classes, those of this task's own."""
        return logits if self.parent_labels is None else logits[:, list(self.parent_labels)]

    def _check(self, split: Any, counts: Counter[int]) -> None:
        """Compares the images of each label in a split with the card."""
        problem, expected = "", self.card.counts.get(split, 0)
        if counts.total() != expected:
            problem = f"{split} has {counts.total()} images, its card counts {expected}"
        elif (most := max(counts, default=-1)) >= len(self.labels):
            problem = f"label {most} occurs, but there are {len(self.labels)} classes"
        elif most >= 0:  # where labels were removed, all are −1
            least = self.card.least_per_class.get(split, 0)
            fewest = min(range(len(self.labels)), key=counts.__getitem__)
            if counts[fewest] < least:
                few = f"{split} has {counts[fewest]} images of '{self.labels.names[fewest]}'"
                problem = f"{few}, its card says {least} at least"
        if problem:
            raise BrokenImages(f"task '{self.name}': {problem}")


def load_task(name: str) -> Task:
    """Return the task, variant, or half of a task, of this name.

    Images that are not as its card says are an error.
    """
    name = task_cards.resolve(name)
    whole = whole_name(name)
    places = (os.environ.get(VARIABLE), os.environ.get(variable_of(whole)))
    files = task_cards.own()
    return _load(name, (tasks_folder(), files.get(name), files.get(whole)), places)


def restrict_task(task: Task, kept: Sequence[int]) -> Task:
    """A task of some classes alone: their images, labelled by their places in ``kept``.

    Of a variant with some of its parent's classes, ``kept`` are the parent's labels.
    """
    places, parent_labels = kept, None
    if task.parent_labels is not None:
        numbers = {label: number for number, label in enumerate(kept)}
        places = [i for i, label in enumerate(task.parent_labels) if label in numbers]
        parent_labels = tuple(numbers[task.parent_labels[place]] for place in places)
    source = copy.copy(task.source)
    source.samples = {
        split: keep_classes(samples, places) for split, samples in task.source.samples.items()
    }
    counts = {split: len(samples) for split, samples in source.samples.items()}
    card = task.card.model_copy(update={"counts": counts, "least_per_class": {}})
    names = tuple(task.labels.names[label] for label in places)
    return Task(card, replace(task.labels, names=names), source, parent_labels)


def keep_classes(samples: Sequence[Sample], kept: Sequence[int]) -> list[Sample]:
    """The samples of some labels, labelled by their places in ``kept``."""
    numbers = {label: number for number, label in enumerate(kept)}
    kept_samples = (sample for sample in samples if sample.label in numbers)
    return [replace(sample, label=numbers[sample.label]) for sample in kept_samples]


def task_labels(name: str) -> Labels:
    """The labels of a task, whose images need not be here."""
    return _describe_classes(task_cards.read(name))[0]


@lru_cache(maxsize=64)
def _load(name: str, cards: tuple[object, ...], places: tuple[str | None, ...]) -> Task:
    card = task_cards.read(name)
    whole, half = split_half(name)
    if half is not None:
        task = load_task(whole)
        kept = half_labels(len(task.labels), half)
        part = restrict_task(task, kept)
        card = card.model_copy(update={"counts": part.card.counts, "least_per_class": {}})
        return Task(card, part.labels, part.source, part=Part(task, kept))
    labels, classes, parent_labels = _describe_classes(card)
    return Task(card, labels, _open(card, classes), parent_labels)


def _open(card: TaskCard, classes: Classes) -> ImageSource:
    """The images of a task; none is opened yet."""
    source = card.source
    if source.kind == "drawings":
        return Drawings(tasks_folder() / source.split)
    folder = find_dataset(card.name, source.folder)
    if source.kind == "table":
        return open_images(scan_list(inside(_home(card.name), source.file), folder), classes)
    return open_layout(folder, source, classes)


def _home(name: str) -> Path:
    """The folder around a task's card."""
    return task_cards.own_folder(name) or tasks_folder()


def _describe_classes(card: TaskCard) -> tuple[Labels, Classes, tuple[int, ...] | None]:
    """The labels of a task or variant, its classes on the disk, and its parent's labels.

    The last is None if the classes are all the parent's, in its order.
    """
    owner = task_cards.read(card.parent) if card.parent is not None else card
    if owner.parent is not None:
        raise CompatbenchError(
            f"task '{card.name}': its parent '{owner.name}' is itself a variant; name the task"
        )
    folders = owner.folders or owner.classes
    if unknown := [folder for folder in card.subset if folder not in folders]:
        raise CompatbenchError(
            f"task '{card.name}': field 'subset': '{unknown[0]}' is not a class of '{owner.name}'"
        )
    kept = tuple(folders.index(folder) for folder in card.subset) or tuple(range(len(folders)))
    names = tuple(owner.names[label] for label in kept)
    ids = tuple(folders[label] for label in kept)
    on_disk = tuple(map(str, kept)) if getattr(card.source, "numbered", False) else ids
    classes = Classes(card.name, names, ids, on_disk)
    first = next(iter(owner.templates), "")
    labels = Labels(names, owner.templates, owner.teacher_template or first)
    return labels, classes, kept if card.subset else None


@dataclass(frozen=True)
class TaskReport:
    """The state of a task's images on this machine.

    It is ``missing`` if there is no data root or no folder, and ``wrong`` if the folder exists
    and something in it is not as the card says.
    """

    name: str  # the task's, or the variant's
    state: Literal["found", "missing", "wrong"]
    folder: Path | None  # where the images were looked for; None if no data root is set
    expected: Mapping[str, int]  # images by split, as the card counts them
    found: Mapping[str, int]  # as far as the split could be read
    class_order: bool | None  # whether it is the card's; None if nothing on the disk says
    message: str  # what is wrong, in one line
    fix: str  # what to do about it, in one line
    broken: tuple[str, ...] = ()  # what is wrong with each image that cannot be decoded


def inspect_task(name: str, deep: bool = False) -> TaskReport:
    """Looks at a task's images; all are decoded if ``deep``, and otherwise none.

    Every file that a split lists is looked for; where the folders are the list, as ImageNet's
    are, they are read and counted. No such card, and a broken one, is a ``CompatbenchError``;
    what is wrong with the images is in the report.
    """
    card = task_cards.read(name := task_cards.resolve(name))
    labels, classes, parent_labels = _describe_classes(card)
    folder: Path | None = tasks_folder()
    counts: dict[str, int] = {}
    state, class_order, message, fix = "found", None, "", ""
    broken: Sequence[str] = ()
    try:
        if card.source.kind != "drawings":
            folder = dataset_folder(name, card.source.folder)
        source = _open(card, classes)
        counts = {split: len(listed) for split, listed in source.samples.items() if listed}
        # Numbers mean something only with a list of the names beside them.
        unnamed = card.source.kind in ("webdataset", "parquet")
        unnamed |= getattr(card.source, "numbered", False)
        told = folder and ((folder / CLASS_NAMES).is_file() or hub_class_names(folder))
        class_order = True if told or not unnamed else None
        if card.source.kind in ("coop-split", "fgvc", "table"):
            source.check_files()
        Task(card, labels, source, parent_labels)
        if broken := source.find_broken() if deep else ():
            images = sum(map(len, source.samples.values()))
            raise BrokenImages(f"{len(broken):,} of {images:,} images cannot be used")
    except CompatbenchError as error:
        missing = isinstance(error, DataMissing)
        state, message = "missing" if missing else "wrong", str(error)
        class_order = False if isinstance(error, WrongClasses) else class_order
        where = f"say where {{}}: --data-root {name}=FOLDER"
        if task_cards.own_folder(name) is None:
            fix = "take the dataset's own files, see docs/datasets.md"
            if missing:
                fix = f"get it ({card.homepage}), or {where.format('it is')}"
        else:
            message = message.replace("; see docs/datasets.md", "")
            fix = f"put right what is in {folder}, or what {task_cards.path(name)} says of it"
            if missing:
                fix = f"put the images there, or {where.format('they are')}"
            elif card.source.kind == "table":
                again = f"compatbench new-task {shlex.quote(str(folder))} --name {name} --replace"
                fix = f"put the images back in {folder}; or, if it is meant to be so now: {again}"
    return TaskReport(
        name, state, folder, {**card.counts}, counts, class_order, message, fix, (*broken,)
    )
