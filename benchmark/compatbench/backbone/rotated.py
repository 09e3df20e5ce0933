"""A backbone in rotated coordinates of its joint space."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor

from compatbench.backbone import (
    FEATURES,
    Backbone,
    BlockUpdates,
    ImageInput,
    ImageTower,
    Prompts,
)
from compatbench.backbone.parts.parameters import check_weights
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
        return _RotatedText(self.unrotated.text, self.rotation)

    @cached_property
    def image(self) -> ImageTower:
        """The image tower, with its features rotated."""
        return _RotatedTower(self.unrotated.image, self.rotation)

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


class _RotatedText(TextTower):
    def __init__(self, tower: TextTower, rotation: Tensor) -> None:
        vars(self).update(vars(tower))
        vars(self).pop("weights", None)
        self._rotation = rotation

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """As a tower's; the projection leads to the rotated space."""
        return _rotate(super().weights, "text_projection", self._rotation)


class _RotatedTower(ImageTower):
    def __init__(self, tower: ImageTower, rotation: Tensor) -> None:
        vars(self).update(vars(tower))
        vars(self).pop("weights", None)
        self._rotation = rotation

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """As a tower's; the projection leads to the rotated space."""
        return _rotate(super().weights, "proj", self._rotation)

    def replace(self, weights: Mapping[str, Tensor]) -> ImageTower:
        """As a tower; a projection that is given leads to the rotated space, too."""
        inside = {name: tensor for name, tensor in weights.items() if name != "proj"}
        tower = super().replace(inside) if inside else copy.copy(self)
        if "proj" in weights:
            check_weights(weights, self.weights, "image")
            vars(tower)["_added"] = weights["proj"] - self.weights["proj"]
        return tower

    def project(self, rows: Tensor) -> Tensor:
        """As a tower, rotated."""
        rotated = super().project(rows) @ self._rotation.T
        added: Tensor | None = vars(self).get("_added")
        return rotated if added is None else rotated + rows.to(added) @ added


def _rotate(weights: dict[str, Tensor], name: str, rotation: Tensor) -> dict[str, Tensor]:
    """The weights of a tower with its projection, if it has one, into the rotated space."""
    if name not in weights:
        return weights
    return weights | {name: weights[name] @ rotation.T.to(weights[name])}
