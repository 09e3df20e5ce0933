"""Hidden states and weights of each layer of a backbone's text and image towers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compatbench.backbone import Backbone
from compatbench.backbone.image.image_anatomy import examine_image_tower
from compatbench.backbone.text.text_anatomy import examine_text_tower

BATCH = 32  # images that go through a tower together
# Parts of an image tower outside its blocks that come after them.
_AFTER_BLOCKS = {"ln_post", "proj", "attn_pool", "norm", "fc_norm", "head"}


@dataclass(frozen=True)
class Layer:
    """One layer of a tower on some inputs.

    Attributes:
        name: ``input``, ``block 1`` ..., or ``output``.
        rows: what leaves it, of all inputs, without padding, ``[n, width]``.
        means: the mean row of each input, ``[inputs, width]``.
        counts: rows of each input, ``[inputs]``.
        weights: its parameters by name.
    """

    name: str
    rows: Tensor
    means: Tensor
    counts: Tensor
    weights: Mapping[str, Tensor]


@torch.no_grad()
def text_layers(backbone: Backbone, texts: tuple[str, ...]) -> list[Layer]:
    """The layers of a text tower on some texts, run by open_clip itself.

    The rows are those that differ between texts: from the first token that not all share to
    the end of text. Start-of-text, whose state is far larger than all others, is left out.

    Raises:
        CompatbenchError: the tower is of no kind that is supported, or a text is too long.
    """
    anatomy = examine_text_tower(backbone.model, backbone.name)
    prompts = backbone.text_prompts(texts)
    counts = torch.tensor(prompts.lengths)
    rows = slice(prompts.shared, prompts.shared + int(counts.max()))
    states = [x[:, rows].float().cpu() for x in text_states(backbone, texts)]
    embedding = anatomy.token_embedding.weight
    weights = {"token_embedding": embedding, "positional_embedding": anatomy.positions}
    weights |= backbone.text.weights
    after = backbone.text.weights.keys()
    return _layers(states, counts, backbone.text_features(texts), weights, after)


@torch.no_grad()
def text_states(backbone: Backbone, texts: tuple[str, ...]) -> list[Tensor]:
    """What enters the first block, and what leaves each, padding included, ``[n, L, D]``."""
    model = backbone.model
    blocks = examine_text_tower(model, backbone.name).blocks
    backbone.text_prompts(texts).check_fits(backbone.text.context_length, backbone.text.depth)
    seen: list[Tensor] = []
    hooks = [blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))]
    hooks += [block.register_forward_hook(lambda _, __, out: seen.append(out)) for block in blocks]  # type: ignore[arg-type]
    try:
        model.encode_text(backbone.tokenizer(list(texts)).to(backbone.device))  # type: ignore[operator]
    finally:
        for hook in hooks:
            hook.remove()
    return seen


@torch.no_grad()
def image_layers(backbone: Backbone, images: Sequence[Tensor]) -> list[Layer]:
    """The layers of an image tower on preprocessed images ``[3, H, W]``, with all tokens.

    Raises:
        NotTransferable: the tower is of a kind that is not supported.
    """
    visual: nn.Module = backbone.model.visual  # type: ignore[assignment]
    anatomy = examine_image_tower(visual, backbone.name)
    seen: list[list[Tensor]] = [[] for _ in range(len(anatomy.blocks) + 2)]
    for start in range(0, len(images), BATCH):
        batch = torch.stack(list(images[start : start + BATCH]))
        x = anatomy.enter(anatomy.embed(batch.to(backbone.device, backbone.dtype)))
        seen[0].append(x.float().cpu())
        for i, run in enumerate(anatomy.blocks, start=1):
            x = run(x, {}, anatomy.tokens)
            seen[i].append(x.float().cpu())
        seen[-1].append(anatomy.project(anatomy.pool(x)).float().cpu())
    *states, features = [torch.cat(parts) for parts in seen]
    weights = dict(visual.named_parameters())
    after = [n for n in weights if n.removeprefix("trunk.").split(".")[0] in _AFTER_BLOCKS]
    return _layers(states, torch.full((len(images),), anatomy.tokens), features, weights, after)


def _layers(
    states: Sequence[Tensor],
    counts: Tensor,
    features: Tensor,
    weights: Mapping[str, Tensor],
    after: Collection[str],
) -> list[Layer]:
    """The layers of a tower; weights outside its blocks come before them, if not ``after``."""
    groups: list[dict[str, Tensor]] = [{} for _ in range(len(states) + 1)]
    for name, tensor in weights.items():
        tower, in_block, rest = name.partition("blocks.")
        if in_block and tower in ("transformer.res", "trunk."):
            number, name = rest.split(".", 1)
            groups[int(number) + 1][name] = tensor.detach()
        else:
            groups[-1 if name in after else 0][name] = tensor.detach()
    ones = torch.ones(len(features), dtype=torch.long)
    outputs = [*((x, counts) for x in states), (features.float().cpu()[:, None], ones)]
    names = ["input", *[f"block {i}" for i in range(1, len(states))], "output"]
    layers = []
    for name, (x, lengths), group in zip(names, outputs, groups, strict=True):
        inside = torch.arange(x.shape[1]) < lengths[:, None]
        means = (x * inside[..., None]).sum(1) / lengths[:, None]
        layers.append(Layer(name, x[inside], means, lengths, group))
    return layers
