"""Float32 products of matrices on the processor, by the faster of PyTorch's two libraries for them.

PyTorch takes MKL, which on an AMD processor does not use the widest instructions there are and is
half as fast as oneDNN, which PyTorch has as well. Both round in their last bits alone, so a
result may differ by that. The processor decides, not a measurement, which on a busy machine is
wrong one time in ten: equal inputs on one machine are to give equal bytes.
"""

from __future__ import annotations

import platform
import warnings
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

# What is smaller is not faster by oneDNN, which looks up a kernel for every shape.
_LEAST, _SIDE = 2**20, 8
_registered: list[torch.library.Library] = []  # what a library has registered ends with it


@cache
def choose_products() -> str:
    """Takes the faster library in the whole process, from now on, and gives its name.

    Returns:
        ``oneDNN``, or nothing if PyTorch's own choice stays.
    """
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    if not (wide and _is_amd() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return ""
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there was a kernel before
        library.impl("mm", _mm, "CPU")
        library.impl("addmm", _addmm, "CPU")
    _registered.append(library)
    return "oneDNN"


def restore_products() -> None:
    """Leaves the choice to PyTorch again, until ``choose_products`` is called."""
    _registered.clear()
    choose_products.cache_clear()


def _is_amd() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    facts = cpuinfo.read_text() if cpuinfo.is_file() else platform.processor()
    return "AuthenticAMD" in facts


def _multiply(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """``a @ b + bias``, ``[m, k]`` by ``[k, n]`` and ``[n]``, by oneDNN."""
    weight = b.t()
    if not (b.is_contiguous() or weight.is_contiguous()):  # else it is a hundred times slower
        weight = weight.contiguous()
    if bias is not None:  # the operation does not look at its strides
        bias = bias.contiguous()
    return torch.ops.mkldnn._linear_pointwise.default(a, weight, bias, "none", [], "")


def _is_large(a: Tensor, b: Tensor) -> bool:
    (m, k), n = a.shape, b.shape[1]
    return a.dtype == b.dtype == torch.float32 and m * k * n >= _LEAST and min(m, k, n) >= _SIDE


def _mm(a: Tensor, b: Tensor) -> Tensor:
    if a.shape[1] == b.shape[0] and _is_large(a, b):
        return _multiply(a, b)
    return torch.ops.aten.mm.out(a, b, out=a.new_empty(a.shape[0], b.shape[1]))


def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    # A bias of outputs; where beta is 0, any is left out.
    row = bias.shape == b.shape[1:] and bias.dtype == a.dtype
    if (beta == 0 or row) and a.shape[1] == b.shape[0] and alpha != 0 and _is_large(a, b):
        if beta == 0:
            product = _multiply(a, b)
        else:
            product = _multiply(a, b, bias if beta == alpha else bias * (beta / alpha))
        return product if alpha == 1 else product.mul_(alpha)
    out = a.new_empty(a.shape[0], b.shape[1])
    return torch.ops.aten.addmm.out(bias, a, b, beta=beta, alpha=alpha, out=out)
