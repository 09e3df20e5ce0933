"""Attaching a module through a turn of the joint space that was found from words alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from compatbench.backbone import Backbone, ImageInput, Labels
from compatbench.method import (
    Classifier,
    FewShotData,
    Method,
    MethodCard,
    Module,
)
from compatbench.transfer.rotation import Alignment, fit_rotation
from compatbench.transfer.turned import TurnedBackbone

OUTPUT_PLACES = {"feature", "classifier"}
# Normalised features that differ by no more are the same model's; of two models some of the
# thousands of words always differ by far more.
SAME = 1e-3

WordsOf = Callable[[Backbone], Tensor]


def acts_at_output(card: MethodCard) -> bool:
    """Whether some part of a method's module is written in the joint space's coordinates."""
    return bool(OUTPUT_PLACES & set(card.places))


def find_turn(source: Tensor, target: Tensor) -> Alignment | None:
    """The turn from the source's word features ``[V, e_s]`` to the target's ``[V, e_t]``.

    Returns:
        None if both are the same model's, so that there is nothing to turn.
    """
    if source.shape == target.shape:
        gap = float((source - target.to(source)).abs().max())
        if gap <= SAME:
            return None
    return fit_rotation(source, target.to(source))


class AlignedMethod(Method):
    """A method whose modules are attached in the coordinates of their source.

    The module stays as it is, and so does the method. The target is turned instead: with R found
    from words, the method is given text and image features times Rᵀ. A turn of the target's joint
    space, which alone destroys what is written in the source's, is undone by it.

    Where the target's space is as wide as the source's or narrower, inner products and so the
    target's own zero-shot part are what they were. Where it is wider, Rᵀ projects onto as many
    directions as the source has, and the zero-shot part sees what the module sees.

    Args:
        method: the method.
        source: the source's word features, ``[V, e_s]``.
        words_of: a backbone's features of the same words.
    """

    def __init__(self, method: Method, source: Tensor, words_of: WordsOf) -> None:
        super().__init__(method.config)
        self.card = method.card  # type: ignore[misc]
        self._method = method
        self._source = source
        self._words_of = words_of

    def image_input(self, backbone: Backbone) -> ImageInput:
        return self._method.image_input(backbone)

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        return self._method.fit(backbone, data, rng)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        turn = find_turn(self._source, self._words_of(backbone))
        if turn is None:
            return self._method.attach(module, backbone, labels)
        turned = TurnedBackbone(backbone, turn.rotation)
        classify = self._method.attach(module, turned, labels)
        if self.image_input(backbone).kind == "hidden":
            return classify  # runs the rest of the turned image tower itself
        return lambda features: classify(turned.turn(features))
