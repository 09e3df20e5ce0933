"""Linear probes: of the images alone, beside the texts, and with the texts among the samples."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from formulas import (
    Case,
    Fit,
    FitInputs,
    Formula,
    Tensors,
    cross_entropy,
    fit_test,
    logits_test,
    make,
    seeded,
    unit,
    variants,
)
from tiny_models import MakeData
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import FewShotData
from compatbench.methods import cross_modal
from compatbench.methods.linear_probe import LinearProbe


def cross_modal_logits(at: Case) -> Tensor:
    return at.scale * unit(at.images) @ at.own["weight"].T


def plus_plus_logits(at: Case) -> Tensor:
    """Return z = f̂ Wᵀ + b + a ⊙ (f̂ W_0ᵀ)."""
    cosines = unit(at.images) @ at.unit_photos.T
    return unit(at.images) @ at.own["weight"].T + at.own["bias"] + at.own["text_weight"] * cosines


FORMULAS = [
    *variants("cross_modal", cross_modal_logits, {"max_steps": 1}, exact=1e-7),
    Formula("lp_plus_plus", plus_plus_logits),
]


test_logits_equal_the_formula = logits_test(FORMULAS)


@pytest.mark.parametrize(
    ("shots", "c"),
    [
        ([6] * 5, 0.1),
        ([6] * 5, 0.01),
        ([5, 5, 0, 5, 5], 0.05),
        ([6, 6, 0, 0, 0], 0.05),
        ([0, 6, 0, 6, 0], 0.05),
    ],
)
def test_linear_probe_minimises_the_objective_and_never_predicts_absent_classes(
    clip: Backbone, labels: Labels, make_data: MakeData, shots: list[int], c: float
) -> None:
    """The gradient of C Σ CE + ½ ‖W‖², which is convex, is zero over the classes that occur.

    A two-class problem has one weight vector, which is twice that of either class.
    """
    data = make_data(clip, labels, shots=shots)
    present = [label for label in range(5) if shots[label]]
    module = make("linear_probe", sweep=(c,), bisections=0).fit(clip, data, torch.Generator())
    weight = module["weight"][present].double().requires_grad_()
    bias = module["bias"][present].double().requires_grad_()
    truth = torch.tensor([present.index(target) for target in data.train.targets.tolist()])
    entropy = cross_entropy(data.train.plain.double() @ weight.T + bias, truth)
    penalty = weight.square().sum() / (1 if len(present) == 2 else 2)
    slopes = torch.autograd.grad(c * len(truth) * entropy + penalty, [weight, bias])
    for slope in slopes:
        assert slope.abs().max() < 0.01 * weight.abs().max()
    logits = make("linear_probe").attach(module, clip, labels)(data.train.plain)
    assert torch.isfinite(logits).all()
    for absent in {*range(5)} - {*present}:
        assert (logits[:, absent] < logits[:, present].min(1).values).all()


def lpclip_choice(accuracy: Callable[[float], float], sweep: tuple[float, ...]) -> float:
    """Search as the CoOp authors: the first best of the sweep, then eight bisections in log C."""
    scores = [accuracy(c) for c in sweep]
    peak = sweep[scores.index(max(scores))]
    left = math.log10(peak) - 1
    right = math.log10(peak) + 1
    final = peak
    for _ in range(8):
        if accuracy(10**left) < accuracy(10**right):
            final = 10**right
            left = (left + right) / 2
        else:
            final = 10**left
            right = (left + right) / 2
    return final


@pytest.mark.parametrize("optimum", [-5.3, -1.2, 0.0, 0.4, 3.7, 6.0])
def test_linear_probe_searches_as_the_coop_authors(
    data: FewShotData, monkeypatch: pytest.MonkeyPatch, optimum: float
) -> None:
    def accuracy(c: float) -> float:
        return -abs(math.log10(c) - optimum)

    monkeypatch.setattr(LinearProbe, "_validate", lambda self, data, c: accuracy(c))
    expected = lpclip_choice(accuracy, (1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6))
    assert make("linear_probe")._search(data) == pytest.approx(expected)
    assert abs(math.log10(expected) - optimum) < 1.1


def test_without_validation_images_c_is_one(clip64: Backbone, few: MakeData) -> None:
    data = few(val=0)
    searched = make("linear_probe").fit(clip64, data, torch.Generator())
    one = make("linear_probe", sweep=(1.0,), bisections=0).fit(clip64, data, torch.Generator())
    assert searched.fingerprint == one.fingerprint


@pytest.mark.parametrize(
    ("accuracies", "chosen"),
    [([0.2, 0.5, 0.5, 0.5, 0.4, 0.1], (1e-3, 5)), ([0.2, 0.5, 0.5, 0.1, 0.6, 0.6], (0.3, 5))],
)
def test_cross_modal_keeps_the_first_best_run_at_its_first_best_check(
    clip: Backbone,
    data: FewShotData,
    monkeypatch: pytest.MonkeyPatch,
    accuracies: list[float],
    chosen: tuple[float, int],
) -> None:
    """There are two runs of nine steps, validated after the first, the fifth and the last."""
    given = iter(accuracies)
    monkeypatch.setattr(cross_modal, "validation_accuracy", lambda *_: next(given))
    sweep = dict(lrs=(1e-3, 0.3), weight_decays=(0.0,), batch_sizes=(8,))
    found = make("cross_modal", **sweep, max_steps=9, check_every=4).fit(clip, data, seeded())
    assert list(given) == []
    rate, steps = chosen
    assert float(found["lr"]) == pytest.approx(rate)
    assert int(found["steps"]) == steps


def plus_plus_fit(of: FitInputs) -> Tensors:
    """Return W, b and a after 25 steps along the formula's gradients."""
    features = unit(of.views()[0])
    targets = of.owners
    texts = of.texts
    n = len(targets)
    truth = torch.eye(5)[targets]
    cosines = features @ texts.T
    matches = cosines[torch.arange(n), targets]
    means = torch.stack([matches[targets == c].mean() for c in targets.unique()])
    w = truth.T @ features
    a = torch.full((5,), 250 * float(means.mean()))
    method = make("lp_plus_plus", **of.settings)
    b = method.init(of.source, of.data, seeded())["bias"].clone()
    rate = 4 * n / float(torch.linalg.eigvalsh(features.T @ features).max())
    text_rate = n / (4 * float(cosines.square().sum(0).max()))
    velocity_w = torch.zeros_like(w)
    velocity_b = torch.zeros_like(b)
    total = torch.zeros_like(a)
    for step in range(1, 26):
        wrong = ((features @ w.T + b + a * cosines).softmax(-1) - truth) / n
        velocity_w = 0.9 * velocity_w + wrong.T @ features
        velocity_b = 0.9 * velocity_b + wrong.sum(0)
        slope = (wrong * cosines).sum(0)
        total = total + slope if of.settings["accumulate"] else slope
        w = w - rate * velocity_w
        b = b - rate * velocity_b
        if step % 10 == 0:
            a = a - text_rate * total
    return {"weight": w, "bias": b, "text_weight": a}


FITS = []
for accumulate in (True, False):
    for shots in (3, (3, 1, 0, 2, 3)):
        settings = {"max_steps": 25, "accumulate": accumulate}
        FITS.append(Fit("lp_plus_plus", plus_plus_fit, settings, shots, 1e-8, steps=True))
test_fits_equal_their_formulas = fit_test(FITS)
