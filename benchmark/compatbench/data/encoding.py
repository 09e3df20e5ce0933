"""Encodes images with a frozen backbone: each decoded once for all views, a batch at a time.

On a processor a batch is 64 images of one view, always, so that features are the same to the last
bit. On a GPU it is as many as the memory holds, and half of them wherever it does not; copies to
the device run beside what is computed there, which is waited for when rows are written.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from compatbench.data.cache_files import Unfinished
from compatbench.data.images.source import ImageSource, Sample
from compatbench.data.images.views import View
from compatbench.data.task import Task
from compatbench.engine_version import ENGINE_VERSION
from compatbench.errors import CompatbenchWarning
from compatbench.files.hashes import sha256_json
from compatbench.files.processes import count_cores, inherited
from compatbench.messages import first_line

BATCH = 64
MOST_DECODED = 256 * 2**20  # bytes of images that a processor's batch may take, with all views
MOST_ENCODED = 2**30  # bytes of what is encoded together
KEEP_SECONDS = 60.0  # after which what was encoded is written
# Images, counted under each view, from which on it is worth to start processes.
MANY = 4096
MOST_THREADS = 8  # more would wait for each other
PIECE = 32  # images, counted under each view, that a process sends at once: 19 MB at 224 pixels
AHEAD = 2  # pieces that each process may be ahead

ImageEncoder = Any  # a ``compatbench.backbone.Backbone``, of a room above this one
# Called with the number of images encoded so far, and of all.
OnEncoded = Callable[[int, int], object]


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
                arithmetic(self.backbone),
                self.task.source.fingerprint(self.samples),
                self.view.settings,
                [self.wanted.kind, self.wanted.block] if self.wanted else ["features", 0],
                ENGINE_VERSION,
            ]
        )

    @property
    def about(self) -> dict[str, Any]:
        """What an entry says of itself."""
        about = {"backbone": self.backbone.name, "task": self.task.name}
        return about | {"images": len(self.samples), "view": self.view.number}


def arithmetic(backbone: ImageEncoder) -> str:
    """What decides the last digits: precision and, unless it is a processor, kind of device."""
    words, kind = [str(backbone.dtype)], backbone.device.type
    if kind != "cpu":
        words.append(kind)
    if kind == "cuda" and torch.get_float32_matmul_precision() != "highest":
        words.append("tf32")
    return " ".join(words)


def views_together(backbone: ImageEncoder, images: int, row_bytes: int) -> int:
    """Under how many views images are encoded at once, each of which gives ``row_bytes``."""
    most = MOST_ENCODED // max(images * row_bytes, 1)
    if backbone.device.type == "cpu":
        each = 3 * _side(backbone) ** 2 * backbone.dtype.itemsize
        most = min(most, MOST_DECODED // (BATCH * each))
    return min(max(most, 1), BATCH)


def _side(backbone: ImageEncoder) -> int:
    size = backbone.preprocess_settings["size"]
    return size if isinstance(size, int) else min(size)


@torch.no_grad()
def encode(
    entries: Sequence[Images],
    on_encoded: OnEncoded,
    decoders: int | None = None,
    unfinished: Unfinished | None = None,
    filled: bool = False,
) -> list[Tensor]:
    """What entries of the same images under several views hold, on the CPU.

    Args:
        on_encoded: is told of images under each view.
        decoders: processes or threads; None is one for a processor, and for a GPU one per core.
        unfinished: where rows are kept meanwhile.
        filled: a processor's last batch is filled up with zeros, for rows with the bytes that they
            have in a whole one.
    """
    first, views = entries[0], len(entries)
    backbone, samples = first.backbone, first.samples
    if not samples:
        return [torch.zeros(0, backbone.embed_dim) for _ in entries]
    if on_cpu := backbone.device.type == "cpu":
        size = at_once = BATCH
    else:
        at_once = backbone.images_at_once(*([first.wanted] if first.wanted else []))
        size = max(at_once // views, 1)
    kept = unfinished.read() if unfinished else []  # each [views, n, ...]
    start = done = sum(part.shape[1] for part in kept)
    fresh: list[Tensor] = []

    def keep() -> None:
        """Waits for the device, and moves what it has encoded."""
        if fresh:
            kept.append(torch.cat(fresh, dim=1).cpu())
            if unfinished and done < len(samples):
                unfinished.write(start, kept[-1], first.about)
            fresh.clear()

    decoder = Decoder(
        first.task.source,
        tuple(entry.view for entry in entries),
        backbone.preprocess,
        _side(backbone),
        backbone.dtype,
    )
    send, last = _Upload(backbone.device), time.monotonic()
    decoders = decoders or (1 if on_cpu else count_cores())
    with closing(decoder.batches(samples[done:], size, decoders)) as batches:
        for pieces in batches:
            sent = [send(piece) for piece in pieces]
            images = sent[0] if len(sent) == 1 else torch.cat(sent, dim=1)
            count = images.shape[1]
            if filled and on_cpu:
                images = F.pad(images, (*(0, 0) * 3, 0, BATCH - count))
            each = images.shape[1]
            rows, at_once = _encode(first, images.flatten(0, 1), each if on_cpu else at_once)
            fresh.append(rows.unflatten(0, (views, each))[:, :count])
            done += count
            on_encoded(views * done, views * len(samples))
            if time.monotonic() - last > KEEP_SECONDS:
                keep()
                start, last = done, time.monotonic()
    keep()
    return [*torch.cat(kept, dim=1)]


def _encode(first: Images, rows: Tensor, at_once: int) -> tuple[Tensor, int]:
    """Rows ``[n, 3, H, W]`` encoded, and how many at once: fewer, where the memory is short."""
    wanted = [first.wanted] if first.wanted else []
    while True:
        try:
            parts = [first.backbone.encode_images(batch, *wanted) for batch in rows.split(at_once)]
            return (parts[0] if len(parts) == 1 else torch.cat(parts)), at_once
        except torch.cuda.OutOfMemoryError:
            at_once = min(at_once, len(rows)) // 2
            if at_once == 0:
                raise
        # Here the error, and what its frames hold, is gone.
        torch.cuda.empty_cache()


class _Upload:
    """Sends images to a device; to CUDA's by a stream of its own, which nothing waits for."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, images: Tensor) -> Tensor:
        if self._stream is None:
            return images.to(self._device)
        with torch.cuda.stream(self._stream):
            sent = images.pin_memory().to(self._device, non_blocking=True)
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._stream)
        sent.record_stream(computing)
        return sent


@dataclass(frozen=True)
class Decoder:
    """Decodes images, each once, and gives them preprocessed under each of several views."""

    source: ImageSource
    views: tuple[View, ...]
    preprocess: Callable[[Image.Image], Tensor]
    side: int  # pixels of an augmented image
    dtype: torch.dtype

    def decode(self, sample: Sample) -> Tensor:
        """The views of an image, ``[views, 3, H, W]``."""
        image = self.source.image(sample)
        seen = [self.preprocess(view.apply(image, sample.id, self.side)) for view in self.views]
        return torch.stack(seen).to(self.dtype)

    def __getitem__(self, samples: Sequence[Sample]) -> Tensor | Exception:
        """The views of some images, ``[views, n, 3, H, W]``; an error is sent, not raised."""
        try:
            return torch.stack([self.decode(sample) for sample in samples], dim=1)
        except Exception as error:
            return error

    def batches(
        self, samples: Sequence[Sample], size: int, decoders: int
    ) -> Generator[list[Tensor], None, None]:
        """Batches of ``size`` images in order, each in pieces ``[views, n, 3, H, W]``.

        The next ones are decoded while one is used, by ``decoders`` processes or threads.
        """
        many = len(samples) * len(self.views) >= MANY
        apart = many and decoders > 1 and self.source.decoders is None
        cut = max(PIECE // len(self.views), 1) if apart else size
        batches = [samples[i : i + size] for i in range(0, len(samples), size)]
        pieces = [[batch[i : i + cut] for i in range(0, len(batch), cut)] for batch in batches]
        decode = self._in_processes if apart else self._in_threads
        with closing(decode([piece for batch in pieces for piece in batch], decoders)) as decoded:
            for batch in pieces:
                yield [next(decoded) for _ in batch]

    def _in_threads(
        self, pieces: Sequence[Sequence[Sample]], threads: int
    ) -> Generator[Tensor, None, None]:
        with ThreadPoolExecutor(min(threads, MOST_THREADS)) as pool:
            following = [pool.submit(self.decode, sample) for sample in pieces[0]]
            for piece in [*pieces[1:], ()]:
                current, following = following, [pool.submit(self.decode, image) for image in piece]
                yield torch.stack([future.result() for future in current], dim=1)

    def _in_processes(
        self, pieces: Sequence[Sequence[Sample]], count: int
    ) -> Generator[Tensor, None, None]:
        alone: Any = replace(self, source=self.source.without_lists())
        loader = DataLoader(
            alone,
            batch_size=None,
            sampler=pieces,
            num_workers=count,
            prefetch_factor=AHEAD,
            multiprocessing_context="spawn",
        )
        with inherited(1):
            decoded = iter(loader)
        done, died = 0, ""
        try:
            while done < len(pieces) and not died:
                try:
                    piece = next(decoded)
                except RuntimeError as error:  # torch's own; those of images are sent as values
                    died = first_line(error)
                    continue
                if isinstance(piece, Exception):
                    raise piece
                yield piece
                done += 1
        finally:
            del decoded  # ends its processes, which hold the memory that may be short
        if died:
            what = "a process that decodes images has died, perhaps for lack of memory (/dev/shm)"
            warnings.warn(
                f"{what}: {died}; threads go on. Give fewer --decoders",
                CompatbenchWarning,
                stacklevel=2,
            )
            yield from self._in_threads(pieces[done:], count)
