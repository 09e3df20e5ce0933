"""Choices that the few-shot validation images make, for fits in closed form and searches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from compatbench.method import Backbone, Classifier, FewShotData, Method, Module


@torch.no_grad()
def validation_accuracy(classifier: Classifier, data: FewShotData) -> Tensor:
    """Return the accuracy on the validation images, as a tensor on their device.

    It is 0 if there are no validation images. The program waits for the device only when you
    convert the tensor to a number.
    """
    if len(data.val) == 0:
        return data.val.plain.new_zeros(())
    hits = classifier(data.val.plain).argmax(-1) == data.val.targets
    return hits.float().mean()


def search_number(
    method: Method,
    module: Module,
    name: str,
    candidates: Sequence[float],
    backbone: Backbone,
    data: FewShotData,
) -> Module:
    """Return the module with the candidate for one of its numbers that classifies best.

    Every candidate is attached and tried on the validation images. The first of equally good
    candidates is stored. Without validation images the number stays as it is.

    Args:
        method: the method that attaches the module.
        module: a module whose ``stored`` has the number.
        name: the number's name in the module.
        candidates: the values to try.
        backbone: the source.
        data: the few-shot images; only ``data.val`` is used.
    """
    best_accuracy = -1.0
    number = module[name]
    if len(data.val) == 0:
        candidates = ()
    for candidate in candidates:
        stored = module.stored | {name: torch.tensor(candidate).to(number)}
        tried = Module(module.trained, stored)
        classifier = method.attach(tried, backbone, data.labels)
        accuracy = float(validation_accuracy(classifier, data))
        if accuracy > best_accuracy:
            best_accuracy = accuracy
            number = stored[name]
    return Module(module.trained, module.stored | {name: number})
