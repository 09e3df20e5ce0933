"""The memory budget of a tower's activations, and checkpointing that keeps to it.

The forward pass keeps the activations that the backward pass needs. If they take too much memory,
they are computed again instead, piece by piece (Chen et al., *Training Deep Nets with Sublinear
Memory Cost*, arXiv:1604.06174). The pieces of a text tower are the same in either case, so the
budget changes neither its features nor its gradients, not even in their last bit. The pieces of an
image tower are micro-batches, as large as the budget allows, so another budget rounds differently.
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
"""Activations below this many bytes are kept without a look at the free memory."""

ON_CPU = 4 * 2**30
"""Bytes of an image tower's micro-batch on a processor without a budget.

The value is the same on every machine, so that the numbers are the same.
"""

_budget: int | None = None


def set_memory_budget(size: int | None) -> None:
    """Set the bytes that a tower's activations may take; None means a share of free memory."""
    global _budget
    _budget = size


def current_budget() -> int | None:
    """Return the bytes that were set; None means a share of the free memory."""
    return _budget


@contextmanager
def memory_budget(size: int | None) -> Iterator[None]:
    """Set the budget within this context."""
    before = _budget
    set_memory_budget(size)
    try:
        yield
    finally:
        set_memory_budget(before)


class SelectiveCheckpoint:
    """A run of a tower's pieces; some keep their activations, others compute them again.

    Args:
        sizes: bytes of activations of each piece, in the order in which they will run.
        device: the device that the pieces run on.
        learned: True if there will be a backward pass.
    """

    def __init__(self, sizes: list[int], device: torch.device, learned: bool) -> None:
        room = sum(sizes)
        if learned and _budget is not None:
            room = _budget
        elif learned and room > ALWAYS:
            room = int(SHARE * free_memory(device))
        # The backward pass begins with the last piece. So the last pieces keep their activations:
        # these are freed by the time the other pieces are computed again.
        kept = [room >= total for total in accumulate(reversed(sizes))]
        self.kept = kept[::-1]
        self._pieces = iter(self.kept)

    def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Run the next piece and return its result."""
        if next(self._pieces):
            return function(*arguments)
        return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)  # type: ignore[return-value]


def kept_numbers(tokens: int, width: int, blocks: int, *, trained: bool, gated: bool) -> int:
    """Return how many numbers the backward pass of one image through some blocks keeps.

    The factors were counted from the tensors that autograd saves: 11 for each number of a token,
    five more if the blocks' weights are trained, and seven more in EVA's blocks, whose MLP has a
    gate.
    """
    return tokens * width * blocks * (11 + 5 * trained + 7 * gated)


def in_micro_batches(
    compute: Callable[[slice], Sequence[Tensor]],
    images: int,
    image_bytes: int,
    device: torch.device,
    rng: torch.Generator | None = None,
) -> list[Tensor]:
    """Return a function of images, computed in parts whose activations fit the memory.

    The gradients equal those of one batch within rounding, for every loss: the parts' results are
    concatenated, and all but the last parts are computed again in the backward pass.

    Args:
        compute: returns tensors for a part of the images, with images as first dimension.
        images: number of images.
        image_bytes: bytes that the backward pass of one image keeps.
        device: the device that the images are on.
        rng: the generator that ``compute`` draws from; a part that is computed again gets the
            same draws.
    """
    room: float = ON_CPU
    if _budget:
        room = _budget
    elif device.type == "cuda":
        room = SHARE * free_memory(device)
    images_per_part = max(int(room / image_bytes), 1)
    count = min(-(-images // images_per_part), images)
    if count <= 1:
        return list(compute(slice(None)))
    ends = [images * i // count for i in range(count + 1)]
    sizes = [(end - start) * image_bytes for start, end in pairwise(ends)]
    pieces = SelectiveCheckpoint(sizes, device, learned=True)
    results = []
    for start, end in pairwise(ends):
        results.append(pieces.run(_repeat_draws(compute, rng), slice(start, end)))
    return [torch.cat(parts) for parts in zip(*results, strict=True)]


def _repeat_draws(function: Callable[..., T], rng: torch.Generator | None) -> Callable[..., T]:
    """Return the function so that each call draws the same numbers as the first one."""
    if rng is None:
        return function
    state = rng.get_state()
    called = False

    def replay(*arguments: object) -> T:
        nonlocal called
        later = rng.get_state()
        rng.set_state(state)
        try:
            return function(*arguments)
        finally:
            # Only the first call advances the generator.
            if called:
                rng.set_state(later)
            called = True

    return replay


def free_memory(device: torch.device) -> int:
    """Return the bytes that are available on a device, or to this process on the machine."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # Memory that torch has reserved and does not use is free as well.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    room = 4 * 2**30
    with suppress(OSError, KeyError):  # no such file outside Linux
        room = _read_fields(Path("/proc/meminfo"))["MemAvailable:"] * 1024
    # A container may have a lower limit (control groups, version 2).
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError, KeyError):
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        # Cached files count as used, but the kernel drops them when memory is needed.
        cached = _read_fields(group / "memory.stat")["inactive_file"]
        room = min(room, max(0, limit - used + cached))
    return room


def _read_fields(path: Path) -> dict[str, int]:
    """Return the numbers of a file with a name and a number in each line."""
    fields = {}
    for line in path.read_text().splitlines():
        name, number = line.split()[:2]
        fields[name] = int(number)
    return fields
