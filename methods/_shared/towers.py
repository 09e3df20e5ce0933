"""Methods that act inside the towers: prompts in their blocks, and changes of their weights."""

from __future__ import annotations

import re
from collections.abc import Sequence
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

    CLIP normalises the tokens that enter its first block, EVA-CLIP does not. With the ``entry``
    ``raw``, the first prompts are carried as they were learned, and each tower treats them in its
    own manner. With ``post-ln``, they are carried as the source's norm left them, and they enter
    the first block of every tower unchanged. Prompts get no position, neither an added nor a
    rotary one (RoPE).
    """

    class Config(TrainedMethod.Config):
        entry: Literal["raw", "post-ln"] = "raw"

    config: Config

    def image_prompts(self, module: Module) -> Tensor:
        """Return the prompts of the first blocks of the image tower, ``[J, n, d]``."""
        return module["image_prompts"]

    def image_input(self, backbone: Backbone) -> ImageInput:
        return ImageInput("hidden", block=0)

    def finish(self, module: Module, backbone: Backbone, data: FewShotData) -> Module:
        if self.config.entry == "raw":
            return module
        first = self.image_prompts(module)[0]
        entered = backbone.image.enter(first)
        return Module(module.trained, module.stored | {"entered": entered}).detach()

    def insert(self, module: Module, backbone: Backbone) -> list[Tensor]:
        """Return the prompts as they enter the blocks of a backbone, each ``[n, d]``.

        Raises:
            NotTransferable: the backbone's tokens have another width, or it has too few blocks.
        """
        prompts = self.image_prompts(module).unbind()
        backbone.image.check_prompts(prompts)
        first = module.stored.get("entered")
        if first is None:
            first = backbone.image.enter(prompts[0])
        return [first, *prompts[1:]]


class PromptedClassifier(CosineClassifier):
    """A cosine classifier behind an image tower with prompts.

    Args:
        weights: class weights, ``[C, e]``.
        prompts: the prompts of each of the first blocks, ``[n, d]``.
    """

    def __init__(self, weights: Tensor, backbone: Backbone, prompts: Sequence[Tensor]) -> None:
        super().__init__(weights, backbone.logit_scale)
        self._tower = backbone.image
        self._prompts = prompts

    def encode(self, inputs: Tensor) -> Tensor:
        """Return image features, ``[batch, e]``, of tokens ``[batch, tokens, d]``."""
        return self._tower.encode(inputs, prompts=self._prompts)


class TwoTowersPrompted(ImagePrompted):
    """A method with prompts in the first blocks of both towers.

    The prompt of class c is [SOS, P_0, w, E(name_c), E("."), EOT]. P_0 starts at the first n of
    ``context_words``, and w are the remaining ones. Before each of the next blocks, prompts of
    that block replace the rows of P_0.
    """

    class Config(ImagePrompted.Config):
        context_words: str = "a photo of a"

    config: Config

    def draw_text_prompts(
        self, backbone: Backbone, depth: int, length: int, rng: torch.Generator
    ) -> Tensor:
        """Draw text prompts for J = ``depth`` blocks, ``[J, n, D]``.

        Those of the first block are embeddings of words, the others draws from N(0, 0.02²).

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
        """Return class features of the prompted text tower, not normalised, ``[C, e]``.

        Raises:
            NotTransferable: the backbone's tokens have another width, or it has too few blocks.
        """
        width = backbone.token_width
        first, *deep = require_shape(module, "text_prompts", width, "text tokens of width")
        require_blocks(1 + len(deep), backbone.text.depth, "text")
        remaining_words = backbone.embed_text(self.config.context_words)[len(first) :]
        context = torch.cat([first, remaining_words])
        return backbone.encode_prompts(backbone.prompts(labels, context, deep))

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> PromptedClassifier:
        text = self.text_features(module, backbone, labels)
        return PromptedClassifier(text, backbone, self.insert(module, backbone))


def draw_image_prompts(backbone: Backbone, depth: int, length: int, rng: torch.Generator) -> Tensor:
    """Draw image prompts from N(0, 0.02²), ``[J, n, d]``.

    J is ``depth``, or the number of blocks of the tower if that is smaller.
    """
    blocks = min(depth, backbone.image.depth)
    prompts = torch.randn(blocks, length, backbone.image.width, generator=rng) * 0.02
    return prompts.to(backbone.device)


def late_blocks(backbone: Backbone, first: int) -> range:
    """Return the blocks from number ``first`` of twelve on, counted from 0, up to the twelfth.

    If the smaller tower has fewer than twelve blocks, the same share of them is returned.
    """
    depth = min(backbone.text.depth, backbone.image.depth, 12)
    return range(first * depth // 12, depth)


def require_weight(backbone: Backbone, name: str) -> Tensor:
    """Return a frozen weight of the text tower.

    Raises:
        NotTransferable: the tower has no weight of this name.
    """
    weights = backbone.text.weights
    if name not in weights:
        raise NotTransferable(f"the backbone's text tower has no '{name}'")
    return weights[name]


Tower = Literal["text", "image"]
# The weights of an image tower before its first block. Those of a text tower are not among its own.
BEFORE_BLOCKS = ("class_embedding", "positional_embedding", "conv1.", "ln_pre.")


def zero_shift(backbone: Backbone, tower: Tower, block: int = -1) -> dict[str, Tensor]:
    """Return a difference of zero for each weight of a tower, named ``<tower>.<name>``.

    Args:
        backbone: the backbone that has the tower.
        tower: the tower.
        block: the first block of these weights, counted from 0; -1 also takes those before it.
    """
    return {
        f"{tower}.{name}": torch.zeros(weight.shape, device=backbone.device)
        for name, weight in _frozen(backbone, tower, block).items()
    }


def shift_tower(
    module: Module, backbone: Backbone, tower: Tower, block: int = -1
) -> dict[str, Tensor]:
    """Return the weights θ_0 + Δ of a tower. Δ are the module's tensors ``<tower>.<name>``.

    The weights are those of ``zero_shift`` with the same arguments.

    Raises:
        NotTransferable: the names or sizes of the tower's weights are not those of the differences.
    """
    prefix = f"{tower}."
    differences = {}
    for name, tensor in module.trained.items():
        if name.startswith(prefix):
            differences[name.removeprefix(prefix)] = tensor
    frozen = _frozen(backbone, tower, block)
    shifted = shift_weights(frozen, differences, tower)
    for name in frozen:
        if name not in differences:
            raise NotTransferable(
                f"the backbone's {tower} tower has a '{name}', for which the module holds nothing"
            )
    return shifted


def _frozen(backbone: Backbone, tower: Tower, block: int) -> dict[str, Tensor]:
    """Return the weights of a tower from a block on."""
    weights = backbone.text.weights if tower == "text" else backbone.image.weights
    late = {}
    for name, weight in weights.items():
        number = re.match(r"transformer\.resblocks\.(\d+)\.", name)
        if number is None:
            is_late = block < 0 or not name.startswith(BEFORE_BLOCKS)
        else:
            is_late = int(number[1]) >= block
        if is_late:
            late[name] = weight
    return late
