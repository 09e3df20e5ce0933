"""Local drift adapters: one rotation of features for each cluster of images."""

from __future__ import annotations

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from compatbench.backbone.joint_maps import find_turn, paired
from compatbench.method import MethodConfig
from compatbench.method.transfer import JOINT_SPACE, TransferCard, TransferData

from ._shared.mapped import Map, MappedTransfer


class LocalDrift(MappedTransfer):
    """The module sees f_t M_k, with M_k the rotation of the cluster k that is nearest to f_t.

    Drift-Adapter (see ``images``) with a map for each cluster, after *Local Drift-Adapters* by
    J. Politzki (a post and the repository mixed-adapter); we could read only summaries of both.
    M_k = U Vᵀ with U S Vᵀ = svd(F_tᵀF_s / n + λ M), over the n images of the cluster. M is the
    rotation of all images, as in ``images``, towards which the maps of small clusters are shrunk.
    One cluster, or λ → ∞, gives ``images``.

    F are normalised features of unlabelled images, and k-means finds the clusters in F_s. An image
    belongs to the cluster whose mean of F_t is nearest. λ is the one of ``dampings`` that is best
    on a quarter of the images, held out. The author blends the maps of several clusters; here each
    image has one.
    """

    card = TransferCard(
        name="local-drift",
        title="Local Drift-Adapter",
        paper="",
        access={"unlabelled"},
        summary="Image features are rotated, with one rotation per cluster of unlabelled images.",
        takes=JOINT_SPACE,
    )

    class Config(MethodConfig):
        clusters: PositiveInt = 8
        dampings: tuple[float, ...] = Field((1e-3, 1e-2, 0.1, 1.0), min_length=1)

    def find_map(self, data: TransferData) -> tuple[Tensor, Map]:
        source, target = paired(data.unlabelled.source, data.unlabelled.target)
        damping = self.choose_damping(source, target, data.seed)
        numbers = cluster(source, self.config.clusters, data.seed)
        return find_turn(source, target), fit_local(source, target, numbers, damping)

    def choose_damping(self, source: Tensor, target: Tensor, seed: int) -> float:
        """Return the λ that is best on the first quarter of the images for maps of the rest.

        The images come in an order that the seed draws.
        """
        held_out = len(target) // 4
        numbers = cluster(source[held_out:], self.config.clusters, seed)
        errors = []
        for damping in self.config.dampings:
            map_features = fit_local(source[held_out:], target[held_out:], numbers, damping)
            differences = map_features(target[:held_out]) - source[:held_out]
            errors.append(float(differences.square().sum()))
        return self.config.dampings[errors.index(min(errors))]


def cluster(features: Tensor, clusters: int, seed: int) -> Tensor:
    """Return the number of each feature's cluster, ``[n]``, by k-means."""
    # Imported here, because it takes a second and listing transfers does not need it.
    from sklearn.cluster import KMeans

    number = min(clusters, len(features))
    k_means = KMeans(number, n_init=3, random_state=seed)  # type: ignore[arg-type]
    return torch.as_tensor(k_means.fit_predict(features.cpu().numpy()), device=features.device)


def fit_local(source: Tensor, target: Tensor, numbers: Tensor, damping: float) -> Map:
    """Return the map that rotates each feature as the images of its cluster show.

    Args:
        source: features of n images on the source, ``[n, e_s]``.
        target: features of the same images on the target, ``[n, e_t]``.
        numbers: of the images' clusters, ``[n]``.
        damping: λ.
    """
    whole = find_turn(source, target)
    centres = []
    rotations = []
    for number in numbers.unique():
        rows = numbers == number
        product = source[rows].T @ target[rows] / rows.sum() + damping * whole
        u, _, v = torch.linalg.svd(product, full_matrices=False)
        rotations.append(u @ v)
        centres.append(target[rows].mean(0))

    def map_features(features: Tensor) -> Tensor:
        f = features.to(whole)
        nearest = torch.cdist(f, torch.stack(centres)).argmin(-1, keepdim=True)
        mapped = torch.zeros(*f.shape[:-1], len(whole)).to(f)
        for number, rotation in enumerate(rotations):
            mapped = torch.where(nearest == number, f @ rotation.T, mapped)
        return mapped

    return map_features
