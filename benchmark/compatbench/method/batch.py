"""The images of a training step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compatbench.errors import CompatbenchError
from compatbench.method import Backbone, FeatureSet, Labels


@dataclass(frozen=True)
class Batch:
    """The images of one step, and where they come from.

    Attributes:
        features: image features under one training view, not normalised, ``[batch, e]``.
        targets: labels, ``[batch]``; -1 for unlabelled images.
        backbone: the source.
        labels: class names and templates.
        tokens: the input that ``image_input`` names, ``[batch, ...]``; None for features.
        other_view: features of the same images under the next training view, ``[batch, e]``.
        rng: the fit's generator, for losses that draw.
        rows: indices of the images in the fit's set, ``[batch]``, on the processor.
        teacher: the same images on the teacher backbone, if the card needs one.
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
        """Return the input of the method's classifier for the images."""
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
    """Return some images under the view of an epoch.

    Args:
        backbone: the backbone that the images' features are from.
        images: the images of the fit.
        labels: class names and templates.
        rows: the indices of the images on the processor, the same on the device, and those of
            the next step, which are read ahead.
        epoch: decides the view.
        rng: the fit's generator.
        teacher: the same images on the teacher backbone.
    """
    view = epoch % len(images.views)
    next_view = (epoch + 1) % len(images.views)
    on_processor, on_device, following = rows
    tokens = None
    if images.view_inputs is not None:
        inputs = images.view_inputs[view]
        # Rows on disk are found by the processor, so it does not wait for the device.
        tokens = inputs[on_device if isinstance(inputs, Tensor) else on_processor]
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
        rows=on_processor,
        teacher=teacher,
    )


def pool_views(images: FeatureSet) -> FeatureSet:
    """Return a set in which every view of every image is an image of its own, with one view.

    Raises:
        CompatbenchError: the method does not take image features.
    """
    if images.view_inputs is not None:
        raise CompatbenchError("recipe.pool_views is for methods that take image features")
    count = len(images.views)
    views = images.views.flatten(0, 1)
    plain = images.plain.repeat(count, 1)
    targets = images.targets.repeat(count)
    return FeatureSet(plain, views[None], targets)
