"""Images become tensors: in threads, or where there are many in processes of their own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from compatbench.data.images.source import ImageSource, Sample
from compatbench.data.images.views import View
from compatbench.errors import CompatbenchWarning
from compatbench.files.processes import inherited
from compatbench.messages import first_line

# Images, counted under each view, from which on it is worth to start processes.
MANY = 4096
MOST_THREADS = 8  # more would wait for each other
PIECE = 32  # images, counted under each view, that a process sends at once: 19 MB at 224 pixels
AHEAD = 2  # pieces that each process may be ahead


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
                current, following = following, [pool.submit(self.decode, one) for one in piece]
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
