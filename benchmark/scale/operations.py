"""Counts operations that compute, in any checkout: it imports nothing of the project."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._python_dispatch import TorchDispatchMode

AT = torch.ops.aten
# They make room or another view of numbers that are there, and start nothing.
FREE = {AT.empty.memory_format, AT.empty_like.default, AT.empty_strided.default}
FREE |= {AT.new_empty.default, AT.new_empty_strided.default, AT._unsafe_view.default}
FREE |= {AT.lift_fresh.default, AT._local_scalar_dense.default, AT.detach.default}


class Counter(TorchDispatchMode):
    """Counts operations that compute; ``at_steps`` has the counts at the ends of steps."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.at_steps = 0, list[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view and func not in FREE
        return func(*args, **(kwargs or {}))


@contextmanager
def count_steps() -> Iterator[Counter]:
    """Counts the operations of fits, and notes where each step of an optimiser ends."""
    counter = Counter()
    hook = register_optimizer_step_post_hook(lambda *_: counter.at_steps.append(counter.count))
    try:
        with counter:
            yield counter
    finally:
        hook.remove()
