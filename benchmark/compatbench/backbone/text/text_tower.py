"""The text tower of a model, run from token embeddings.

Some towers have no causal mask and attend to the padding (MobileCLIP-S). Others are pooled at the
last row (SigLIP, CLIPA), or at a class token behind the padding (CoCa). Such towers run with all
their padding, so they compute for a prompt what open_clip computes for it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from compatbench.backbone.parts.blocks import (
    BlockUpdates,
    Part,
    Updates,
    apply_update,
    updates_of,
)
from compatbench.backbone.parts.memory import SelectiveCheckpoint
from compatbench.backbone.parts.parameters import rotate_projection
from compatbench.backbone.text.causal import CausalTower, chunk_rows
from compatbench.backbone.text.prompts import Inserted, Prompts, replace_rows
from compatbench.backbone.text.text_anatomy import TextAnatomy
from compatbench.errors import CompatbenchError, NotTransferable


class TextTower:
    """A frozen text tower of any kind."""

    _rotation: Tensor | None = None  # of the space that the projection among its weights leads to
    # The last call of ``_split``: the ids of its arguments; the arguments themselves, kept alive
    # so that no other objects get these ids; the tower of the later blocks; the rows that enter
    # it. A fit repeats the same call at every step.
    _entered: tuple[tuple[int, ...], tuple[Any, ...], TextTower, Tensor] | None = None

    def __init__(self, anatomy: TextAnatomy) -> None:
        self._anatomy = anatomy
        self._tower = _build_tower(anatomy)
        self.context_length: int = anatomy.context_length  # tokens of the longest text
        self.width: int = anatomy.positions.shape[1]  # of the token embeddings, D
        self.depth = len(anatomy.blocks)

    @property
    def heads(self) -> int:
        """Return the number of heads of an open_clip block's attention."""
        attention: Any = self._anatomy.blocks[0].attn
        return attention.num_heads

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """Return the frozen weights of blocks, last norm and projection, by open_clip's names."""
        return rotate_projection(self._anatomy.weights(), "text_projection", self._rotation)

    def project_by(self, projection: Tensor) -> TextTower:
        """Return the same tower with another projection ``[D, e]``, e of any size."""
        projection = projection.to(self._anatomy.positions.dtype)
        return TextTower(replace(self._anatomy, projection=projection))

    def embed(self, ids: Tensor) -> Tensor:
        """Return token embeddings without positions, ``[..., D]`` for ids ``[...]``."""
        return self._anatomy.token_embedding(ids)

    def encode(
        self,
        prompts: Prompts,
        weights: Mapping[str, Tensor] | None = None,
        block_updates: BlockUpdates | None = None,
    ) -> Tensor:
        """Return features of prompts, not normalised, ``[n, e]``, or ``[B, n, e]`` for B prefixes.

        The features are differentiable in all tensors of the prompts, in the weights and in the
        tensors that updates use. They have the prompts' type, whatever the tower's own precision.

        Args:
            prompts: the prompts, in the space of the tower's token embeddings.
            weights: replaces the tower's own weights of these names.
            block_updates: functions that are called on parts of its blocks.

        Raises:
            CompatbenchError: the prompts do not fit the tower.
            NotTransferable: the tower has no place for the prompts' tokens or for an update.
        """
        prompts.check_fits(self.context_length, self.depth)
        if prompts.inserted is not None:
            if weights or block_updates or prompts.deep or prompts.swap:
                raise CompatbenchError(
                    "'inserted' tokens need the frozen text tower: they cannot be combined with "
                    "weights, block_updates, deep or swap"
                )
            tower, later = self._split(prompts, prompts.inserted)
            return tower.encode(later).to(prompts.prefix.dtype)
        dtype = self._anatomy.positions.dtype
        tower = self._tower
        if weights or block_updates:
            cast = {name: tensor.to(dtype) for name, tensor in (weights or {}).items()}
            # An update may use learned tensors that cannot be seen from here.
            learned = bool(block_updates) or any(x.requires_grad for x in cast.values())
            learned = learned and torch.is_grad_enabled()
            tower = _build_tower(self._anatomy.replace(cast), learned, block_updates)
        return tower.encode(prompts.to(dtype)).to(prompts.prefix.dtype)

    def _split(self, prompts: Prompts, inserted: Inserted) -> tuple[TextTower, Prompts]:
        """Return the blocks from the insertion on as a tower, and the prompts that enter it."""
        anatomy = self._anatomy
        if not anatomy.sees_past_only or anatomy.mask is None or prompts.start != 1:
            raise NotTransferable(
                "tokens can be inserted only into a causal text tower with start-of-text"
            )
        room = len(anatomy.positions) + len(inserted.rows[0])
        parts = (anatomy, prompts.prefix, prompts.suffix)
        call = (*map(id, parts), inserted.block, room)
        if self._entered is None or self._entered[0] != call or prompts.need_gradients:
            x = self._enter(prompts.to(anatomy.positions.dtype), inserted.block, anatomy.mask)
            later = replace(
                anatomy,
                blocks=anatomy.blocks[inserted.block :],
                positions=anatomy.positions.new_zeros(room, self.width),  # x has them already
                mask=anatomy.mask.new_full((room, room), -torch.inf).triu(1),
            )
            self._entered = (call, parts, TextTower(later), x)
        _, _, tower, x = self._entered
        # Behind the inserted tokens, too, all texts share the rows up to where they differ.
        shared = prompts.shared
        first, *following = inserted.rows
        prefix = torch.cat([x[0, :1], first.to(x), x[0, 1:shared]])
        deep = tuple(rows.to(x) for rows in following)
        return tower, Prompts(prefix, x[:, shared:], prompts.lengths, deep)

    def _enter(self, prompts: Prompts, block: int, mask: Tensor) -> Tensor:
        """Return the rows of prompts that enter a block, padded, ``[n, P + S, D]``."""
        prefix = prompts.prefix.expand(len(prompts.suffix), -1, -1)
        x = torch.cat([prefix, prompts.suffix], dim=1)
        length = x.shape[1]
        x = x + self._anatomy.positions[:length]
        for run in self._anatomy.blocks[:block]:
            x = run(x, attn_mask=mask[:length, :length])
        return x


def _build_tower(
    anatomy: TextAnatomy, learned: bool = False, updates: BlockUpdates | None = None
) -> CausalTower | PlainTower:
    """Return the fast tower where the anatomy allows it, and otherwise the plain one."""
    if anatomy.sees_past_only and anatomy.standard_blocks:
        return CausalTower(anatomy, learned, updates)
    return PlainTower(anatomy, learned, updates)


class PlainTower:
    """A text tower that runs padded prompts through its own blocks, with every row of the context.

    Rows after the end of text are left out only if no other row attends to them.

    Set ``learned`` if gradients of the tower's own weights will be needed.
    """

    def __init__(
        self, anatomy: TextAnatomy, learned: bool = False, updates: BlockUpdates | None = None
    ) -> None:
        self._anatomy = anatomy
        self._learned = learned
        block_updates = updates_of(updates, len(anatomy.blocks), "text")
        self._blocks = [_wrap(*pair) for pair in zip(anatomy.blocks, block_updates, strict=True)]

    def encode(self, prompts: Prompts) -> Tensor:
        """Return the features of prompts, ``[n, e]``, or ``[B, n, e]`` for B prefixes."""
        anatomy = self._anatomy
        count = len(prompts.lengths)
        length = prompts.longest if anatomy.padding_unseen else anatomy.context_length
        step = max(1, chunk_rows(anatomy) // length)
        parts = [slice(i, min(i + step, count)) for i in range(0, count, step)]
        positions = anatomy.positions
        # For custom blocks this is only an estimate.
        values = (length + 1) * positions.shape[1] * (10 + 4) * len(anatomy.blocks)
        sizes = [(part.stop - part.start) * values * positions.element_size() for part in parts]
        learned = self._learned or prompts.need_gradients
        checkpoint = SelectiveCheckpoint(sizes * len(prompts.prefixes), positions.device, learned)
        features = []
        for prefix in prompts.prefixes:
            for part in parts:
                features.append(checkpoint.run(self._run, length, prompts, prefix[None], part))
        return prompts.unflatten(torch.cat(features).unflatten(0, (-1, count)))

    def _run(self, length: int, prompts: Prompts, prefix: Tensor, part: slice) -> Tensor:
        """Return the features of a few classes with one prefix ``[1, P, D]``, ``[n, e]``."""
        anatomy = self._anatomy
        deep = prompts.deep
        swap = prompts.swap
        shared = prompts.shared
        lengths = torch.tensor(prompts.lengths[part], device=prefix.device)
        x = self._pad(length, prefix, prompts.suffix[part], lengths)
        hidden = None
        if anatomy.pads_by_place:
            hidden = torch.arange(length, device=x.device) >= shared + lengths[:, None]
        elif anatomy.pad_mask or anatomy.class_token is not None:
            # Hide all rows that look like padding, also within a text: open_clip compares token
            # ids, and a text may contain the id of the padding.
            hidden = (x == anatomy.token_embedding.weight[anatomy.pad]).all(-1)
        if anatomy.class_token is not None:
            x = torch.cat([x, anatomy.class_token.expand(len(x), 1, -1)], dim=1)
        x = x + anatomy.positions[: x.shape[1]]
        mask = self._mask(x.shape[1], hidden)
        for i, block in enumerate(self._blocks):
            if 0 < i <= len(deep):
                x = replace_rows(x, deep[i - 1])
            if swap is not None and i == swap.block:
                x = replace_rows(x, swap.rows[part], shared)
            x = block(x, attn_mask=mask)
        if anatomy.class_token is not None or anatomy.pool == "last":
            rows = x[:, -1]
        elif anatomy.pool == "first":
            rows = x[:, 0]
        else:
            rows = x[torch.arange(len(x), device=x.device), shared + lengths - 1]
        return anatomy.project(anatomy.ln_final(rows))

    def _pad(self, length: int, prefix: Tensor, suffix: Tensor, lengths: Tensor) -> Tensor:
        """Return prompts padded with the embedding of the padding token, ``[n, length, D]``."""
        padding = self._anatomy.token_embedding.weight[self._anatomy.pad]
        shared = prefix.shape[1]
        count = len(suffix)
        suffix = suffix[:, : length - shared]
        inside = torch.arange(suffix.shape[1], device=suffix.device) < lengths[:, None]
        suffix = torch.where(inside[..., None], suffix, padding)
        rest = padding.expand(count, length - shared - suffix.shape[1], -1)
        return torch.cat([prefix.expand(count, -1, -1), suffix, rest], dim=1)

    def _mask(self, length: int, hidden: Tensor | None) -> Tensor | None:
        """Return the mask that is added to the scores.

        It is ``[length, length]``, or with hidden rows ``[n * heads, length, length]``.
        """
        anatomy = self._anatomy
        mask = None
        if anatomy.mask is not None:
            mask = anatomy.mask[:length, :length]
        if hidden is None:
            return mask
        if anatomy.class_token is not None:
            shown = hidden.new_zeros(len(hidden), 1)
            parts = [shown, hidden] if anatomy.shifted_class_mask else [hidden, shown]
            hidden = torch.cat(parts, dim=1)
        padding = torch.zeros(hidden.shape, dtype=anatomy.positions.dtype, device=hidden.device)
        padding = padding.masked_fill(hidden, -torch.inf)[:, None].expand(-1, length, -1)
        heads: int = anatomy.blocks[0].attn.num_heads  # type: ignore[assignment, union-attr]
        padding = padding.repeat_interleave(heads, dim=0)
        if mask is None:
            return padding
        return mask + padding


def _wrap(block: nn.Module, updates: Updates) -> nn.Module:
    """Return a block with updates of its parts; the block itself does not change.

    Raises:
        NotTransferable: the block has no such parts.
    """
    if not updates:
        return block
    known = {"attn", "mlp", "block"} if hasattr(block, "ln_1") else set()
    unknown = updates.keys() - known
    if unknown:
        raise NotTransferable(f"the blocks of the text tower have no part '{min(unknown)}'")
    inner: tuple[Part, ...] = ("attn", "mlp")
    parts = {name: _Updated(block._modules[name], name, updates) for name in inner}
    changed = copy.copy(block)
    vars(changed).update(_modules=block._modules | parts)
    return _Updated(changed, "block", updates)


class _Updated(nn.Module):
    """A block, or its attention or MLP, with an update of its output."""

    def __init__(self, part: Any, name: Part, updates: Updates) -> None:
        super().__init__()
        self.part = part
        self._updates = updates
        self._name: Part = name

    def forward(self, x: Tensor, *arguments: Any, **options: Any) -> Any:
        output = self.part(x, *arguments, **options)
        entered = self.part.ln_1(x) if self._name == "block" else x
        if isinstance(output, tuple):  # attention returns its weights, too
            mixed, *rest = output
            return apply_update(self._updates, self._name, mixed, entered), *rest
        return apply_update(self._updates, self._name, output, entered)
