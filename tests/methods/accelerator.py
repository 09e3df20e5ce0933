"""A make-believe accelerator, and every method on it: no mix of devices, and how often it waits.

Its numbers are on the CPU, behind tensors that say they are on another device. What mixes them
with tensors of the CPU raises, as on a GPU, and what would make the host wait is counted. Run as a
program, since a registered device is there for the whole process; prints a line of JSON for each
method.
"""

from __future__ import annotations

import copy
import json
import sys
import time
import traceback
from collections import Counter
from dataclasses import fields, is_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from compatbench.backbone import Backbone
from compatbench.conformance.method_under_test import MethodUnderTest
from compatbench.errors import NotTransferable
from compatbench.method import Method, Module
from compatbench.method.registry import builtin_methods

NAME = "fakegpu"
_setup_privateuseone_for_python_backend(NAME)
DEVICE = torch.device(NAME, 0)
AT = torch.ops.aten
COPIES = {AT._to_copy.default, AT.copy_.default}
# Indices on the CPU are sent to the device.
INDEXED = {AT.index.Tensor, AT.index_put_.default, AT.index_put.default}
INDEXED |= {AT._index_put_impl_.default}
SIZED = {AT.nonzero.default, AT.masked_select.default, AT._unique2.default}  # by their values

waits: Counter[str] = Counter()
generators: dict[int, torch.Generator] = {}  # those of the accelerator, by what they are


class DeviceTensor(Tensor):
    """A tensor of the accelerator; ``numbers`` are on the CPU."""

    numbers: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inner: Tensor) -> DeviceTensor:
        shape = dict(strides=inner.stride(), storage_offset=inner.storage_offset())
        kind = dict(dtype=inner.dtype, layout=inner.layout, device=DEVICE, requires_grad=False)
        made = Tensor._make_wrapper_subclass(cls, inner.size(), **shape, **kind)  # type: ignore[attr-defined]
        made.numbers = inner
        return made

    def __getitem__(self, index: Any) -> Any:
        # What a list is sent to the device as cannot be made there.
        return super().__getitem__(torch.tensor(index) if isinstance(index, list) else index)

    def tolist(self) -> Any:
        waits["number"] += 1
        return self.numbers.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class OnDevice(TorchDispatchMode):
    """Within it, tensors can be made on the accelerator."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        wanted = kwargs.get("device")
        ours = wanted is not None and torch.device(wanted).type == NAME
        if ours or any(issubclass(one, DeviceTensor) for one in types):
            return compute(func, args, kwargs)
        return func(*args, **kwargs)


def compute(func: Any, args: Any, kwargs: Any) -> Any:
    """Runs an operation on the numbers, after the checks that a GPU would make."""
    leaves = tree_leaves((args, kwargs))
    ours = [one for one in leaves if isinstance(one, DeviceTensor)]
    theirs = [
        one for one in leaves if isinstance(one, Tensor) and not isinstance(one, DeviceTensor)
    ]
    wanted = kwargs.get("device")
    here = bool(ours) if wanted is None else torch.device(wanted).type == NAME
    indices = tree_leaves(args[1]) if func in INDEXED else []
    mixed = [one for one in theirs if one.dim() and not any(one is i for i in indices)]
    if ours and func not in COPIES and mixed:
        raise RuntimeError(f"{func} mixes devices")
    generator = kwargs.get("generator")
    if generator is not None and generator._cdata not in generators and (here or ours):
        raise RuntimeError(f"{func} is given a generator of the CPU")
    _count_waits(func, args, ours, theirs, here)
    if func is AT.copy_.default:
        here = isinstance(args[0], DeviceTensor)
    found = func(*tree_map(_to_inner, args), **tree_map(_to_inner, kwargs))
    known = {id(one.numbers): one for one in ours}

    def wrap(one: Any) -> Any:
        if not isinstance(one, Tensor):
            return one
        if (same := known.get(id(one))) is not None:
            return same
        return DeviceTensor(one) if here else one

    return tree_map(wrap, found)


def _to_inner(one: Any) -> Any:
    if isinstance(one, torch.device) and one.type == NAME:
        return torch.device("cpu")
    return one.numbers if isinstance(one, DeviceTensor) else one


def _count_waits(func: Any, args: Any, ours: Any, theirs: Any, here: bool) -> None:
    if not ours:
        return
    if func in INDEXED:
        waits["index of the CPU"] += bool(theirs)
        chosen = [one for one in args[1] or () if isinstance(one, Tensor)]
        sized = func is AT.index.Tensor and any(one.dtype == torch.bool for one in chosen)
        waits["mask"] += sized
    waits["number"] += func is AT._local_scalar_dense.default
    waits["size"] += func in SIZED
    to_cpu = func is AT._to_copy.default and not here
    onto_cpu = func is AT.copy_.default and not isinstance(args[0], DeviceTensor)
    waits["copy to the CPU"] += to_cpu or onto_cpu


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
        _moved[backbone.name] = Backbone(backbone.card, model, DEVICE, backbone.weights_key)
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


def _tensor(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
    made = _make(data, *args, **kwargs)
    on = device is not None and torch.device(device).type == NAME
    return DeviceTensor(made) if on else made.to(device) if device is not None else made


_make, _Generator = torch.tensor, torch.Generator


class _KnowsGenerators(type):
    def __instancecheck__(cls, one: object) -> bool:
        return isinstance(one, _Generator)


class Generator(metaclass=_KnowsGenerators):
    """Makes the generators of the accelerator, too."""

    def __new__(cls, device: Any = "cpu") -> Any:
        made = _Generator()
        if torch.device(device).type == NAME:
            generators[made._cdata] = made
        return made


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    with mock.patch.multiple(torch, tensor=_tensor, Generator=Generator):
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
