"""Frozen image features and tokens, computed once and kept in a content-addressed cache."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from compatbench.data.cache_files import FEATURES as FOLDER
from compatbench.data.cache_files import (
    Unfinished,
    list_entries,
    prune_entries,
    read_entry,
    write_entry,
)
from compatbench.data.encoding import BATCH, ImageEncoder, Images, OnEncoded, encode, views_together
from compatbench.data.images.dataset_files import BrokenImages
from compatbench.data.images.source import Sample
from compatbench.data.images.views import View
from compatbench.data.task import Task
from compatbench.errors import CompatbenchError

WHOLE = 0.5  # a draw of at least this share of a split has the whole split encoded
FREE_SHARE = 0.5  # of the room that the disk has for this cache: what all sets may take together
MOST_IN_MEMORY = 512 * 2**20  # bytes of recently used entries that a process keeps
PART = 4 * BATCH  # images in an entry of tokens; 155 MB of them at ViT-B/16


class FeatureCache:
    """Image features on disk, shared by methods, seeds and processes.

    An entry is named by the hash of everything that decides it. It is written atomically, has a
    checksum, and is computed again if it is damaged. Of several processes that need the same
    entry, one computes it and the others wait.
    """

    def __init__(
        self,
        folder: Path,
        on_encoded: OnEncoded = lambda done, total: None,
        limit: int | None = None,
        decoders: int | None = None,
    ) -> None:
        """``limit``: bytes of all entries; beyond it the longest unused make way.

        ``decoders``: as for ``encode``.
        """
        self.folder = folder / FOLDER
        self.limit = limit
        self.decoders = decoders
        self.on_encoded = on_encoded
        self._memory: dict[str, Tensor] = {}
        self._broken: dict[str, BrokenImages] = {}  # entries that cannot be computed

    def features(
        self,
        backbone: ImageEncoder,
        task: Task,
        samples: Sequence[Sample],
        split: Sequence[Sample] | None = None,
    ) -> Tensor:
        """Features of samples, not normalised, ``[samples, e]``, float32.

        Draws that are a large part of the ``split`` that they are from share its features.
        """
        return self.features_of_views(backbone, task, samples, [View()], split)[0]

    def features_of_views(
        self,
        backbone: ImageEncoder,
        task: Task,
        samples: Sequence[Sample],
        views: Sequence[View],
        split: Sequence[Sample] | None = None,
    ) -> list[Tensor]:
        """The same under each of several views, for which an image is decoded once."""
        encoded, rows = _cover(samples, split)
        wanted = [Images(backbone, task, encoded, view) for view in views]
        keys = [images.key for images in wanted]
        entries = {key: self._memory[key] for key in keys if key in self._memory}
        missing = [images for images in wanted if images.key not in entries]
        row_bytes = backbone.embed_dim * torch.float32.itemsize if missing else 0
        for images, entry in zip(missing, self._entries(missing, row_bytes), strict=True):
            entries[images.key] = self._memory[images.key] = entry.to(backbone.device)
        held = sum(tensor.nbytes for tensor in self._memory.values())
        while held > MOST_IN_MEMORY and len(self._memory) > 1:
            held -= self._memory.pop(next(iter(self._memory))).nbytes
        features = [entries[key] for key in keys]
        return features if rows is None else [each[rows.to(each.device)] for each in features]

    def tokens(
        self,
        backbone: ImageEncoder,
        task: Task,
        samples: Sequence[Sample],
        wanted: Any,
        views: Sequence[View] = (View(),),
        split: Sequence[Sample] | None = None,
    ) -> list[StoredRows]:
        """What a classifier takes for samples instead of features, by view; it stays on disk.

        Where the disk has no room for it, it is computed whenever it is asked for.

        ``wanted`` is an ``ImageInput``; ``NotTransferable`` if the image tower cannot give it.
        If it has views of its own, they are together, in place of each of ``views``.
        """
        encoded, rows = _cover(samples, split)
        rows = torch.arange(len(encoded)) if rows is None else rows
        stored_views = [View(number) for number in range(1 + wanted.views)]
        groups = [stored_views if wanted.views else [view] for view in views]
        whole = [
            [Images(backbone, task, encoded, view, wanted) for view in group] for group in groups
        ]
        parts = [  # by part of the images, then as the views
            [replace(images, samples=encoded[i : i + PART]) for group in whole for images in group]
            for i in range(0, len(encoded), PART)
        ]
        row_bytes = self._row_bytes(parts)
        if row_bytes is None:
            return [FreshRows(group, rows, backbone.device, self.encode) for group in whole]
        stored = [*zip(*(self._entries(part, row_bytes) for part in parts), strict=True)]
        width = 1 + wanted.views
        starts = range(0, width * len(views), width)
        return [StoredRows(stored[i : i + width], rows, backbone.device) for i in starts]

    def encode(self, images: Sequence[Images], filled: bool = False) -> list[Tensor]:
        """The same images under several views, encoded now and not kept; see ``encode``."""
        return encode(images, self.on_encoded, self.decoders, filled=filled)

    def _row_bytes(self, parts: Sequence[Sequence[Images]]) -> int | None:
        """Bytes of an image in these entries, of which one that is missing is computed.

        0 if all are there; None if they exceed the limit, or if all sets together would take more
        than half of the room that the disk has for them.
        """
        every = [images for part in parts for images in part]
        missing = [images for images in every if not self._path(images).is_file()]
        if not missing:
            return 0
        [first] = self._entries(missing[:1], 1)
        row_bytes = first.nbytes // max(len(first), 1)
        counted, most = every, float(self.limit or 0)
        if self.limit is None:
            stored = sum(entry.size for entry in list_entries(self.folder.parent))
            room = stored + shutil.disk_usage(self.folder).free
            counted, most = missing[1:], FREE_SHARE * room - stored
        fits = row_bytes * sum(len(images.samples) for images in counted) <= most
        return row_bytes if fits else None

    def _path(self, images: Images) -> Path:
        return self.folder / images.key[:2] / f"{images.key}.safetensors"

    def _entries(self, wanted: Sequence[Images], row_bytes: int) -> list[Tensor]:
        """Entries of the same images under several views, memory-mapped if they were read.

        Those that are missing are computed together, which give ``row_bytes`` for an image.
        """
        if broken := [self._broken[images.key] for images in wanted if images.key in self._broken]:
            raise broken[0]  # or images would be encoded again for each method
        entries = {images.key: self._read(images) for images in wanted}
        missing = list(
            {images.key: images for images in wanted if entries[images.key] is None}.values()
        )
        if missing:
            most = views_together(missing[0].backbone, len(missing[0].samples), row_bytes)
            for i in range(0, len(missing), most):
                entries |= self._compute(missing[i : i + most])
        return [entries[images.key] for images in wanted]  # type: ignore[misc]

    def _read(self, images: Images) -> Tensor | None:
        entry = read_entry(path := self._path(images), warn=True)
        if entry is not None and self.limit is not None:
            with suppress(OSError):  # it has just made way for another
                now = time.time_ns()  # the kernel's clock is coarse
                os.utime(path, ns=(now, now))
        return entry

    def _compute(self, wanted: Sequence[Images]) -> dict[str, Tensor]:
        """Entries by their keys, computed unless another process was faster."""
        computed: dict[str, Tensor] = {}
        with ExitStack() as locks:
            # In one order, or two processes could wait for each other.
            for path in sorted(map(self._path, wanted)):
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    locks.enter_context(FileLock(path.with_suffix(".lock")).acquire())
                except OSError as error:
                    raise CompatbenchError(
                        f"cannot write the feature cache {path.parent}: {error.strerror}; "
                        "set COMPATBENCH_CACHE to a folder that can be written"
                    ) from None
            for images in wanted:
                if (entry := read_entry(self._path(images))) is not None:
                    computed[images.key] = entry
            if not (missing := [images for images in wanted if images.key not in computed]):
                return computed
            unfinished = Unfinished(list(map(self._path, missing)))
            try:
                entries = encode(missing, self.on_encoded, self.decoders, unfinished)
            except BrokenImages as error:
                unfinished.remove()
                self._broken |= {images.key: error.with_traceback(None) for images in missing}
                raise
            for images, entry in zip(missing, entries, strict=True):
                path = self._path(images)
                write_entry(path, entry, images.about)
                # Mapped, so that the computed tensor can be freed; unless it has just made way.
                mapped = None if images.wanted is None else read_entry(path)
                computed[images.key] = entry if mapped is None else mapped
            unfinished.remove()
            if self.limit is not None:
                prune_entries(self.folder.parent, self.limit, None)
        return computed


def _cover(
    samples: Sequence[Sample], split: Sequence[Sample] | None
) -> tuple[Sequence[Sample], Tensor | None]:
    """What to encode for samples, and their rows in it if it is more than the samples."""
    if split is None or len(samples) < WHOLE * len(split):
        return samples, None
    places = {sample.id: i for i, sample in enumerate(split)}
    return split, torch.tensor([places[sample.id] for sample in samples], dtype=torch.long)


_READER = ThreadPoolExecutor(1, "rows that are asked for next")  # of a process


def reads_ahead(device: torch.device) -> bool:
    """Whether rows are read before they are asked for: on a processor both would share a core."""
    return device.type != "cpu"


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
        self._following: tuple[Tensor, Future[Tensor]] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Tensor) -> Tensor:
        """The rows of an index ``[n]``, ``[n, ...]``; no device is waited for."""
        following, self._following = self._following, None
        if following is not None and torch.equal(following[0], index):
            return following[1].result()
        return self._load(index)

    def prefetch(self, index: Tensor) -> None:
        """Begins to read the rows that are asked for next, beside what an accelerator computes."""
        if reads_ahead(self._device):
            self._following = index, _READER.submit(self._load, index)

    def _load(self, index: Tensor) -> Tensor:
        views = self._read(self._rows[index.cpu()].tolist())
        rows = views[0] if len(views) == 1 else torch.stack(views, dim=1)
        if self._device.type == "cuda":
            return rows.pin_memory().to(self._device, non_blocking=True)
        return rows.to(self._device)

    def _read(self, chosen: Sequence[int]) -> list[Tensor]:
        """Rows of the entries, by view."""
        return [torch.stack([view[i // PART][i % PART] for i in chosen]) for view in self._views]

    def batches(self) -> Iterator[Tensor]:
        """All rows in order, a batch at a time."""
        parts = torch.arange(len(self)).split(BATCH)
        for index, following in zip(parts, (*parts[1:], None), strict=True):
            rows = self[index]
            if following is not None:
                self.prefetch(following)
            yield rows


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
        views = [view[(rows - whole).clamp(min=0)] for view in self._compute(range(whole, count))]
        if not late.all():
            for view, early in zip(views, self._compute(rows[~late].tolist(), True), strict=True):
                view[~late] = early
        return views

    def _compute(self, chosen: Sequence[int], filled: bool = False) -> list[Tensor]:
        samples = [self._images[0].samples[i] for i in chosen]
        return self._encode([replace(images, samples=samples) for images in self._images], filled)
