"""A backbone that skips MLPs of its towers while a module is fitted (Trans-PEFT)."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from compatbench.backbone.backbone import Backbone
from compatbench.backbone.image.image_tower import ImageTower
from compatbench.backbone.parts.blocks import BlockUpdates, Update
from compatbench.backbone.text.prompts import Prompts


class DroppingBackbone(Backbone):
    """A backbone whose blocks each leave out their frozen MLP with some probability.

    It is drawn anew for every call of ``encode_prompts`` and of ``image.encode``. What a method
    adds to an MLP still acts. So a module comes to rely less on what an update of the backbone
    changes most (Trans-PEFT, arXiv:2506.06844, section 4). Frozen text features, such as those of
    zero-shot, are the whole backbone's; image features that were cached have all their MLPs.

    Attributes:
        mlp_drop: the probability.
    """

    def __init__(self, backbone: Backbone, mlp_drop: float, rng: torch.Generator) -> None:
        """``rng`` is the fit's."""
        vars(self).update(vars(backbone))
        vars(self).pop("image", None)
        self.mlp_drop = mlp_drop
        self._whole, self._rng = backbone, rng

    def drop(self, depth: int, updates: BlockUpdates | None) -> BlockUpdates:
        """The updates of a tower's blocks, with the MLP of those that are drawn left out."""
        changed = dict(updates or {})
        drawn = torch.rand(depth, generator=self._rng) < self.mlp_drop
        for block in drawn.nonzero().flatten().tolist():
            changed[block, "mlp"] = _leave_out(changed.get((block, "mlp")))
        return changed

    @cached_property
    def image(self) -> ImageTower:
        """The image tower, which leaves out MLPs."""
        return _DroppingTower(self._whole.image, self)

    def encode_prompts(
        self, prompts: Prompts, weights: Any = None, block_updates: BlockUpdates | None = None
    ) -> Tensor:
        """As a backbone."""
        updates = self.drop(self.text.depth, block_updates)
        return self._whole.encode_prompts(prompts, weights, updates)

    def text_features(self, texts: tuple[str, ...]) -> Tensor:
        """As a backbone, with all MLPs."""
        return self._whole.text_features(texts)

    def encode_texts(self, texts: Any) -> Tensor:
        """As a backbone, with all MLPs."""
        return self._whole.encode_texts(texts)


class _DroppingTower(ImageTower):
    def __init__(self, tower: ImageTower, owner: DroppingBackbone) -> None:
        vars(self).update(vars(tower))
        self._owner = owner

    def _run(self, hidden: Any, block: int, prompts: Any, block_updates: Any, last: Any) -> Tensor:
        return super()._run(
            hidden, block, prompts, self._owner.drop(self.depth, block_updates), last
        )


def _leave_out(update: Update | None) -> Update:
    def left_out(output: Tensor, given: Tensor) -> Tensor:
        nothing = torch.zeros_like(output)
        return nothing if update is None else update(nothing, given)

    return left_out
