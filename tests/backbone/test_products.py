"""Products by oneDNN agree with float64 in any memory layout, and only the harness uses them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from compatbench.backbone.parts import products
from compatbench.backbone.parts.products import choose_products, fast_products
from compatbench.extras.check.models import build_clip

LAYOUTS = ("rows", "columns", "strided", "turned")


def lay(rows: int, columns: int, layout: str) -> Tensor:
    """Return random numbers ``[rows, columns]`` in a memory layout."""
    wide = torch.randn(max(rows, columns), 2 * max(rows, columns) + 3)
    if layout == "columns":
        return torch.randn(columns, rows).t()
    if layout == "strided":
        return wide[:rows, 1 : columns + 1]
    if layout == "turned":
        return wide[:columns, 1 : rows + 1].t()
    return torch.randn(rows, columns)


def assert_near(ours: Tensor, exact: Tensor) -> None:
    assert ours.shape == exact.shape
    torch.testing.assert_close(ours.double(), exact, rtol=0, atol=1e-3)


@pytest.mark.parametrize("of_b", LAYOUTS)
@pytest.mark.parametrize("of_a", LAYOUTS)
@pytest.mark.parametrize("shape", [(96, 128, 160), (8, 512, 512), (5, 3, 7)])
def test_products_agree_with_float64(shape: tuple[int, int, int], of_a: str, of_b: str) -> None:
    m, k, n = shape
    a = lay(m, k, of_a)
    b = lay(k, n, of_b)
    bias = torch.randn(n)
    before = a.clone(), b.clone(), bias.clone()
    exact = a.double() @ b.double()
    assert_near(products._mm(a, b), exact)
    for beta, alpha in ((1, 1), (0.5, 0.5), (0, 2), (1, 0.25), (2, 0), (0, 0)):
        ours = products._addmm(bias, a, b, beta=beta, alpha=alpha)
        assert_near(ours, alpha * exact + beta * bias.double())
    for other in (torch.randn(1).expand(n), torch.randn(3 * n)[::3]):
        assert_near(products._addmm(other, a, b), exact + other.double())
    full = torch.randn(m, n)
    assert_near(products._addmm(full, a, b), exact + full.double())
    assert_near(products._addmm(a.new_empty(()), a, b, beta=0, alpha=3), 3 * exact)
    assert all(map(torch.equal, (a, b, bias), before))


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_other_dtypes_and_empty_matrices_are_left_to_pytorch(kind: torch.dtype) -> None:
    a = torch.randn(128, 128, dtype=kind)
    b = torch.randn(128, 128, dtype=kind)
    assert torch.equal(products._mm(a, b), a @ b)
    assert products._mm(a[:0], b).shape == (0, 128)
    assert not products._mm(a[:, :0], b[:0]).any()
    with pytest.raises(RuntimeError, match="dtype"):
        products._addmm(torch.randn(128, dtype=torch.float16), a, b)
    with pytest.raises(RuntimeError, match=r"cannot be multiplied|size mismatch"):
        products._mm(a, b[:5])


@pytest.mark.parametrize(("amd", "instructions"), [(True, "AVX2"), (False, "AVX512")])
def test_other_processors_keep_pytorchs_choice(
    amd: bool, instructions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_is_amd", lambda: amd)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: instructions)
    monkeypatch.setattr(torch.library, "Library", None)
    assert choose_products.__wrapped__() == ""


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Force the choice of oneDNN, and return the numbers of arguments of its products."""
    calls: list[int] = []
    multiply = products._multiply

    def count(*arguments: Any) -> Tensor:
        calls.append(len(arguments))
        return multiply(*arguments)

    monkeypatch.setattr(products, "choose_products", lambda: "oneDNN")
    monkeypatch.setattr(products, "_multiply", count)
    yield calls
    assert (fast_products._open, fast_products._library) == (0, None)


def test_products_outside_of_the_context_are_pytorchs(counted: list[int]) -> None:
    a = torch.randn(128, 256)
    b = torch.randn(256, 128)
    stock = a @ b
    with fast_products():
        with fast_products():
            inner = a @ b
        outer = a @ b
    assert counted == [2, 2]
    assert torch.equal(inner, outer)
    assert torch.equal(a @ b, stock)
    with pytest.raises(KeyError), fast_products():
        raise KeyError
    assert torch.equal(a @ b, stock)
    assert len(counted) == 2


def test_thread_that_ends_first_leaves_the_context_of_another_open(counted: list[int]) -> None:
    a = torch.randn(128, 128)
    with fast_products():
        with ThreadPoolExecutor(1) as pool:
            pool.submit(fast_products()(lambda: a @ a)).result()
        a @ a
    assert len(counted) == 2


def test_backbones_compute_in_the_context(counted: list[int]) -> None:
    backbone = build_clip("clip", seed=1)
    backbone.text_features(tuple(f"a photo of number {i}" for i in range(256)))
    assert counted


@pytest.mark.slow
def test_linear_layers_and_their_gradients_use_the_products() -> None:
    """A separate process shows warnings that PyTorch gives only once."""
    program = """
import torch
import torch.nn.functional as F
from compatbench.backbone.parts import products

def grads(kind):
    leaves = [t.to(kind).requires_grad_() for t in (rows, weight, bias)]
    F.gelu(F.linear(*leaves)).square().sum().backward()
    return [leaf.grad for leaf in leaves]

rows, weight, bias = torch.randn(4, 64, 128), torch.randn(256, 128), torch.randn(256)
exact, calls, multiply = grads(torch.float64), [], products._multiply
products._is_amd, torch.backends.cpu.get_cpu_capability = lambda: True, lambda: "AVX512"
products._multiply = lambda *a: calls.append(len(a)) or multiply(*a)
assert products.choose_products() == "oneDNN"
with products.fast_products():
    computed = grads(torch.float32)
for ours, expected in zip(computed, exact, strict=True):
    torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-3)
assert calls == [3, 2, 2], calls  # the layer, and its gradients of inputs and weights
grads(torch.float32)
assert len(calls) == 3
for _ in range(100):
    with products.fast_products(), torch.inference_mode():
        torch.testing.assert_close(F.linear(rows, weight), rows @ weight.T)
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
