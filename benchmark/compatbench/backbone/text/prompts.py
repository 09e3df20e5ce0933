"""Prompts as token embeddings: a prefix shared by all classes, and a suffix for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.errors import CompatbenchError, NotTransferable


@dataclass(frozen=True)
class Swap:
    """Rows of each class's prompt, replaced in an inner block (TCP, arXiv:2311.18231, 3.2).

    Attributes:
        block: before this block, counted from 0, the rows are replaced.
        rows: replaces the first m rows of every suffix, ``[n, m, D]``.
    """

    block: int
    rows: Tensor

    def fill(self, stride: int) -> Tensor:
        """The rows at their places among all suffixes, zeros elsewhere, ``[n * S, D]``."""
        return F.pad(self.rows, (0, 0, 0, stride - self.rows.shape[1])).flatten(0, 1)


@dataclass(frozen=True)
class Prompts:
    """A batch of prompts in the token-embedding space of a text tower.

    Prompt ``i`` is ``prefix`` followed by the first ``lengths[i]`` rows of ``suffix[i]``;
    its last row is the end-of-text token. Rows beyond that are padding, never read.

    Attributes:
        prefix: rows that all prompts share, start-of-text first, ``[P, D]``; or one such
            prefix for each of B images, ``[B, P, D]`` (CoCoOp, arXiv:2203.05557).
        suffix: rows of each prompt after the prefix, right-padded, ``[n, S, D]``.
        lengths: rows of each suffix that count, each at least 1.
        deep: replaces the m rows after start-of-text before blocks 1, 2, ..., each ``[m, D]``
            (MaPLe, arXiv:2210.03117, section 3.2); the rows lie in the prefix.
        swap: replaces the first rows of the suffixes in an inner block.
        start: number of start-of-text rows in the prefix; 0 for towers such as SigLIP's.
    """

    prefix: Tensor
    suffix: Tensor
    lengths: tuple[int, ...]
    deep: tuple[Tensor, ...] = ()
    swap: Swap | None = None
    start: int = 1

    @property
    def shared(self) -> int:
        """Rows P of the prefix."""
        return self.prefix.shape[-2]

    @property
    def longest(self) -> int:
        """Rows of the longest prompt."""
        return self.shared + max(self.lengths)

    def to(self, dtype: torch.dtype) -> Prompts:
        """The same prompts in a tower's precision."""
        if self.prefix.dtype == dtype:
            return self
        deep = tuple(tensor.to(dtype) for tensor in self.deep)
        swap = self.swap and Swap(self.swap.block, self.swap.rows.to(dtype))
        prefix, suffix = self.prefix.to(dtype), self.suffix.to(dtype)
        return Prompts(prefix, suffix, self.lengths, deep, swap, self.start)

    @property
    def need_gradients(self) -> bool:
        """Whether a gradient is needed of any tensor."""
        swapped = () if self.swap is None else (self.swap.rows,)
        tensors = (self.prefix, self.suffix, *self.deep, *swapped)
        return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)

    def check_fits(self, context_length: int, blocks: int) -> None:
        """Checks the prompts against the sizes of a text tower.

        Raises:
            CompatbenchError: a prompt is too long, or ``deep`` or ``swap`` have no place.
            NotTransferable: ``deep`` needs start-of-text, which the tower does not have.
        """
        if self.longest > context_length:
            raise CompatbenchError(
                f"a prompt of {self.longest} tokens does not fit the text tower's "
                f"{context_length}; use fewer context tokens or a shorter class name"
            )
        if self.deep and self.start != 1:
            raise NotTransferable(
                "prompts of inner blocks follow start-of-text, which this text tower does not have"
            )
        if len(self.deep) >= blocks:
            raise CompatbenchError(
                f"deep prompts for {len(self.deep)} blocks after the first were given to a "
                f"text tower of {blocks} blocks"
            )
        longest = max((len(rows) for rows in self.deep), default=0)
        if self.deep and longest >= self.shared:
            raise CompatbenchError(
                f"deep prompts replace {longest} rows after start-of-text, but the prompts "
                f"share only {self.shared - 1}"
            )
        if self.swap is not None:
            self._check_swap(self.swap, blocks)

    def _check_swap(self, swap: Swap, blocks: int) -> None:
        if not 0 < swap.block < blocks:
            raise CompatbenchError(
                f"prompts of inner block {swap.block} were given to a text tower of {blocks} blocks"
            )
        count, shortest = swap.rows.shape[1], min(self.lengths)
        if len(swap.rows) != len(self.lengths) or count >= shortest:
            raise CompatbenchError(
                f"{count} rows for each of {len(swap.rows)} classes cannot replace those of "
                f"{len(self.lengths)} suffixes, the shortest of {shortest} rows"
            )


def replace_rows(x: Tensor, rows: Tensor, start: int = 1) -> Tensor:
    """``x``, ``[B, L, D]``, with rows from ``start`` on replaced: ``[m, D]`` or ``[B, m, D]``."""
    count = rows.shape[-2]
    first, _, last = x.split([start, count, x.shape[1] - start - count], dim=1)
    return torch.cat([first, rows.expand(len(x), -1, -1), last], dim=1)


def move_names(prompts: Prompts, names: Sequence[int], context: int, before: int) -> Prompts:
    """Prompts ``[SOS] context name . [EOT]`` with the class names moved into the context.

    Args:
        names: tokens of each class name, without the full stop.
        context: rows M of the context, shared (in the prefix) or each class's own.
        before: rows of the context that stay before the name: M/2 is CoOp's ``middle``,
            0 its ``front`` (Zhou et al., arXiv:2109.01134, section 3.2).
    """
    prefix = prompts.prefix.expand(len(prompts.suffix), -1, -1)
    rows = torch.cat([prefix, prompts.suffix], dim=1)
    first, order = prompts.start, []
    for count in names:
        name, end = range(first + context, first + context + count), rows.shape[1]
        head, tail = range(first + before), range(first + before, first + context)
        order.append([*head, *name, *tail, *range(name.stop, end)])
    index = torch.tensor(order, device=rows.device)[..., None]
    moved = rows.take_along_dim(index, dim=1)
    shared = min(prompts.shared, first + before)
    lengths = tuple(n + prompts.shared - shared for n in prompts.lengths)
    return Prompts(prompts.prefix[:shared], moved[:, shared:], lengths, start=first)


def pad_rows(rows: Sequence[Sequence[int]]) -> Tensor:
    """Stacks token ids of unequal lengths, right-padded with 0, ``[n, S]``."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], dtype=torch.long)
