"""How much two sets of numbers, or two representations of the same inputs, differ."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_change(old: Tensor, new: Tensor) -> tuple[float, float]:
    """The mean of |new - old|, and the same as a share of the mean of |old| (infinite if 0)."""
    change, size = (new.double() - old.double()).abs().mean(), old.double().abs().mean()
    return float(change), float(change / size) if size > 0 else float("inf")


def linear_cka(x: Tensor, y: Tensor) -> float | None:
    """Linear CKA of two representations ``[n, p]`` and ``[n, q]`` of the same n inputs.

    Kornblith et al. (arXiv:1905.00414), with the unbiased estimate of HSIC (Song et al.,
    JMLR 13, 2012): the plain one tends to 1 where there are fewer inputs than features.
    1: the same up to rotation and scale; about 0: unrelated. None where it is not defined: fewer
    than four inputs, or one side is constant.
    """
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
    apart = k.sum() * l.sum() / ((n - 1) * (n - 2))
    return (k * l).sum() + apart - 2 * (k.sum(0) @ l.sum(0)) / (n - 2)
