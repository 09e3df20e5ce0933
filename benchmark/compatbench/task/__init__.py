"""A task: a card with its labels and images, checked against each other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache

from compatbench.cards import TaskCard, task_cards
from compatbench.errors import CompatbenchError
from compatbench.files import sha256_json
from compatbench.folders import tasks_folder
from compatbench.labels import Labels
from compatbench.task.drawings import DrawingsSource
from compatbench.task.images import ImageSource, Sample

__all__ = ["Sample", "Task", "load_task"]


class Task:
    """A dataset, or a variant of one.

    Raises:
        CompatbenchError: the images do not agree with the card (counts, labels).
    """

    def __init__(self, card: TaskCard, labels: Labels, source: ImageSource) -> None:
        self.card = card
        self.name = card.name
        self.labels = labels
        self.source = source
        self._check()

    @property
    def parent(self) -> str | None:
        """The task whose classes this variant shares."""
        return self.card.parent

    def split(self, name: str) -> Sequence[Sample]:
        """The samples of ``train``, ``val`` or ``test``."""
        return self.source.samples[name]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything about the task that decides a result."""
        return sha256_json(
            [
                self.source.fingerprint(),
                self.labels.names,
                self.labels.templates,
                self.labels.teacher_template,
            ]
        )

    def _check(self) -> None:
        where = f"task '{self.name}'"
        for split in ("train", "val", "test"):
            found, expected = len(self.split(split)), self.card.counts.get(split, 0)  # type: ignore[call-overload]
            if found != expected:
                raise CompatbenchError(
                    f"{where}: {split} has {found} images, its card counts {expected}"
                )
        labels = {
            sample.label for split in ("train", "val", "test") for sample in self.split(split)
        }
        if labels and not labels <= set(range(len(self.labels))):
            raise CompatbenchError(
                f"{where}: label {max(labels)} occurs, but there are {len(self.labels)} classes"
            )


@lru_cache(maxsize=64)
def load_task(name: str) -> Task:
    """The task or variant of this name.

    Raises:
        CompatbenchError: no such card, a broken card, or images that disagree with it.
    """
    card = task_cards.read(name)
    owner = card
    if card.parent is not None:
        owner = task_cards.read(card.parent)
        if owner.parent is not None:
            raise CompatbenchError(
                f"task '{name}': its parent '{owner.name}' is itself a variant; name the task"
            )
    labels = Labels(owner.classes, owner.templates, owner.teacher_template or owner.templates[0])
    return Task(card, labels, DrawingsSource(tasks_folder(), card.source.split))
