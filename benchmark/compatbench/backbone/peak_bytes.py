"""How many bytes a computation takes, on any device."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PROBE = 4  # images whose encoding tells what an image takes
MOST = 512  # images that are encoded together; more gain no speed


class PeakBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that are made within it; ``most`` were in use at once."""

    def __init__(self) -> None:
        super().__init__()
        self.most = self._now = 0
        self._held: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = function(*args, **(kwargs or {}))
        # What is made of a tensor without a copy takes nothing.
        given = {id(one.untyped_storage()) for one in tree_leaves((args, kwargs)) if _holds(one)}
        for one in filter(_holds, tree_leaves(found)):
            storage = one.untyped_storage()
            if (name := id(storage)) not in given | self._held:
                self._held.add(name)
                self._now += storage.nbytes()
                self.most = max(self.most, self._now)
                weakref.finalize(storage, self._free, name, storage.nbytes())
        return found

    def _free(self, name: int, size: int) -> None:
        self._held.discard(name)
        self._now -= size


def _holds(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided


def fit_batch(encode: Callable[[int], object], room: float) -> int:
    """How many images fit into so many bytes: a power of two, ``MOST`` at most."""
    with PeakBytes() as peak:
        encode(PROBE)
    fits = int(room / max(peak.most / PROBE, 1))
    return 1 << (min(max(fits, 1), MOST).bit_length() - 1)
