"""CUDA graphs on a processor: they repeat what they have seen, in the same memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from compatbench.backbone.recording import CudaGraph, NotRepeatable, tensors_of
from compatbench.method import Module


class Recording(TorchDispatchMode):
    """Notes each operation with the tensors and numbers that it had."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []  # which keep all tensors
        self.before: dict[torch.UntypedStorage, torch.UntypedStorage] = {}
        self._made: set[torch.UntypedStorage] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for storage in {x.untyped_storage() for x in tensors_of((args, kwargs))} - self._made:
            if storage not in self.before:
                self.before[storage] = storage.clone()
        result = func(*args, **kwargs)
        self._made |= {x.untyped_storage() for x in tensors_of(result)} - self.before.keys()
        self.calls.append((func, args, kwargs, result))
        return result


class FakeGraph(CudaGraph):
    """What a CUDA graph does: the same operations, in the same memory, with the same numbers."""

    made: list[FakeGraph]

    def __init__(self, device: torch.device) -> None:
        self.replays = 0
        self.made.append(self)

    def run(self, compute: Callable[[], None]) -> None:
        compute()

    rehearse = run

    def capture(self, compute: Callable[[], None]) -> None:
        with Recording() as recording:
            compute()
        self._calls = recording.calls
        for (
            storage,
            before,
        ) in recording.before.items():  # while it is recorded, nothing is computed
            storage.copy_(before)

    @torch.no_grad()
    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, before in self._calls:
            results = tensors_of(func(*args, **kwargs))
            for old, new in zip(tensors_of(before), results, strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Refusing(FakeGraph):
    """Takes all steps one by one, with the optimiser of recorded ones."""

    def rehearse(self, compute: Callable[[], None]) -> None:
        raise NotRepeatable("not now")


def require_equal(module: Module, other: Module) -> None:
    assert module.tensors.keys() == other.tensors.keys()
    for name, tensor in module.tensors.items():
        assert torch.equal(tensor, other[name]), name
