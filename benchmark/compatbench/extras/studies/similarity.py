"""Measures of the difference of two sets of numbers, or of two representations of inputs."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_change(old: Tensor, new: Tensor) -> tuple[float, float]:
    """Return the mean of |new - old|, and that as a share of the mean of |old| (infinite if 0)."""
    change = (new.double() - old.double()).abs().mean()
    size = old.double().abs().mean()
    share = float(change / size) if size > 0 else float("inf")
    return float(change), share


def linear_cka(x: Tensor, y: Tensor) -> float | None:
    """Return the linear CKA of two representations ``[n, p]`` and ``[n, q]`` of the same n inputs.

    Kornblith et al. (arXiv:1905.00414), with the unbiased estimate of HSIC (Song et al.,
    JMLR 13, 2012): the plain one tends to 1 where there are fewer inputs than features.
    1: the same up to rotation and scale; about 0: unrelated. None where it is not defined: fewer
    than four inputs, or one side is constant.
    """
    if len(x) < 4:
        return None
    k = _centred_gram(x)
    l = _centred_gram(y)  # noqa: E741
    norms = _hsic(k, k) * _hsic(l, l)
    if not norms > 0:
        return None
    return float(_hsic(k, l) / norms.sqrt())


def _centred_gram(x: Tensor) -> Tensor:
    """Return inner products of centred rows, ``[n, n]``, without the diagonal; 0 if constant."""
    x = x.double()
    size = x.abs().amax()
    x = x - x.mean(0)
    # What centring leaves of a constant is rounding, not a signal.
    if x.abs().amax() <= 1e-6 * size:
        x = torch.zeros_like(x)
    return (x @ x.T).fill_diagonal_(0)


def _hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741
    """Return the unbiased estimate of HSIC of Gram matrices ``[n, n]``, up to a factor in all."""
    n = len(k)
    apart = k.sum() * l.sum() / ((n - 1) * (n - 2))
    return (k * l).sum() + apart - 2 * (k.sum(0) @ l.sum(0)) / (n - 2)
