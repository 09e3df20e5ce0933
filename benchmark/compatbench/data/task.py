"""A task: a card with its labels and images, checked against each other; and its state on disk."""

from __future__ import annotations

import copy
import os
import shlex
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from compatbench.data.cards import TaskCard, task_cards, whole_name
from compatbench.data.cards.names import half_labels, split_half
from compatbench.data.cards.own_cards import OwnCard
from compatbench.data.cards.sources import OnDisk
from compatbench.data.dataset_folders import VARIABLE, dataset_folder, find_dataset, variable_of
from compatbench.data.image_hashes import hash_images
from compatbench.data.images.dataset_files import BrokenImages, DataMissing, WrongClasses, inside
from compatbench.data.images.source import ImageSource, Sample
from compatbench.data.labels import Labels
from compatbench.data.layouts.containers import hub_class_names
from compatbench.data.layouts.descriptions import read_descriptions
from compatbench.data.layouts.digits import Digits
from compatbench.data.layouts.drawings import Drawings
from compatbench.data.layouts.listing import CLASS_NAMES, Classes, open_images, scan_list
from compatbench.data.layouts.scanners import open_layout
from compatbench.errors import CompatbenchError
from compatbench.files.hashes import sha256_json
from compatbench.files.project_folders import tasks_folder

if TYPE_CHECKING:
    from torch import Tensor


class Part(NamedTuple):
    """A selection of a task's classes."""

    whole: Task
    kept: Sequence[int]  # their labels in the whole task, in order


class Task:
    """A dataset, or a variant of one.

    Images that do not agree with the card (counts, labels) raise ``BrokenImages``.
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
        # The parent's label of each class, if this is a variant with some of the parent's classes.
        self.parent_labels = parent_labels
        self.part = part  # if this is a half of a task's classes
        for split, samples in source.samples.items():
            counts = Counter(sample.label for sample in samples)
            self._check(split, counts)

    def labels_for(self, needs: Collection[str]) -> Labels:
        """Return the labels, with the descriptions if they are among a method's needs.

        Raises:
            CompatbenchError: descriptions are needed, and their file lacks a class or is broken.
        """
        owner = self.card if self.parent is None else task_cards.read(self.parent)
        if "descriptions" not in needs or owner.descriptions is None:
            return self.labels
        path = inside(_home(whole_name(owner.name)), owner.descriptions.file)
        return replace(self.labels, descriptions=read_descriptions(path, self.labels.names))

    @property
    def max_shots(self) -> int:
        """Return the number of training images of the largest class; more shots draw no more."""
        counts = Counter(sample.label for sample in self.split("train"))
        return max(counts.values(), default=0)

    def split(self, name: str) -> Sequence[Sample]:
        """Return the samples of ``train``, ``val`` or ``test`` from which images are drawn.

        For a task without validation images, ``val`` is ``train``: they are drawn from the images
        that the training draw leaves over.
        """
        samples = self.source.samples[name]
        if not samples and name == "val":
            return self.split("train")
        return samples or ()

    def fingerprint(self, samples: Sequence[Sample]) -> str:
        """Return the hash of everything about some of the task's images that decides a result."""
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
        """Return this task's columns of logits ``[batch, classes]`` of the parent's classes."""
        if self.parent_labels is None:
            return logits
        return logits[:, list(self.parent_labels)]

    def _check(self, split: Any, counts: Counter[int]) -> None:
        """Raise an error if the images of each label in a split do not agree with the card."""
        problem = self._find_problem(split, counts)
        if problem:
            raise BrokenImages(f"task '{self.name}': {problem}")

    def _find_problem(self, split: Any, counts: Counter[int]) -> str:
        expected = self.card.counts.get(split, 0)
        if counts.total() != expected:
            return f"{split} has {counts.total()} images, its card counts {expected}"
        largest = max(counts, default=-1)
        if largest >= len(self.labels):
            return f"label {largest} occurs, but there are {len(self.labels)} classes"
        if largest < 0:  # the labels were removed, so that all are −1
            return ""
        required = self.card.least_per_class.get(split, 0)
        rarest = min(range(len(self.labels)), key=counts.__getitem__)
        if counts[rarest] < required:
            few = f"{split} has {counts[rarest]} images of '{self.labels.names[rarest]}'"
            return f"{few}, its card says {required} at least"
        return ""


def load_task(name: str | os.PathLike[str]) -> Task:
    """Return the task, variant, or half of a task, of this name.

    Raises:
        CompatbenchError: there is no such card, or the images are not as the card says.
    """
    name = task_cards.resolve(name)
    whole = whole_name(name)
    files = task_cards.own()
    own = files.get(name) or files.get(whole)
    cards = (tasks_folder(), files.get(name), files.get(whole), _state_of_list(own))
    places = (os.environ.get(VARIABLE), os.environ.get(variable_of(whole)))
    return _load(name, cards, places)


def _state_of_list(own: OwnCard | None) -> tuple[int, int] | None:
    """Return when the list of images of a user's own card was changed, and its size."""
    if own is None:
        return None
    source = task_cards.read(own.name).source
    if source.kind != "table":
        return None
    with suppress(OSError):  # whoever reads the list reports it
        facts = os.stat(own.path.parent / source.file)
        return facts.st_mtime_ns, facts.st_size
    return None


def restrict_task(task: Task, kept: Sequence[int]) -> Task:
    """Return a task of some classes: their images, labelled by their places in ``kept``.

    For a variant with some of its parent's classes, ``kept`` are the parent's labels.
    """
    places = kept
    parent_labels = None
    if task.parent_labels is not None:
        numbers = {label: number for number, label in enumerate(kept)}
        places = []
        kept_labels = []
        for place, label in enumerate(task.parent_labels):
            if label in numbers:
                places.append(place)
                kept_labels.append(numbers[label])
        parent_labels = tuple(kept_labels)
    source = copy.copy(task.source)
    source.samples = {}
    counts = {}
    for split, samples in task.source.samples.items():
        kept_samples = keep_classes(samples, places)
        source.samples[split] = kept_samples
        counts[split] = len(kept_samples)
    card = task.card.model_copy(update={"counts": counts, "least_per_class": {}})
    names = tuple(task.labels.names[label] for label in places)
    return Task(card, replace(task.labels, names=names), source, parent_labels)


def keep_classes(samples: Sequence[Sample], kept: Sequence[int]) -> list[Sample]:
    """Return the samples of some labels, labelled by their places in ``kept``."""
    numbers = {label: number for number, label in enumerate(kept)}
    kept_samples = []
    for sample in samples:
        if sample.label in numbers:
            kept_samples.append(replace(sample, label=numbers[sample.label]))
    return kept_samples


def task_labels(name: str) -> Labels:
    """Return the labels of a task. Its images need not be on this machine."""
    labels, _, _ = _describe_classes(task_cards.read(name))
    return labels


@lru_cache(maxsize=64)
def _load(name: str, cards: tuple[object, ...], places: tuple[str | None, ...]) -> Task:
    """Load a task; ``cards`` and ``places`` only make the cache notice that they changed."""
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
    """Return the images of a task; none is opened yet."""
    source = card.source
    if source.kind == "drawings":
        return Drawings(tasks_folder() / source.split)
    if source.kind == "sklearn-digits":
        return Digits(tasks_folder())
    folder = find_dataset(card.name, source.folder)
    if source.kind == "table":
        images = open_images(scan_list(inside(_home(card.name), source.file), folder), classes)
        images.upright = source.upright
        if source.hashed:
            images.hash_files = hash_images
        return images
    return open_layout(folder, source, classes)


def _home(name: str) -> Path:
    """Return the folder around a task's card."""
    return task_cards.own_folder(name) or tasks_folder()


def _describe_classes(card: TaskCard) -> tuple[Labels, Classes, tuple[int, ...] | None]:
    """Return the labels of a task or variant, its classes on the disk, and its parent's labels.

    The parent's labels are None if the classes are all the parent's, in its order.
    """
    owner = card if card.parent is None else task_cards.read(card.parent)
    if owner.parent is not None:
        raise CompatbenchError(
            f"task '{card.name}': its parent '{owner.name}' is itself a variant; name the task"
        )
    folders = owner.folders or owner.classes
    for folder in card.subset:
        if folder not in folders:
            raise CompatbenchError(
                f"task '{card.name}': field 'subset': '{folder}' is not a class of '{owner.name}'"
            )
    parent_labels = None
    kept = tuple(range(len(folders)))
    if card.subset:
        kept = tuple(folders.index(folder) for folder in card.subset)
        parent_labels = kept
    owner_names = owner.names
    names = tuple(owner_names[label] for label in kept)
    ids = tuple(folders[label] for label in kept)
    on_disk = ids
    if getattr(card.source, "numbered", False):
        on_disk = tuple(map(str, kept))
    classes = Classes(card.name, names, ids, on_disk)
    first = next(iter(owner.templates), "")
    labels = Labels(names, owner.templates, owner.teacher_template or first)
    return labels, classes, parent_labels


@dataclass(frozen=True)
class TaskReport:
    """The state of a task's images on this machine.

    It is ``missing`` if there is no data root or no folder, and ``wrong`` if the folder exists
    and something in it is not as the card says.
    """

    name: str  # of the task or variant
    state: Literal["found", "missing", "wrong"]
    folder: Path | None  # the expected place of the images; None if no data root is set
    expected: Mapping[str, int]  # images by split, as the card counts them
    found: Mapping[str, int]  # images by split, as far as it could be read
    class_order: bool | None  # True if it is the card's; None if nothing on the disk shows it
    message: str  # the problem, in one line
    fix: str  # the action that solves it, in one line
    broken: tuple[str, ...] = ()  # the problem of each image that cannot be decoded
    # If the images are missing: the bytes to download, as far as the card knows, and its licence.
    download: int = 0
    licence: str = ""


def inspect_task(name: str, deep: bool = False) -> TaskReport:
    """Return a report on a task's images; decode all of them if ``deep``, and otherwise none.

    Every file that a split lists is looked for. Where the folders are the list, as for ImageNet,
    they are read and counted. Problems of the images are in the report.

    Raises:
        CompatbenchError: there is no such card, or it is broken.
    """
    name = task_cards.resolve(name)
    card = task_cards.read(name)
    labels, classes, parent_labels = _describe_classes(card)
    folder: Path | None = tasks_folder()
    counts: dict[str, int] = {}
    state: Literal["found", "missing", "wrong"] = "found"
    class_order: bool | None = None
    message = ""
    fix = ""
    broken: list[str] = []
    try:
        if isinstance(card.source, OnDisk):
            folder = dataset_folder(name, card.source.folder)
        source = _open(card, classes)
        for split, listed in source.samples.items():
            if listed:
                counts[split] = len(listed)
        if _shows_class_order(card, folder):
            class_order = True
        if card.source.kind in ("coop-split", "fgvc", "table"):
            source.check_files()
        Task(card, labels, source, parent_labels)
        if deep:
            broken = [*source.find_broken().values()]
        if broken:
            images = sum(map(len, source.samples.values()))
            raise BrokenImages(f"{len(broken):,} of {images:,} images cannot be used")
    except CompatbenchError as error:
        missing = isinstance(error, DataMissing)
        state = "missing" if missing else "wrong"
        message = str(error)
        if isinstance(error, WrongClasses):
            class_order = False
        if task_cards.own_folder(name) is not None:
            # The page is about published datasets, not about a user's own images.
            message = message.replace("; see docs/datasets.md", "")
        fix = _suggest_fix(name, card, folder, missing)
    expected = {**card.counts}
    report = TaskReport(
        name, state, folder, expected, counts, class_order, message, fix, tuple(broken)
    )
    if state == "missing" and card.downloads:
        size = sum(file.bytes or 0 for file in card.downloads)
        return replace(report, download=size, licence=card.licence)
    return report


def _shows_class_order(card: TaskCard, folder: Path | None) -> bool:
    """Return True if the names of the classes on the disk show their order."""
    has_numbers = card.source.kind in ("webdataset", "parquet")
    has_numbers |= getattr(card.source, "numbered", False)
    has_list = False
    if folder is not None:
        has_list = (folder / CLASS_NAMES).is_file() or bool(hub_class_names(folder))
    # Numbers mean something only with a list of the names beside them.
    return has_list or not has_numbers


def _suggest_fix(name: str, card: TaskCard, folder: Path | None, missing: bool) -> str:
    """Return a line that says what to do about images that are missing or wrong."""
    data_root = f"--data-root {name}=FOLDER"
    if task_cards.own_folder(name) is None:
        if missing:
            how = f"get it ({card.homepage})"
            needs_a_person = any(file.agree or not file.url for file in card.downloads)
            if card.downloads and not needs_a_person:
                how = f"compatbench store data fetch {name}"
            return f"{how}, or say where it is: {data_root}"
        return "take the dataset's own files, see docs/datasets.md"
    if missing:
        return f"put the images there, or say where they are: {data_root}"
    if card.source.kind == "table":
        again = f"compatbench new-task {shlex.quote(str(folder))} --name {name} --replace"
        return f"put the images back in {folder}; or, if the change is intended: {again}"
    return f"correct the files in {folder}, or the card {task_cards.path(name)}"
