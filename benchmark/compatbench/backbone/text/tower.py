"""The text tower of a model, run from token embeddings, exactly and without redundant work."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor, nn

from compatbench.backbone.text.anatomy import Anatomy, examine
from compatbench.backbone.text.causal import CausalTower
from compatbench.backbone.text.plain import PlainTower
from compatbench.backbone.text.prompts import Prompts
from compatbench.backbone.text.replaced_weights import named_weights, replace_weights


class TextTower:
    """A frozen text tower of open_clip, whatever its kind.

    Attributes:
        context_length: tokens of the longest text.
        width: width D of the token embeddings.
        depth: number of transformer blocks.

    Raises:
        CompatbenchError: a tower of this kind is not supported.
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        self._anatomy = examine(model, name)
        self._tower = _build_tower(self._anatomy)
        self.context_length: int = self._anatomy.context_length
        self.width: int = self._anatomy.positions.shape[1]
        self.depth = len(self._anatomy.blocks)

    def pad_with(self, token: int) -> None:
        """Sets the padding token, if the tokenizer's is not the one that open_clip assumes."""
        if token != self._anatomy.pad:
            self._anatomy = dataclasses.replace(self._anatomy, pad=token)
            self._tower = _build_tower(self._anatomy)

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """The frozen weights of blocks, last norm and projection, by open_clip's names."""
        return named_weights(self._anatomy)

    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings without positions, ``[..., D]`` for ids ``[...]``."""
        return self._anatomy.token_embedding(ids)

    def encode(self, prompts: Prompts, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Features of prompts, not normalised, ``[n, e]``, or ``[B, n, e]`` for B prefixes.

        Differentiable in all tensors of the prompts and in the weights, and of the prompts'
        type, whatever the tower's own precision.

        Args:
            weights: replaces the tower's own ``weights`` of these names.

        Raises:
            CompatbenchError: a prompt is longer than the tower's context, prompts of inner
                blocks have no place in it, or it has no such weights.
        """
        prompts.check_fits(self.context_length, self.depth)
        dtype = self._anatomy.positions.dtype
        tower = self._tower
        if weights:
            cast = {name: tensor.to(dtype) for name, tensor in weights.items()}
            learned = torch.is_grad_enabled() and any(t.requires_grad for t in cast.values())
            tower = _build_tower(replace_weights(self._anatomy, cast), learned)
        return tower.encode(prompts.to(dtype)).to(prompts.prefix.dtype)


def _build_tower(anatomy: Anatomy, learned: bool = False) -> CausalTower | PlainTower:
    shared = anatomy.sees_past_only and anatomy.standard_blocks
    return (CausalTower if shared else PlainTower)(anatomy, learned)
