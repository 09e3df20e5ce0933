"""The image tower of a model, run from any block on, with tokens and updates inserted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from compatbench.backbone.image.anatomy import examine_image_tower
from compatbench.backbone.text.anatomy import replace_parameters
from compatbench.errors import NotTransferable

Projection = Literal["q", "k", "v"]
Updates = Mapping[tuple[int, Projection], Callable[[Tensor], Tensor]]
"""For a block and one of its projections: a function of the projection's input
``[batch, tokens, d]`` whose value, of the same shape, is added to the projection's output."""


@dataclass(frozen=True)
class ImageInput:
    """What a classifier takes of an image: how far the frozen tower has computed it.

    ``features``: the image features, ``[batch, e]``; ``hidden``: the tokens that enter a block,
    ``[batch, tokens, d]``, for methods that act in that block or in later ones; ``dense``: the
    image feature, and behind it each patch projected like it, ``[batch, 1 + patches, e]``.
    """

    kind: Literal["features", "hidden", "dense"] = "features"
    block: int = 0  # counted from 0, that hidden tokens enter


FEATURES = ImageInput("features")
DENSE = ImageInput("dense")


class ImageTower:
    """A frozen image tower in which a method can act: a ViT of CLIP or of EVA-CLIP.

    Tokens of a method come after the image's own and have no position: they get no
    positional embedding and are not rotated (RoPE), and they are not pooled.

    Attributes:
        width: width d of the tokens.
        depth: number of blocks.
        tokens: tokens of an image.

    Raises:
        NotTransferable: a tower of this kind is not supported.
    """

    def __init__(self, visual: nn.Module, name: str) -> None:
        self._visual = visual
        self._name = name
        self._anatomy = examine_image_tower(visual, name)
        self.width = self._anatomy.width
        self.depth = len(self._anatomy.blocks)
        self.tokens = self._anatomy.tokens

    def embed(self, images: Tensor, block: int = 0) -> Tensor:
        """The tokens that enter a block, ``[batch, tokens, d]`` of images ``[batch, 3, H, W]``."""
        if not 0 <= block < self.depth:
            raise NotTransferable(
                f"the method acts from block {block} on, and the image tower has {self.depth}"
            )
        x = self._anatomy.embed(images)
        for run in self._anatomy.blocks[:block]:
            x = run(x, {}, self.tokens)
        return x

    def enter(self, tokens: Tensor) -> Tensor:
        """What the tower makes of tokens ``[n, d]`` added before its first block.

        CLIP normalises all tokens there (``ln_pre``), EVA does not.
        """
        dtype = next(self._visual.parameters()).dtype
        return self._anatomy.enter(tokens.to(dtype)).to(tokens.dtype)

    def encode(
        self,
        hidden: Tensor,
        *,
        block: int = 0,
        prompts: Sequence[Tensor] = (),
        updates: Updates | None = None,
        weights: Mapping[str, Tensor] | None = None,
        dense: bool = False,
    ) -> Tensor:
        """Image features, not normalised, ``[batch, e]``; float32 from a bfloat16 tower.

        Differentiable in hidden tokens, prompts, updates and weights.

        Args:
            hidden: the tokens that enter ``block``, ``[batch, tokens, d]``.
            prompts: tokens appended before ``block``, and what replaces them before the
                blocks that follow, each ``[n, d]``, or ``[batch, n, d]``. Before the first
                block they are taken as they are: see ``enter``. Blocks without prompts of
                their own get those that the block before them has computed.
            updates: added to projections of attention, such as LoRA's.
            weights: replaces the tower's own parameters of these names, which are those of
                ``model.visual.named_parameters()``.
            dense: give the image feature, and behind it each patch, which goes through last
                norm and projection as the pooled row does, ``[batch, 1 + patches, e]``
                (PLOT, arXiv:2210.01253, section 3.2).
        """
        x, anatomy = hidden, self._anatomy
        if weights:
            anatomy = examine_image_tower(replace_parameters(self._visual, weights), self._name)
        last = 1 if anatomy.class_pooled and not dense else self.tokens
        for i in range(block, self.depth):
            if i - block < len(prompts):
                own = prompts[i - block].to(x.dtype).expand(len(x), -1, -1)
                x = torch.cat([x[:, : self.tokens], own], dim=1)
            added = {part: f for (place, part), f in (updates or {}).items() if place == i}
            x = anatomy.blocks[i](x, added, last if i == self.depth - 1 else x.shape[1])
        features = anatomy.finish(x)
        if dense:
            patches = anatomy.project(x[:, anatomy.extra :])
            features = torch.cat([features[:, None], patches], dim=1)
        return features.float() if features.dtype == torch.bfloat16 else features

    def check_prompts(self, prompts: Sequence[Tensor]) -> None:
        """Refuses prompts of the first block and those that follow that have no place here.

        Raises:
            NotTransferable: they have another width, or there are too few blocks for them.
        """
        if prompts and prompts[0].shape[-1] != self.width:
            raise NotTransferable(
                f"the module was made for image tokens of width {prompts[0].shape[-1]}, "
                f"not {self.width}"
            )
        if len(prompts) > self.depth:
            raise NotTransferable(
                f"the module was made for image towers of {len(prompts)} blocks or more, "
                f"not {self.depth}"
            )
