"""A module attached to a backbone: to its own classes, or to those of another test set."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from compatbench.backbone import ImageInput, Labels
from compatbench.data.task import Task
from compatbench.engine.carried import Carried
from compatbench.engine.cell import NOT_APPLICABLE
from compatbench.engine.execute.compute import wait_for
from compatbench.engine.measure import prompt_diversity
from compatbench.errors import NotTransferable
from compatbench.method import Classifier
from compatbench.transfer import Transfer, TransferData


@dataclass(frozen=True)
class Attached:
    """A classifier, and what it was made of."""

    classifier: Classifier
    carried: Carried  # with the labels that it was attached to
    transfer: Transfer
    given: TransferData
    wanted: ImageInput  # what it takes for an image
    diversity: float | None  # of the prompts, as ``prompt_diversity``
    seconds: float  # of attaching, wall clock

    @cached_property
    def keeps_classes(self) -> str:
        """Why the module serves no other classes: it keeps something of each of its own; or empty.

        It is asked on its source, which it fits without a transfer: such a module refuses fewer
        classes. That methods do so is a rule of the conformance kit (``class_subset``). Without
        the question, a module would serve as many other classes as its own, under their names.
        """
        carried, labels = self.carried, self.carried.labels
        rest = replace(labels, names=labels.names[1:], descriptions=labels.descriptions[1:])
        try:
            with torch.no_grad():
                on = carried.source or carried.target
                carried.method.attach(carried.module, on, rest)
        except NotTransferable as error:
            return error.reason
        return ""


@torch.no_grad()
def attach(
    carried: Carried, transfer: Transfer, given: TransferData, diversity: bool = False
) -> Attached:
    """The module through a transfer, by default without its ``diversity``.

    Raises as ``Transfer.attach``.
    """
    method, module, target, labels = carried.method, carried.module, carried.target, carried.labels
    wait_for(target.device)
    start = time.perf_counter()
    wanted = transfer.image_input(method, target)
    classifier = transfer.attach(method, module, target, labels, given)
    found = None
    if diversity:
        found = prompt_diversity(method.contexts(module, target, labels))
        found = None if found is None else round(found, 4)
    wait_for(target.device)
    seconds = time.perf_counter() - start
    return Attached(classifier, carried, transfer, given, wanted, found, seconds)


def attach_to_others(own: Attached, labels: Labels) -> Attached:
    """The same module attached to other classes than those it was fitted for.

    Raises:
        NotTransferable: it keeps something of each class, or the transfer needs images of its own.
    """
    if "unlabelled" in own.transfer.card.access:
        name = own.transfer.card.name
        raise NotTransferable(
            f"{NOT_APPLICABLE}: the transfer '{name}' is given images of the module's classes alone"
        )
    if own.keeps_classes:
        raise NotTransferable(
            f"{NOT_APPLICABLE}: the module knows the classes it was fitted for and no others "
            f"({own.keeps_classes})"
        )
    carried, diversity = replace(own.carried, labels=labels), own.diversity is not None
    return attach(carried, own.transfer, own.given, diversity)


def shares_classes(test_set: Task, task: Task) -> bool:
    """Whether a test set has the classes of the task that a module was fitted for, or some."""
    return task.name in (test_set.name, test_set.parent)
