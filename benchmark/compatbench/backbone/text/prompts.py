"""Prompts as token embeddings: a prefix shared by all classes, and a suffix for each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compatbench.errors import CompatbenchError, NotTransferable


@dataclass(frozen=True)
class Swap:
    """Rows of each class's prompt, replaced in an inner block (TCP, arXiv:2311.18231, 3.2)."""

    block: int  # before this block, counted from 0, the rows are replaced
    rows: Tensor  # replace the first m rows of every suffix, ``[n, m, D]``


@dataclass(frozen=True)
class Inserted:
    """Rows put behind start-of-text within a tower (MMRL, arXiv:2503.08497, section 3.2).

    They have no positions, and are renewed before the blocks that follow. Blocks without rows of
    their own get those that the block before them has computed.
    """

    block: int  # before this block, counted from 0, the first rows are put in
    rows: tuple[Tensor, ...]  # of this block and of the next, each ``[m, D]``


@dataclass(frozen=True)
class Prompts:
    """A batch of prompts in the token-embedding space of a text tower.

    Prompt ``i`` is ``prefix`` followed by the first ``lengths[i]`` rows of ``suffix[i]``;
    its last row is the end-of-text token. Rows beyond that are padding, never read.
    """

    # Rows that all prompts share, start-of-text first, ``[P, D]``; or one such prefix for each
    # of B images, ``[B, P, D]`` (CoCoOp, arXiv:2203.05557).
    prefix: Tensor
    suffix: Tensor  # rows of each prompt after the prefix, right-padded, ``[n, S, D]``
    lengths: tuple[int, ...]  # rows of each suffix that count, each at least 1
    # Replaces the m rows after start-of-text before blocks 1, 2, ..., each ``[m, D]`` (MaPLe,
    # arXiv:2210.03117, section 3.2); the rows lie in the prefix.
    deep: tuple[Tensor, ...] = ()
    swap: Swap | None = None
    inserted: Inserted | None = None  # in causal towers, without other weights or updates
    start: int = 1  # start-of-text rows in the prefix; 0 for towers such as SigLIP's

    @property
    def shared(self) -> int:
        """Rows P of the prefix."""
        return self.prefix.shape[-2]

    @property
    def longest(self) -> int:
        """Rows of the longest prompt."""
        return self.shared + max(self.lengths)

    @property
    def prefixes(self) -> Tensor:
        """The prefix of each image, ``[B, P, D]``; one if all share it."""
        return self.prefix if self.prefix.ndim == 3 else self.prefix[None]

    def unflatten(self, features: Tensor) -> Tensor:
        """Features ``[B, n, e]`` of all prefixes as the caller wants them."""
        return features if self.prefix.ndim == 3 else features[0]

    def to(self, dtype: torch.dtype) -> Prompts:
        """The same prompts in a tower's precision."""
        return dataclasses.replace(
            self,
            prefix=self.prefix.to(dtype),
            suffix=self.suffix.to(dtype),
            deep=tuple(rows.to(dtype) for rows in self.deep),
            swap=self.swap and Swap(self.swap.block, self.swap.rows.to(dtype)),
            inserted=self.inserted
            and Inserted(self.inserted.block, tuple(r.to(dtype) for r in self.inserted.rows)),
        )

    @property
    def need_gradients(self) -> bool:
        """Whether a gradient is needed of any tensor."""
        swapped = () if self.swap is None else (self.swap.rows,)
        tensors = (self.prefix, self.suffix, *self.deep, *swapped)
        return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)

    def check_fits(self, context_length: int, blocks: int) -> None:
        """Refuses prompts that are too long for a text tower, or rows that have no place in it."""
        if self.deep and self.start != 1:
            raise NotTransferable(
                "prompts of inner blocks follow start-of-text, which this text tower does not have"
            )
        if self.longest > context_length:
            raise CompatbenchError(
                f"a prompt of {self.longest} tokens does not fit the text tower's "
                f"{context_length}; use fewer context tokens or a shorter class name"
            )
        most, swap = max((len(rows) for rows in self.deep), default=0), self.swap
        fits = not self.deep or (len(self.deep) < blocks and most < self.shared)
        if swap is not None:
            count, rows, _ = swap.rows.shape
            fits &= 0 < swap.block < blocks
            fits &= count == len(self.lengths) and rows < min(self.lengths)
        if not fits:
            raise CompatbenchError(
                f"rows that are replaced have no place in the blocks after the first of {blocks}, "
                f"{self.shared - 1} shared rows, or suffixes of {min(self.lengths)} rows or more"
            )


def replace_rows(x: Tensor, rows: Tensor, start: int = 1) -> Tensor:
    """``x``, ``[B, L, D]``, with rows from ``start`` on replaced: ``[m, D]`` or ``[B, m, D]``."""
    end = start + rows.shape[-2]
    return torch.cat([x[:, :start], rows.expand(len(x), -1, -1), x[:, end:]], dim=1)


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
    first, behind, order = prompts.start + before, prompts.start + context, []
    for count in names:
        name, tail = range(behind, behind + count), range(first, behind)
        order.append([*range(first), *name, *tail, *range(name.stop, rows.shape[1])])
    index = torch.tensor(order, device=rows.device)[..., None]
    moved = rows.take_along_dim(index, dim=1)
    shared = min(prompts.shared, first)
    lengths = tuple(n + prompts.shared - shared for n in prompts.lengths)
    return Prompts(prompts.prefix[:shared], moved[:, shared:], lengths, start=prompts.start)


def pad_rows(rows: Sequence[Sequence[int]]) -> Tensor:
    """Stacks token ids of unequal lengths, right-padded with 0, ``[n, S]``."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], dtype=torch.long)
