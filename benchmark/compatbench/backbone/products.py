"""Float32 products of matrices on the processor, by the faster of PyTorch's two libraries for them.

PyTorch takes MKL, which on an AMD processor does not use the widest instructions there are and is
half as fast as oneDNN, which PyTorch has as well. Both round in their last bits alone, so a
result may differ by that. Nothing is changed where oneDNN is not clearly faster: the choice is the
same whenever it is made on one kind of processor.
"""

from __future__ import annotations

import time
import warnings
from functools import cache

import torch
from torch import Tensor

CLEARLY = (
    1.25  # times as fast; on a processor the two differ by less than 10 %, or by a factor of 2
)
_SHAPE = (256, 192, 768)  # of a small text tower's hidden layer
# What is smaller is not faster by oneDNN, which looks up a kernel for every shape.
_LEAST, _SIDE = 2**20, 8
_registered: list[torch.library.Library] = []  # what a library has registered ends with it


@cache
def choose_products() -> str:
    """Takes the faster library in the whole process, from now on, and gives its name.

    Returns:
        ``oneDNN``, or nothing if PyTorch's own choice stays.
    """
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise") or _ratio() < CLEARLY:
        return ""
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there was a kernel before
        library.impl("mm", _mm, "CPU")
        library.impl("addmm", _addmm, "CPU")
    _registered.append(library)
    return "oneDNN"


def _ratio(rounds: int = 15) -> float:
    """How many times as fast oneDNN is, by the best of some rounds in turn."""
    m, k, n = _SHAPE
    a, b = torch.ones(m, k), torch.ones(k, n)
    best = [float("inf"), float("inf")]
    with torch.inference_mode():
        for _ in range(rounds):
            for which, multiply in enumerate((torch.mm, _multiply)):
                start = time.thread_time()
                multiply(a, b)
                best[which] = min(best[which], time.thread_time() - start)
    return best[0] / max(best[1], 1e-9)


def _multiply(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """``a @ b + bias``, ``[m, k]`` by ``[k, n]``, by oneDNN."""
    weight = b.t()
    if not (b.is_contiguous() or weight.is_contiguous()):  # else it is a hundred times slower
        weight = weight.contiguous()
    return torch.ops.mkldnn._linear_pointwise.default(a, weight, bias, "none", [], "")


def _is_large(a: Tensor, b: Tensor) -> bool:
    (m, k), n = a.shape, b.shape[1]
    return a.dtype == b.dtype == torch.float32 and m * k * n >= _LEAST and min(m, k, n) >= _SIDE


def _mm(a: Tensor, b: Tensor) -> Tensor:
    if a.shape[1] == b.shape[0] and _is_large(a, b):
        return _multiply(a, b)
    return torch.ops.aten.mm.out(a, b, out=a.new_empty(a.shape[0], b.shape[1]))


def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    row = bias.shape == b.shape[1:]  # a bias of outputs; where beta is 0, any is left out
    if (beta == 0 or row) and a.shape[1] == b.shape[0] and alpha != 0 and _is_large(a, b):
        if beta == 0:
            product = _multiply(a, b)
        else:
            product = _multiply(a, b, bias if beta == alpha else bias * (beta / alpha))
        return product if alpha == 1 else product.mul_(alpha)
    out = a.new_empty(a.shape[0], b.shape[1])
    return torch.ops.aten.addmm.out(bias, a, b, beta=beta, alpha=alpha, out=out)
