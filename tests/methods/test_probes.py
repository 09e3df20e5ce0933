"""Linear probes: of the images alone, beside the texts, and with the texts among the samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from formulas import Formula, Tensors, fill, logits_test, scale_of, unit, unit_texts
from scipy.optimize import minimize
from tiny_models import MakeData
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import FewShotData
from compatbench.methods import cross_modal
from compatbench.methods.cross_modal import CrossModal
from compatbench.methods.linear_probe import LinearProbe
from compatbench.methods.lp_plus_plus import LPPlusPlus

FIXED = LinearProbe.Config(sweep=(0.05,), bisections=0)


def cross_modal_logits(backbone: Backbone, labels: Labels, own: Tensors, images: Tensor) -> Tensor:
    return scale_of(backbone) * unit(images) @ own["weight"].T


def plus_plus_logits(backbone: Backbone, labels: Labels, own: Tensors, images: Tensor) -> Tensor:
    """z = f̂ Wᵀ + b + a ⊙ (f̂ W_0ᵀ)."""
    cosines = unit(images) @ unit_texts(backbone, labels).T
    return unit(images) @ own["weight"].T + own["bias"] + own["text_weight"] * cosines


FORMULAS = {
    "cross_modal": Formula(CrossModal, cross_modal_logits, settings={"max_steps": 1}, exact=1e-7),
    "lp_plus_plus": Formula(LPPlusPlus, plus_plus_logits, exact=1e-9),
}


test_logits_equal_the_formula = logits_test(FORMULAS)


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
    data = make_data(clip, labels, val=0)
    one = LinearProbe(LinearProbe.Config(sweep=(1.0,), bisections=0))
    found, expected = (m.fit(clip, data, torch.Generator()) for m in (LinearProbe(), one))
    assert found.fingerprint == expected.fingerprint


@pytest.mark.parametrize(("batch_size", "augment"), [(8, False), (5, False), (8, True)])
def test_cross_modal_s_steps_follow_the_gradient_on_images_and_texts(
    float64: None,
    clip64: Backbone,
    labels: Labels,
    make_data: MakeData,
    monkeypatch: pytest.MonkeyPatch,
    batch_size: int,
    augment: bool,
) -> None:
    """Three steps of AdamW, in which the samples are drawn in order; no validation images."""
    drawn: list[tuple[int, int]] = []

    def in_order(count: int, size: int, *_: object) -> Iterator[Tensor]:
        drawn.append((count, size))
        order = torch.arange(count).roll(5)  # with the training views, the last of them first
        while True:
            yield from order[: count // size * size].split(size)

    monkeypatch.setattr(cross_modal, "_batches", in_order)
    data = make_data(clip64, labels, val=0)
    config = CrossModal.Config(
        lrs=(0.05,), weight_decays=(0.01,), batch_sizes=(batch_size,), max_steps=3, augment=augment
    )
    found = CrossModal(config).fit(clip64, data, torch.Generator())["weight"]
    of_texts = batch_size // 2
    of_images = batch_size - of_texts
    shots = [*data.train.plain, *(image for v in data.train.views for image in v if augment)]
    truth = data.train.targets.tolist() * 3
    assert drawn == [(45 if augment else 15, of_images), (15, of_texts)]

    templates = [fill(clip64, labels, template) for template in labels.templates]
    words, owners = torch.cat(templates), [0, 1, 2, 3, 4] * 3
    start = weight = unit(sum(templates) / 3)
    scale = scale_of(clip64)
    first, second = torch.zeros(5, 16), torch.zeros(5, 16)
    for step in range(3):
        weight = weight.detach().requires_grad_()
        losses = []
        for k in range(of_images):
            i = (step * of_images + k - 5) % len(shots)
            logits = scale * weight @ unit(shots[i])
            losses.append(logits.logsumexp(0) - logits[truth[i]])
        for k in range(of_texts):
            i = (step * of_texts + k - 5) % 15
            logits = scale * weight @ unit(words[i])
            losses.append(logits.logsumexp(0) - logits[owners[i]])
        (gradient,) = torch.autograd.grad(torch.stack(losses).mean(), weight)
        rate = 0.05 * 0.5 * (1 + math.cos(math.pi * step / 3))
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        mean, square = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
        weight = (1 - rate * 0.01) * weight - rate * mean / (square.sqrt() + 1e-8)
    assert (found - start).abs().max() > 0.05
    torch.testing.assert_close(found, weight.detach(), rtol=1e-6, atol=1e-8)


def test_the_rate_warms_up_then_follows_a_cosine() -> None:
    method = CrossModal()
    assert method._rate(1e-3, 0, 12800) == 1e-5
    assert method._rate(1e-3, 1, 12800) == pytest.approx(1e-3 / 50)
    assert method._rate(1e-3, 49, 12800) == pytest.approx(1e-3 * 49 / 50)
    assert method._rate(1e-3, 50, 12800) == 1e-3
    assert method._rate(1e-3, 6450, 12800) == pytest.approx(5e-4)
    assert method._rate(1e-3, 12799, 12800) < 1e-7
    # A cap on steps shortens the warm-up in proportion.
    rates = [method._rate(1e-3, step, 512) for step in range(3)]
    assert rates == pytest.approx([1e-5, 5e-4, 1e-3])


def test_batches_go_through_all_samples_and_drop_the_rest() -> None:
    cpu = torch.device("cpu")
    batches = cross_modal._batches(7, 3, torch.Generator().manual_seed(0), cpu)
    for _ in range(3):
        one, two = next(batches), next(batches)
        assert len(one) == len(two) == 3
        assert len({*one.tolist(), *two.tolist()}) == 6
    # A batch is no larger than the samples.
    assert len(next(cross_modal._batches(3, 16, torch.Generator(), cpu))) == 3


@pytest.mark.parametrize(
    ("accuracies", "chosen"),
    [([0.2, 0.5, 0.5, 0.5, 0.4, 0.1], (1e-3, 5)), ([0.2, 0.5, 0.5, 0.1, 0.6, 0.6], (0.3, 5))],
)
def test_the_sweep_keeps_the_first_best_run_at_its_first_best_check(
    clip: Backbone,
    data: FewShotData,
    monkeypatch: pytest.MonkeyPatch,
    accuracies: list[float],
    chosen: tuple[float, int],
) -> None:
    """Two runs of nine steps, looked at after the first, the fifth and the last."""
    given = iter(accuracies)
    monkeypatch.setattr(cross_modal, "validate", lambda *_: next(given))
    sweep = dict(lrs=(1e-3, 0.3), weight_decays=(0.0,), batch_sizes=(8,))
    config = CrossModal.Config.model_validate(sweep | {"max_steps": 9, "check_every": 4})
    found = CrossModal(config).fit(clip, data, torch.Generator().manual_seed(1))
    assert list(given) == []
    assert (float(found["lr"]), int(found["steps"])) == (pytest.approx(chosen[0]), chosen[1])


def naive_fit(
    backbone: Backbone, data: FewShotData, bias: Tensor, steps: int, accumulate: bool
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """W, b and a after each step, with gradients written out."""
    features, texts = unit(data.train.views[0]), unit_texts(backbone, data.labels)
    targets, classes = data.train.targets.tolist(), len(data.labels)
    n = len(targets)
    w = torch.zeros(classes, features.shape[1])
    for f, c in zip(features, targets, strict=True):
        w[c] += f
    means = []
    for c in sorted(set(targets)):
        own = [float(f.dot(texts[c])) for f, y in zip(features, targets, strict=True) if y == c]
        means.append(sum(own) / len(own))
    a = torch.full((classes,), 250 * sum(means) / len(means))
    b = bias.clone()
    cosines = features @ texts.T
    rate = 4 * n / float(np.linalg.eigvalsh((features.T @ features).numpy()).max())
    text_rate = n / (4 * max(float(cosines[:, c].square().sum()) for c in range(classes)))
    velocity_w, velocity_b = torch.zeros_like(w), torch.zeros_like(b)
    total, states = torch.zeros_like(a), []
    truth = torch.tensor([[float(y == c) for c in range(classes)] for y in targets])
    for step in range(1, steps + 1):
        logits = features @ w.T + b + a * cosines
        wrong = (logits.softmax(-1) - truth) / n
        velocity_w = 0.9 * velocity_w + wrong.T @ features
        velocity_b = 0.9 * velocity_b + wrong.sum(0)
        slope = (wrong * cosines).sum(0)
        total = total + slope if accumulate else slope
        w, b = w - rate * velocity_w, b - rate * velocity_b
        if step % 10 == 0:
            a = a - text_rate * total
        states.append((w, b, a))
    return states


@pytest.mark.parametrize("accumulate", [True, False])
@pytest.mark.parametrize("shots", [[3, 3, 3, 3, 3], [3, 1, 0, 2, 3]])
def test_lp_plus_plus_s_fit_equals_the_formulas(
    float64: None,
    clip64: Backbone,
    labels: Labels,
    make_data: MakeData,
    accumulate: bool,
    shots: list[int],
) -> None:
    data = make_data(clip64, labels, shots=shots, val=0)
    method = LPPlusPlus(LPPlusPlus.Config(max_steps=25, accumulate=accumulate))
    found = method.fit(clip64, data, torch.Generator().manual_seed(3))
    start = method.init(clip64, data, torch.Generator().manual_seed(3))
    weight, bias, a = naive_fit(clip64, data, start["bias"], 25, accumulate)[-1]
    assert (found["text_weight"] - start["text_weight"]).abs().max() > 1e-4
    torch.testing.assert_close(found["weight"], weight, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(found["bias"], bias, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(found["text_weight"], a, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_lp_plus_plus_s_last_step_that_is_best_on_validation_images_is_kept(
    float64: None, clip64: Backbone, labels: Labels, make_data: MakeData, seed: int
) -> None:
    data = make_data(clip64, labels, val=4, seed=seed)
    method = LPPlusPlus(LPPlusPlus.Config(max_steps=30))
    found = method.fit(clip64, data, torch.Generator().manual_seed(3))
    start = method.init(clip64, data, torch.Generator().manual_seed(3))
    features, texts = unit(data.val.plain), unit_texts(clip64, labels)
    best, kept, scores = -1, torch.zeros(()), set()
    for weight, bias, a in naive_fit(clip64, data, start["bias"], 30, accumulate=True):
        logits = features @ weight.T + bias + a * (features @ texts.T)
        right = int((logits.argmax(-1) == data.val.targets).sum())
        scores.add(right)
        if right >= best:
            best, kept = right, weight
    assert len(scores) > 1
    torch.testing.assert_close(found["weight"], kept, rtol=1e-8, atol=1e-9)
