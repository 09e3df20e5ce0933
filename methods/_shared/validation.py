"""Choices that the few-shot validation set makes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from compatbench.method import Backbone, Classifier, FewShotData, Method, Module


@torch.no_grad()
def score(classifier: Classifier, data: FewShotData) -> Tensor:
    """Return the accuracy on the few-shot validation set, as a tensor on the set's device.

    It is 0 if there are no validation images. The program does not wait for the device.
    """
    if len(data.val) == 0:
        return data.val.plain.new_zeros(())
    hits = classifier(data.val.plain).argmax(-1) == data.val.targets
    return hits.float().mean()


def validate(classifier: Classifier, data: FewShotData) -> float:
    """Return the accuracy on the few-shot validation set as a number; wait for the device."""
    return float(score(classifier, data))


def search_number(
    method: Method,
    module: Module,
    name: str,
    candidates: Sequence[float],
    backbone: Backbone,
    data: FewShotData,
) -> Module:
    """Store the candidate for a number that classifies the validation set best.

    Of several that are equally good, the first is stored. Without validation images, the number
    stays as it was.
    """
    best_accuracy = -1.0
    number = module[name]
    if len(data.val) == 0:
        candidates = ()
    for candidate in candidates:
        stored = module.stored | {name: torch.tensor(candidate).to(number)}
        tried = Module(module.trained, stored)
        accuracy = validate(method.attach(tried, backbone, data.labels), data)
        if accuracy > best_accuracy:
            best_accuracy = accuracy
            number = stored[name]
    return Module(module.trained, module.stored | {name: number})
