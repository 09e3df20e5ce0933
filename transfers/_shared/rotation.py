"""The rotation between two joint spaces, and a backbone in rotated coordinates."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from compatbench.backbone import (
    FEATURES,
    Backbone,
    BlockUpdates,
    ImageInput,
    ImageTower,
    Labels,
    Prompts,
)
from compatbench.backbone.text.anatomy import check_weights
from compatbench.backbone.text.tower import TextTower
from compatbench.errors import NotTransferable
from compatbench.files.hashes import sha256_json
from compatbench.files.tensors import fingerprint
from compatbench.method import Classifier, Method, Module

# A direction counts towards the rank if its singular value exceeds this share of the largest.
NEGLIGIBLE = 1e-6
# The weight of what decides where the texts do not, relative to the largest singular value.
# It is far below what any text contributes.
UNDETERMINED = 1e-12


@dataclass(frozen=True)
class Rotation:
    """Target ≈ source · R, both less their means."""

    # R ``[e_s, e_t]``, float64, semi-orthogonal: R Rᵀ = I if e_s <= e_t, RᵀR = I if e_s >= e_t.
    rotation: Tensor
    source_mean: Tensor  # of the source's features, ``[e_s]``
    target_mean: Tensor  # of the target's, ``[e_t]``
    # What rotation and one scale leave of the differences, 0 to 1: with σ the singular values of
    # A_cᵀ B_c, 1 - (Σ σ)² / (‖A_c‖² ‖B_c‖²).
    residual: float
    rank: int  # directions that the texts determine


def fit_rotation(source: Tensor, target: Tensor, centred: bool = True) -> Rotation:
    """The semi-orthogonal R that minimises Σ_v ‖(a_v - ā) R - (b_v - b̄)‖², or maximises the
    matching inner products where the sizes differ (orthogonal Procrustes, Schönemann 1966).

    With U S Vᵀ the singular value decomposition of A_cᵀ B_c / V, R = U Vᵀ. Directions that
    the texts do not determine are matched by number, which is arbitrary but the same every time.

    Both are features of the same V texts, ``[V, e_s]`` and ``[V, e_t]``; if they are not to be
    ``centred``, both means are zero. A side that is constant is a ValueError.
    """
    # On the processor, for not every accelerator has double precision.
    a, b = source.detach().cpu().double(), target.detach().cpu().double()
    w = a.new_full((len(a), 1), 1 / len(a))
    source_mean, target_mean = (w * a).sum(0) * centred, (w * b).sum(0) * centred
    a, b = a - source_mean, b - target_mean
    product = a.T @ (w * b)
    sizes = float((w * a * a).sum() * (w * b * b).sum())
    largest = float(torch.linalg.matrix_norm(product, ord=2))
    if largest == 0:
        raise ValueError("one side has the same features for all texts")
    eye = torch.eye(*product.shape).to(product)
    u, s, v = torch.linalg.svd(product + UNDETERMINED * largest * eye, full_matrices=False)
    return Rotation(
        rotation=u @ v,
        source_mean=source_mean,
        target_mean=target_mean,
        residual=max(0.0, 1 - float(s.sum()) ** 2 / sizes),
        rank=int((s > NEGLIGIBLE * largest).sum()),
    )


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
        weights = super().weights
        if "text_projection" not in weights:
            return weights
        own = weights["text_projection"]
        return weights | {"text_projection": own @ self._rotation.T.to(own)}


def attach_rotated(
    method: Method,
    module: Module,
    target: Backbone,
    labels: Labels,
    rotation: Tensor,
    see: Callable[[Tensor], Tensor] | None = None,
) -> Classifier:
    """The classifier of a module on a target in the coordinates of ``rotation`` ``[e_s, e_t]``.

    ``see`` takes the target's image features ``[..., e_t]`` to what the module is shown,
    ``[..., e_s]``; by default it is the rotation.

    Raises:
        NotTransferable: as ``Method.attach``; or what is seen is another function of features
            that the method does not take from the harness.
    """
    rotated = RotatedBackbone(target, rotation)
    if method.image_input(target).in_joint_space:
        classify = method.attach(module, rotated, labels)
        return lambda features: classify((see or rotated.rotate)(features))
    if see is not None:
        raise NotTransferable(
            "the method runs the image tower itself, so features cannot be mapped"
        )
    return method.attach(module, rotated, labels)  # runs the rest of the rotated image tower


class _RotatedTower(ImageTower):
    def __init__(self, tower: ImageTower, rotation: Tensor) -> None:
        vars(self).update(vars(tower))
        vars(self).pop("weights", None)
        self._rotation = rotation

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """As a tower's; the projection leads to the rotated space."""
        weights = super().weights
        own = {"proj": weights["proj"] @ self._rotation.T.to(weights["proj"])}
        return weights | own if "proj" in weights else weights

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
        found = super().project(rows) @ self._rotation.T
        added: Tensor | None = vars(self).get("_added")
        return found if added is None else found + rows.to(added) @ added
