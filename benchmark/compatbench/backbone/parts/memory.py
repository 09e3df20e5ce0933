"""The memory budget of a tower's activations, and checkpointing that keeps to it.

What a backward pass needs is kept from the forward pass, unless that takes too much memory:
then it is computed again, piece by piece (Chen et al., *Training Deep Nets with Sublinear
Memory Cost*, arXiv:1604.06174). The pieces of a text tower are the same in either case, so the
budget changes neither its features nor its gradients, not even in their last bit. Those of an
image tower are micro-batches, as large as the budget allows: another rounds differently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")

SHARE = 0.5
"""The part of the free memory that is used if no budget was set."""

ALWAYS = 64 * 2**20
"""Activations below this are kept without looking at the free memory."""

ON_CPU = 4 * 2**30
"""Bytes of an image tower's micro-batch on a processor without a budget: the same on any machine,
and so the same numbers."""

_budget: int | None = None


def set_memory_budget(size: int | None) -> None:
    """Sets the bytes that a tower's activations may take; None: a share of the free memory."""
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


def kept_numbers(tokens: int, width: int, blocks: int, *, trained: bool, gated: bool) -> int:
    """Numbers that an image's backward pass through so many blocks keeps.

    Counted from what autograd holds: 11 for each of a token's, five more where the blocks' weights
    are trained, and seven more in EVA's blocks, whose MLP has a gate.
    """
    return tokens * width * blocks * (11 + 5 * trained + 7 * gated)


def in_micro_batches(
    compute: Callable[[slice], Sequence[Tensor]],
    images: int,
    image_bytes: int,
    device: torch.device,
    rng: torch.Generator | None = None,
) -> list[Tensor]:
    """What a function computes of images, in parts whose activations fit the memory.

    Their gradients are those of one batch within rounding, whatever the loss: the parts' results
    are put together, and all but the last parts are computed again in the backward pass.

    Args:
        compute: of a part of the images, tensors whose first dimension is the image.
        image_bytes: what an image's backward pass keeps.
        rng: from which ``compute`` draws; what is computed again sees the same draws.
    """
    room = _budget or (SHARE * free_memory(device) if device.type == "cuda" else ON_CPU)
    count = min(-(-images // max(int(room / image_bytes), 1)), images)
    if count <= 1:
        return list(compute(slice(None)))
    ends = [images * i // count for i in range(count + 1)]
    sizes = [(end - start) * image_bytes for start, end in pairwise(ends)]
    pieces, results = SelectiveCheckpoint(sizes, device, learned=True), []
    for start, end in pairwise(ends):
        results.append(pieces.run(_with_its_draws(compute, rng), slice(start, end)))
    return [torch.cat(parts) for parts in zip(*results, strict=True)]


def _with_its_draws(function: Callable[..., T], rng: torch.Generator | None) -> Callable[..., T]:
    """The function, which draws the same numbers whenever it is called again."""
    if rng is None:
        return function
    state = rng.get_state()

    def replay(*arguments: object) -> T:
        later = rng.get_state()
        rng.set_state(state)
        try:
            return function(*arguments)
        finally:
            if again:
                rng.set_state(later)
            again.append(True)

    again: list[bool] = []
    return replay


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
