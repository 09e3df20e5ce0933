"""Every method on a make-believe accelerator: no mix of devices, and how often it waits.

Prints a line of JSON for each method.
"""

from __future__ import annotations

import copy
import json
import sys
import traceback
from collections.abc import Callable
from itertools import pairwise
from typing import Any
from unittest import mock

import torch
from fake_accelerator import NAME, DeviceTensor, OnDevice, constructors, waits
from gpu_methods import Places, compare
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from compatbench.backbone import Backbone
from compatbench.backbone.recording import CudaGraph, NotRepeatable
from compatbench.extras.check.method_under_test import MethodUnderTest
from compatbench.method import Method, Module, graphed
from compatbench.method.registry import builtin_methods

LIMITS = {"max_steps": 2, "max_iterations": 5}


class Accelerator(Places):
    """Puts what fits and classifiers are given behind tensors of the accelerator."""

    def move(self, value: Any) -> Any:
        if isinstance(value, DeviceTensor):
            return value
        if isinstance(value, Tensor):
            return DeviceTensor(value.detach().clone())
        if isinstance(value, Module):
            return Module(self.move(value.trained), self.move(value.stored), value.about)
        return super().move(value)

    def copy_model(self, backbone: Backbone) -> nn.Module:
        model = copy.deepcopy(backbone.model)
        for part in model.modules():
            for name, weight in list(part._parameters.items()):
                if weight is not None:
                    part._parameters[name] = nn.Parameter(self.move(weight), requires_grad=False)
            for name, buffer in list(part._buffers.items()):
                part._buffers[name] = self.move(buffer)
            for name, value in list(vars(part).items()):
                if isinstance(value, Tensor):
                    setattr(part, name, self.move(value))
        return model


def run(cls: type[Method], places: Places) -> dict[str, Any]:
    """A fit of two steps and its logits on both devices: how they differ, and what waits."""
    at_steps: list[int] = []
    waits.clear()
    hook = register_optimizer_step_pre_hook(lambda *_: at_steps.append(sum(waits.values())))
    try:
        with OnDevice():
            different = compare(cls, places, LIMITS)
    finally:
        hook.remove()
    there = at_steps[len(at_steps) // 2 :]  # the first fit is the processor's
    between = [after - before for before, after in pairwise(there)]
    return {"each": min(between, default=0), "kinds": dict(+waits), "different": different}


class Rehearsal(CudaGraph):
    """Rehearses a step, and records nothing."""

    rehearsed = 0

    def __init__(self, device: torch.device) -> None:
        pass

    def run(self, compute: Callable[[], None]) -> None:
        compute()

    rehearse = run

    def capture(self, compute: Callable[[], None]) -> None:
        Rehearsal.rehearsed += 1
        raise NotRepeatable("only rehearsed")


def rehearse(cls: type[Method], places: Places) -> int:
    """How many stages of a fit have steps that may be repeated on the accelerator."""
    Rehearsal.rehearsed, subject = 0, MethodUnderTest(cls)
    method = cls(cls.Config.model_validate({"max_steps": 6}))
    of_fits = mock.patch.multiple(graphed, RECORDERS={NAME: Rehearsal}, LEAST_STEPS=1, WARM_UP=1)
    with of_fits, OnDevice():
        backbone, data = places.backbone(subject.source), places.move(subject.draw())
        method.fit(backbone, data, torch.Generator().manual_seed(1))
    return Rehearsal.rehearsed


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    with constructors():
        places = Accelerator(torch.device(NAME, 0))
        for name in names or builtin_methods().names():
            try:
                cls = builtin_methods().get(name)
                figures = run(cls, places)
                if cls.card.replays:
                    figures["rehearsed"] = rehearse(cls, places)
            except Exception as error:
                lines = traceback.format_exception(error, limit=-2)
                figures = {"error": " ".join("".join(lines).split())}
            print(json.dumps({"method": name, **figures}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
