"""Prompts as token embeddings: a prefix shared by all classes, and a suffix for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compatbench.errors import CompatbenchError


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
        deep: what replaces the m rows after start-of-text before blocks 1, 2, ..., each
            ``[m, D]`` (MaPLe, arXiv:2210.03117, section 3.2); the rows lie in the prefix.
    """

    prefix: Tensor
    suffix: Tensor
    lengths: tuple[int, ...]
    deep: tuple[Tensor, ...] = ()

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
        return Prompts(self.prefix.to(dtype), self.suffix.to(dtype), self.lengths, deep)

    @property
    def need_gradients(self) -> bool:
        """Whether anything here is to be learned."""
        tensors = (self.prefix, self.suffix, *self.deep)
        return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)

    def check_fits(self, context_length: int, blocks: int) -> None:
        """Raises CompatbenchError: too long a prompt, or deep prompts that have no place."""
        if self.longest > context_length:
            raise CompatbenchError(
                f"a prompt of {self.longest} tokens does not fit the text tower's "
                f"{context_length}; use fewer context tokens or a shorter class name"
            )
        if len(self.deep) >= blocks:
            raise CompatbenchError(
                f"deep prompts for {len(self.deep)} blocks after the first were given to a "
                f"text tower of {blocks} blocks"
            )
        longest = max((len(rows) for rows in self.deep), default=0)
        if longest >= self.shared:
            raise CompatbenchError(
                f"deep prompts replace {longest} rows after start-of-text, but the prompts "
                f"share only {self.shared - 1}"
            )


def replace_rows(x: Tensor, rows: Tensor) -> Tensor:
    """``x`` with the rows after the first one replaced, ``[B, L, D]`` for ``[m, D]``."""
    rest = x.shape[1] - 1 - len(rows)
    first, _, last = x.split([1, len(rows), rest], dim=1)
    return torch.cat([first, rows.expand(len(x), -1, -1), last], dim=1)


def pad_rows(rows: Sequence[Sequence[int]]) -> Tensor:
    """Stacks token ids of unequal lengths, right-padded with 0, ``[n, S]``."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], dtype=torch.long)
