"""Images become tensors: in threads, or where there are many in processes of their own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import torch
from PIL import Image
from torch import Tensor

from compatbench.data.images.source import ImageSource, Sample
from compatbench.data.images.views import View
from compatbench.errors import CompatbenchWarning
from compatbench.files.processes import end_with_parent, kill, start_process

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
        pieces = [[one[i : i + cut] for i in range(0, len(one), cut)] for one in batches]
        decode = self._in_processes if apart else self._in_threads
        with closing(decode([one for batch in pieces for one in batch], decoders)) as decoded:
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
        alone = replace(self, source=self.source.without_lists())
        started: list[tuple[BaseProcess, Connection]] = []
        try:
            for _ in range(count):
                started.append(start_process(1, _serve, alone))
            for number in range(min(AHEAD * count, len(pieces))):
                with suppress(OSError):  # it has died, as is seen below
                    started[number % count][1].send(pieces[number])
            for number in range(len(pieces)):
                connection = started[number % count][1]
                try:
                    found = connection.recv()
                    if number + AHEAD * count < len(pieces):
                        connection.send(pieces[number + AHEAD * count])
                except (EOFError, OSError):
                    what = "a process that decodes images has died, perhaps for lack of memory"
                    warnings.warn(
                        f"{what} (/dev/shm); threads go on. Give fewer --decoders",
                        CompatbenchWarning,
                        stacklevel=2,
                    )
                    _end(started)  # for they hold the memory that is short
                    yield from self._in_threads(pieces[number:], count)
                    return
                if isinstance(found, Exception):
                    raise found
                yield found
        finally:
            _end(started)


def _end(started: list[tuple[BaseProcess, Connection]]) -> None:
    """Kills processes, and forgets them."""
    while started:
        process, connection = started.pop()
        kill(process)
        connection.close()


def _serve(connection: Connection, decoder: Decoder) -> None:
    """The life of a process that decodes: samples in, tensors out; it ends with its parent."""
    end_with_parent()
    torch.set_num_threads(1)
    found: Tensor | Exception
    # The parent is gone; or there is no room in /dev/shm for what is sent, and the parent goes on.
    with suppress(EOFError, OSError, RuntimeError):
        while True:
            samples = connection.recv()
            try:
                found = torch.stack([decoder.decode(one) for one in samples], dim=1)
            except Exception as error:
                found = error
            connection.send(found)
