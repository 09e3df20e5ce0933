"""A backbone whose joint space is rotated: other coordinates, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from compatbench.backbone import FEATURES, Backbone, ImageInput, ImageTower, Prompts
from compatbench.backbone.image.tower import Updates
from compatbench.files.hashes import sha256_json
from compatbench.files.tensors import fingerprint


class RotatedBackbone(Backbone):
    """Text and image features times Rᵀ, ``[..., e_t]`` to ``[..., e_s]``.

    With RᵀR = I (a rotation, or a narrower space put into a wider one) inner products are those of
    the backbone, and so is its zero-shot classifier. With R Rᵀ = I alone (a wider space) features
    are projected onto as many directions as there are.

    The model and its tokenizer are shared with the backbone that is rotated.
    """

    def __init__(self, backbone: Backbone, rotation: Tensor) -> None:
        """Args: rotation: R, ``[e_s, e_t]`` with the backbone's e_t."""
        vars(self).update(vars(backbone))
        # These were computed in the backbone's own coordinates.
        for name in ("embed_dim", "image", "encode_prompts"):
            vars(self).pop(name, None)
        self._text_features = {}
        self._backbone = backbone
        self.rotation = rotation.float().to(backbone.device)
        self.weights_key = sha256_json([backbone.weights_key, fingerprint({"r": self.rotation})])

    @property
    def unrotated(self) -> Backbone:
        """The backbone itself."""
        return self._backbone

    def rotate(self, features: Tensor) -> Tensor:
        """Features of the unrotated backbone ``[..., e_t]`` in these coordinates."""
        return features @ self.rotation.T.to(features)

    @cached_property
    def image(self) -> ImageTower:
        """The image tower, with its features rotated.

        Raises:
            NotTransferable: nothing can be inserted into a tower of this kind.
        """
        return _RotatedTower(self._backbone.image, self.rotation)

    @torch.no_grad()
    def encode_images(self, images: Tensor, wanted: ImageInput = FEATURES) -> Tensor:
        """As a backbone; what lies inside the tower is not in the joint space and stays."""
        encoded = self._backbone.encode_images(images, wanted)
        return encoded if wanted.kind == "hidden" else self.rotate(encoded)

    @torch.no_grad()
    def text_features(self, texts: tuple[str, ...]) -> Tensor:
        """As a backbone; what the unrotated backbone has encoded is not encoded again."""
        if texts not in self._text_features:
            self._text_features[texts] = self.rotate(self._backbone.text_features(texts))
        return self._text_features[texts]

    def encode_prompts(
        self, prompts: Prompts, weights: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """As a backbone."""
        return self.rotate(self._backbone.encode_prompts(prompts, weights))


class _RotatedTower(ImageTower):
    def __init__(self, tower: ImageTower, rotation: Tensor) -> None:
        vars(self).update(vars(tower))
        self._rotation = rotation

    def _run(
        self,
        x: Tensor,
        start: int,
        prompts: Sequence[Tensor],
        updates: Updates | None,
        weights: Mapping[str, Tensor] | None,
        dense: bool,
    ) -> Tensor:
        features = super()._run(x, start, prompts, updates, weights, dense)
        return self._widen(features) @ self._rotation.T
