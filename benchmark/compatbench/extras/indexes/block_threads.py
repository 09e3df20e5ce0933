"""Blocks of vectors worked on by several threads, each with a BLAS of one thread.

Threads of BLAS that share a product wait while its block is read, scaled and written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import ThreadpoolController

AHEAD = 2  # blocks for each thread that are read before they are needed
Block = TypeVar("Block", bound=Sized)
Result = TypeVar("Result")


def map_blocks(
    function: Callable[[Block, int], Result], blocks: Iterable[Block]
) -> Iterator[Result]:
    """``function`` of every block and the number of its first row, in their order.

    It runs in as many threads as BLAS has; the caller's reads the blocks. No product is divided,
    so that the results are the same to the bit with any number of threads.
    """
    blas = ThreadpoolController().select(user_api="blas")
    count, first = max((each.num_threads for each in blas.lib_controllers), default=1), 0
    waiting = deque[Future[Result]]()
    with blas.limit(limits=1), ThreadPoolExecutor(count) as threads:
        for block in blocks:
            waiting.append(threads.submit(function, block, first))
            first += len(block)
            if len(waiting) > AHEAD * count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
