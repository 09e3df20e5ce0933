"""A task: a card with its labels and images, checked against each other; and their state."""

from __future__ import annotations

import copy
import os
import shlex
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from compatbench.data.cards import TaskCard, task_cards, whole_name
from compatbench.data.cards.halves import half_labels
from compatbench.data.cards.names import split_half
from compatbench.data.dataset_folders import VARIABLE, dataset_folder, find_dataset, variable_of
from compatbench.data.images.dataset_files import BrokenImages, DataMissing, WrongClasses, inside
from compatbench.data.images.source import ImageSource, Sample
from compatbench.data.labels import Labels
from compatbench.data.layouts.containers import hub_class_names
from compatbench.data.layouts.csv_lists import scan_list
from compatbench.data.layouts.drawings import Drawings
from compatbench.data.layouts.listing import CLASS_NAMES, Classes, open_images
from compatbench.data.layouts.scanners import open_layout
from compatbench.data.layouts.texts import (
    Captions,
    read_captioned,
    read_captions,
    read_descriptions,
)
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
        if problem := next(self._problems(), None):
            raise BrokenImages(f"task '{self.name}': {problem}")

    def labels_for(self, needs: Collection[str]) -> Labels:
        """The labels, with what a method's card says that it needs besides names and templates.

        Raises:
            CompatbenchError: descriptions are needed, and their file lacks a class or is broken.
        """
        return self._described if "descriptions" in needs else self.labels

    @cached_property
    def _described(self) -> Labels:
        owner = self.card if self.parent is None else task_cards.read(self.parent)
        if owner.descriptions is None:
            return self.labels
        path = tasks_folder() / owner.descriptions.file
        if (folder := task_cards.own_folder(whole_name(owner.name))) is not None:
            path = inside(folder, owner.descriptions.file)
        return replace(self.labels, descriptions=read_descriptions(path, self.labels.names))

    @property
    def most_shots(self) -> int:
        """The number of training images of the largest class; more shots draw no more."""
        return max(Counter(s.label for s in self.split("train")).values(), default=0)

    def find_captions(self) -> Captions:
        """Texts by the identity of a test image; none where the card names no file of them."""
        if self.part is not None:
            whole, ids = self.part.whole.find_captions(), {image.id for image in self.split("test")}
            return {image: texts for image, texts in whole.items() if image in ids}
        if self.card.captions is None:
            return {}
        known = {image.id for samples in self.source.samples.values() for image in samples}
        return read_captions(_folder(self.card), self.card.captions, self.split("test"), known)

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

    def _problems(self) -> Iterator[str]:
        """What of the images does not agree with the card."""
        for split, samples in self.source.samples.items():
            counts = Counter(sample.label for sample in samples)
            if len(samples) != (expected := self.card.counts.get(split, 0)):
                yield f"{split} has {len(samples)} images, its card counts {expected}"
            if max(counts, default=-1) >= len(self.labels):
                yield f"label {max(counts)} occurs, but there are {len(self.labels)} classes"
            # Where labels were removed, all are −1.
            least = self.card.least_per_class.get(split, 0) if max(counts, default=0) >= 0 else 0
            for label, name in enumerate(self.labels.names):
                if counts[label] < least:
                    what = f"{split} has {counts[label]} images of '{name}'"
                    yield f"{what}, its card says {least} at least"


def load_task(name: str, bare: bool = False) -> Task:
    """The task, variant, or half of a task, of this name.

    Images that are not as its card says are an error, and so are no classes, if not ``bare``.
    """
    name = task_cards.resolve(name)
    whole = whole_name(name)
    places = (os.environ.get(VARIABLE), os.environ.get(variable_of(whole)))
    files = task_cards.own()
    task = _load(name, (tasks_folder(), files.get(name), files.get(whole)), places)
    if not bare and not len(task.labels):
        what = f"task '{name}' has captions and no classes; it is for 'compatbench retrieve' alone"
        raise CompatbenchError(f"{what}: choose other tasks, or add 'classes' to its card")
    return task


def restrict_task(task: Task, kept: Sequence[int]) -> Task:
    """A task of some classes alone: their images, labelled by their places in ``kept``.

    Raises:
        CompatbenchError: the task is a variant that has but some of its parent's classes itself.
    """
    if task.parent_labels is not None:
        raise CompatbenchError(
            f"'{task.name}' has some classes of '{task.parent}' only, and so has the module; "
            f"evaluate it on '{task.parent}'"
        )
    source = copy.copy(task.source)
    source.samples = {
        split: keep_classes(samples, kept) for split, samples in task.source.samples.items()
    }
    counts = {split: len(samples) for split, samples in source.samples.items()}
    card = task.card.model_copy(update={"counts": counts, "least_per_class": {}})
    names = tuple(task.labels.names[label] for label in kept)
    return Task(card, replace(task.labels, names=names), source)


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
    folder = _folder(card)
    if source.kind == "captioned":
        return read_captioned(folder, source, card.captions or "")
    if source.kind == "table":
        home = task_cards.own_folder(card.name) or tasks_folder()
        return open_images(scan_list(inside(home, source.file), folder), classes)
    return open_layout(folder, source, classes)


def _folder(card: TaskCard) -> Path:
    """Where the dataset is; of drawings, where the card is."""
    if card.source.kind == "drawings":
        return task_cards.own_folder(card.name) or tasks_folder()
    return find_dataset(card.name, card.source.folder)


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
    on_disk = tuple(map(str, kept)) if _is_numbered(card) else ids
    classes = Classes(card.name, names, ids, on_disk)
    first = next(iter(owner.templates), "")
    labels = Labels(names, owner.templates, owner.teacher_template or first)
    return labels, classes, kept if card.subset else None


def _tells_names(folder: Path | None) -> bool:
    """Whether a list of the classes' names lies beside images whose labels are numbers."""
    if folder is None:
        return False
    return (folder / CLASS_NAMES).is_file() or bool(hub_class_names(folder))


def _is_numbered(card: TaskCard) -> bool:
    return card.source.kind == "class-folders" and card.source.numbered


def _advise(card: TaskCard, folder: Path | None, missing: bool) -> str:
    """What to do about images of one's own that are missing, or not as the card says."""
    if missing or folder is None:
        return f"put the images there, or say where they are: --data-root {card.name}=FOLDER"
    if card.source.kind != "table":
        return f"put right what is in {folder}, or what {task_cards.path(card.name)} says of it"
    again = f"compatbench new-task {shlex.quote(str(folder))} --name {card.name} --replace"
    return f"put the images back in {folder}; or, if it is meant to be so now: {again}"


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
    found: dict[str, int] = {}
    state, class_order, message, fix = "found", None, "", ""
    broken: Sequence[str] = ()
    try:
        if card.source.kind != "drawings":
            folder = dataset_folder(name, card.source.folder)
        source = _open(card, classes)
        found = {split: len(listed) for split, listed in source.samples.items() if listed}
        # Numbers mean something only with a list of the names beside them.
        unnamed = card.source.kind in ("webdataset", "parquet") or _is_numbered(card)
        class_order = not unnamed or _tells_names(folder) or None
        if card.source.kind in ("coop-split", "fgvc", "table", "captioned"):
            source.check_files()
        Task(card, labels, source, parent_labels).find_captions()
        broken = source.find_broken() if deep else ()
        if broken:
            images = sum(map(len, source.samples.values()))
            raise BrokenImages(f"{len(broken):,} of {images:,} images cannot be used")
    except CompatbenchError as error:
        state, message = "wrong", str(error)
        fix = "take the dataset's own files, see docs/datasets.md"
        class_order = False if isinstance(error, WrongClasses) else class_order
        if isinstance(error, DataMissing):
            state = "missing"
            fix = f"get it ({card.homepage}), or say where it is: --data-root {name}=FOLDER"
        if task_cards.own_folder(name) is not None:
            message = message.replace("; see docs/datasets.md", "")
            fix = _advise(card, folder, state == "missing")
    return TaskReport(
        name, state, folder, {**card.counts}, found, class_order, message, fix, (*broken,)
    )
