"""Linear probe: the minimum of C · Σ cross-entropy + ½ ‖W‖², found by another solver."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from tiny_models import MakeData
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import FewShotData
from compatbench.methods.linear_probe import LinearProbe

FIXED = LinearProbe.Config(sweep=(0.05,), bisections=0)


def solve(features: Tensor, targets: Tensor, classes: list[int], c: float) -> np.ndarray:
    """Logits of the training features at the minimum, over the classes that occur."""
    x, y = features.double().numpy(), np.array([classes.index(t) for t in targets.tolist()])
    size = x.shape[1]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weight, bias = flat[: len(classes) * size].reshape(-1, size), flat[len(classes) * size :]
        z = x @ weight.T + bias
        z = z - z.max(1, keepdims=True)
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        value = -c * np.log(p[np.arange(len(y)), y]).sum() + 0.5 * (weight**2).sum()
        wrong = c * (p - np.eye(len(classes))[y])
        return value, np.concatenate([(wrong.T @ x + weight).ravel(), wrong.sum(0)])

    start = np.zeros(len(classes) * (size + 1))
    found = minimize(
        objective, start, jac=True, method="L-BFGS-B", options=dict(maxiter=10000, ftol=1e-15)
    )
    weight, bias = found.x[: len(classes) * size].reshape(-1, size), found.x[len(classes) * size :]
    return x @ weight.T + bias


def centred(logits: Tensor | np.ndarray) -> np.ndarray:
    """A constant added to all logits of an image means nothing."""
    logits = np.asarray(logits)
    return logits - logits.mean(1, keepdims=True)


@pytest.mark.parametrize("c", [0.1, 0.01])
def test_the_fit_is_the_minimum_of_the_objective(
    clip: Backbone, labels: Labels, make_data: MakeData, c: float
) -> None:
    data = make_data(clip, labels, shots=6)
    config = LinearProbe.Config(sweep=(c,), bisections=0)
    module = LinearProbe(config).fit(clip, data, torch.Generator())
    logits = LinearProbe().attach(module, clip, labels)(data.train.plain)
    expected = solve(data.train.plain, data.train.targets, [0, 1, 2, 3, 4], c)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(centred(logits), centred(expected), rtol=0.01, atol=0.01)


def test_a_class_without_images_is_never_predicted(
    clip: Backbone, labels: Labels, make_data: MakeData
) -> None:
    data = make_data(clip, labels, shots=[5, 5, 0, 5, 5])
    module = LinearProbe(FIXED).fit(clip, data, torch.Generator())
    logits = LinearProbe().attach(module, clip, labels)(data.train.plain)
    assert torch.isfinite(logits).all()
    assert (logits[:, 2] < logits[:, [0, 1, 3, 4]].min(1).values).all()
    expected = solve(data.train.plain, data.train.targets, [0, 1, 3, 4], 0.05)
    np.testing.assert_allclose(
        centred(logits[:, [0, 1, 3, 4]]), centred(expected), rtol=0.01, atol=0.01
    )


@pytest.mark.parametrize("present", [(0, 1), (1, 3), (4, 2)])
def test_two_classes_get_a_row_each(
    clip: Backbone, labels: Labels, make_data: MakeData, present: tuple[int, int]
) -> None:
    """A two-class problem has one weight vector: minimise C Σ log(1 + exp(−y z)) + ½ ‖w‖²."""
    low, high = sorted(present)
    data = make_data(clip, labels, shots=[6 * (c in present) for c in range(5)])
    module = LinearProbe(FIXED).fit(clip, data, torch.Generator())
    logits = LinearProbe().attach(module, clip, labels)(data.train.plain).double()

    x, signs = data.train.plain.double(), (data.train.targets == high).double() * 2 - 1
    w = torch.zeros(17, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [w], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        z = x @ w[:16] + w[16]
        value = 0.05 * torch.log1p(torch.exp(-signs * z)).sum() + 0.5 * w[:16].square().sum()
        value.backward()
        return value

    solver.step(closure)
    expected = (x @ w[:16] + w[16]).detach()
    torch.testing.assert_close(
        logits[:, high] - logits[:, low], expected, rtol=0.01, atol=0.01, check_dtype=False
    )
    others = [c for c in range(5) if c not in present]
    assert (logits[:, others].max(1).values < logits[:, [low, high]].min(1).values).all()


def test_a_task_of_two_classes(clip: Backbone, make_data: MakeData) -> None:
    labels = Labels(("dog", "tree"), ("{}",), "{}")
    data = make_data(clip, labels, shots=4)
    module = LinearProbe().fit(clip, data, torch.Generator())
    logits = LinearProbe().attach(module, clip, labels)(data.train.plain)
    assert (logits.argmax(-1) == data.train.targets).all()


def test_the_plain_view_is_learned_not_the_augmentations(
    clip: Backbone, labels: Labels, make_data: MakeData
) -> None:
    one, two = make_data(clip, labels), make_data(clip, labels)
    two.train.views.zero_()
    first = LinearProbe(FIXED).fit(clip, one, torch.Generator())
    assert first.fingerprint == LinearProbe(FIXED).fit(clip, two, torch.Generator()).fingerprint


def lpclip_choice(accuracy: Callable[[float], float], sweep: tuple[float, ...]) -> float:
    """The CoOp authors' search: the first best of the sweep, then eight bisections in log C."""
    scores = [accuracy(c) for c in sweep]
    peak = sweep[scores.index(max(scores))]
    left, right = math.log10(peak) - 1, math.log10(peak) + 1
    final = peak
    for _ in range(8):
        if accuracy(10**left) < accuracy(10**right):
            final, left = 10**right, (left + right) / 2
        else:
            final, right = 10**left, (left + right) / 2
    return final


@pytest.mark.parametrize("optimum", [-5.3, -1.2, 0.0, 0.4, 3.7, 6.0])
def test_the_search_is_that_of_the_coop_authors(
    data: FewShotData, monkeypatch: pytest.MonkeyPatch, optimum: float
) -> None:
    def accuracy(c: float) -> float:
        return -abs(math.log10(c) - optimum)

    monkeypatch.setattr(LinearProbe, "_validate", lambda self, data, c: accuracy(c))
    expected = lpclip_choice(accuracy, (1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6))
    assert LinearProbe()._search(data) == pytest.approx(expected)
    assert abs(math.log10(expected) - optimum) < 1.1


def test_candidates_are_judged_on_the_validation_images(
    clip: Backbone, labels: Labels, make_data: MakeData
) -> None:
    data = make_data(clip, labels, val=4)
    probe = LinearProbe(FIXED)
    module = probe.fit(clip, data, torch.Generator())
    logits = probe.attach(module, clip, labels)(data.val.plain)
    right = sum(
        int(row.argmax()) == int(y) for row, y in zip(logits, data.val.targets, strict=True)
    )
    assert probe._validate(data, 0.05) == pytest.approx(right / 20)


def test_without_validation_images_c_is_one(
    clip: Backbone, labels: Labels, make_data: MakeData
) -> None:
    without, with_some = make_data(clip, labels, val=0), make_data(clip, labels, val=2)
    assert torch.equal(without.train.plain, with_some.train.plain)
    found = LinearProbe().fit(clip, without, torch.Generator()).fingerprint
    one = LinearProbe(LinearProbe.Config(sweep=(1.0,), bisections=0))
    assert found == one.fit(clip, with_some, torch.Generator()).fingerprint
    assert found != LinearProbe(FIXED).fit(clip, with_some, torch.Generator()).fingerprint


def test_text_plays_no_part(clip: Backbone, data: FewShotData, images: Tensor) -> None:
    module = LinearProbe(FIXED).fit(clip, data, torch.Generator())
    renamed = Labels(tuple("abcde"), ("{}",), "{}")
    logits = LinearProbe().attach(module, clip, renamed)(images)
    for i, f in enumerate(images):
        for c in range(5):
            expected = sum(float(w * x) for w, x in zip(module["weight"][c], f, strict=True))
            expected += float(module["bias"][c])
            assert float(logits[i, c]) == pytest.approx(expected, rel=1e-4, abs=1e-4)
