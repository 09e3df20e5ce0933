"""Run every method on a fake accelerator, and print a line of JSON for each method.

The line has the largest difference from the CPU, and how often a step waits for the device.
"""

from __future__ import annotations

import copy
import json
import sys
import traceback
from itertools import pairwise
from typing import Any

import torch
from device_comparison import Places, compare
from fake_accelerator import NAME, DeviceTensor, OnDevice, constructors, waits
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from compatbench.backbone import Backbone
from compatbench.method import Method, Module
from compatbench.method.registry import builtin_methods

LIMITS = {"max_steps": 2, "max_iterations": 5}


class Accelerator(Places):
    """Move the inputs of fits and classifiers to tensors of the accelerator."""

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
    """Compare a fit of two steps and its logits on both devices, and count waits."""
    at_steps: list[int] = []
    waits.clear()
    hook = register_optimizer_step_pre_hook(lambda *_: at_steps.append(sum(waits.values())))
    try:
        with OnDevice():
            different = compare(cls, places, LIMITS)
    finally:
        hook.remove()
    there = at_steps[len(at_steps) // 2 :]  # the first fit runs on the CPU
    between = [after - before for before, after in pairwise(there)]
    return {"each": min(between, default=0), "kinds": dict(+waits), "different": different}


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    with constructors():
        places = Accelerator(torch.device(NAME, 0))
        for name in names or builtin_methods().names():
            try:
                cls = builtin_methods().get(name)
                figures = run(cls, places)
            except Exception as error:
                lines = traceback.format_exception(error, limit=-2)
                figures = {"error": " ".join("".join(lines).split())}
            print(json.dumps({"method": name, **figures}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
