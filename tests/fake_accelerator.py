"""A fake accelerator: its numbers are on the CPU, behind tensors that claim another device.

Operations that mix both kinds of tensors raise, as on a GPU, and so do requests for another card
than the worker's own, which PyTorch knows as number 0. Operations that would make the host wait are
counted. Use it only in separate programs: a device is registered for a whole process.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

from compatbench.engine.execute import content_process, local, planning

NAME = "fakegpu"
CARDS = "FAKE_CARDS"  # the variable with the number of cards


class _Cards(_DummyBackendModule):
    def device_count(self) -> int:
        return int(os.environ.get(CARDS, "1"))


_setup_privateuseone_for_python_backend(NAME, _Cards())
AT = torch.ops.aten
COPIES = {AT._to_copy.default, AT.copy_.default}
# Indices on the CPU are sent to the device.
INDEXED = {AT.index.Tensor, AT.index_put_.default, AT.index_put.default}
INDEXED |= {AT._index_put_impl_.default}
# The sizes of their results depend on values.
SIZED = {AT.nonzero.default, AT.masked_select.default, AT._unique2.default}

own_card = 0  # of this process
waits: Counter[str] = Counter()
generators: dict[int, torch.Generator] = {}  # those of the accelerator, by identity


class DeviceTensor(Tensor):
    """A tensor of the accelerator; ``numbers`` are on the CPU."""

    numbers: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inner: Tensor) -> DeviceTensor:
        shape = dict(strides=inner.stride(), storage_offset=inner.storage_offset())
        kind = dict(dtype=inner.dtype, layout=inner.layout, requires_grad=False)
        kind["device"] = torch.device(NAME, 0)
        made = Tensor._make_wrapper_subclass(cls, inner.size(), **shape, **kind)  # type: ignore[attr-defined]
        made.numbers = inner
        return made

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, list):  # the tensor of a list cannot be made on the device
            index = torch.tensor(index)
        return super().__getitem__(index)

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
    """Run an operation on the numbers, after the checks that a GPU would make."""
    ours = []
    theirs = []
    for leaf in tree_leaves((args, kwargs)):
        if isinstance(leaf, DeviceTensor):
            ours.append(leaf)
        elif isinstance(leaf, Tensor):
            theirs.append(leaf)
    wanted = kwargs.get("device")
    here = bool(ours) if wanted is None else torch.device(wanted).type == NAME
    indices = set()
    if func in INDEXED:
        indices = {id(index) for index in tree_leaves(args[1])}
    mixed = [tensor for tensor in theirs if tensor.dim() and id(tensor) not in indices]
    if wanted is not None and here and torch.device(wanted).index not in (None, 0, own_card):
        raise RuntimeError(f"{func} asks for another card: {wanted}")
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
        if id(one) in known:
            return known[id(one)]
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


def _tensor(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
    made = _make(data, *args, **kwargs)
    on = device is not None and torch.device(device).type == NAME
    return DeviceTensor(made) if on else made.to(device) if device is not None else made


_make = torch.tensor
_Generator = torch.Generator


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


@contextmanager
def constructors() -> Iterator[None]:
    """Within it, ``torch.tensor`` and generators know the accelerator."""
    with mock.patch.multiple(torch, tensor=_tensor, Generator=Generator):
        yield


@contextmanager
def whole_harness() -> Iterator[None]:
    """Within it, the harness computes on the accelerator what it is asked to."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    starts = [mock.patch.object(module, "serve", serve) for module in (local, planning)]
    with constructors(), OnDevice(), starts[0], starts[1]:
        yield


_serve = content_process.serve
_work = content_process.work


def serve(connection: Any) -> None:
    """The life of a process that knows the accelerator."""
    content_process.work = work
    with whole_harness():
        _serve(connection)


def work(connection: Any, tell: Any, job: Any, device: str) -> None:
    """The life of a worker; leaves a note of its card."""
    global own_card
    own_card = torch.device(device).index or 0
    (job.store.parent / f"worker on {device}").touch()
    _work(connection, tell, job, device)
