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
    """Return the layers of a text tower on some texts, run by open_clip itself.

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
    return _make_layers(states, counts, backbone.text_features(texts), weights, after)


@torch.no_grad()
def text_states(backbone: Backbone, texts: tuple[str, ...]) -> list[Tensor]:
    """Return what enters the first block and what leaves each, with padding, ``[n, L, D]``."""
    model = backbone.model
    blocks = examine_text_tower(model, backbone.name).blocks
    backbone.text_prompts(texts).check_fits(backbone.text.context_length, backbone.text.depth)
    seen: list[Tensor] = []

    def keep_input(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])

    def keep_output(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(output)

    hooks = [blocks[0].register_forward_pre_hook(keep_input)]
    for block in blocks:
        hooks.append(block.register_forward_hook(keep_output))
    try:
        model.encode_text(backbone.tokenizer(list(texts)).to(backbone.device))  # type: ignore[operator]
    finally:
        for hook in hooks:
            hook.remove()
    return seen


@torch.no_grad()
def image_layers(backbone: Backbone, images: Sequence[Tensor]) -> list[Layer]:
    """Return the layers of an image tower on preprocessed images ``[3, H, W]``, with all tokens.

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
    after = []
    for name in weights:
        part, _, _ = name.removeprefix("trunk.").partition(".")
        if part in _AFTER_BLOCKS:
            after.append(name)
    counts = torch.full((len(images),), anatomy.tokens)
    return _make_layers(states, counts, features, weights, after)


def _make_layers(
    states: Sequence[Tensor],
    counts: Tensor,
    features: Tensor,
    weights: Mapping[str, Tensor],
    after: Collection[str],
) -> list[Layer]:
    """Return the layers of a tower.

    Args:
        states: what leaves the input layer and each block, ``[inputs, L, width]``.
        counts: rows of each input that are no padding, ``[inputs]``.
        features: what leaves the tower, ``[inputs, e]``.
        weights: the parameters of the tower by name.
        after: names of the weights outside blocks that belong to the output, not to the input.
    """
    groups: list[dict[str, Tensor]] = [{} for _ in range(len(states) + 1)]
    for name, tensor in weights.items():
        tower, in_block, rest = name.partition("blocks.")
        if in_block and tower in ("transformer.res", "trunk."):
            number, _, name_in_block = rest.partition(".")
            groups[int(number) + 1][name_in_block] = tensor.detach()
        elif name in after:
            groups[-1][name] = tensor.detach()
        else:
            groups[0][name] = tensor.detach()
    layers = []
    for number, (x, group) in enumerate(zip(states, groups[:-1], strict=True)):
        name = f"block {number}" if number else "input"
        layers.append(_make_layer(name, x, counts, group))
    # The output is one row for each input.
    ones = torch.ones(len(features), dtype=torch.long)
    layers.append(_make_layer("output", features.float().cpu()[:, None], ones, groups[-1]))
    return layers


def _make_layer(name: str, x: Tensor, counts: Tensor, weights: Mapping[str, Tensor]) -> Layer:
    """Return a layer whose output is ``x``, ``[inputs, L, width]``, without its padding."""
    inside = torch.arange(x.shape[1]) < counts[:, None]
    means = (x * inside[..., None]).sum(1) / counts[:, None]
    return Layer(name, x[inside], means, counts, weights)
