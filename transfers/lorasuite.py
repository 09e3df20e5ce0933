"""LoRASuite: low-rank updates for a model of another depth, width or number of heads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from pydantic import PositiveInt
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.backbone.words import load_words
from compatbench.errors import NotTransferable
from compatbench.method import Method, MethodConfig, Module
from compatbench.method.transfer import TransferCard, TransferData

from ._shared.weights import WeightTransfer, attention_weights, low_rank_towers
from .theseus import Side


class LoRASuite(WeightTransfer):
    """ΔW = B A of a block becomes Tᵀ B A W_h in the block and the heads that match it.

    Li et al., *LoRASuite: Efficient LoRA Adaptation Across Large Language Model Upgrades*. W_h =
    E_s⁺ E_t leads from the source's channels to the target's, with E the known parameters that
    both share: embeddings of the same tokens, or an image tower's patch, class and positional
    embeddings. Blocks are matched in their order: of all ways to give each block of the shallower
    tower one of the deeper, the one with the largest sum of CKA, of what enters the blocks for the
    same prompts or images. A block without a match has no update. The heads of matched blocks are
    assigned by the cosines of W_qᵀW_k and of W_o W_v, by the Hungarian algorithm.

    T rotates the channels of a head: U Vᵀ of Σ W' W_tᵀ = U S Vᵀ, over queries and keys, or over
    values and outputs, with W' the source's weights behind W_h. It and the matching in order are
    this project's, because only summaries of the paper could be read. The authors train the result
    further on a hundred examples; here nothing is trained (``distilled`` and ``warm`` train).
    """

    card = TransferCard(
        name="lorasuite",
        title="LoRASuite",
        paper="arXiv:2505.13515",
        access={"unlabelled", "source weights"},
        summary="Low-rank updates move to the blocks and heads that match them, of any number.",
        takes={"text-layers", "image-layers"},
    )

    class Config(MethodConfig):
        images: PositiveInt = 64

    def carry(
        self, method: Method, module: Module, target: Backbone, labels: Labels, data: TransferData
    ) -> Module:
        images = data.unlabelled
        old = Side(data.source, images.source, images.old_inputs)  # type: ignore[arg-type]
        new = Side(target, images.target, images.inputs)
        rows = torch.arange(min(len(images.target), self.config.images))
        rows = rows.to(images.target.device)
        carried = dict(module.trained)
        for kind in low_rank_towers(module):
            a = module[f"{kind}_a"]
            depth = getattr(data.source, kind).depth
            if len(a) != depth:
                raise NotTransferable(
                    f"the module updates {len(a)} blocks, and its {kind} tower has {depth}"
                )
            old_blocks = read_attention(data.source, kind, a.shape[-1])
            width = getattr(target, kind).width
            new_blocks = read_attention(target, kind, width)
            channels = match_channels(data.source, target, kind)
            similarities = compare_blocks(
                observe(old, kind, labels, rows), observe(new, kind, labels, rows)
            )
            new_a = torch.zeros(len(new_blocks), *a.shape[1:3], width).to(a)
            new_b = torch.zeros_like(new_a.mT)
            for old_block, new_block in match_blocks(similarities):
                turns = turn_heads(old_blocks[old_block].behind(channels), new_blocks[new_block])
                b = module[f"{kind}_b"][old_block]
                new_a[new_block] = a[old_block].to(channels) @ channels
                new_b[new_block] = turns.mT @ b.to(turns)
            carried[f"{kind}_a"] = new_a
            carried[f"{kind}_b"] = new_b
        return Module(carried, module.stored)


@dataclass(frozen=True)
class Attention:
    """The attention weights of a block, by head; rows of the input have d channels."""

    projections: Tensor  # of queries, keys and values, ``[3, heads, h, d]``
    output: Tensor  # ``[heads, d, h]``

    def behind(self, channels: Tensor) -> Attention:
        """Return the weights for inputs and outputs in the channels of W_h, ``[d, d_t]``."""
        return Attention(self.projections @ channels, channels.T @ self.output)


def read_attention(backbone: Backbone, kind: str, width: int) -> list[Attention]:
    """Return the weights of all blocks of a tower in float64.

    Raises:
        NotTransferable: the tower has no such weights, or they have another width.
    """
    tower = getattr(backbone, kind)
    like = torch.empty(tower.depth, 3, 0, width)
    projections = attention_weights(backbone, kind, like).double()
    blocks = []
    for block, weights in enumerate(projections):
        output = tower.weights[f"transformer.resblocks.{block}.attn.out_proj.weight"].double()
        by_head = output.unflatten(1, (tower.heads, -1)).transpose(0, 1)
        blocks.append(Attention(weights.unflatten(1, (tower.heads, -1)), by_head))
    return blocks


def match_channels(source: Backbone, target: Backbone, kind: str) -> Tensor:
    """Return W_h = E_s⁺ E_t, ``[d_s, d_t]``, in float64.

    Raises:
        NotTransferable: the models have no embeddings of the same tokens, or patches.
    """
    if kind == "text":
        words = load_words()
        ids = source.tokenizer(words)
        if not torch.equal(ids, target.tokenizer(words)):
            raise NotTransferable("the models divide texts into other tokens")
        tokens = ids.unique()
        old = source.text.embed(tokens.to(source.device))
        new = target.text.embed(tokens.to(target.device))
    else:
        old = image_embeddings(source)
        new = image_embeddings(target)
    if len(old) != len(new):
        raise NotTransferable("the image towers differ in patches, so no parameters match")
    return torch.linalg.pinv(old.double()) @ new.double()


def image_embeddings(backbone: Backbone) -> Tensor:
    """Return the embeddings of pixels, of the class token and of positions, ``[n, d]``."""
    weights = backbone.image.weights
    parts = [weights["conv1.weight"].flatten(1).T, weights["positional_embedding"]]
    if "class_embedding" in weights:
        parts.append(weights["class_embedding"][None])
    return torch.cat(parts)


def observe(side: Side, kind: str, labels: Labels, rows: Tensor) -> list[Tensor]:
    """Return what enters the attention of each block, ``[n, d]``, for prompts or images."""
    tower = getattr(side.model, kind)
    seen: list[list[Tensor]] = [[] for _ in range(tower.depth)]

    def watch(output: Tensor, entered: Tensor, block: int) -> Tensor:
        seen[block].append(entered.detach().flatten(0, -2))
        return output

    updates = {(block, "q"): partial(watch, block=block) for block in range(tower.depth)}
    side.run(kind, labels, rows, updates)  # type: ignore[arg-type]
    return [torch.cat(parts).double() for parts in seen]


def compare_blocks(old: list[Tensor], new: list[Tensor]) -> Tensor:
    """Return the linear CKA of each old block with each new one, ``[old, new]``.

    Raises:
        NotTransferable: the towers have different numbers of rows.
    """
    if len({len(rows) for rows in (*old, *new)}) > 1:
        raise NotTransferable("the towers differ in tokens, so no rows match")
    return torch.stack([torch.stack([cka(x, y) for y in new]) for x in old])


def cka(x: Tensor, y: Tensor) -> Tensor:
    """Return ‖XᵀY‖² / (‖XᵀX‖ ‖YᵀY‖) of centred features of the same rows, 0 to 1."""
    x = x - x.mean(0)
    y = y - y.mean(0)
    own = torch.linalg.norm(x.T @ x) * torch.linalg.norm(y.T @ y)
    return (x.T @ y).square().sum() / own


def match_blocks(similarities: Tensor) -> list[tuple[int, int]]:
    """Return pairs of blocks in their order: the largest sum of ``[old, new]``.

    Each block of the shallower tower has a pair.
    """
    old, new = similarities.shape
    if old > new:
        return [(i, j) for j, i in match_blocks(similarities.T)]
    # best[j] is the largest sum, and its pairs, of the first i old and the first j new blocks.
    best: list[tuple[float, list[tuple[int, int]]]] = [(0.0, [])] * (new + 1)
    for i in range(old):
        following: list[tuple[float, list[tuple[int, int]]]] = [(float("-inf"), [])]
        for j in range(new):
            total, pairs = best[j]
            matched = (total + float(similarities[i, j]), [*pairs, (i, j)])
            following.append(max(following[-1], matched, key=lambda found: found[0]))
        best = following
    return best[-1][1]


def turn_heads(old: Attention, new: Attention) -> Tensor:
    """Return T of queries, keys and values, ``[3, d_s, d_t]``, for matched heads; 0 elsewhere.

    Args:
        old: weights of the source in the target's channels.
        new: weights of the target.
    """
    query, key, value = old.projections
    new_query, new_key, new_value = new.projections
    attended = cosines(query.mT @ key, new_query.mT @ new_key)
    passed = cosines(old.output @ value, new.output @ new_value)
    turns = query.new_zeros(3, *query.shape[:2], *new_query.shape[:2])
    for i, j in assign(attended + passed):
        both = procrustes(query[i] @ new_query[j].T + key[i] @ new_key[j].T)
        turns[0, i, :, j] = both
        turns[1, i, :, j] = both
        turns[2, i, :, j] = procrustes(value[i] @ new_value[j].T + old.output[i].T @ new.output[j])
    return turns.flatten(3, 4).flatten(1, 2)


def cosines(old: Tensor, new: Tensor) -> Tensor:
    """Return the cosine of each old matrix with each new one, ``[heads_s, heads_t]``."""
    old = torch.nn.functional.normalize(old.flatten(1), dim=-1)
    new = torch.nn.functional.normalize(new.flatten(1), dim=-1)
    return old @ new.T


def assign(similarities: Tensor) -> list[tuple[int, int]]:
    """Return pairs of heads with the largest sum; each head is in one pair at most."""
    # Imported here, because it takes a second and listing transfers does not need it.
    from scipy.optimize import linear_sum_assignment

    old, new = linear_sum_assignment(similarities.cpu().numpy(), maximize=True)
    return list(zip(old.tolist(), new.tolist(), strict=True))


def procrustes(product: Tensor) -> Tensor:
    """Return U Vᵀ of U S Vᵀ."""
    u, _, v = torch.linalg.svd(product, full_matrices=False)
    return u @ v
