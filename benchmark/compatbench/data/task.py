"""A task: a card with its labels and images, checked against each other."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compatbench.data.cards import TaskCard, task_cards
from compatbench.data.cards.task import ClassFoldersSource
from compatbench.data.images import SPLITS, ImageSource, Sample
from compatbench.data.labels import Classes, Labels
from compatbench.data.roots import VARIABLE, variable_of
from compatbench.data.sources import open_source
from compatbench.errors import CompatbenchError
from compatbench.files.hashes import sha256_json
from compatbench.files.project_folders import tasks_folder

if TYPE_CHECKING:
    from torch import Tensor


class Task:
    """A dataset, or a variant of one.

    Args:
        parent_labels: of a variant with some of its parent's classes, the parent's label of
            each.

    Raises:
        CompatbenchError: the images do not agree with the card (counts, labels).
    """

    def __init__(
        self,
        card: TaskCard,
        labels: Labels,
        source: ImageSource,
        parent_labels: tuple[int, ...] | None = None,
    ) -> None:
        self.card = card
        self.name = card.name
        self.parent = card.parent  # the task whose classes this variant shares
        self.labels = labels
        self.source = source
        self.parent_labels = parent_labels
        for split in SPLITS:
            self._check_split(split)

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

    def _check_split(self, split: Any) -> None:
        where = f"task '{self.name}'"
        counts = Counter(sample.label for sample in self.source.samples[split])
        found, expected = sum(counts.values()), self.card.counts.get(split, 0)
        if found != expected:
            raise CompatbenchError(
                f"{where}: {split} has {found} images, its card counts {expected}"
            )
        if not set(counts) <= set(range(len(self.labels))):
            raise CompatbenchError(
                f"{where}: label {max(counts)} occurs, but there are {len(self.labels)} classes"
            )
        least = self.card.least_per_class.get(split, 0)
        for label, name in enumerate(self.labels.names):
            if counts[label] < least:
                raise CompatbenchError(
                    f"{where}: {split} has {counts[label]} images of '{name}', its card says "
                    f"{least} at least"
                )


def load_task(name: str) -> Task:
    """The task or variant of this name.

    Raises:
        CompatbenchError: no such card, a broken card, images that are missing, or that
            disagree with it.
    """
    places = (os.environ.get(VARIABLE), os.environ.get(variable_of(name)))
    return _load(name, tasks_folder(), places)


@lru_cache(maxsize=64)
def _load(name: str, cards: Path, places: tuple[str | None, ...]) -> Task:
    card = task_cards.read(name)
    labels, classes, parent_labels = describe_classes(card)
    return Task(card, labels, open_source(card, classes), parent_labels)


def describe_classes(card: TaskCard) -> tuple[Labels, Classes, tuple[int, ...] | None]:
    """The labels of a task or variant, its classes on the disk, and its parent's labels.

    The last is None if the classes are all the parent's, in its order.

    Raises:
        CompatbenchError: a variant of a variant, or classes that its parent does not have.
    """
    owner = task_cards.read(card.parent) if card.parent is not None else card
    if owner.parent is not None:
        raise CompatbenchError(
            f"task '{card.name}': its parent '{owner.name}' is itself a variant; name the task"
        )
    folders = owner.folders or owner.classes
    if unknown := [folder for folder in card.subset if folder not in folders]:
        raise CompatbenchError(
            f"task '{card.name}': field 'subset': '{unknown[0]}' is no class of '{owner.name}'"
        )
    kept = tuple(folders.index(folder) for folder in card.subset) or tuple(range(len(folders)))
    names = tuple(owner.names[label] for label in kept)
    ids = tuple(folders[label] for label in kept)
    numbered = isinstance(card.source, ClassFoldersSource) and card.source.numbered
    classes = Classes(card.name, names, ids, tuple(map(str, kept)) if numbered else ids)
    labels = Labels(names, owner.templates, owner.teacher_template or owner.templates[0])
    return labels, classes, kept if card.subset else None
