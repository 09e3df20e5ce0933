"""TransFusion: a module of weight differences, permuted as source weights match the target's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from compatbench.backbone import Backbone, Labels
from compatbench.backbone.parts.blocks import PROJECTIONS
from compatbench.errors import NotTransferable
from compatbench.method import Method, Module
from compatbench.method.transfer import TransferCard, TransferData

from ._shared.weights import WeightTransfer, tower_of_factor

ROUNDS = 100
# The group of units on each axis of a weight; a bias has the first. "stream" is the residual
# stream, one for the tower; the others are each block's own: channels of heads, which queries
# and keys share, those of values, and the MLP's inner units. The joint space has none.
IN_BLOCKS = {
    "attn.q": ("qk", "stream"),
    "attn.k": ("qk", "stream"),
    "attn.v": ("v", "stream"),
    "attn.out_proj": ("stream", "v"),
    "mlp.c_fc": ("mlp", "stream"),
    "mlp.c_proj": ("stream", "mlp"),
    "ln_1": ("stream",),
    "ln_2": ("stream",),
}
AT_ENDS = {
    "conv1": ("stream", None, None, None),
    "class_embedding": ("stream",),
    "positional_embedding": (None, "stream"),
    "ln_pre": ("stream",),
    "ln_post": ("stream",),
    "ln_final": ("stream",),
    "proj": ("stream", None),
    "text_projection": ("stream", None),
}
_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+?)(?:\.weight|\.bias)?")

Order = Mapping[str, Tensor]
"""For each group of units, the source's unit that comes to each place of the target."""


class TransFusion(WeightTransfer):
    """A module of weight differences, in the order of the target's own units.

    Rinaldi et al., *Update Your Transformer to the Latest Release: Re-Basin of Task Vectors*:
    θ_t + π(τ), where π puts the source's units where they match the target's; see ``Matching``.
    Towers must be built alike; of a CLIP and an EVA-CLIP only the text towers are.
    """

    card = TransferCard(
        name="transfusion",
        title="TransFusion",
        paper="arXiv:2505.22697",
        access={"source weights"},
        summary="Weight differences are permuted as the source's weights match the target's.",
        takes={"text-layers", "image-layers"},
    )

    def carry(
        self, method: Method, module: Module, target: Backbone, labels: Labels, data: TransferData
    ) -> Module:
        towers = towers_of(module)
        orders = {kind: match_towers(data.source, target, kind) for kind in {*towers.values()}}
        new = {}
        for name, tensor in module.trained.items():
            order = orders[towers[name]]
            if name.endswith("_a"):
                new[name] = tensor[..., order["stream"].to(tensor.device)]
            elif name.endswith("_b"):
                rows = [torch.stack([order[f"{i}.{g}"] for g in ("qk", "qk", "v")])
                        for i in range(len(tensor))]  # fmt: skip
                index = torch.stack(rows)[..., None].to(tensor.device)
                new[name] = tensor.gather(2, index.expand(tensor.shape))
            else:
                parts = split({name: tensor}).items()
                new[name] = torch.cat([permute(n, t, order) for n, t in parts])
        return Module(new, module.stored)


def axes_of(name: str, ndim: int) -> tuple[str | None, ...]:
    """The groups on a weight's axes, queries, keys and values apart; empty if none is known."""
    if block := _BLOCK.fullmatch(name):
        number, part = block.groups()
        groups = IN_BLOCKS.get(part, ())
        return tuple(g if g == "stream" else f"{number}.{g}" for g in groups)[:ndim]
    return AT_ENDS.get(re.sub(r"\.(weight|bias)$", "", name), ())[:ndim]


def split(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by name, with queries, keys and values of attention apart."""
    apart = {}
    for name, tensor in weights.items():
        if ".in_proj_" in name:
            for letter, part in zip(PROJECTIONS, tensor.chunk(3), strict=True):
                apart[name.replace(".in_proj_", f".{letter}.")] = part
        else:
            apart[name] = tensor
    return apart


def permute(name: str, tensor: Tensor, order: Order) -> Tensor:
    """A weight of ``split``, or a difference of it, with its units in the target's order."""
    for axis, group in enumerate(axes_of(name, tensor.ndim)):
        if group is not None:
            tensor = tensor.index_select(axis, order[group].to(tensor.device))
    return tensor


class Matching:
    """Where a source tower's units go so that its weights W_s come nearest the target's W_t.

    Σ ⟨W_t, π(W_s)⟩ is maximised group by group (Git Re-Basin, arXiv:2209.04836, section 3.2);
    heads are paired by the singular values of their weights first, which no order of channels
    changes (TransFusion, arXiv:2505.22697).
    """

    def __init__(
        self, source: Mapping[str, Tensor], target: Mapping[str, Tensor], heads: int
    ) -> None:
        """Both are a tower's weights as ``split`` gives them; those without a group are ignored."""
        names = [name for name, tensor in source.items() if axes_of(name, tensor.ndim)]
        self._source = {name: source[name].double().cpu() for name in names}
        self._target = {name: target[name].double().cpu() for name in names}
        self._sizes = {
            group: tensor.shape[axis]
            for name, tensor in self._source.items()
            for axis, group in enumerate(axes_of(name, tensor.ndim))
            if group is not None
        }
        self._heads = heads
        blocks = {group.split(".")[0] for group in self._sizes if group.endswith(".v")}
        self._head_pairs = {block: self._pair_heads(block) for block in blocks}

    def solve(self) -> dict[str, Tensor]:
        """The best order that is found from two starts: the units as they are, and the stream
        as norms, biases and projection alone would have it. If neither beats the units as they
        are, these stay."""
        same = {group: torch.arange(size) for group, size in self._sizes.items()}
        anchored = same | {"stream": self._assign("stream", same, anchors=True)}
        return max([same, self._alternate(same), self._alternate(anchored)], key=self.agreement)

    def agreement(self, order: Order) -> float:
        """Σ ⟨W_t, π(W_s)⟩."""
        moved = {name: permute(name, tensor, order) for name, tensor in self._source.items()}
        return sum(float((self._target[name] * weight).sum()) for name, weight in moved.items())

    def _alternate(self, order: Order) -> dict[str, Tensor]:
        """Each group in turn, until none changes."""
        current = dict(order)
        for _ in range(ROUNDS):
            before = dict(current)
            for group in current:
                current[group] = self._assign(group, current)
            if all(torch.equal(before[group], units) for group, units in current.items()):
                break
        return current

    def _assign(self, group: str, order: Order, anchors: bool = False) -> Tensor:
        """The best order of one group, with all others given.

        With ``anchors``, by the weights alone that have no other group.
        """
        gains = torch.stack([*self._gains(group, order, anchors)]).sum(0)
        block = group.split(".")[0]
        if group in ("stream", f"{block}.mlp"):
            return _maximise(gains)
        width = len(gains) // self._heads
        tiles = gains.unflatten(0, (-1, width)).unflatten(-1, (-1, width))
        pairs = enumerate(self._head_pairs[block])
        return torch.cat([head * width + _maximise(tiles[to, :, head]) for to, head in pairs])

    def _gains(self, group: str, order: Order, anchors: bool) -> Iterator[Tensor]:
        """Of each weight, the products of the target's units with the source's, ``[n, n]``."""
        free = {**order, group: torch.arange(self._sizes[group])}
        for name, tensor in self._source.items():
            axes = axes_of(name, tensor.ndim)
            if group in axes and not (anchors and set(axes) - {group, None}):
                axis = axes.index(group)
                both = self._target[name], permute(name, tensor, free)
                a, b = (weight.movedim(axis, 0).reshape(weight.shape[axis], -1) for weight in both)
                yield a @ b.T

    def _pair_heads(self, block: str) -> list[int]:
        """The source's head that takes the place of each of the target's."""

        def read(weights: Mapping[str, Tensor]) -> Tensor:
            names = [f"transformer.resblocks.{block}.attn.{p}.weight" for p in PROJECTIONS]
            parts = torch.stack([weights[name] for name in names]).unflatten(1, (self._heads, -1))
            return torch.linalg.svdvals(parts.transpose(0, 1))  # [heads, 3, channels]

        a, b = read(self._target), read(self._source)
        return _maximise(-torch.linalg.vector_norm(a[:, None] - b, dim=-1).sum(-1)).tolist()


def _maximise(gains: Tensor) -> Tensor:
    """The column of each row, ``[n]``, with the largest sum (the Hungarian method)."""
    from scipy.optimize import linear_sum_assignment

    return torch.from_numpy(linear_sum_assignment(gains.numpy(), maximize=True)[1])


def match_towers(source: Backbone, target: Backbone, kind: str) -> dict[str, Tensor]:
    """The order of units of two backbones' ``text`` or ``image`` towers.

    Raises:
        NotTransferable: the towers are not built alike.
    """
    a, b = (split(getattr(backbone, kind).weights) for backbone in (source, target))
    alike = {n: t.shape for n, t in a.items()} == {n: t.shape for n, t in b.items()}
    heads = {_count_heads(backbone, kind) for backbone in (source, target)} if alike else set()
    if len(heads) != 1:
        raise NotTransferable(f"the {kind} towers are not built alike, so no units match")
    number = heads.pop()
    if number is None:
        raise NotTransferable(f"the {kind} towers have no attention of CLIP's kind")
    return Matching(a, b, number).solve()


def _count_heads(backbone: Backbone, kind: str) -> int | None:
    for name, part in backbone.model.named_modules():
        image = name.startswith("visual.")
        if isinstance(part, nn.MultiheadAttention) and image == (kind == "image"):
            return part.num_heads
    return None


def towers_of(module: Module) -> dict[str, str]:
    """For each trained tensor the tower whose weights it changes, ``text`` or ``image``.

    These are low-rank updates of queries, keys and values, W + b a with ``{tower}_b``
    ``[blocks, 3, d, r]`` and ``{tower}_a`` ``[blocks, 3, r, d]``, and differences of the text
    tower's weights under their own names.

    Raises:
        NotTransferable: a tensor is neither.
    """
    towers = {}
    for name, tensor in module.trained.items():
        tower = tower_of_factor(name)
        if not tower and not any(axes_of(n, t.ndim) for n, t in split({name: tensor}).items()):
            raise NotTransferable(f"'{name}' is no difference of a tower's weights")
        towers[name] = tower or "text"
    return towers
