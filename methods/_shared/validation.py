"""Choices that are made by the few-shot validation set."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from compatbench.method import Backbone, Classifier, FewShotData, Method, Module


@torch.no_grad()
def score(classifier: Classifier, data: FewShotData) -> Tensor:
    """Accuracy on the few-shot validation set, a number on its device; 0 if there is none."""
    if len(data.val) == 0:
        return data.val.plain.new_zeros(())
    return (classifier(data.val.plain).argmax(-1) == data.val.targets).float().mean()


def validate(classifier: Classifier, data: FewShotData) -> float:
    """The same, which waits for the device."""
    return float(score(classifier, data))


def search_number(
    method: Method,
    module: Module,
    name: str,
    candidates: Sequence[float],
    backbone: Backbone,
    data: FewShotData,
) -> Module:
    """The module with the first stored number that classifies the validation set best.

    Without validation images it stays as it was.
    """
    best, number = -1.0, module[name]
    for candidate in candidates if len(data.val) else ():
        stored = module.stored | {name: torch.tensor(candidate).to(number)}
        tried = Module(module.trained, stored)
        accuracy = validate(method.attach(tried, backbone, data.labels), data)
        if accuracy > best:
            best, number = accuracy, stored[name]
    return Module(module.trained, module.stored | {name: number})
