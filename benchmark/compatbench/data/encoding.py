"""Encoding of images with a frozen backbone: each is decoded once for all views, in batches.

On a processor, a batch is always 64 images of one view, so that features are the same to the last
bit. On a GPU, a batch has as many images as the memory holds, and is halved when it does not fit.
Copies to the device run beside its computations, and we wait for it only when rows are written.
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
MOST_ENCODED = 2**30  # bytes of the rows that are encoded together
KEEP_SECONDS = 60.0  # time after which encoded rows are written to the disk
# Images, counted under each view, from which processes are worth their start.
MANY = 4096
MOST_THREADS = 8  # more would wait for each other
PIECE = 32  # images, counted under each view, that a process sends at once: 19 MB at 224 pixels
AHEAD = 2  # pieces that each process may be ahead

ImageEncoder = Any  # a ``compatbench.backbone.Backbone``, of a room above this one
# Called with the number of images encoded so far, and of all.
OnEncoded = Callable[[int, int], object]


@dataclass(frozen=True)
class Images:
    """The content of one entry: images under a view, as features or as ``image_input``."""

    backbone: ImageEncoder
    task: Task
    samples: Sequence[Sample]
    view: View
    image_input: Any = None  # an ``ImageInput``; None for features

    @cached_property
    def key(self) -> str:
        """Return the hash of everything that decides the entry's content."""
        kind = ["features", 0]
        if self.image_input:
            kind = [self.image_input.kind, self.image_input.block]
        return sha256_json(
            [
                self.backbone.weights_key,
                self.backbone.card.config,
                self.backbone.preprocess_settings,
                arithmetic(self.backbone),
                self.task.source.fingerprint(self.samples),
                self.view.settings,
                kind,
                ENGINE_VERSION,
            ]
        )

    @property
    def about(self) -> dict[str, Any]:
        """Return the description that is stored with an entry."""
        return {
            "backbone": self.backbone.name,
            "task": self.task.name,
            "images": len(self.samples),
            "view": self.view.number,
        }


def arithmetic(backbone: ImageEncoder) -> str:
    """Return what decides the last digits: precision and, unless it is a CPU, kind of device."""
    words = [str(backbone.dtype)]
    kind = backbone.device.type
    if kind != "cpu":
        words.append(kind)
    if kind == "cuda" and torch.get_float32_matmul_precision() != "highest":
        words.append("tf32")
    return " ".join(words)


def views_together(backbone: ImageEncoder, images: int, row_bytes: int) -> int:
    """Return the number of views to encode at once, if an image gives ``row_bytes`` per view."""
    views = MOST_ENCODED // max(images * row_bytes, 1)
    if backbone.device.type == "cpu":
        image_bytes = 3 * _side(backbone) ** 2 * backbone.dtype.itemsize
        views = min(views, MOST_DECODED // (BATCH * image_bytes))
    return min(max(views, 1), BATCH)


def _side(backbone: ImageEncoder) -> int:
    size = backbone.preprocess_settings["size"]
    if isinstance(size, int):
        return size
    return min(size)


@torch.no_grad()
def encode(
    entries: Sequence[Images],
    on_encoded: OnEncoded,
    decoders: int | None = None,
    unfinished: Unfinished | None = None,
    filled: bool = False,
) -> list[Tensor]:
    """Encode entries of the same images under several views; return each one's rows, on the CPU.

    Args:
        on_encoded: called with the images encoded so far, counted under each view, and of all.
        decoders: processes or threads. None means one on a processor, and one per core for a GPU.
        unfinished: the place where rows are stored meanwhile.
        filled: fill up a processor's last batch with zeros, so that its rows have the same bytes
            as in a whole batch.
    """
    first = entries[0]
    views = len(entries)
    backbone = first.backbone
    samples = first.samples
    if not samples:
        return [torch.zeros(0, backbone.embed_dim) for _ in entries]
    on_cpu = backbone.device.type == "cpu"
    if on_cpu:
        at_once = BATCH
        size = BATCH
    else:
        at_once = backbone.images_at_once(*_input_arguments(first))
        size = max(at_once // views, 1)
    kept = unfinished.read() if unfinished else []  # each [views, n, ...]
    done = sum(part.shape[1] for part in kept)
    start = done  # the first row that is not yet kept
    fresh: list[Tensor] = []

    def keep() -> None:
        """Wait for the device, and move the rows that it has encoded to the CPU."""
        if fresh:
            rows = torch.cat(fresh, dim=1).cpu()
            kept.append(rows)
            if unfinished and done < len(samples):
                unfinished.write(start, rows, first.about)
            fresh.clear()

    decoder = Decoder(
        first.task.source,
        tuple(entry.view for entry in entries),
        backbone.preprocess,
        _side(backbone),
        backbone.dtype,
    )
    send = _Upload(backbone.device)
    last_kept = time.monotonic()
    if not decoders:
        decoders = 1 if on_cpu else count_cores()
    with closing(decoder.batches(samples[done:], size, decoders)) as batches:
        for pieces in batches:
            sent = [send(piece) for piece in pieces]
            images = sent[0] if len(sent) == 1 else torch.cat(sent, dim=1)  # [views, n, 3, H, W]
            count = images.shape[1]
            if filled and on_cpu:
                missing = BATCH - count
                # From the last dimension: nothing for width, height and channels.
                images = F.pad(images, (0, 0, 0, 0, 0, 0, 0, missing))
            padded = images.shape[1]
            if on_cpu:
                at_once = padded  # one view at a time
            rows, at_once = _encode(first, images.flatten(0, 1), at_once)
            fresh.append(rows.unflatten(0, (views, padded))[:, :count])
            done += count
            on_encoded(views * done, views * len(samples))
            if time.monotonic() - last_kept > KEEP_SECONDS:
                keep()
                start = done
                last_kept = time.monotonic()
    keep()
    return [*torch.cat(kept, dim=1)]


def _input_arguments(images: Images) -> list[Any]:
    """Return the argument that asks a backbone for other rows than features, if they need it."""
    return [images.image_input] if images.image_input else []


def _encode(first: Images, pixels: Tensor, at_once: int) -> tuple[Tensor, int]:
    """Encode images ``[n, 3, H, W]``, at most ``at_once`` together; return rows and batch size.

    The batch size becomes smaller where the device's memory is too small for it.
    """
    arguments = _input_arguments(first)
    while True:
        try:
            batches = pixels.split(at_once)
            parts = [first.backbone.encode_images(batch, *arguments) for batch in batches]
            rows = parts[0] if len(parts) == 1 else torch.cat(parts)
            return rows, at_once
        except torch.cuda.OutOfMemoryError:
            at_once = min(at_once, len(pixels)) // 2
            if at_once == 0:
                raise
        # Outside the handler, the error no longer holds the tensors of its frames.
        torch.cuda.empty_cache()


class _Upload:
    """Sends images to a device; to CUDA by a separate stream, which nothing waits for."""

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
    """Decodes each image once, and preprocesses it under each of several views."""

    source: ImageSource
    views: tuple[View, ...]
    preprocess: Callable[[Image.Image], Tensor]
    side: int  # pixels of an augmented image
    dtype: torch.dtype

    def decode(self, sample: Sample) -> Tensor:
        """Return the views of an image, ``[views, 3, H, W]``."""
        image = self.source.image(sample)
        views = []
        for view in self.views:
            seen = view.apply(image, sample.id, self.side)
            views.append(self.preprocess(seen))
        return torch.stack(views).to(self.dtype)

    def __getitem__(self, samples: Sequence[Sample]) -> Tensor | Exception:
        """Return the views of some images, ``[views, n, 3, H, W]``, or the error that occurred."""
        try:
            return torch.stack([self.decode(sample) for sample in samples], dim=1)
        except Exception as error:
            return error

    def batches(
        self, samples: Sequence[Sample], size: int, decoders: int
    ) -> Generator[list[Tensor], None, None]:
        """Yield batches of ``size`` images in order, each a list of pieces ``[views, n, 3, H, W]``.

        While a batch is used, ``decoders`` processes or threads decode the next ones.
        """
        many = len(samples) * len(self.views) >= MANY
        in_processes = many and decoders > 1 and self.source.decoders is None
        if in_processes:
            decode = self._in_processes
            piece_size = max(PIECE // len(self.views), 1)
        else:
            decode = self._in_threads
            piece_size = size
        pieces: list[Sequence[Sample]] = []
        pieces_per_batch: list[int] = []
        for batch in _split(samples, size):
            batch_pieces = _split(batch, piece_size)
            pieces += batch_pieces
            pieces_per_batch.append(len(batch_pieces))
        with closing(decode(pieces, decoders)) as decoded:
            for number in pieces_per_batch:
                yield [next(decoded) for _ in range(number)]

    def _in_threads(
        self, pieces: Sequence[Sequence[Sample]], threads: int
    ) -> Generator[Tensor, None, None]:
        with ThreadPoolExecutor(min(threads, MOST_THREADS)) as pool:
            following = [pool.submit(self.decode, sample) for sample in pieces[0]]
            for next_piece in [*pieces[1:], ()]:
                current = following
                # Submitted before this piece is awaited, so that the pool never idles.
                following = [pool.submit(self.decode, sample) for sample in next_piece]
                yield torch.stack([future.result() for future in current], dim=1)

    def _in_processes(
        self, pieces: Sequence[Sequence[Sample]], count: int
    ) -> Generator[Tensor, None, None]:
        small_copy: Any = replace(self, source=self.source.without_lists())
        loader = DataLoader(
            small_copy,
            batch_size=None,
            sampler=pieces,
            num_workers=count,
            prefetch_factor=AHEAD,
            multiprocessing_context="spawn",
        )
        with inherited(1):
            decoded = iter(loader)
        done = 0
        died = ""
        try:
            while done < len(pieces) and not died:
                try:
                    piece = next(decoded)
                except RuntimeError as error:  # torch's own; errors of images are sent as values
                    died = first_line(error)
                    continue
                if isinstance(piece, Exception):
                    raise piece
                yield piece
                done += 1
        finally:
            del decoded  # ends its processes, which hold memory that may be scarce
        if died:
            problem = "a process that decodes images died, perhaps for lack of memory (/dev/shm)"
            warnings.warn(
                f"{problem}: {died}; threads continue. Use fewer --decoders",
                CompatbenchWarning,
                stacklevel=2,
            )
            yield from self._in_threads(pieces[done:], count)


def _split(samples: Sequence[Sample], size: int) -> list[Sequence[Sample]]:
    """Cut samples into runs of ``size``; the last one may be shorter."""
    return [samples[start : start + size] for start in range(0, len(samples), size)]
