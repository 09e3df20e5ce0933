"""The memory budget of a text tower's activations, and checkpointing that keeps to it.

What a backward pass needs is kept from the forward pass, unless that takes too much memory:
then it is computed again, chunk by chunk (Chen et al., *Training Deep Nets with Sublinear
Memory Cost*, arXiv:1604.06174). The same chunks run in either case, so the budget changes
neither features nor gradients, not even in their last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

import torch
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")

SHARE = 0.5
"""The part of the free memory that is used if no budget was set."""

ALWAYS = 64 * 2**20
"""Activations below this are kept without looking at the free memory."""

_budget: int | None = None


def set_memory_budget(size: int | None) -> None:
    """Sets the bytes that a text tower's activations may take; None: a share of the free memory."""
    global _budget
    _budget = size


def current_budget() -> int | None:
    """The bytes that were set; None for a share of the free memory."""
    return _budget


@contextmanager
def memory_budget(size: int | None) -> Iterator[None]:
    """Sets the budget for a while."""
    before = _budget
    set_memory_budget(size)
    try:
        yield
    finally:
        set_memory_budget(before)


class SelectiveCheckpoint:
    """Runs the pieces of a tower; some keep their activations, others compute them again.

    Args:
        sizes: bytes of activations of each piece, in the order in which they will be run.
        learned: whether there will be a backward pass.
    """

    def __init__(self, sizes: list[int], device: torch.device, learned: bool) -> None:
        room = sum(sizes)
        if learned and _budget is not None:
            room = _budget
        elif learned and room > ALWAYS:
            room = int(SHARE * free_memory(device))
        # The backward pass begins with the last piece: what is kept should be needed first,
        # so that it is freed when the other pieces are computed again.
        self.kept = [room >= left for left in accumulate(reversed(sizes))][::-1]
        self._pieces = iter(self.kept)

    def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Runs the next piece."""
        if next(self._pieces):
            return function(*arguments)
        return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)  # type: ignore[return-value]


def free_memory(device: torch.device) -> int:
    """Bytes that are available on a device, or to this process on the machine."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What torch has reserved and does not use is free as well.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    room, group = 4 * 2**30, Path("/sys/fs/cgroup")
    with suppress(OSError, KeyError):  # no such file outside Linux
        room = _fields(Path("/proc/meminfo"))["MemAvailable:"] * 1024
    # What the container's own limit leaves (control groups, version 2), if there is one.
    with suppress(OSError, ValueError, KeyError):
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        # Cached files count as used, but make way.
        room = min(room, max(0, limit - used + _fields(group / "memory.stat")["inactive_file"]))
    return room


def _fields(path: Path) -> dict[str, int]:
    return {line.split()[0]: int(line.split()[1]) for line in path.read_text().splitlines()}
