"""Classifies images a batch at a time, sized by what they take and by the memory budget."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from compatbench.backbone.text.memory import current_budget
from compatbench.data.feature_cache import BATCH, StoredRows
from compatbench.transfer import OldAnswers

MOST = 2**30  # bytes that a batch may take, unless the memory budget is less
PROBE = 8  # images whose classification tells what an image takes


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


def batch_size(answer: Callable[[Tensor], Tensor], images: int) -> int:
    """How many images ``answer`` is asked for at once.

    All of them, where they take less than ``MOST`` and the memory budget; otherwise a power of
    two. What an image takes is measured with a few.
    """
    if images <= PROBE:
        return images
    with PeakBytes() as peak:
        answer(torch.arange(PROBE))
    room = min(MOST, current_budget() or MOST)
    most = max(int(room / max(peak.most / PROBE, 1)), 1)
    return images if images <= most else 1 << (most.bit_length() - 1)


def answer_batches(
    classifier: Callable[..., Tensor],
    inputs: Tensor | StoredRows,
    stream: int | None = None,
    old: OldAnswers | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """How many images come next, in order, and their logits ``[images, classes]``.

    The arguments are as for ``measure``. A stream is one call, and so one batch.
    """

    def answer(rows: Tensor) -> Tensor:
        rows = rows.to(inputs.device) if isinstance(inputs, Tensor) else rows
        return classifier(inputs[rows]) if old is None else classifier(inputs[rows], old[rows])

    count = len(inputs)
    if stream is not None:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(stream))
        yield count, answer(order)[order.argsort()]
        return
    # What is on disk is read batch by batch.
    size = batch_size(answer, count) if isinstance(inputs, Tensor) else BATCH
    if isinstance(inputs, Tensor) and size >= count:
        yield count, classifier(inputs) if old is None else classifier(inputs, old)
        return
    for rows in torch.arange(count).split(size):
        yield len(rows), answer(rows)


def run_classifier(
    classifier: Callable[..., Tensor], inputs: Tensor | StoredRows, stream: int | None = None
) -> Tensor:
    """Logits of all images ``[images, classes]``; the arguments are as for ``measure``."""
    return torch.cat([logits for _, logits in answer_batches(classifier, inputs, stream)])
