"""A backbone in rotated coordinates of its embedding space."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor

from compatbench.backbone.backbone import Backbone
from compatbench.backbone.image.image_tower import FEATURES, ImageInput, ImageTower
from compatbench.backbone.parts.blocks import BlockUpdates
from compatbench.backbone.parts.parameters import change_tower
from compatbench.backbone.text.prompts import Prompts
from compatbench.backbone.text.text_tower import TextTower
from compatbench.files.hashes import sha256_json
from compatbench.files.tensors import fingerprint


class RotatedBackbone(Backbone):
    """A backbone in other coordinates: text and image features times Rᵀ, ``[..., e_s]``.

    With RᵀR = I (a rotation, or a narrower space placed into a wider one) the inner products are
    those of the backbone, and so is the zero-shot classifier. With only R Rᵀ = I (a wider space)
    features are projected onto e_s directions. Model and tokenizer are shared with the backbone.
    """

    def __init__(self, backbone: Backbone, rotation: Tensor) -> None:
        """Share everything with ``backbone`` but its embedding space, of size e_t.

        ``rotation`` is R, ``[e_s, e_t]``.
        """
        vars(self).update(vars(backbone))
        # Drop cached values that were computed in the backbone's own coordinates.
        for name in ("embed_dim", "image", "text", "encode_prompts"):
            vars(self).pop(name, None)
        self._text_features = {}
        self.unrotated = backbone
        self.rotation = rotation.float().to(backbone.device)
        self.weights_key = sha256_json([backbone.weights_key, fingerprint({"r": self.rotation})])

    def rotate(self, features: Tensor) -> Tensor:
        """Return features of the unrotated backbone ``[..., e_t]`` in these coordinates."""
        return features @ self.rotation.T.to(features)

    @cached_property
    def text(self) -> TextTower:  # type: ignore[override]
        """Return the text tower, with the projection that leads to these coordinates."""
        return change_tower(self.unrotated.text, _rotation=self.rotation)

    @cached_property
    def image(self) -> ImageTower:
        """Return the image tower, with its features rotated."""
        return change_tower(self.unrotated.image, _rotation=self.rotation)

    @torch.no_grad()
    def encode_images(self, images: Tensor, image_input: ImageInput = FEATURES) -> Tensor:
        """Return encoded images as ``Backbone`` does; rotate those in the embedding space."""
        encoded = self.unrotated.encode_images(images, image_input)
        if image_input.in_joint_space:
            return self.rotate(encoded)
        return encoded

    @torch.no_grad()
    def text_features(self, texts: tuple[str, ...]) -> Tensor:
        """Return text features as ``Backbone`` does; rotate the features that it has cached."""
        if texts not in self._text_features:
            self._text_features[texts] = self.rotate(self.unrotated.text_features(texts))
        return self._text_features[texts]

    def encode_prompts(
        self,
        prompts: Prompts,
        weights: Mapping[str, Tensor] | None = None,
        block_updates: BlockUpdates | None = None,
    ) -> Tensor:
        """Return features as ``Backbone`` does.

        A ``text_projection`` among the weights leads to the rotated coordinates.
        """
        inside = dict(weights or {})
        projection = inside.pop("text_projection", None)
        if projection is None:
            return self.rotate(self.unrotated.encode_prompts(prompts, weights, block_updates))
        return self.text.project_by(projection).encode(prompts, inside, block_updates)
