"""The data of a fit: few-shot images as features, and the other inputs that a card needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from compatbench.backbone import Backbone, Labels


class Rows(Protocol):
    """A tensor, or an object that returns rows like one and reads only these from disk.

    If it has ``prefetch``, a training loop calls that with the index of the next step.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class FeatureSet:
    """Frozen image features of some samples.

    Attributes:
        plain: features of the plain view, not normalised, ``[N, e]``.
        views: features of the training views, ``[views, N, e]``.
        targets: labels, ``[N]``.
        view_inputs: for each training view, the input that the method's ``image_input`` names,
            ``[N, ...]``; None for features.
    """

    plain: Tensor
    views: Tensor
    targets: Tensor
    view_inputs: Sequence[Rows] | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def inputs(self, rows: Tensor) -> Tensor:
        """Return the classifier's input for some samples under the first training view."""
        if self.view_inputs is None:
            return self.views[0][rows]
        return self.view_inputs[0][rows]


@dataclass(frozen=True)
class FewShotData:
    """The data that a method may learn from: the few-shot draw of one task and seed.

    Attributes:
        labels: class names and templates.
        shots: images per class that were requested; a class may have fewer.
        train: the few-shot training set, grouped by class.
        val: the few-shot validation set, at most 4 per class, perhaps empty.
        unlabelled: every training image of the task, in an order that the seed draws; all of its
            targets are -1. None unless the card needs it.
        teacher: None unless the card needs it.
    """

    labels: Labels
    shots: int
    train: FeatureSet
    val: FeatureSet
    unlabelled: FeatureSet | None = None
    teacher: Teacher | None = None


@dataclass(frozen=True)
class Teacher:
    """Another frozen backbone, for fits only; ``attach`` does not receive it.

    Attributes:
        backbone: the backbone that the setting ``teacher`` names.
        data: the same images under the same views, row by row, as the input that
            ``image_input`` names for this backbone.
    """

    backbone: Backbone
    data: FewShotData
