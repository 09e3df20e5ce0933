"""The data loaders and the accuracy that scripts without Dassl take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset
from whole_fits import ImageBatch, Problem

Pass = Sequence[tuple[Tensor, Tensor]]


class PassLoader:
    """Each iteration is the next of the given passes, the last one again after them."""

    def __init__(self, passes: Sequence[Pass]) -> None:
        self.passes, self.next = passes, 0

    def __len__(self) -> int:
        return len(self.passes[0])

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        chosen = self.passes[min(self.next, len(self.passes) - 1)]
        self.next += 1
        yield from chosen


def views(problem: Problem, count: int, batch: int = 7) -> PassLoader:
    """Each pass is one of the last so many training views, the shots in their order."""
    targets = problem.targets.split(batch)
    chosen = problem.images[-count:]
    return PassLoader([[*zip(view.split(batch), targets, strict=True)] for view in chosen])


def plain(problem: Problem) -> PassLoader:
    """The shots in one batch, as our plain view shows them."""
    return PassLoader([[(problem.images[0], problem.targets)]])


def val(problem: Problem) -> PassLoader:
    return PassLoader([[(problem.val, problem.val_targets)]])


def queries(problem: Problem) -> PassLoader:
    return PassLoader([[(problem.queries, torch.arange(len(problem.queries)))]])


def epochs(batches: Sequence[Sequence[ImageBatch]]) -> PassLoader:
    """The batches of our fit."""
    return PassLoader([[(one.images, one.targets) for one in epoch] for epoch in batches])


class Accuracy:
    """In place of the authors' function, which NumPy refuses by now: keeps the logits it is shown.

    In the first calls, those of training, it grows, so that of all epochs the last is kept, as
    in our fits. The authors keep the best on the test set.
    """

    def __init__(self, growing: int = 0) -> None:
        self.growing, self.calls = growing, 0
        self.logits = torch.empty(0)

    def __call__(self, logits: Tensor, targets: Tensor) -> float:
        self.logits, self.calls = logits.detach(), self.calls + 1
        if self.calls <= self.growing:
            return float(self.calls)
        return 100 * float((logits.argmax(-1) == targets).sum()) / len(targets)


class ViewSet(Dataset[dict[str, Tensor]]):
    """The shots as a data set that augments: each time an image is read, its next view."""

    def __init__(self, problem: Problem) -> None:
        self.images, self.targets = problem.images, problem.targets
        self.reads = [0] * len(self.targets)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        view = self.reads[row] % len(self.images)
        self.reads[row] += 1
        return {"img": self.images[view, row], "label": self.targets[row]}
