"""Attention over many small groups of rows, as products of batches of small matrices.

A plan, made once, says which rows attend to which. With it, a block's queries, keys and
values are gathered in one step, padding and copies of the prefix included, and so are their
gradients. A block needs a handful of calls instead of dozens, which counts where a tower is
small. Another order of additions would change results in their last bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import pad_sequence

from compatbench.backbone.text.packing import Chunk


@dataclass(frozen=True)
class Plan:
    """Which rows of ``B`` images attend to which, for ``H`` heads in ``T`` groups of each image.

    Rows ``[B, N, 3D]`` are read as ``[B * N * 3 * H, D / H]``, and those of queries, keys and
    values gathered in this order.

    Attributes:
        gather: where each gathered row comes from, ``[B * T * H * (S + 2K)]``.
        mask: what is added to the scores, ``[B * T * H, S, K]``, or None.
        output: of each row and head of the output, its query, ``[B * R * H]``.
        output_of: of each query, the row and head of the output that it computes,
            ``[B * T * H * S]``.
        filler: queries that only fill a group and get no gradient, ``[n]``.
        scatter: of each row, part and head, its gradient: among the gathered rows, then the
            sums over the groups of an image for the keys and values of the prefix, then a row
            of zeros, ``[B * N * 3 * H]``.
        groups: groups T of each image.
        queries: queries S of a group.
        keys: keys K of a group, those of the prefix first.
        shared: rows P of the prefix.
        heads: heads H.
    """

    gather: Tensor
    mask: Tensor | None
    output: Tensor
    output_of: Tensor
    filler: Tensor
    scatter: Tensor
    groups: int
    queries: int
    keys: int
    shared: int
    heads: int


def attend(qkv: Tensor, plan: Plan) -> Tensor:
    """The output of attention, ``[B, R, D]``, from all rows' projections ``[B, N, 3D]``."""
    return _Attend.apply(qkv, plan)  # type: ignore[return-value]


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, plan: Plan) -> Tensor:
        images, _, width = qkv.shape
        head = width // 3 // plan.heads
        rows = qkv.reshape(-1, head).index_select(0, plan.gather)
        query, key, value = _split(rows, images, plan)
        scale = head**-0.5
        if plan.mask is None:
            scores = torch.baddbmm(query.new_empty(()), query, key.mT, beta=0, alpha=scale)
        else:
            scores = torch.baddbmm(plan.mask, query, key.mT, alpha=scale)
        shares = torch.softmax(scores, dim=-1)
        mixed = torch.bmm(shares, value).view(-1, head).index_select(0, plan.output)
        ctx.save_for_backward(rows, shares)
        ctx.plan, ctx.shape = plan, qkv.shape
        return mixed.view(images, -1, width // 3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        plan: Plan = ctx.plan
        rows, shares = ctx.saved_tensors
        images, head = ctx.shape[0], rows.shape[1]
        query, key, value = _split(rows, images, plan)
        d_mixed = gradient.reshape(-1, head).index_select(0, plan.output_of)
        if len(plan.filler):
            d_mixed.index_fill_(0, plan.filler, 0)
        d_mixed = d_mixed.view(query.shape)
        sums = 2 * images * plan.heads * plan.shared
        found = rows.new_empty(len(rows) + sums + 1, head)
        d_query, d_key, d_value = _split(found[: len(rows)], images, plan)
        torch.bmm(shares.mT, d_mixed, out=d_value)
        d_scores = torch.bmm(d_mixed, value.mT)
        d_scores = torch.ops.aten._softmax_backward_data(d_scores, shares, -1, shares.dtype)
        scale = head**-0.5
        torch.baddbmm(d_query, d_scores, key, beta=0, alpha=scale, out=d_query)
        torch.baddbmm(d_key, d_scores.mT, query, beta=0, alpha=scale, out=d_key)
        if sums:
            copies = found[len(d_query) * plan.queries : len(rows)]
            copies = copies.view(2, images, plan.groups, plan.heads, plan.keys, head)
            total = found[len(rows) : -1].view(2, images, plan.heads, plan.shared, head)
            torch.sum(copies[..., : plan.shared, :], dim=2, out=total)
        found[-1] = 0
        return found.index_select(0, plan.scatter).view(ctx.shape), None


def _split(rows: Tensor, images: int, plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
    """Gathered rows as queries ``[B * T * H, S, head]``, keys and values alike."""
    count, head = images * plan.groups * plan.heads, rows.shape[1]
    sizes = (plan.queries, plan.keys, plan.keys)
    parts = rows.split([count * size for size in sizes])
    query, key, value = (
        part.view(count, size, head) for part, size in zip(parts, sizes, strict=True)
    )
    return query, key, value


@lru_cache(maxsize=256)
def plan_chunk(chunk: Chunk, images: int, heads: int, with_prefix: bool, last: bool) -> Plan:
    """The plan of a chunk's rows behind those of the prefix.

    Args:
        images: prefixes B that the chunk's rows are run with.
        with_prefix: whether the prefix's own rows are queries, too.
        last: whether the end-of-text rows are the only queries.
    """
    mask = chunk.mask[:, 0].cpu()
    groups, size, keys = mask.shape
    shared = keys - size
    own = shared + torch.arange(groups * size).view(groups, size)
    key_rows = torch.cat([torch.arange(shared).expand(groups, -1), own], dim=1)
    query_rows, output_rows, filler = own, own.flatten(), torch.zeros_like(own).bool()
    if last:
        output_rows = shared + chunk.last.cpu()
        ends = [output_rows[(output_rows >= row[0]) & (output_rows <= row[-1])] for row in own]
        query_rows = pad_sequence(ends, batch_first=True, padding_value=-1)
        filler = query_rows < 0
        query_rows = torch.where(filler, query_rows[:, :1], query_rows)
        mask = mask.take_along_dim((query_rows - own[:, :1])[..., None], dim=1)
    elif with_prefix and shared:
        rows = torch.arange(-(-shared // size) * size).view(-1, size)
        filler = torch.cat([rows >= shared, filler])
        rows = rows.clamp(max=shared - 1)
        query_rows = torch.cat([rows, own])
        output_rows = torch.cat([torch.arange(shared), output_rows])
        # The prefix's rows see nothing behind the prefix.
        before = torch.arange(keys).clamp(max=shared - 1).expand(len(rows), -1)
        key_rows = torch.cat([before, key_rows])
        future = torch.arange(keys) > rows[..., None]
        mask = torch.cat([mask.new_zeros(future.shape).masked_fill(future, -torch.inf), mask])
    total, device = shared + groups * size, chunk.mask.device
    return _make_plan(
        query_rows, key_rows, filler, mask, output_rows, shared, total, images, heads, device
    )


@lru_cache(maxsize=64)
def plan_images(images: int, tokens: int, rows: int, heads: int, device: torch.device) -> Plan:
    """The plan of images whose first ``rows`` tokens attend to all of their own."""
    query_rows, key_rows = torch.arange(rows)[None], torch.arange(tokens)[None]
    filler = torch.zeros(1, rows, dtype=torch.bool)
    return _make_plan(
        query_rows, key_rows, filler, None, query_rows[0], 0, tokens, images, heads, device
    )


def _make_plan(
    query_rows: Tensor,
    key_rows: Tensor,
    filler: Tensor,
    mask: Tensor | None,
    output_rows: Tensor,
    shared: int,
    total: int,
    images: int,
    heads: int,
    device: torch.device,
) -> Plan:
    """A plan from the rows of one image.

    Args:
        query_rows: rows of the queries of each group, ``[T, S]``.
        key_rows: rows of the keys of each group, ``[T, K]``; of the rows behind the prefix,
            each in one group.
        filler: queries that only fill a group, ``[T, S]``.
        mask: what is added to the scores, ``[T, S, K]``.
        output_rows: rows of the output, ``[R]``.
        total: rows N of an image.
    """
    (groups, queries), keys = query_rows.shape, key_rows.shape[1]
    image = torch.arange(images)[:, None, None, None]
    head = torch.arange(heads)[None, None, :, None]

    def part_of(rows: Tensor, part: int) -> Tensor:
        """Which of the rows ``[B * N * 3 * H, D / H]`` these are, ``[B * T * H * rows]``."""
        return (((image * total + rows[None, :, None]) * 3 + part) * heads + head).flatten()

    gather = torch.cat([part_of(query_rows, 0), part_of(key_rows, 1), part_of(key_rows, 2)])
    fills = filler[None, :, None].expand(images, groups, heads, queries).flatten()
    used = torch.cat([~fills, torch.ones(len(gather) - len(fills), dtype=torch.bool)])
    used = used.nonzero()[:, 0]
    sums = len(gather) + torch.arange(2 * images * heads * shared)
    scatter = torch.full((images * total * 3 * heads,), len(gather) + len(sums))
    scatter[gather[used]] = used
    scatter = scatter.view(images, total, 3, heads)
    scatter[:, :shared, 1:] = sums.view(2, images, heads, shared).permute(1, 3, 0, 2)
    place = torch.zeros(total, dtype=torch.long)
    place[output_rows] = torch.arange(len(output_rows))
    output_of = (image * len(output_rows) + place[query_rows][None, :, None]) * heads + head
    if mask is not None:
        mask = mask[None, :, None].expand(images, groups, heads, queries, keys)
        mask = mask.reshape(-1, queries, keys).to(device)
    return Plan(
        gather=gather.to(device),
        mask=mask,
        output=scatter[:, output_rows, 0].flatten().to(device),
        output_of=output_of.flatten().to(device),
        filler=fills.nonzero()[:, 0].to(device),
        scatter=scatter.flatten().to(device),
        groups=groups,
        queries=queries,
        keys=keys,
        shared=shared,
        heads=heads,
    )
