"""Backbones made of another: in rotated coordinates of its joint space, or without some MLPs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from compatbench.backbone.backbone import Backbone
from compatbench.backbone.image.image_tower import FEATURES, ImageInput, ImageTower
from compatbench.backbone.parts.blocks import BlockUpdates, Update
from compatbench.backbone.parts.parameters import change_tower
from compatbench.backbone.text.prompts import Prompts
from compatbench.backbone.text.text_tower import TextTower
from compatbench.files.hashes import sha256_json
from compatbench.files.tensors import fingerprint


class RotatedBackbone(Backbone):
    """A backbone in other coordinates: text and image features times Rᵀ, ``[..., e_s]``.

    With RᵀR = I (a rotation, or a narrower space put into a wider one) inner products are those of
    the backbone, and so is its zero-shot classifier. With R Rᵀ = I alone (a wider space) features
    are projected onto as many directions as there are. Model and tokenizer are shared with it.
    """

    def __init__(self, backbone: Backbone, rotation: Tensor) -> None:
        """The rotation R is ``[e_s, e_t]``, e_t the backbone's."""
        vars(self).update(vars(backbone))
        # These were computed in the backbone's own coordinates.
        for name in ("embed_dim", "image", "text", "encode_prompts"):
            vars(self).pop(name, None)
        self._text_features = {}
        self.unrotated = backbone
        self.rotation = rotation.float().to(backbone.device)
        self.weights_key = sha256_json([backbone.weights_key, fingerprint({"r": self.rotation})])

    def rotate(self, features: Tensor) -> Tensor:
        """Features of the unrotated backbone ``[..., e_t]`` in these coordinates."""
        return features @ self.rotation.T.to(features)

    @cached_property
    def text(self) -> TextTower:  # type: ignore[override]
        """The text tower, with the projection that leads to these coordinates."""
        return change_tower(self.unrotated.text, _rotation=self.rotation)

    @cached_property
    def image(self) -> ImageTower:
        """The image tower, with its features rotated."""
        return change_tower(self.unrotated.image, _rotation=self.rotation)

    @torch.no_grad()
    def encode_images(self, images: Tensor, wanted: ImageInput = FEATURES) -> Tensor:
        """As a backbone; what lies inside the tower is not in the joint space and stays."""
        encoded = self.unrotated.encode_images(images, wanted)
        return self.rotate(encoded) if wanted.in_joint_space else encoded

    @torch.no_grad()
    def text_features(self, texts: tuple[str, ...]) -> Tensor:
        """As a backbone; what the unrotated backbone has encoded is not encoded again."""
        if texts not in self._text_features:
            self._text_features[texts] = self.rotate(self.unrotated.text_features(texts))
        return self._text_features[texts]

    def encode_prompts(
        self,
        prompts: Prompts,
        weights: Mapping[str, Tensor] | None = None,
        block_updates: BlockUpdates | None = None,
    ) -> Tensor:
        """As a backbone; a ``text_projection`` that is given leads to these coordinates, too."""
        inside = dict(weights or {})
        if (projection := inside.pop("text_projection", None)) is None:
            return self.rotate(self.unrotated.encode_prompts(prompts, weights, block_updates))
        return self.text.project_by(projection).encode(prompts, inside, block_updates)


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
        return change_tower(self._whole.image, _drop=self.drop)

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


def _leave_out(update: Update | None) -> Update:
    def left_out(output: Tensor, entered: Tensor) -> Tensor:
        nothing = torch.zeros_like(output)
        return nothing if update is None else update(nothing, entered)

    return left_out
