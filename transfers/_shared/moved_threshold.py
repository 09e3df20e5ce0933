"""Moving a threshold to another model by the scores of unlabelled images on both."""

from __future__ import annotations

import torch
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.errors import NotTransferable
from compatbench.method import Method, Module
from compatbench.method.transfer import Transfer, TransferData

FEWEST = 2  # images of a class on each model, of which a spread can be taken


class MovedThreshold(Transfer):
    """A threshold for the target from the best scores of the same images on both models.

    A threshold of a class is moved by the images that are classified as it, on each model by
    itself; where one of them has fewer than two of these, by all images.
    """

    def move(self, threshold: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """The threshold ``[]`` on the target, from best scores of some images, ``[N]`` each."""
        raise NotImplementedError

    def carry(
        self, method: Method, module: Module, target: Backbone, labels: Labels, data: TransferData
    ) -> Module:
        images, threshold = data.unlabelled, read_threshold(module)
        if not len(images.target):
            raise NotTransferable("there are no unlabelled images to move the threshold by")
        margins, before = images.old.logits.max(-1)
        old = margins / images.source_scale + threshold.expand(images.old.logits.shape[-1])[before]
        new, after = best_scores(method, module, target, labels, images.target)
        moved = []
        for number, each in enumerate(threshold):
            rows = [before == number, after == number]
            if len(threshold) == 1 or min(int(of.sum()) for of in rows) < FEWEST:
                rows = [torch.ones_like(of) for of in rows]
            moved.append(self.move(each, old[rows[0]], new[rows[1]]))
        return with_threshold(module, torch.stack(moved))


def read_threshold(module: Module) -> Tensor:
    """The tensor ``threshold`` of a module that acts on answers, ``[1]`` or ``[C]``.

    Raises:
        NotTransferable: it has none.
    """
    if "threshold" not in module.trained:
        raise NotTransferable("the module has no tensor 'threshold' that could be moved")
    return module["threshold"]


def with_threshold(module: Module, threshold: Tensor) -> Module:
    """The module with another threshold."""
    return Module(module.trained | {"threshold": threshold}, module.stored, module.about)


def best_scores(
    method: Method, module: Module, backbone: Backbone, labels: Labels, features: Tensor
) -> tuple[Tensor, Tensor]:
    """Scores of the best class, before any threshold, and this class; ``[N]`` each.

    ``features`` are image features on the backbone, ``[N, e]``. Raises as ``Method.attach``.
    """
    zero = with_threshold(module, torch.zeros_like(read_threshold(module)))
    best = method.attach(zero, backbone, labels)(features).max(-1)
    return best.values / backbone.logit_scale, best.indices
