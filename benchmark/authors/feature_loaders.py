"""Data loaders and a measure of accuracy for scripts without Dassl."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset
from whole_fits import ImageBatch, Problem

Pass = Sequence[tuple[Tensor, Tensor]]


class PassLoader:
    """A loader whose iterations are the given passes in turn, and then the last one again."""

    def __init__(self, passes: Sequence[Pass]) -> None:
        self.passes = passes
        self.next = 0

    def __len__(self) -> int:
        return len(self.passes[0])

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        chosen = self.passes[min(self.next, len(self.passes) - 1)]
        self.next += 1
        yield from chosen


def views(problem: Problem, count: int, batch: int = 7) -> PassLoader:
    """Return a loader of the last ``count`` training views, with the shots in their order."""
    targets = problem.targets.split(batch)
    chosen = problem.images[-count:]
    return PassLoader([[*zip(view.split(batch), targets, strict=True)] for view in chosen])


def plain(problem: Problem) -> PassLoader:
    """Return a loader of the shots under the plain view, in one batch."""
    return PassLoader([[(problem.images[0], problem.targets)]])


def val(problem: Problem) -> PassLoader:
    """Return a loader of the validation images, in one batch."""
    return PassLoader([[(problem.val, problem.val_targets)]])


def queries(problem: Problem) -> PassLoader:
    """Return a loader of the queries, in one batch."""
    return PassLoader([[(problem.queries, torch.arange(len(problem.queries)))]])


def epochs(batches: Sequence[Sequence[ImageBatch]]) -> PassLoader:
    """Return a loader of the batches of our fit."""
    return PassLoader([[(one.images, one.targets) for one in epoch] for epoch in batches])


class Accuracy:
    """A measure of accuracy that keeps the logits, for the authors' function.

    Theirs needs an older NumPy. In the first ``growing`` calls, which are those of training, the
    returned number grows, so that the authors' script keeps the last epoch, as our fits do. By
    itself it would keep the best one on the test set.
    """

    def __init__(self, growing: int = 0) -> None:
        self.growing = growing
        self.calls = 0
        self.logits = torch.empty(0)

    def __call__(self, logits: Tensor, targets: Tensor) -> float:
        self.logits = logits.detach()
        self.calls += 1
        if self.calls <= self.growing:
            return float(self.calls)
        return 100 * float((logits.argmax(-1) == targets).sum()) / len(targets)


class ViewSet(Dataset[dict[str, Tensor]]):
    """The shots as a data set that augments: each reading of an image gives its next view."""

    def __init__(self, problem: Problem) -> None:
        self.images = problem.images
        self.targets = problem.targets
        self.reads = [0] * len(self.targets)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        view = self.reads[row] % len(self.images)
        self.reads[row] += 1
        return {"img": self.images[view, row], "label": self.targets[row]}
