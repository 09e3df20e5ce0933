"""Compare the logits of a method on a device with those on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.backbone.build import allow_tf32
from compatbench.errors import NotTransferable
from compatbench.extras.check.method_under_test import MethodUnderTest
from compatbench.method import Method, Module

# Two steps, without dropout: a device draws other random numbers.
LIMITS = {"max_steps": 2, "max_iterations": 5, "dropout": 0.0}


class Places:
    """Move the inputs of fits and classifiers to a device, each backbone once.

    Products there use float32, also in convolutions, where PyTorch's default is TF32.
    """

    def __init__(self, device: torch.device) -> None:
        allow_tf32(False)
        self.device = device
        self._moved: dict[str, Backbone] = {}

    def backbone(self, backbone: Backbone) -> Backbone:
        if backbone.name not in self._moved:
            model = self.copy_model(backbone)
            moved = Backbone(backbone.card, model, self.device, backbone.weights_key)
            self._moved[backbone.name] = moved
        return self._moved[backbone.name]

    def copy_model(self, backbone: Backbone) -> Any:
        return copy.deepcopy(backbone.model).to(self.device)

    def move(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.detach().to(self.device)
        if isinstance(value, Backbone):
            return self.backbone(value)
        if isinstance(value, Module):
            return value.to(self.device)
        if is_dataclass(value) and not isinstance(value, type):
            moved = {}
            for field in fields(value):
                moved[field.name] = self.move(getattr(value, field.name))
            return replace(value, **moved)
        if isinstance(value, dict):
            return {name: self.move(part) for name, part in value.items()}
        if isinstance(value, list):
            return [self.move(part) for part in value]
        return value


def compare(cls: type[Method], places: Places, limits: Mapping[str, float] = LIMITS) -> float:
    """Return the largest difference of logits after two steps, relative to the largest logit.

    The module is fitted on the CPU and on the device, and attached where it was fitted, to
    its source and to the target.
    """
    subject = MethodUnderTest(cls)
    known = limits.keys() & cls.Config.model_fields
    method = cls(cls.Config.model_validate({name: limits[name] for name in known}))
    data = subject.draw()

    def fit(backbone: Backbone, given: Any) -> Module:
        return method.fit(backbone, given, torch.Generator().manual_seed(1)).detach()

    module = fit(subject.source, data)
    moved = fit(places.backbone(subject.source), places.move(data))
    worst = 0.0
    for backbone in (subject.source, subject.target):
        images = subject.inputs(backbone)
        there = places.backbone(backbone)
        with torch.no_grad():
            try:
                expected = method.attach(module, backbone, data.labels)(images)
            except NotTransferable:
                continue
            logits = method.attach(moved, there, data.labels)(places.move(images)).cpu()
        worst = max(worst, float((logits - expected).abs().max() / expected.abs().max()))
    return worst
