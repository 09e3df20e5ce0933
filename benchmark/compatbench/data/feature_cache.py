"""Frozen image features and tokens, computed once and kept in a content-addressed cache."""

from __future__ import annotations

import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from compatbench.data.cache_files import FEATURES as FOLDER
from compatbench.data.cache_files import prune_entries, read_entry, write_entry
from compatbench.data.images import BrokenImages, Sample, View
from compatbench.data.task import Task
from compatbench.engine_version import ENGINE_VERSION
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.files.hashes import sha256_json

BATCH = 64
PART = 4 * BATCH  # images in an entry of tokens; 155 MB of them at ViT-B/16
# Threads that read and decode images while an accelerator computes. On a CPU, where the
# backbone takes longer than any image, more than one would only wait for each other.
DECODERS = 4
WHOLE = 0.5  # a draw of at least this share of a split has the whole split encoded
FREE_SHARE = 0.5  # of the disk's free room that the tokens of one set may take
MOST_IN_MEMORY = 512 * 2**20  # bytes of recently used entries that a process keeps

ImageEncoder = Any  # a ``compatbench.backbone.Backbone``, of a room above this one
# Called with the number of images encoded so far, and of all.
OnEncoded = Callable[[int, int], object]


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
    ) -> None:
        """``limit``: bytes of all entries; beyond it the longest unused make way."""
        self.folder = folder / FOLDER
        self.limit = limit
        self.on_encoded = on_encoded
        self._memory: dict[str, Tensor] = {}
        self._broken: dict[str, BrokenImages] = {}  # entries that cannot be computed

    def features(
        self,
        backbone: ImageEncoder,
        task: Task,
        samples: Sequence[Sample],
        view: View | None = None,
        split: Sequence[Sample] | None = None,
    ) -> Tensor:
        """Features of samples under a view, not normalised, ``[samples, e]``, float32.

        Draws that are a large part of the ``split`` that they are from share its features.
        """
        encoded, rows = _cover(samples, split)
        batch = Images(backbone, task, encoded, view or View())
        if batch.key not in self._memory:
            self._memory[batch.key] = self._entry(batch).to(backbone.device)
            held = sum(tensor.nbytes for tensor in self._memory.values())
            while held > MOST_IN_MEMORY and len(self._memory) > 1:
                held -= self._memory.pop(next(iter(self._memory))).nbytes
        features = self._memory[batch.key]
        return features if rows is None else features[rows.to(features.device)]

    def tokens(
        self,
        backbone: ImageEncoder,
        task: Task,
        samples: Sequence[Sample],
        wanted: Any,
        view: View | None = None,
        split: Sequence[Sample] | None = None,
    ) -> StoredRows:
        """What a classifier takes for samples instead of features; it stays on disk.

        Where the disk has no room for it, it is computed whenever it is asked for.

        ``wanted`` is an ``ImageInput``; ``NotTransferable`` if the image tower cannot give it.
        If it has views of its own, they are in place of ``view``.
        """
        encoded, rows = _cover(samples, split)
        several = [View(number) for number in range(1 + wanted.views)] if wanted.views else None
        whole = [
            Images(backbone, task, encoded, one, wanted) for one in several or [view or View()]
        ]
        parts = [
            [replace(one, samples=encoded[i : i + PART]) for i in range(0, len(encoded), PART)]
            for one in whole
        ]
        rows = torch.arange(len(encoded)) if rows is None else rows
        if self._is_too_much(parts):
            return FreshRows(whole, rows, backbone.device, self.on_encoded)
        stored = [[self._entry(images) for images in one] for one in parts]
        return StoredRows(stored, rows, backbone.device)

    def _is_too_much(self, parts: Sequence[Sequence[Images]]) -> bool:
        """Whether these entries exceed the limit, or take over half of the disk's free room."""
        every = [images for one in parts for images in one]
        missing = [images for images in every if not self._path(images).is_file()]
        if not missing:
            return False
        first = self._entry(missing[0])
        each = first.nbytes / max(len(first), 1)
        if self.limit is not None:
            return each * sum(len(images.samples) for images in every) > self.limit
        free = shutil.disk_usage(self.folder).free
        return each * sum(len(images.samples) for images in missing) > FREE_SHARE * free

    def _path(self, images: Images) -> Path:
        return self.folder / images.key[:2] / f"{images.key}.safetensors"

    def _entry(self, images: Images) -> Tensor:
        """An entry, computed if it is missing; memory-mapped if it was read."""
        if images.key in self._broken:  # as many images would be encoded again for each method
            raise self._broken[images.key]
        path = self._path(images)
        entry = read_entry(path)
        if entry is not None:
            if self.limit is not None:
                with suppress(OSError):  # it has just made way for another
                    now = time.time_ns()  # the kernel's clock is coarse
                    os.utime(path, ns=(now, now))
            return entry
        if path.is_file():
            what = f"{path} is damaged and is computed again"
            warnings.warn(what, CompatbenchWarning, stacklevel=2)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path.with_suffix(".lock")).acquire()
        except OSError as error:
            raise CompatbenchError(
                f"cannot write the feature cache {path.parent}: {error.strerror}; "
                "set COMPATBENCH_CACHE to a folder that can be written"
            ) from None
        with lock:
            # Another process may have computed it while this one waited.
            entry = read_entry(path)
            if entry is None:
                try:
                    entry = images.encode(self.on_encoded)
                except BrokenImages as error:
                    self._broken[images.key] = error.with_traceback(None)
                    raise
                about = {"backbone": images.backbone.name, "task": images.task.name}
                about |= {"images": len(entry), "view": images.view.number}
                write_entry(path, entry, about)
                if images.wanted is not None:
                    entry = read_entry(path)  # so that the computed tensor can be freed
                if self.limit is not None:
                    prune_entries(self.folder.parent, self.limit, None)
        assert entry is not None
        return entry


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
        """The rows of an index ``[n]``, ``[n, ...]``."""
        chosen = self._rows[index.cpu()].tolist()
        views = [torch.stack([one[i // PART][i % PART] for i in chosen]) for one in self._views]
        rows = views[0] if len(views) == 1 else torch.stack(views, dim=1)
        return rows.to(self._device)

    def batches(self) -> Iterator[Tensor]:
        """All rows in order, a batch at a time."""
        for index in torch.arange(len(self)).split(BATCH):
            yield self[index]


class FreshRows(StoredRows):
    """Rows that are encoded whenever they are read, for a disk that has no room for them."""

    def __init__(
        self, views: Sequence[Images], rows: Tensor, device: torch.device, on_encoded: OnEncoded
    ) -> None:
        super().__init__((), rows, device)
        self._images = views
        self._on_encoded = on_encoded

    def __getitem__(self, index: Tensor) -> Tensor:
        chosen = self._rows[index.cpu()].tolist()
        views = [
            replace(one, samples=[one.samples[i] for i in chosen]).encode(self._on_encoded)
            for one in self._images
        ]
        rows = views[0] if len(views) == 1 else torch.stack(views, dim=1)
        return rows.to(self._device)


def _cover(
    samples: Sequence[Sample], split: Sequence[Sample] | None
) -> tuple[Sequence[Sample], Tensor | None]:
    """What to encode for samples, and their rows in it if it is more than the samples."""
    if split is None or len(samples) < WHOLE * len(split):
        return samples, None
    places = {sample.id: i for i, sample in enumerate(split)}
    return split, torch.tensor([places[sample.id] for sample in samples], dtype=torch.long)


@dataclass(frozen=True)
class Images:
    """What one entry holds: images under a view, as features or as ``wanted``."""

    backbone: ImageEncoder
    task: Task
    samples: Sequence[Sample]
    view: View
    wanted: Any = None

    @cached_property
    def key(self) -> str:
        return sha256_json(
            [
                self.backbone.weights_key,
                self.backbone.card.config,
                self.backbone.preprocess_settings,
                str(self.backbone.dtype),
                self.task.source.fingerprint(self.samples),
                self.view.settings,
                [self.wanted.kind, self.wanted.block] if self.wanted else ["features", 0],
                ENGINE_VERSION,
            ]
        )

    @torch.no_grad()
    def encode(self, on_encoded: OnEncoded) -> Tensor:
        """Encodes batch by batch: at most two batches of images are in memory."""
        if not self.samples:
            return torch.zeros(0, self.backbone.embed_dim)
        wanted = [self.wanted] if self.wanted else []
        parts: list[Tensor] = []
        done = 0
        for images in self._batches():
            parts.append(self.backbone.encode_images(images, *wanted).cpu())
            done += len(images)
            on_encoded(done, len(self.samples))
        return torch.cat(parts)

    def _batches(self) -> Iterator[Tensor]:
        """Preprocessed batches ``[batch, 3, H, W]``; the next is decoded while one is used."""
        size = self.backbone.preprocess_settings["size"]
        side = size if isinstance(size, int) else min(size)

        def load(sample: Sample) -> Tensor:
            image = self.view.apply(self.task.source.image(sample), sample.id, side)
            return self.backbone.preprocess(image)

        with ThreadPoolExecutor(1 if self.backbone.device.type == "cpu" else DECODERS) as pool:
            starts = range(0, len(self.samples), BATCH)
            chunks = [self.samples[start : start + BATCH] for start in starts]
            following = [pool.submit(load, sample) for sample in chunks[0]]
            for chunk in [*chunks[1:], ()]:
                current, following = following, [pool.submit(load, sample) for sample in chunk]
                yield torch.stack([future.result() for future in current])
