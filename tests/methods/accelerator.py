"""Every method on a make-believe accelerator: no mix of devices, and how often it waits.

Prints a line of JSON for each method.
"""

from __future__ import annotations

import copy
import json
import sys
import time
import traceback
from dataclasses import fields, is_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from fake_accelerator import NAME, DeviceTensor, OnDevice, constructors, waits
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from compatbench.backbone import Backbone
from compatbench.errors import NotTransferable
from compatbench.extras.check.method_under_test import MethodUnderTest
from compatbench.method import Method, Module
from compatbench.method.registry import builtin_methods


def put(value: Any) -> Any:
    """What a fit is given, with its tensors and backbones on the device."""
    if isinstance(value, DeviceTensor):
        return value
    if isinstance(value, Tensor):
        return DeviceTensor(value.detach().clone())
    if isinstance(value, Backbone):
        return on_device(value)
    if isinstance(value, Module):
        return Module(put(value.trained), put(value.stored), value.about)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: put(getattr(value, f.name)) for f in fields(value)})
    if isinstance(value, dict):
        return {name: put(one) for name, one in value.items()}
    return [put(one) for one in value] if isinstance(value, list) else value


_moved: dict[str, Backbone] = {}


def on_device(backbone: Backbone) -> Backbone:
    """A backbone with its weights on the device."""
    if backbone.name not in _moved:
        model = copy.deepcopy(backbone.model)
        for part in model.modules():
            for name, one in list(part._parameters.items()):
                if one is not None:
                    part._parameters[name] = nn.Parameter(put(one), requires_grad=False)
            for name, buffer in list(part._buffers.items()):
                part._buffers[name] = put(buffer)
            for name, value in list(vars(part).items()):
                if isinstance(value, Tensor):
                    setattr(part, name, put(value))
        _moved[backbone.name] = Backbone(
            backbone.card, model, torch.device(NAME, 0), backbone.weights_key
        )
    return _moved[backbone.name]


def run(cls: type[Method]) -> dict[str, Any]:
    """A fit of two steps and its logits on both devices: how they differ, and what waits."""
    subject = MethodUnderTest(cls)
    limits = {"max_steps": 2, "max_iterations": 5}
    known = limits.keys() & cls.Config.model_fields
    method = cls(cls.Config.model_validate({name: limits[name] for name in known}))
    data, at_steps = subject.draw(), list[int]()
    module = method.fit(subject.source, data, torch.Generator().manual_seed(1)).detach()
    with OnDevice():
        source, ours = on_device(subject.source), put(data)
        waits.clear()
        hook = register_optimizer_step_pre_hook(lambda *_: at_steps.append(sum(waits.values())))
        try:
            moved = method.fit(source, ours, torch.Generator().manual_seed(1)).detach()
        finally:
            hook.remove()
    between = [after - before for before, after in pairwise(at_steps)]
    found: dict[str, Any] = {"waits": sum(waits.values()), "each": min(between, default=0)}
    found["kinds"] = dict(+waits)
    different = []
    for backbone in (subject.source, subject.target):
        images = subject.inputs(backbone)
        with torch.no_grad():
            try:
                expected = method.attach(module, backbone, data.labels)(images)
            except NotTransferable:
                continue
            with OnDevice():
                classify = method.attach(put(moved), on_device(backbone), data.labels)
                logits = classify(put(images))
        distance = (logits.numbers - expected).abs().max() / expected.abs().max()
        different.append(float(distance))
    return found | {"different": max(different)}


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    with constructors():
        for name in names or builtin_methods().names():
            start = time.process_time()
            try:
                found = run(builtin_methods().get(name))
            except Exception as error:
                frames = traceback.extract_tb(error.__traceback__)
                places = [f"{Path(f.filename).name}:{f.lineno}" for f in frames]
                found: dict[str, Any] = {
                    "error": f"{type(error).__name__}: {error}".splitlines()[0]
                }
                found["at"] = [one for one in places if not one.startswith("accelerator")][-4:]
            seconds = round(time.process_time() - start, 2)
            print(json.dumps({"method": name, "seconds": seconds, **found}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
