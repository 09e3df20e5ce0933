"""What classifiers take in place of features: rows on disk, or computed whenever they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from compatbench.data.encoding import BATCH, Images

PART = 4 * BATCH  # images in an entry of tokens; 155 MB of them at ViT-B/16


class StoredRows:
    """Rows ``[N]`` of memory-mapped entries of ``PART`` images, read on demand to a device.

    Of one view, or of several, which are then the rows' second dimension.
    """

    def __init__(
        self, views: Sequence[Sequence[Tensor]], rows: Tensor, device: torch.device
    ) -> None:
        self._views = views
        self._rows = rows
        self._device = device

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Tensor) -> Tensor:
        """The rows of an index ``[n]``, ``[n, ...]``; no device is waited for."""
        views = self._read(self._rows[index.cpu()].tolist())
        rows = views[0] if len(views) == 1 else torch.stack(views, dim=1)
        if self._device.type == "cuda":
            return rows.pin_memory().to(self._device, non_blocking=True)
        return rows.to(self._device)

    def _read(self, chosen: Sequence[int]) -> list[Tensor]:
        """Rows of the entries, by view."""
        return [torch.stack([one[i // PART][i % PART] for i in chosen]) for one in self._views]

    def batches(self) -> Iterator[Tensor]:
        """All rows in order, a batch at a time."""
        for index in torch.arange(len(self)).split(BATCH):
            yield self[index]


class FreshRows(StoredRows):
    """Rows that are encoded whenever they are read, for a disk that has no room for them.

    On a processor, whose last digits depend on how many images are encoded together, they have the
    bytes of stored ones: each is encoded in a batch as large as its batch in an entry.
    """

    def __init__(
        self,
        views: Sequence[Images],
        rows: Tensor,
        device: torch.device,
        encode: Callable[[Sequence[Images], bool], list[Tensor]],
    ) -> None:
        """``encode``: as that of a ``FeatureCache``."""
        super().__init__((), rows, device)
        self._images = views
        self._encode = encode

    def _read(self, chosen: Sequence[int]) -> list[Tensor]:
        rows, count = torch.tensor(chosen), len(self._images[0].samples)
        whole = count - count % BATCH  # the rows from here on are a smaller batch
        late = rows >= whole
        if self._device.type != "cpu" or not late.any():
            return self._compute(chosen, True)
        views = [one[(rows - whole).clamp(min=0)] for one in self._compute(range(whole, count))]
        if not late.all():
            for one, early in zip(views, self._compute(rows[~late].tolist(), True), strict=True):
                one[~late] = early
        return views

    def _compute(self, chosen: Sequence[int], filled: bool = False) -> list[Tensor]:
        samples = [self._images[0].samples[i] for i in chosen]
        return self._encode([replace(one, samples=samples) for one in self._images], filled)
