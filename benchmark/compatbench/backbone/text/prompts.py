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

    block: int  # the rows are replaced before this block, counted from 0
    rows: Tensor  # replace the first m rows of every suffix, ``[n, m, D]``


@dataclass(frozen=True)
class Inserted:
    """Rows inserted behind start-of-text within a tower (MMRL, arXiv:2503.08497, section 3.2).

    They have no positions, and are replaced before each of the blocks that follow. A block
    without rows of its own gets those that the block before it has computed.
    """

    block: int  # the first rows are inserted before this block, counted from 0
    rows: tuple[Tensor, ...]  # for this block and the next ones, each ``[m, D]``


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
        """Return the number P of rows of the prefix."""
        return self.prefix.shape[-2]

    @property
    def longest(self) -> int:
        """Return the number of rows of the longest prompt."""
        return self.shared + max(self.lengths)

    @property
    def prefixes(self) -> Tensor:
        """Return the prefix of each image, ``[B, P, D]``; B is 1 if all images share it."""
        return self.prefix if self.prefix.ndim == 3 else self.prefix[None]

    def unflatten(self, features: Tensor) -> Tensor:
        """Return features ``[B, n, e]`` as they are, or ``[n, e]`` if all images share a prefix."""
        return features if self.prefix.ndim == 3 else features[0]

    def to(self, dtype: torch.dtype) -> Prompts:
        """Return the same prompts in a tower's precision."""
        swap = self.swap
        if swap is not None:
            swap = Swap(swap.block, swap.rows.to(dtype))
        inserted = self.inserted
        if inserted is not None:
            inserted = Inserted(inserted.block, tuple(rows.to(dtype) for rows in inserted.rows))
        return dataclasses.replace(
            self,
            prefix=self.prefix.to(dtype),
            suffix=self.suffix.to(dtype),
            deep=tuple(rows.to(dtype) for rows in self.deep),
            swap=swap,
            inserted=inserted,
        )

    @property
    def need_gradients(self) -> bool:
        """Return True if a gradient is needed of any tensor."""
        tensors = [self.prefix, self.suffix, *self.deep]
        if self.swap is not None:
            tensors.append(self.swap.rows)
        return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)

    def check_fits(self, context_length: int, blocks: int) -> None:
        """Raise an error for prompts that are too long, or rows that a tower has no place for.

        Args:
            context_length: rows of the text tower's context.
            blocks: number of its blocks.

        Raises:
            NotTransferable: the rows of inner blocks need a start-of-text token.
            CompatbenchError: a prompt is too long, or replaced rows do not fit.
        """
        if self.deep and self.start != 1:
            raise NotTransferable(
                "prompts of inner blocks follow start-of-text, which this text tower does not have"
            )
        if self.longest > context_length:
            raise CompatbenchError(
                f"a prompt of {self.longest} tokens does not fit the text tower's "
                f"{context_length}; use fewer context tokens or a shorter class name"
            )
        if not (self._deep_fits(blocks) and self._swap_fits(blocks)):
            raise CompatbenchError(
                f"the replaced rows do not fit: the text tower has {blocks - 1} blocks after the "
                f"first, the prompts share {self.shared - 1} rows after start-of-text, and the "
                f"shortest suffix has {min(self.lengths)} rows"
            )

    def _deep_fits(self, blocks: int) -> bool:
        longest = max((len(rows) for rows in self.deep), default=0)
        return not self.deep or (len(self.deep) < blocks and longest < self.shared)

    def _swap_fits(self, blocks: int) -> bool:
        if self.swap is None:
            return True
        count, rows, _ = self.swap.rows.shape
        if not 0 < self.swap.block < blocks:
            return False
        return count == len(self.lengths) and rows < min(self.lengths)


def replace_rows(x: Tensor, rows: Tensor, start: int = 1) -> Tensor:
    """Return ``x``, ``[B, L, D]``, with the rows from ``start`` on replaced.

    The new rows are ``[m, D]`` or ``[B, m, D]``.
    """
    end = start + rows.shape[-2]
    return torch.cat([x[:, :start], rows.expand(len(x), -1, -1), x[:, end:]], dim=1)


def move_names(prompts: Prompts, names: Sequence[int], context: int, before: int) -> Prompts:
    """Return prompts ``[SOS] context name . [EOT]`` with the class names moved into the context.

    Args:
        names: tokens of each class name, without the full stop.
        context: rows M of the context, shared (in the prefix) or each class's own.
        before: rows of the context that stay before the name: M/2 is CoOp's ``middle``,
            0 its ``front`` (Zhou et al., arXiv:2109.01134, section 3.2).
    """
    prefix = prompts.prefix.expand(len(prompts.suffix), -1, -1)
    rows = torch.cat([prefix, prompts.suffix], dim=1)
    first = prompts.start + before  # where the names move to
    behind = prompts.start + context  # where the names are now
    order = []
    for count in names:
        name = range(behind, behind + count)
        tail = range(first, behind)
        order.append([*range(first), *name, *tail, *range(name.stop, rows.shape[1])])
    index = torch.tensor(order, device=rows.device)[..., None]
    moved = rows.take_along_dim(index, dim=1)
    shared = min(prompts.shared, first)
    lengths = tuple(n + prompts.shared - shared for n in prompts.lengths)
    return Prompts(prompts.prefix[:shared], moved[:, shared:], lengths, start=prompts.start)


def pad_rows(rows: Sequence[Sequence[int]]) -> Tensor:
    """Return token ids of unequal lengths as one tensor, right-padded with 0, ``[n, S]``."""
    width = max(len(row) for row in rows)
    padded = []
    for row in rows:
        padding = [0] * (width - len(row))
        padded.append([*row, *padding])
    return torch.tensor(padded, dtype=torch.long)
