"""A computation that is recorded on a device and repeated: a CUDA graph, and what may become one.

A recorded computation is repeated in the same memory, with the same numbers in place of Python's:
what it has asked of the processor stays as it was.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from compatbench.backbone.parts.memory import SHARE, current_budget, free_memory, memory_budget

MOST_MEMORY = 1 / 8  # of a card, which a graph holds as long as it lives
ROUNDING = 1e-3  # of a change, at most; inputs of another computation change most of it
AT = torch.ops.aten
SIZED = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class NotRepeatable(Exception):
    """A computation must not be recorded; the message says why."""


class Watch(TorchDispatchMode):
    """Refuses what draws, asks for numbers, computes on the processor or changes other tensors.

    Args:
        device: where it computes.
        changed: the tensors that may be changed, besides those that are made.

    Attributes:
        read: the tensors that were not made: they must live as long as it is repeated.
    """

    def __init__(self, device: torch.device, changed: Iterable[Tensor]) -> None:
        super().__init__()
        self.read: list[Tensor] = []
        self._kind = device.type
        self._changed = WeakSet(tensor.untyped_storage() for tensor in changed)
        self._made: WeakSet[torch.UntypedStorage] = WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._check(func, args, kwargs)
        given = tensors_of((args, kwargs))
        made = tensors_of(result := func(*args, **kwargs))
        self.read += [x for x in given if x.untyped_storage() not in self._made]
        before = {x.untyped_storage() for x in given}
        new = [x for x in made if x.untyped_storage() not in before]
        self._made.update(x.untyped_storage() for x in new)
        # A number of Python's becomes a tensor without dimensions, and attention returns such.
        constant = func is AT.scalar_tensor.default or "attention" in str(func)
        if any(x.device.type != self._kind and (x.ndim or not constant) for x in new) or any(
            x.device.type != self._kind and x.ndim for x in given
        ):
            raise NotRepeatable(f"{func} computes on the processor")
        return result

    def require_nothing_left(self) -> None:
        """Refuses what has left a tensor: a recording's would have no value, and go with it."""
        if self._made:
            gc.collect()
        if self._made:
            raise NotRepeatable("it leaves a tensor behind")

    def _check(self, func: Any, args: Any, kwargs: Any) -> None:
        sized = not SIZED.isdisjoint(func.tags)
        if func is AT.index.Tensor:
            sized = any(x.dtype in (torch.bool, torch.uint8) for x in tensors_of(args[1]))
        if sized or func is AT.lift_fresh.default or kwargs.get("generator") is not None:
            raise NotRepeatable(f"{func} draws, asks for numbers or is made of them")
        arguments = zip(func._schema.arguments, args, strict=False)
        written = [x for of, x in arguments if of.alias_info and of.alias_info.is_write]
        for x in tensors_of((written, kwargs.get("out"))):
            if all(x.untyped_storage() not in own for own in (self._made, self._changed)):
                raise NotRepeatable(f"{func} changes a tensor from elsewhere")


def tensors_of(values: Any) -> list[Tensor]:
    """The tensors among nested values."""
    return [x for x in tree_leaves(values) if isinstance(x, Tensor)]


class CudaGraph:
    """Runs a computation on a stream of its own, records it there, and repeats it."""

    broken = False  # nothing is recorded in this process any more

    def __init__(self, device: torch.device) -> None:
        self._device, self._graph = device, torch.cuda.CUDAGraph()
        self._stream = torch.cuda.Stream(device)
        # Set for what is recorded, so that it does not ask how much memory is free.
        self._budget = current_budget() or int(SHARE * free_memory(device))

    def run(self, compute: Callable[[], None]) -> None:
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            compute()
        current.wait_stream(self._stream)

    def rehearse(self, compute: Callable[[], None]) -> None:
        """Runs it, and refuses what waits for the device or takes much of its memory."""
        torch.cuda.empty_cache()
        before, mode = torch.cuda.memory_reserved(self._device), torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(action="ignore"):  # that it does not find all
            torch.cuda.set_sync_debug_mode("error")
        try:
            with memory_budget(self._budget):
                self.run(compute)
        finally:
            torch.cuda.set_sync_debug_mode(mode)
        taken = torch.cuda.memory_reserved(self._device) - before
        if taken > MOST_MEMORY * torch.cuda.get_device_properties(self._device).total_memory:
            raise NotRepeatable(f"it takes {taken} bytes")

    def capture(self, compute: Callable[[], None]) -> None:
        """Records it, and computes nothing.

        A failure may leave PyTorch's allocator in disorder, and is the last try of a process.
        """
        CudaGraph.broken = True
        graph = torch.cuda.graph(
            self._graph, stream=self._stream, capture_error_mode="thread_local"
        )
        # ``graph`` leaves its stream set when it fails; the outer ``stream`` puts the old one back.
        with torch.cuda.stream(self._stream), memory_budget(self._budget), graph:
            compute()
        CudaGraph.broken = False

    def replay(self) -> None:
        self._graph.replay()


def require_same(
    start: list[Tensor], once: list[Tensor], again: list[Tensor], trained: int
) -> None:
    """Refuses states that differ by more than rounding, or in which nothing ``trained`` moved."""
    learned = False
    for i, states in enumerate(zip(start, once, again, strict=True)):
        before, a, b = (x.double() for x in states)
        moved, apart, size = (float(x.norm()) for x in (a - before, a - b, a))
        exact = torch.finfo(states[0].dtype).eps if states[0].is_floating_point() else 0.0
        learned |= i < trained and moved > 80 * exact * size
        if not apart <= ROUNDING * moved + 8 * exact * size:
            raise NotRepeatable("a repeated step is not the same")
    if not learned:
        raise NotRepeatable("steps are too small to be compared")


def clone(tensors: list[Tensor]) -> list[Tensor]:
    """Copies of their values."""
    return [x.detach().clone() for x in tensors]


@torch.no_grad()
def fill(values: list[Tensor], tensors: list[Tensor]) -> None:
    """Gives tensors other values."""
    for x, value in zip(tensors, values, strict=True):
        x.copy_(value)
