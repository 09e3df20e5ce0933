"""How much two sets of numbers, or two representations of the same inputs, differ."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def absolute_change(old: Tensor, new: Tensor) -> float:
    """The mean of |new - old| over all numbers."""
    return float((new.double() - old.double()).abs().mean())


def relative_change(old: Tensor, new: Tensor) -> float:
    """The mean of |new - old| as a share of the mean of |old|; infinite if all of these are 0."""
    size = old.double().abs().mean()
    return float((new.double() - old.double()).abs().mean() / size) if size > 0 else float("inf")


def linear_cka(x: Tensor, y: Tensor) -> float | None:
    """Linear CKA of two representations ``[n, p]`` and ``[n, q]`` of the same n inputs.

    Kornblith et al. (arXiv:1905.00414), with the unbiased estimate of HSIC (Song et al.,
    JMLR 13, 2012): the plain one tends to 1 where there are fewer inputs than features.
    1: the same up to rotation and scale; about 0: unrelated.

    Returns:
        None where it is not defined: fewer than four inputs, or one side is constant.
    """
    if len(x) != len(y):
        raise ValueError(f"{len(x)} inputs on one side, {len(y)} on the other")
    if len(x) < 4:
        return None
    k, l = _centred_gram(x), _centred_gram(y)  # noqa: E741
    norms = _hsic(k, k) * _hsic(l, l)
    return float(_hsic(k, l) / norms.sqrt()) if norms > 0 else None


def _centred_gram(x: Tensor) -> Tensor:
    """Inner products of centred rows, the diagonal left out, ``[n, n]``; 0 of constant rows."""
    x = x.double()
    size = x.abs().amax()
    x = x - x.mean(0)
    # What centring leaves of a constant is rounding, not a signal.
    if x.abs().amax() <= 1e-6 * size:
        x = torch.zeros_like(x)
    return (x @ x.T).fill_diagonal_(0)


def _hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741
    """The unbiased estimate of HSIC, up to a factor that cancels, of Gram matrices ``[n, n]``."""
    n = len(k)
    both = (k * l).sum()
    apart = k.sum() * l.sum() / ((n - 1) * (n - 2))
    mixed = 2 * (k.sum(0) @ l.sum(0)) / (n - 2)
    return both + apart - mixed


def procrustes_residual(x: Tensor, y: Tensor) -> float | None:
    """What the best rotation and scale leave of a difference, of ``[n, p]`` and ``[n, q]``.

    Both are centred. With σ the singular values of xᵀy the residual is, from 0 to 1,
    1 - (Σ σ)² / (‖x‖² ‖y‖²). Of two widths the smaller counts as padded with zeros.

    Returns:
        None if one side is constant.
    """
    x, y = x.double() - x.double().mean(0), y.double() - y.double().mean(0)
    sizes = (x * x).sum() * (y * y).sum()
    if sizes <= 0:
        return None
    nuclear = torch.linalg.matrix_norm(x.T @ y, ord="nuc")
    return max(0.0, 1 - float(nuclear**2 / sizes))


def row_cosines(x: Tensor, y: Tensor) -> Tensor:
    """Cosine similarity of each row of ``x`` with that of ``y``, ``[n]`` of ``[n, d]``."""
    return F.cosine_similarity(x.double(), y.double(), dim=-1)


def neighbour_overlap(x: Tensor, y: Tensor, neighbours: int) -> float:
    """The share of a row's nearest rows, by cosine, that are the same in both, ``[n, d]``.

    The mean over rows; by chance it is ``neighbours / (n - 1)``.

    Raises:
        ValueError: there are not so many other rows.
    """
    if not 0 < neighbours < len(x):
        raise ValueError(f"{len(x)} rows do not have {neighbours} neighbours each")
    near_x, near_y = _neighbours(x, neighbours), _neighbours(y, neighbours)
    return float((near_x & near_y).sum() / (neighbours * len(x)))


def _neighbours(x: Tensor, count: int) -> Tensor:
    """Which rows are among the nearest of each row, ``[n, n]``."""
    unit = F.normalize(x.double(), dim=-1)
    similarity = (unit @ unit.T).fill_diagonal_(-torch.inf)
    # Stable, so that equal rows are taken in their own order everywhere.
    order = similarity.sort(dim=-1, descending=True, stable=True).indices[:, :count]
    return torch.zeros_like(similarity, dtype=torch.bool).scatter_(1, order, True)


def modality_gap(images: Tensor, texts: Tensor) -> float:
    """Distance of the means of normalised image and text features ``[·, e]``.

    Liang et al., *Mind the Gap* (arXiv:2203.02053), section 4.
    """
    means = [F.normalize(x.double(), dim=-1).mean(0) for x in (images, texts)]
    return float((means[0] - means[1]).norm())
