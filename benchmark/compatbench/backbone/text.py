"""The text tower of a model, run from token embeddings, exactly and as cheaply as it allows."""

from __future__ import annotations

from torch import Tensor, nn

from compatbench.backbone.anatomy import examine
from compatbench.backbone.causal import CausalTower
from compatbench.backbone.plain import PlainTower
from compatbench.backbone.prompts import Prompts


class TextTower:
    """A frozen text tower of open_clip, whatever its kind.

    Raises:
        CompatbenchError: the tower is of no kind that is supported.
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        self._anatomy = examine(model, name)
        shared = self._anatomy.sees_past_only and self._anatomy.standard_blocks
        self._tower = (CausalTower if shared else PlainTower)(self._anatomy)
        self.context_length: int = self._anatomy.context_length
        self.width: int = self._anatomy.positions.shape[1]

    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings without positions, ``[..., D]`` for ids ``[...]``."""
        return self._anatomy.token_embedding(ids)

    def encode(self, prompts: Prompts) -> Tensor:
        """Features of prompts, not normalised, ``[n, e]``, or ``[B, n, e]`` for B prefixes.

        Differentiable in all tensors of the prompts, and of their type, whatever the
        tower's own precision.

        Raises:
            CompatbenchError: a prompt is longer than the tower's context, or deep prompts
                have no place in it.
        """
        prompts.check_fits(self.context_length, len(self._anatomy.blocks))
        prompts_in_precision = prompts.to(self._anatomy.positions.dtype)
        return self._tower.encode(prompts_in_precision).to(prompts.prefix.dtype)
