"""Classifies images a batch at a time, sized by what they take and by the memory budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from compatbench.backbone.peak_bytes import PeakBytes
from compatbench.backbone.text.memory import current_budget
from compatbench.data.feature_cache import BATCH, StoredRows
from compatbench.transfer import OldAnswers

MOST = 2**30  # bytes that a batch may take, unless the memory budget is less
PROBE = 8  # images whose classification tells what an image takes


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
