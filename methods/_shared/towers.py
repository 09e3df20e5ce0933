"""Methods that act inside the towers: prompts of their blocks, and frozen weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from compatbench.errors import CompatbenchError
from compatbench.method import (
    Backbone,
    CosineClassifier,
    FewShotData,
    ImageInput,
    Labels,
    Module,
    NotTransferable,
    require_blocks,
    require_shape,
    shift_weights,
)
from compatbench.method.trained import TrainedMethod


class ImagePrompted(TrainedMethod):
    """A method that inserts learned tokens behind the image's own, from the first block on.

    CLIP normalises what enters its first block, EVA-CLIP does not. With the ``entry``
    ``raw``, the first prompts are carried as they were learned, and a tower does with them
    as it does; with ``post-ln``, as the source's norm left them, and they enter the first
    block of any tower like that. Prompts have no position, neither added nor rotated (RoPE).
    """

    class Config(TrainedMethod.Config):
        entry: Literal["raw", "post-ln"] = "raw"

    config: Config

    def image_prompts(self, module: Module) -> Tensor:
        """Prompts of the first blocks of the image tower, ``[J, n, d]``."""
        return module["image_prompts"]

    def image_input(self, backbone: Backbone) -> ImageInput:
        return ImageInput("hidden", block=0)

    def finish(self, module: Module, backbone: Backbone, data: FewShotData) -> Module:
        if self.config.entry == "raw":
            return module
        entered = backbone.image.enter(self.image_prompts(module)[0])
        return Module(module.trained, module.stored | {"entered": entered}).detach()

    def insert(self, module: Module, backbone: Backbone) -> list[Tensor]:
        """The prompts as they enter the blocks of a backbone, each ``[n, d]``.

        Raises:
            NotTransferable: tokens of another width, or too few blocks.
        """
        prompts = self.image_prompts(module).unbind()
        backbone.image.check_prompts(prompts)
        entered = module.stored.get("entered")
        first = backbone.image.enter(prompts[0]) if entered is None else entered
        return [first, *prompts[1:]]


class PromptedClassifier(CosineClassifier):
    """A cosine classifier behind an image tower with prompts.

    Args:
        weights: class weights, ``[C, e]``.
        prompts: of each of the first blocks, ``[n, d]``.
    """

    def __init__(self, weights: Tensor, backbone: Backbone, prompts: Sequence[Tensor]) -> None:
        super().__init__(weights, backbone.logit_scale)
        self._tower = backbone.image
        self._prompts = prompts

    def encode(self, inputs: Tensor) -> Tensor:
        """Of tokens ``[batch, tokens, d]``."""
        return self._tower.encode(inputs, prompts=self._prompts)


class TwoTowersPrompted(ImagePrompted):
    """A method with prompts in the first blocks of both towers.

    The prompt of class c is [SOS, P_0, w, E(name_c), E("."), EOT], where P_0 starts at the
    first n of ``context_words`` and w are those that are left; before each of the next
    blocks, the rows of P_0 are replaced by prompts of that block.
    """

    class Config(ImagePrompted.Config):
        context_words: str = "a photo of a"

    config: Config

    def draw_text_prompts(
        self, backbone: Backbone, depth: int, length: int, rng: torch.Generator
    ) -> Tensor:
        """Words for the first block, and draws from N(0, 0.02²) for the others, ``[J, n, D]``.

        Raises:
            CompatbenchError: there are fewer words than prompts.
        """
        words = backbone.embed_text(self.config.context_words)
        if len(words) < length:
            raise CompatbenchError(
                f"method '{self.card.name}': context_words '{self.config.context_words}' are "
                f"{len(words)} tokens, too few for prompts of {length}"
            )
        deep = torch.randn(depth - 1, length, backbone.token_width, generator=rng) * 0.02
        return torch.cat([words[None, :length], deep.to(words)])

    def text_features(self, module: Module, backbone: Backbone, labels: Labels) -> Tensor:
        """Class features of the prompted text tower, not normalised, ``[C, e]``.

        Raises:
            NotTransferable: tokens of another width, or too few blocks.
        """
        width, depth = backbone.token_width, backbone.text.depth
        first, *deep = require_shape(module, "text_prompts", width, "text tokens of width")
        require_blocks(1 + len(deep), depth, "text")
        words = backbone.embed_text(self.config.context_words)[len(first) :]
        context = torch.cat([first, words])
        return backbone.encode_prompts(backbone.prompts(labels, context, deep))

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> PromptedClassifier:
        text = self.text_features(module, backbone, labels)
        return PromptedClassifier(text, backbone, self.insert(module, backbone))


def draw_image_prompts(backbone: Backbone, depth: int, length: int, rng: torch.Generator) -> Tensor:
    """Prompts from N(0, 0.02²) for ``depth`` blocks, or as many as there are, ``[J, n, d]``."""
    shape = min(depth, backbone.image.depth), length, backbone.image.width
    return (torch.randn(*shape, generator=rng) * 0.02).to(backbone.device)


def late_blocks(backbone: Backbone, first: int) -> range:
    """Blocks of both towers from the ``first`` of twelve on, counted from 0, up to the twelfth.

    Where the smaller tower has fewer, it is the same share of them.
    """
    depth = min(backbone.text.depth, backbone.image.depth, 12)
    return range(first * depth // 12, depth)


def require_weight(backbone: Backbone, name: str) -> Tensor:
    """A frozen weight of the text tower.

    Raises:
        NotTransferable: it has none of this name.
    """
    weights = backbone.text.weights
    if name not in weights:
        raise NotTransferable(f"the backbone's text tower has no '{name}'")
    return weights[name]


Tower = Literal["text", "image"]


def zero_shift(backbone: Backbone, tower: Tower) -> dict[str, Tensor]:
    """A difference of zero for each weight of a tower, by ``<tower>.<name>``."""
    return {
        f"{tower}.{name}": torch.zeros(weight.shape, device=backbone.device)
        for name, weight in _frozen(backbone, tower).items()
    }


def shift_tower(module: Module, backbone: Backbone, tower: Tower) -> dict[str, Tensor]:
    """All weights θ_0 + Δ of a tower, Δ being the module's ``<tower>.<name>``.

    Raises:
        NotTransferable: the tower's weights have not the names and sizes of the differences.
    """
    start, frozen = f"{tower}.", _frozen(backbone, tower)
    deltas = {n.removeprefix(start): t for n, t in module.trained.items() if n.startswith(start)}
    shifted = shift_weights(frozen, deltas, tower)
    if more := [name for name in frozen if name not in deltas]:
        raise NotTransferable(
            f"the backbone's {tower} tower has a '{more[0]}', for which the module holds nothing"
        )
    return shifted


def _frozen(backbone: Backbone, tower: Tower) -> Mapping[str, Tensor]:
    return backbone.text.weights if tower == "text" else backbone.image.weights
