"""Attention over many small groups of rows, as products of batches of small matrices.

Which rows ask which is a plan, made once. With it, a block's queries, keys and values are
gathered in one step, padding and copies of the prefix included, and so are their gradients.
For the few dozen rows of a group this takes half the time of a general attention call, and a
block is left with a handful of calls instead of dozens, which counts where a tower is small.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from compatbench.backbone.text.packing import Chunk


@dataclass(frozen=True)
class Plan:
    """Which rows of ``B`` images attend to which, for ``H`` heads in ``T`` groups of each image.

    Rows ``[B, N, 3D]`` are read as ``[B * N * 3 * H, D / H]``, and those of queries, keys and
    values gathered in this order.

    Attributes:
        gather: where each gathered row comes from, ``[B * T * H * (S + 2K)]``.
        mask: what is added to the scores, ``[B * T * H, S, K]``, or None.
        output: of each row and head that is wanted, its query, ``[B * R * H]``.
        answer: of each query, the wanted row and head whose gradient it gets,
            ``[B * T * H * S]``; queries that nobody asked for are listed in ``unasked``.
        unasked: queries that must get no gradient, ``[n]``.
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
    answer: Tensor
    unasked: Tensor
    scatter: Tensor
    groups: int
    queries: int
    keys: int
    shared: int
    heads: int


def attend(qkv: Tensor, plan: Plan) -> Tensor:
    """What each wanted row sees, ``[B, R, D]``, from all rows' projections ``[B, N, 3D]``."""
    return _Attend.apply(qkv, plan)  # type: ignore[return-value]


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, plan: Plan) -> Tensor:
        images, _, width = qkv.shape
        head = width // 3 // plan.heads
        count = images * plan.groups * plan.heads
        rows = qkv.reshape(-1, head).index_select(0, plan.gather)
        query, key, value = _split(rows, count, plan)
        scale = head**-0.5
        if plan.mask is None:
            scores = torch.baddbmm(query.new_empty(()), query, key.mT, beta=0, alpha=scale)
        else:
            scores = torch.baddbmm(plan.mask, query, key.mT, alpha=scale)
        shares = torch.softmax(scores, dim=-1)
        seen = torch.bmm(shares, value).view(-1, head).index_select(0, plan.output)
        ctx.save_for_backward(rows, shares)
        ctx.plan, ctx.shape = plan, qkv.shape
        return seen.view(images, -1, width // 3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        plan: Plan = ctx.plan
        rows, shares = ctx.saved_tensors
        images, count, head = ctx.shape[0], len(shares), rows.shape[1]
        query, key, value = _split(rows, count, plan)
        answers = gradient.reshape(-1, head).index_select(0, plan.answer)
        if len(plan.unasked):
            answers.index_fill_(0, plan.unasked, 0)
        answers = answers.view(count, plan.queries, head)
        sums = 2 * images * plan.heads * plan.shared
        found = rows.new_empty(len(rows) + sums + 1, head)
        d_query, d_key, d_value = _split(found[: len(rows)], count, plan)
        torch.bmm(shares.mT, answers, out=d_value)
        d_scores = torch.bmm(answers, value.mT)
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


def _split(rows: Tensor, count: int, plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
    """Gathered rows as queries ``[count, S, head]``, keys and values ``[count, K, head]``."""
    asked, kept = count * plan.queries, count * plan.keys
    query, key, value = rows.split([asked, kept, kept])
    head = rows.shape[1]
    return (
        query.view(count, plan.queries, head),
        key.view(count, plan.keys, head),
        value.view(count, plan.keys, head),
    )


@lru_cache(maxsize=256)
def plan_chunk(chunk: Chunk, images: int, heads: int, with_prefix: bool, last: bool) -> Plan:
    """The plan of a chunk's rows behind those of the prefix.

    Args:
        images: prefixes B that the chunk's rows are run with.
        with_prefix: whether the prefix's own rows ask, too.
        last: whether the end-of-text rows alone ask, and are wanted.
    """
    mask = chunk.mask[:, 0].cpu()
    groups, size, keys = mask.shape
    shared = keys - size
    own = shared + torch.arange(groups * size).view(groups, size)
    asking, wanted, spare = own, own.flatten(), torch.zeros(groups, size, dtype=torch.bool)
    asked = torch.cat([torch.arange(shared).expand(groups, -1), own], dim=1)
    if last:
        wanted = shared + chunk.last.cpu()
        ends = [wanted[(wanted >= row[0]) & (wanted <= row[-1])] for row in own]
        most = max(len(end) for end in ends)
        spare = torch.arange(most) >= torch.tensor([len(end) for end in ends])[:, None]
        # A group with fewer ends asks for its first one again.
        asking = torch.stack([torch.cat([end, end[:1].expand(most - len(end))]) for end in ends])
        mask = mask.take_along_dim((asking - own[:, :1])[..., None], dim=1)
    elif with_prefix and shared:
        rows = torch.arange(-(-shared // size) * size).view(-1, size)
        spare = torch.cat([rows >= shared, spare])
        rows = rows.clamp(max=shared - 1)
        asking, wanted = torch.cat([rows, asking]), torch.cat([torch.arange(shared), wanted])
        # Behind the prefix there is nothing that its rows may see.
        asked = torch.cat([torch.arange(keys).clamp(max=shared - 1).expand(len(rows), -1), asked])
        future = torch.arange(keys) > rows[..., None]
        mask = torch.cat([torch.zeros(future.shape, dtype=mask.dtype), mask])
        mask[: len(rows)].masked_fill_(future, -torch.inf)
    total = shared + groups * size
    return _index(asking, asked, mask, wanted, spare, shared, total, images, heads, chunk.mask)


@lru_cache(maxsize=64)
def plan_images(images: int, tokens: int, rows: int, heads: int, like: torch.device) -> Plan:
    """The plan of images whose first ``rows`` tokens attend to all of their own."""
    asking, asked = torch.arange(rows)[None], torch.arange(tokens)[None]
    spare = torch.zeros(1, rows, dtype=torch.bool)
    place = torch.empty(0, device=like)
    return _index(asking, asked, None, asking[0], spare, 0, tokens, images, heads, place)


def _index(
    asking: Tensor,
    asked: Tensor,
    mask: Tensor | None,
    wanted: Tensor,
    spare: Tensor,
    shared: int,
    total: int,
    images: int,
    heads: int,
    like: Tensor,
) -> Plan:
    """A plan from the rows of one image.

    Args:
        asking: rows that ask, group by group, ``[T, S]``; ``spare`` ones only fill it.
        asked: rows that are asked, ``[T, K]``; of the rows behind the prefix, each in one group.
        mask: what is added to the scores, ``[T, S, K]``.
        wanted: rows of the output, ``[R]``.
        total: rows N of an image.
        like: where the plan is used.
    """
    (groups, queries), keys = asking.shape, asked.shape[1]
    image = torch.arange(images)[:, None, None, None]
    head = torch.arange(heads)[None, None, :, None]
    block = (image * groups + torch.arange(groups)[None, :, None, None]) * heads + head

    def rows_of(rows: Tensor, part: int) -> Tensor:
        return (((image * total + rows[None, :, None]) * 3 + part) * heads + head).flatten()

    gather = torch.cat([rows_of(asking, 0), rows_of(asked, 1), rows_of(asked, 2)])
    at_query = (block * queries + torch.arange(queries)).transpose(2, 3)  # [B, T, S, H]
    at_key = (block * keys + torch.arange(keys)).transpose(2, 3)  # [B, T, K, H]
    first_key = images * groups * heads * queries
    first_value = first_key + images * groups * heads * keys
    first_sum = len(gather)
    nothing = first_sum + 2 * images * heads * shared

    scatter = torch.full((images, total, 3, heads), nothing)
    scatter[:, asking[~spare], 0] = at_query[:, ~spare]
    behind = asked >= shared
    scatter[:, asked[behind], 1] = first_key + at_key[:, behind]
    scatter[:, asked[behind], 2] = first_value + at_key[:, behind]
    sums = first_sum + torch.arange(2 * images * heads * shared)
    sums = sums.view(2, images, heads, shared).permute(1, 3, 0, 2)
    scatter[:, :shared, 1:] = sums

    number = torch.zeros(total, dtype=torch.long)
    number[wanted] = torch.arange(len(wanted))
    answer = (image * len(wanted) + number[asking][None, :, None]) * heads + head
    unasked = spare[None, :, None].expand(images, groups, heads, queries).flatten().nonzero()[:, 0]
    if mask is not None:
        mask = mask[None, :, None].expand(images, groups, heads, queries, keys)
        mask = mask.reshape(-1, queries, keys).to(like.device)
    return Plan(
        gather=gather.to(like.device),
        mask=mask,
        output=scatter[:, wanted, 0].flatten().to(like.device),
        answer=answer.flatten().to(like.device),
        unasked=unasked.to(like.device),
        scatter=scatter.flatten().to(like.device),
        groups=groups,
        queries=queries,
        keys=keys,
        shared=shared,
        heads=heads,
    )
