"""The images of a training step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compatbench.errors import CompatbenchError
from compatbench.method import Backbone, FeatureSet, Labels


@dataclass(frozen=True)
class Batch:
    """One step's images, and where they come from.

    Attributes:
        features: image features under one training view, not normalised, ``[batch, e]``.
        targets: labels, ``[batch]``; -1 of unlabelled images.
        backbone: the source.
        labels: class names and templates.
        tokens: where ``image_input`` names something else than features, that, ``[batch, ...]``.
        other_view: features of the same images under the next training view, ``[batch, e]``.
        rng: the fit's generator, for what a loss draws.
        rows: which of the fit's images they are, ``[batch]``, on the processor.
        teacher: the same images as the teacher backbone sees them, if the card needs one.
    """

    features: Tensor
    targets: Tensor
    backbone: Backbone
    labels: Labels
    tokens: Tensor | None = None
    other_view: Tensor | None = None
    rng: torch.Generator | None = None
    rows: Tensor | None = None
    teacher: Batch | None = None

    @property
    def inputs(self) -> Tensor:
        """What the method's classifier takes for the images."""
        return self.features if self.tokens is None else self.tokens


def draw_batch(
    backbone: Backbone,
    images: FeatureSet,
    labels: Labels,
    rows: tuple[Tensor, Tensor, Tensor],
    epoch: int,
    rng: torch.Generator,
    teacher: Batch | None,
) -> Batch:
    """Some images under the view of an epoch; ``rows`` on the processor and on the device, and
    those of the next step, which are read ahead."""
    view, next_view = (i % len(images.views) for i in (epoch, epoch + 1))
    inputs = None if images.view_inputs is None else images.view_inputs[view]
    by_processor, on_device, following = rows
    # Rows on disk are found by the processor, which so waits for no device.
    index = on_device if isinstance(inputs, Tensor) else by_processor
    tokens = None if inputs is None else inputs[index]
    prefetch = getattr(inputs, "prefetch", None)
    if prefetch is not None and len(following):
        prefetch(following)
    return Batch(
        features=images.views[view][on_device],
        targets=images.targets[on_device],
        backbone=backbone,
        labels=labels,
        tokens=tokens,
        other_view=images.views[next_view][on_device],
        rng=rng,
        rows=by_processor,
        teacher=teacher,
    )


def pool_views(images: FeatureSet) -> FeatureSet:
    """Every view of every image as an image of its own, in one view."""
    if images.view_inputs is not None:
        raise CompatbenchError("recipe.pool_views is for methods that take image features")
    count = len(images.views)
    views = images.views.flatten(0, 1)
    return FeatureSet(images.plain.repeat(count, 1), views[None], images.targets.repeat(count))
