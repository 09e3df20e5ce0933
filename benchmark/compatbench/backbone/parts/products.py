"""Float32 products of matrices on the processor, by the faster of PyTorch's two libraries for them.

PyTorch uses MKL, which on an AMD processor does not use the widest instructions and is half as
fast as oneDNN, which PyTorch contains as well. The two differ only in their last bits, so a result
may differ by that much. The processor decides, not a measurement, which is wrong one time in ten
on a busy machine: equal inputs on one machine must give equal bytes.

PyTorch has no setting for this choice, so ``fast_products`` replaces the kernels of ``aten::mm``
and ``aten::addmm``. It does so only while the harness computes: the replacement is registered when
the first computation begins, and removed when the last one ends, which takes 15 microseconds. A
kernel that stayed and looked at a flag would slow down every small product outside of the harness,
from 1 microsecond to 30.
"""

from __future__ import annotations

import platform
import threading
import warnings
from contextlib import ContextDecorator
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

# Smaller products are not faster by oneDNN, which looks up a kernel for every shape.
_MIN_PRODUCTS = 2**20
_MIN_SIDE = 8


@cache
def choose_products() -> str:
    """Return the library of the harness's products: ``oneDNN``, or '' for PyTorch's own choice."""
    is_wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    if is_wide and _is_amd() and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return "oneDNN"
    return ""


class fast_products(ContextDecorator):
    """A context, or a decorator of functions, that computes products with the faster library.

    All threads of the process are affected until the last of these contexts ends.
    """

    _lock = threading.Lock()
    _open = 0  # contexts that have begun and not ended, in all threads
    _library: torch.library.Library | None = None  # its kernels are removed with it

    def __enter__(self) -> None:
        shared = fast_products
        with shared._lock:
            if shared._open == 0 and choose_products():
                shared._library = _register_kernels()
            shared._open += 1

    def __exit__(self, *error: object) -> None:
        shared = fast_products
        with shared._lock:
            shared._open -= 1
            if shared._open == 0 and shared._library is not None:
                shared._library._destroy()
                shared._library = None


def _register_kernels() -> torch.library.Library:
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns that there was a kernel before
        library.impl("mm", _mm, "CPU")
        library.impl("addmm", _addmm, "CPU")
    return library


def _is_amd() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    facts = cpuinfo.read_text() if cpuinfo.is_file() else platform.processor()
    return "AuthenticAMD" in facts


def _multiply(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``a @ b + bias`` by oneDNN, for ``[m, k]``, ``[k, n]`` and ``[n]``."""
    weight = b.t()
    if not (b.is_contiguous() or weight.is_contiguous()):  # else it is a hundred times slower
        weight = weight.contiguous()
    if bias is not None:  # the operation ignores its strides
        bias = bias.contiguous()
    return torch.ops.mkldnn._linear_pointwise.default(a, weight, bias, "none", [], "")


def _is_large(a: Tensor, b: Tensor) -> bool:
    """Return True for a float32 product that is large enough for oneDNN."""
    m, k = a.shape
    n = b.shape[1]
    if not a.dtype == b.dtype == torch.float32:
        return False
    return m * k * n >= _MIN_PRODUCTS and min(m, k, n) >= _MIN_SIDE


def _mm(a: Tensor, b: Tensor) -> Tensor:
    """Compute ``aten::mm``."""
    if a.shape[1] == b.shape[0] and _is_large(a, b):
        return _multiply(a, b)
    # The variant with ``out`` is another operation, which still has PyTorch's kernel.
    return torch.ops.aten.mm.out(a, b, out=a.new_empty(a.shape[0], b.shape[1]))


def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """Compute ``aten::addmm``: ``beta * bias + alpha * (a @ b)``."""
    # oneDNN takes a bias with one number for each column; if beta is 0, any bias is ignored.
    is_row = bias.shape == b.shape[1:] and bias.dtype == a.dtype
    fits = a.shape[1] == b.shape[0] and alpha != 0
    if (beta == 0 or is_row) and fits and _is_large(a, b):
        if beta == 0:
            product = _multiply(a, b)
        elif beta == alpha:
            product = _multiply(a, b, bias)
        else:
            product = _multiply(a, b, bias * (beta / alpha))
        return product if alpha == 1 else product.mul_(alpha)
    out = a.new_empty(a.shape[0], b.shape[1])
    return torch.ops.aten.addmm.out(bias, a, b, beta=beta, alpha=alpha, out=out)
