"""The cache of frozen image features and tokens: computed once, and named by their content."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
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
from compatbench.errors import FolderError
from compatbench.files.atomic import cannot_write
from compatbench.files.locks import acquire_lock

WHOLE = 0.5  # for a draw of at least this share of a split, the whole split is encoded
FREE_SHARE = 0.5  # share of the disk's room for this cache that all entries may take together
MOST_IN_MEMORY = 512 * 2**20  # bytes of recent entries that a process keeps in memory
PART = 4 * BATCH  # images in an entry of tokens; 155 MB of them at ViT-B/16


class FeatureCache:
    """Image features on disk, shared by methods, seeds and processes.

    The name of an entry is the hash of everything that decides it. It is written atomically, has a
    checksum, and is computed again if it is damaged. If several processes need the same entry, one
    of them computes it and the others wait.
    """

    def __init__(
        self,
        folder: Path,
        on_encoded: OnEncoded = lambda done, total: None,
        limit: int | None = None,
        decoders: int | None = None,
    ) -> None:
        """Use the cache in a folder.

        Args:
            limit: bytes of all entries; beyond it, those that were unused longest are deleted.
            decoders: as for ``encode``.
        """
        self.folder = folder / FOLDER
        self.limit = limit
        self.decoders = decoders
        self.on_encoded = on_encoded
        # Called every second while another process encodes the same images.
        self.on_wait: Callable[[], object] = lambda: None
        self._memory: dict[str, Tensor] = {}
        self._broken: dict[str, str] = {}  # the errors of entries that cannot be computed

    def features(
        self,
        backbone: ImageEncoder,
        task: Task,
        samples: Sequence[Sample],
        split: Sequence[Sample] | None = None,
    ) -> Tensor:
        """Return features of samples, not normalised, ``[samples, e]``, float32.

        Draws that are a large part of their ``split`` share the features of the whole split.
        """
        [features] = self.features_of_views(backbone, task, samples, [View()], split)
        return features

    def features_of_views(
        self,
        backbone: ImageEncoder,
        task: Task,
        samples: Sequence[Sample],
        views: Sequence[View],
        split: Sequence[Sample] | None = None,
    ) -> list[Tensor]:
        """Return features of samples under each of several views; an image is decoded once."""
        encoded, rows = _cover(samples, split)
        requested = [Images(backbone, task, encoded, view) for view in views]
        entries = {}
        missing = []
        for images in requested:
            if images.key in self._memory:
                entries[images.key] = self._memory[images.key]
            else:
                missing.append(images)
        # The backbone encodes a text to learn its dimension, so ask only if it is needed.
        row_bytes = backbone.embed_dim * torch.float32.itemsize if missing else 0
        for images, entry in zip(missing, self._entries(missing, row_bytes), strict=True):
            on_device = entry.to(backbone.device)
            entries[images.key] = on_device
            self._memory[images.key] = on_device
        self._shrink_memory()
        features = [entries[images.key] for images in requested]
        if rows is None:
            return features
        return [each[rows.to(each.device)] for each in features]

    def _shrink_memory(self) -> None:
        """Drop the oldest entries from memory, but for one, until the others fit."""
        used = sum(tensor.nbytes for tensor in self._memory.values())
        while used > MOST_IN_MEMORY and len(self._memory) > 1:
            oldest = next(iter(self._memory))
            used -= self._memory.pop(oldest).nbytes

    def tokens(
        self,
        backbone: ImageEncoder,
        task: Task,
        samples: Sequence[Sample],
        image_input: Any,
        views: Sequence[View] = (View(),),
        split: Sequence[Sample] | None = None,
    ) -> list[StoredRows]:
        """Return rows that a classifier takes for samples instead of features, by view.

        The rows stay on the disk. If it has no room for them, they are computed whenever they are
        read.

        Args:
            image_input: an ``ImageInput``. If it has further views, they are together with the
                plain image, in place of each of ``views``.

        Raises:
            NotTransferable: the image tower cannot compute these rows.
        """
        encoded, rows = _cover(samples, split)
        if rows is None:
            rows = torch.arange(len(encoded))
        width = 1 + image_input.views  # views that are together
        groups: list[list[Images]] = []
        for view in views:
            together = [view]
            if image_input.views:
                together = [View(number) for number in range(width)]
            group = [Images(backbone, task, encoded, each, image_input) for each in together]
            groups.append(group)
        flat = list(chain.from_iterable(groups))
        parts: list[list[Images]] = []  # by part of the images, then by view
        for i in range(0, len(encoded), PART):
            part_samples = encoded[i : i + PART]
            parts.append([replace(images, samples=part_samples) for images in flat])
        row_bytes = self._row_bytes(parts)
        if row_bytes is None:
            return [FreshRows(group, rows, backbone.device, self.encode) for group in groups]
        entries = [self._entries(part, row_bytes) for part in parts]
        by_view = [*zip(*entries, strict=True)]
        starts = range(0, width * len(views), width)
        return [StoredRows(by_view[i : i + width], rows, backbone.device) for i in starts]

    def encode(self, images: Sequence[Images], filled: bool = False) -> list[Tensor]:
        """Encode the same images under several views without storing them; see ``encode``."""
        return encode(images, self.on_encoded, self.decoders, filled=filled)

    def _row_bytes(self, parts: Sequence[Sequence[Images]]) -> int | None:
        """Compute one missing entry and return the bytes of an image in it.

        Return 0 if all entries are there. Return None if they exceed the limit, or if all entries
        of the cache would take more than half of the room that the disk has for them.
        """
        every = list(chain.from_iterable(parts))
        missing = [images for images in every if not self._path(images).is_file()]
        if not missing:
            return 0
        [first] = self._entries(missing[:1], 1)
        row_bytes = first.nbytes // max(len(first), 1)
        if self.limit is None:
            stored = sum(entry.size for entry in list_entries(self.folder.parent))
            room = stored + self._free_bytes()
            counted = missing[1:]
            max_bytes = FREE_SHARE * room - stored
        else:
            counted = every
            max_bytes = float(self.limit)
        images_to_store = sum(len(images.samples) for images in counted)
        if row_bytes * images_to_store > max_bytes:
            return None
        return row_bytes

    def _free_bytes(self) -> int:
        """Return the room on the disk of the cache."""
        try:
            return shutil.disk_usage(self.folder).free
        except OSError as error:
            raise cannot_write(self.folder, error) from None

    def _path(self, images: Images) -> Path:
        return self.folder / images.key[:2] / f"{images.key}.safetensors"

    def _entries(self, requested: Sequence[Images], row_bytes: int) -> list[Tensor]:
        """Return entries of the same images under several views, memory-mapped if they were read.

        Compute missing ones together; each gives ``row_bytes`` for an image.
        """
        for images in requested:
            if images.key in self._broken:
                # Without this, images would be encoded again for each method.
                raise BrokenImages(self._broken[images.key])
        entries: dict[str, Tensor] = {}
        missing: dict[str, Images] = {}  # several of the requested entries may be the same
        for images in requested:
            entry = self._read(images)
            if entry is None:
                missing[images.key] = images
            else:
                entries[images.key] = entry
        if missing:
            to_compute = list(missing.values())
            first = to_compute[0]
            together = views_together(first.backbone, len(first.samples), row_bytes)
            for i in range(0, len(to_compute), together):
                entries |= self._compute(to_compute[i : i + together])
        return [entries[images.key] for images in requested]

    def _read(self, images: Images) -> Tensor | None:
        path = self._path(images)
        entry = read_entry(path, warn=True)
        if entry is not None and self.limit is not None:
            with suppress(OSError):  # another process may just have deleted it
                now = time.time_ns()  # the kernel's own clock is too coarse
                os.utime(path, ns=(now, now))
        return entry

    def _compute(self, requested: Sequence[Images]) -> dict[str, Tensor]:
        """Return entries by their keys; compute those that no other process has computed."""
        computed: dict[str, Tensor] = {}
        with ExitStack() as locks:
            # All processes lock in the same order, or two could wait for each other.
            for path in sorted(map(self._path, requested)):
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    lock = acquire_lock(path.with_suffix(".lock"), self.folder, self.on_wait)
                except FileNotFoundError as error:
                    raise cannot_write(path, error) from None
                except OSError as error:
                    raise FolderError(
                        f"cannot write the feature cache {path.parent}: {error.strerror}; "
                        "set COMPATBENCH_CACHE to a folder that can be written"
                    ) from None
                locks.callback(lock.release)
            missing = []
            for images in requested:
                entry = read_entry(self._path(images))
                if entry is None:
                    missing.append(images)
                else:
                    computed[images.key] = entry
            if not missing:
                return computed
            unfinished = Unfinished(list(map(self._path, missing)))
            try:
                entries = encode(missing, self.on_encoded, self.decoders, unfinished)
            except BrokenImages as error:
                unfinished.remove()
                for images in missing:
                    # Not the error itself: its traceback would keep the tensors of its frames.
                    self._broken[images.key] = str(error)
                raise
            for images, entry in zip(missing, entries, strict=True):
                path = self._path(images)
                write_entry(path, entry, images.about)
                computed[images.key] = entry
                if images.image_input is not None:
                    # Tokens are large: use the memory-mapped file, so that they can be freed.
                    mapped = read_entry(path)
                    if mapped is not None:  # another process may just have deleted it
                        computed[images.key] = mapped
            unfinished.remove()
            if self.limit is not None:
                prune_entries(self.folder.parent, self.limit, None)
        return computed


def _cover(
    samples: Sequence[Sample], split: Sequence[Sample] | None
) -> tuple[Sequence[Sample], Tensor | None]:
    """Return the images to encode for samples, and the samples' rows if these are more images."""
    if split is None or len(samples) < WHOLE * len(split):
        return samples, None
    places = {sample.id: i for i, sample in enumerate(split)}
    return split, torch.tensor([places[sample.id] for sample in samples], dtype=torch.long)


_READER = ThreadPoolExecutor(1, "rows that are read next")  # one for the whole process


def reads_ahead(device: torch.device) -> bool:
    """Return True if rows are read in advance; on a processor, both would compete for its cores."""
    return device.type != "cpu"


class StoredRows:
    """Rows ``[N]`` of memory-mapped entries of ``PART`` images, read on demand to a device.

    If there are several views, they are the second dimension of the rows.
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
        """Return the rows of an index ``[n]``, ``[n, ...]``, without waiting for the device."""
        following = self._following
        self._following = None
        if following is not None:
            expected_index, rows = following
            if torch.equal(expected_index, index):
                return rows.result()
        return self._load(index)

    def prefetch(self, index: Tensor) -> None:
        """Begin to read the rows that are needed next, while an accelerator computes."""
        if reads_ahead(self._device):
            rows = _READER.submit(self._load, index)
            self._following = (index, rows)

    def _load(self, index: Tensor) -> Tensor:
        views = self._read(self._rows[index.cpu()].tolist())
        rows = views[0] if len(views) == 1 else torch.stack(views, dim=1)
        if self._device.type == "cuda":
            return rows.pin_memory().to(self._device, non_blocking=True)
        return rows.to(self._device)

    def _read(self, chosen: Sequence[int]) -> list[Tensor]:
        """Return the chosen rows of the entries, by view."""
        views = []
        for entries in self._views:
            rows = [entries[i // PART][i % PART] for i in chosen]
            views.append(torch.stack(rows))
        return views

    def batches(self) -> Iterator[Tensor]:
        """Yield all rows in order, a batch at a time."""
        indices = torch.arange(len(self)).split(BATCH)
        for number, index in enumerate(indices):
            rows = self[index]
            if number + 1 < len(indices):
                self.prefetch(indices[number + 1])
            yield rows


class FreshRows(StoredRows):
    """Rows that are encoded whenever they are read, for a disk that has no room for them.

    On a processor, the last digits depend on how many images are encoded together. Each image is
    therefore encoded in a batch as large as its batch in an entry: the rows have the same bytes.
    """

    def __init__(
        self,
        views: Sequence[Images],
        rows: Tensor,
        device: torch.device,
        encode: Callable[[Sequence[Images], bool], list[Tensor]],
    ) -> None:
        """``encode`` is the method of a ``FeatureCache``."""
        super().__init__((), rows, device)
        self._images = views
        self._encode = encode

    def _read(self, chosen: Sequence[int]) -> list[Tensor]:
        rows = torch.tensor(chosen)
        count = len(self._images[0].samples)
        whole = count - count % BATCH  # the rows from here on are a smaller batch
        late = rows >= whole
        if self._device.type != "cpu" or not late.any():
            return self._compute(chosen, filled=True)
        # The last batch is computed as a whole, and the rows of whole batches are put over it.
        last_batch = self._compute(range(whole, count))
        places = (rows - whole).clamp(min=0)
        views = [view[places] for view in last_batch]
        if not late.all():
            early_views = self._compute(rows[~late].tolist(), filled=True)
            for view, early in zip(views, early_views, strict=True):
                view[~late] = early
        return views

    def _compute(self, chosen: Sequence[int], filled: bool = False) -> list[Tensor]:
        samples = [self._images[0].samples[i] for i in chosen]
        images_to_encode = [replace(images, samples=samples) for images in self._images]
        return self._encode(images_to_encode, filled)
