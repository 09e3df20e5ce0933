"""What lies between the layers of both towers: hidden states, and the weights of each layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compatbench.backbone import Backbone
from compatbench.backbone.image.anatomy import examine_image_tower
from compatbench.backbone.text.anatomy import examine

BATCH = 32  # images that go through a tower together


@dataclass(frozen=True)
class Layer:
    """One layer of a tower on some inputs.

    Attributes:
        name: ``input``, ``block 1`` ..., or ``output``.
        states: what leaves it, ``[inputs, rows, width]``; texts of unequal length are padded.
        counts: rows of each input that count, ``[inputs]``.
        weights: its parameters by name.
    """

    name: str
    states: Tensor
    counts: Tensor
    weights: Mapping[str, Tensor]

    @property
    def rows(self) -> Tensor:
        """All rows that count, one under the other, ``[n, width]``."""
        return self.states[self._inside]

    @property
    def means(self) -> Tensor:
        """The mean row of each input, ``[inputs, width]``."""
        inside = self._inside[..., None]
        return (self.states * inside).sum(1) / self.counts[:, None]

    @property
    def _inside(self) -> Tensor:
        places = torch.arange(self.states.shape[1], device=self.states.device)
        return places < self.counts[:, None]


@torch.no_grad()
def text_layers(backbone: Backbone, texts: tuple[str, ...]) -> list[Layer]:
    """The layers of a text tower on some texts, run by open_clip itself.

    The rows are those that tell texts apart: from the first token that not all share to
    the end of text. Start-of-text, whose state dwarfs all others, is among those left out.

    Raises:
        CompatbenchError: the tower is of no kind that is supported, or a text is too long.
    """
    anatomy = examine(backbone.model, backbone.name)
    prompts = backbone.text_prompts(texts)
    seen = text_states(backbone, texts)
    features = backbone.text_features(texts)
    counts = torch.tensor(prompts.lengths)
    shared, longest = prompts.shared, int(counts.max())
    states = [x[:, shared : shared + longest].float().cpu() for x in seen]
    known = backbone.text.weights
    first = {
        "token_embedding": anatomy.token_embedding.weight.detach(),
        "positional_embedding": anatomy.positions.detach(),
    }
    prefixes = [f"transformer.resblocks.{i}." for i in range(len(anatomy.blocks))]
    inner = [
        {n.removeprefix(prefix): t for n, t in known.items() if n.startswith(prefix)}
        for prefix in prefixes
    ]
    last = {n: t for n, t in known.items() if not n.startswith("transformer.")}
    layers = [
        Layer(name, x, counts, weights)
        for name, x, weights in zip(_names(len(inner)), states, [first, *inner], strict=False)
    ]
    return [*layers, _output(features, last)]


@torch.no_grad()
def text_states(backbone: Backbone, texts: tuple[str, ...]) -> list[Tensor]:
    """What enters the first block, and what leaves each, padding included, ``[n, L, D]``.

    Raises:
        CompatbenchError: as above.
    """
    model = backbone.model
    blocks = examine(model, backbone.name).blocks
    backbone.text_prompts(texts).check_fits(backbone.text.context_length, backbone.text.depth)
    seen: list[Tensor] = []
    hooks = [blocks[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))]
    hooks += [block.register_forward_hook(lambda _, __, out: seen.append(out)) for block in blocks]  # type: ignore[arg-type]
    try:
        model.encode_text(backbone.tokenizer(list(texts)).to(backbone.device))  # type: ignore[operator]
    finally:
        for hook in hooks:
            hook.remove()
    return seen


@torch.no_grad()
def image_layers(backbone: Backbone, images: Sequence[Tensor]) -> list[Layer]:
    """The layers of an image tower on preprocessed images ``[3, H, W]``; all tokens count.

    Raises:
        NotTransferable: the tower is of a kind that is not understood.
    """
    visual: nn.Module = backbone.model.visual  # type: ignore[assignment]
    anatomy = examine_image_tower(visual, backbone.name)
    seen: list[list[Tensor]] = [[] for _ in range(len(anatomy.blocks) + 2)]
    for start in range(0, len(images), BATCH):
        batch = torch.stack(list(images[start : start + BATCH]))
        x = anatomy.embed(batch.to(backbone.device, backbone.dtype))
        seen[0].append(x.float().cpu())
        for i, run in enumerate(anatomy.blocks, start=1):
            x = run(x, {}, anatomy.tokens)
            seen[i].append(x.float().cpu())
        seen[-1].append(anatomy.finish(x).float().cpu())
    *states, features = [torch.cat(parts) for parts in seen]
    counts = torch.full((len(images),), anatomy.tokens)
    groups = _image_weights(visual, len(anatomy.blocks))
    layers = [
        Layer(name, x, counts, weights)
        for name, x, weights in zip(_names(len(states) - 1), states, groups, strict=False)
    ]
    return [*layers, _output(features, groups[-1])]


def _output(features: Tensor, weights: Mapping[str, Tensor]) -> Layer:
    ones = torch.ones(len(features), dtype=torch.long)
    return Layer("output", features.float().cpu()[:, None], ones, weights)


def _names(blocks: int) -> list[str]:
    return ["input", *[f"block {i}" for i in range(1, blocks + 1)]]


def _image_weights(visual: nn.Module, blocks: int) -> list[dict[str, Tensor]]:
    """The parameters before the blocks, of each block, and after them."""
    groups: list[dict[str, Tensor]] = [{} for _ in range(blocks + 2)]
    names = [name for name, _ in visual.named_parameters()]
    prefix = _block_prefix(names)
    reached = 0
    for name, tensor in visual.named_parameters():
        if name.startswith(prefix):
            number, rest = name.removeprefix(prefix).split(".", 1)
            groups[int(number) + 1][rest] = tensor.detach()
        else:
            reached = len(groups) - 1 if _is_last(name) else 0
            groups[reached][name] = tensor.detach()
    return groups


def _block_prefix(names: Iterable[str]) -> str:
    for part in ("transformer.resblocks.", "trunk.blocks."):
        if any(name.startswith(part) for name in names):
            return part
    raise AssertionError("a tower that was understood has blocks of a known name")


def _is_last(name: str) -> bool:
    """Whether a parameter outside the blocks comes after them."""
    start = name.removeprefix("trunk.").split(".")[0]
    return start in {"ln_post", "proj", "attn_pool", "norm", "fc_norm", "head"}
