"""λ-orthogonality: an affine map of features that leaves the orthogonal ones only up to a bound."""

from __future__ import annotations

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from compatbench.backbone.joint_maps import find_turn, paired
from compatbench.method import MethodConfig
from compatbench.method.transfer import JOINT_SPACE, TransferCard, TransferData

from ._shared.mapped import Map, MappedTransfer, linear


class LambdaOrthogonal(MappedTransfer):
    """The module sees f_t W + b, of min ‖F_t W + b − F_s‖² / n + ρ max(0, ‖WᵀW − I‖ − λ)².

    Ricci et al., *λ-Orthogonality Regularization for Compatible Representation Learning*. F are
    the normalised features of unlabelled images, and ‖·‖ is the Frobenius norm. λ → 0 gives an
    orthogonal W, λ → ∞ the least squares. If the source has more channels, the norm is that of
    WWᵀ − I, because WᵀW cannot be I.

    λ is one of ``bounds`` times √e, with e the smaller number of channels: the one that is best on
    a quarter of the images, held out. The authors train W and b by gradient descent, with further
    losses for a forward map and for labels, which are left out here. Only summaries of the paper
    could be read, so ρ, the bounds and the form of the penalty are this project's.
    """

    card = TransferCard(
        name="lambda-orthogonal",
        title="λ-orthogonality",
        paper="arXiv:2509.16664",
        access={"unlabelled"},
        summary="An affine map that is fitted on unlabelled images and kept nearly orthogonal.",
        takes=JOINT_SPACE,
    )

    class Config(MethodConfig):
        bounds: tuple[NonNegativeFloat, ...] = Field((0.0, 0.1, 0.2, 0.4, 0.8), min_length=1)
        weight: PositiveFloat = 10.0
        steps: PositiveInt = 50

    def find_map(self, data: TransferData) -> tuple[Tensor, Map]:
        source, target = paired(data.unlabelled.source, data.unlabelled.target)
        bound = self.choose_bound(source, target)
        matrix, bias = self.fit(source, target, bound)
        return find_turn(source, target), linear(matrix, bias)

    def choose_bound(self, source: Tensor, target: Tensor) -> float:
        """Return the bound that is best on the first quarter of the images for a map of the rest.

        The images come in an order that the seed draws.
        """
        held_out = len(target) // 4
        distances = []
        for bound in self.config.bounds:
            matrix, bias = self.fit(source[held_out:], target[held_out:], bound)
            errors = target[:held_out] @ matrix + bias - source[:held_out]
            distances.append(float(errors.square().sum()))
        best = distances.index(min(distances))
        return self.config.bounds[best]

    def fit(self, source: Tensor, target: Tensor, bound: float) -> tuple[Tensor, Tensor]:
        """Return W ``[e_t, e_s]`` and b ``[e_s]`` for λ = ``bound`` times √e."""
        largest = bound * min(source.shape[1], target.shape[1]) ** 0.5
        return fit_affine(source, target, largest, self.config.weight, self.config.steps)


def fit_affine(
    source: Tensor, target: Tensor, bound: float, weight: float, steps: int
) -> tuple[Tensor, Tensor]:
    """Return W ``[e_t, e_s]`` and b ``[e_s]`` that minimise the distance with its penalty.

    The best b for any W moves one mean onto the other. Both ends have closed forms: the orthogonal
    solution for λ = 0, and the least squares if they are within the bound. Between them, L-BFGS
    finds W from the orthogonal solution.

    Args:
        source: features of n images on the source, ``[n, e_s]``.
        target: features of the same images on the target, ``[n, e_t]``.
        bound: λ.
        weight: ρ.
        steps: L-BFGS stops after this many.
    """
    source_mean = source.mean(0)
    target_mean = target.mean(0)
    y = source - source_mean
    x = target - target_mean
    matrix = find_turn(y, x).T
    least_squares = torch.linalg.pinv(x) @ y
    if float(deviation(least_squares)) <= bound:
        matrix = least_squares
    elif bound > 0:
        matrix = descend(matrix, x, y, bound, weight, steps)
    return matrix, source_mean - target_mean @ matrix


@torch.enable_grad()
def descend(start: Tensor, x: Tensor, y: Tensor, bound: float, weight: float, steps: int) -> Tensor:
    """Return the W that L-BFGS finds from a start, for centred features X and Y."""
    # Products of all images, so that a step costs the same for any number of them.
    square = x.T @ x / len(x)
    product = x.T @ y / len(x)
    matrix = start.clone(memory_format=torch.contiguous_format).requires_grad_()
    optimizer = torch.optim.LBFGS([matrix], max_iter=steps, line_search_fn="strong_wolfe")

    def compute_loss() -> Tensor:
        optimizer.zero_grad()
        # The distance without ‖Y‖² / n, which W does not change.
        distance = (matrix * (square @ matrix - 2 * product)).sum()
        excess = (deviation(matrix) - bound).clamp_min(0)
        loss = distance + weight * excess.square()
        loss.backward()
        return loss

    optimizer.step(compute_loss)  # type: ignore[arg-type]
    return matrix.detach()


def deviation(matrix: Tensor) -> Tensor:
    """Return ‖WᵀW − I‖, or ‖WWᵀ − I‖ if W has more columns than rows."""
    rows, columns = matrix.shape
    gram = matrix.T @ matrix if rows >= columns else matrix @ matrix.T
    return torch.linalg.norm(gram - torch.eye(len(gram)).to(gram))
