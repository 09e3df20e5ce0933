"""Methods that act on features or on class weights, and have no cache."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from formulas import (
    Formula,
    Tensors,
    adam,
    cosine_logits,
    cross_entropy,
    fill,
    logits_test,
    photo_texts,
    scale_of,
    step_test,
    unit,
    unit_texts,
)
from tiny_models import MakeData
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import FewShotData, Module
from compatbench.methods.clap import CLAP
from compatbench.methods.clip_adapter import CLIPAdapter
from compatbench.methods.gda import GDA
from compatbench.methods.graph_adapter import GraphAdapter
from compatbench.methods.lfa import LFA, procrustes
from compatbench.methods.simpleshot import SimpleShot
from compatbench.methods.taskres import TaskRes
from compatbench.methods.wise_ft import WiSEFT
from compatbench.methods.zeroshot import ZeroShot, ZeroShotEnsemble
from compatbench.methods.zs_lp import ZSLP


def zero_shot_logits(backbone: Backbone, labels: Labels, own: Tensors, images: Tensor) -> Tensor:
    return cosine_logits(backbone, photo_texts(backbone, labels), images)


def ensemble_logits(
    backbone: Backbone, labels: Labels, own: Tensors, images: Tensor, first: int
) -> Tensor:
    each = [unit(fill(backbone, labels, template)) for template in labels.templates[first:]]
    return cosine_logits(backbone, sum(each) / len(each), images)  # type: ignore[arg-type]


def taskres_logits(
    backbone: Backbone, labels: Labels, own: Tensors, images: Tensor, alpha: float
) -> Tensor:
    """w_c = t_c + α x_c, t not normalised."""
    texts = photo_texts(backbone, labels) + alpha * own["residual"]
    return cosine_logits(backbone, texts, images)


def zs_lp_logits(backbone: Backbone, labels: Labels, own: Tensors, images: Tensor) -> Tensor:
    return cosine_logits(backbone, own["weights"], images)


def free_step(name: str, x: Tensor, gradient: Tensor) -> Tensor:
    """SGD at a rate of 0.1 without weight decay."""
    return x - 0.1 * gradient


def clap_loss(
    backbone: Backbone, labels: Labels, own: Tensors, images: Tensor, targets: Tensor
) -> Tensor:
    """Cross-entropy + mean over classes of λ_c ‖w_c − t_c‖²."""
    entropy = cross_entropy(cosine_logits(backbone, own["weights"], images), targets)
    distances = (own["weights"] - photo_texts(backbone, labels)).square().sum(1)
    return entropy + (own["multipliers"] * distances).mean()


def adapter_logits(
    backbone: Backbone, labels: Labels, own: Tensors, images: Tensor, ratio: float
) -> Tensor:
    """f' = α ReLU(A_2 ReLU(A_1 f)) + (1 − α) f, f as it leaves the tower."""
    hidden = [torch.clamp(own["down"] @ f, min=0) for f in images]
    adapted = [torch.clamp(own["up"] @ h, min=0) for h in hidden]
    mixed = [ratio * a + (1 - ratio) * f for a, f in zip(adapted, images, strict=True)]
    return cosine_logits(backbone, photo_texts(backbone, labels), torch.stack(mixed))


def naive_graph(text: Tensor, group: list[Tensor], weight: Tensor, bias: Tensor) -> Tensor:
    """One class's node 0 after a convolution over the whole normalised adjacency matrix."""
    nodes = torch.stack([text, *group])
    n = len(nodes)
    adjacency = torch.eye(n).to(nodes)
    for i in range(n):
        for j in range(n):
            lengths = nodes[i].norm() * nodes[j].norm()
            cosine = nodes[i].dot(nodes[j]) / lengths if lengths > 0 else torch.zeros(())
            adjacency[i, j] += max(float(cosine), 0.0)
    degree = torch.diag(adjacency.sum(1) ** -0.5)
    return torch.tanh(degree @ adjacency @ degree @ nodes @ weight + bias)[0]


def graph_logits(
    backbone: Backbone,
    labels: Labels,
    own: Tensors,
    images: Tensor,
    alpha: float = 0.7,
    beta: float = 0.7,
) -> Tensor:
    """Text weights mixed with graph convolutions over text and image nodes, in four graphs."""
    texts = fill(backbone, labels, labels.templates[0])
    rows = []
    for c, t in enumerate(texts):
        refined = {}
        for kind, nodes in (("text", texts), ("image", own["image_nodes"])):
            weight, bias = own[f"{kind}_weight"], own[f"{kind}_bias"][c]
            parts = [naive_graph(t, list(nodes[k::4]), weight, bias) for k in range(4)]
            refined[kind] = sum(parts) / 4
        mixed = alpha * refined["text"] + (1 - alpha) * refined["image"]
        rows.append(beta * t + (1 - beta) * mixed)
    return cosine_logits(backbone, torch.stack(rows), images)


def wise_logits(backbone: Backbone, labels: Labels, own: Tensors, images: Tensor) -> Tensor:
    """The zero-shot head (s W_0, 0) of this backbone and what is added to it."""
    head = scale_of(backbone) * unit_texts(backbone, labels) + own["weight"]
    return unit(images) @ head.T + own["bias"]


def gda_logits(backbone: Backbone, labels: Labels, own: Tensors, images: Tensor) -> Tensor:
    """z = s f̂ W_0ᵀ + α (f̂ Wᵀ + b)."""
    gaussian = unit(images) @ own["weight"].T + own["bias"]
    return zero_shot_logits(backbone, labels, own, images) + own["alpha"] * gaussian


def lfa_logits(backbone: Backbone, labels: Labels, own: Tensors, images: Tensor) -> Tensor:
    """Images turned by β R + (1 − β) I."""
    matrix = own["beta"] * own["rotation"] + (1 - own["beta"]) * torch.eye(16).double()
    return cosine_logits(backbone, photo_texts(backbone, labels), unit(images) @ matrix)


STEPS = {
    "clap": Formula(CLAP, zs_lp_logits, clap_loss, free_step),
    **{
        f"taskres-{alpha}": Formula(
            TaskRes,
            partial(taskres_logits, alpha=alpha),
            update=adam(0.01),  # the decay of zero is zero
            recipe={"warmup_epochs": 0, "lr": 0.1, "eps": 0.01},
            settings={"alpha": alpha},
            start=lambda backbone, data: {"residual": torch.zeros(5, 16)},
        )
        for alpha in (0.5, 1.0)
    },
    "zs_lp": Formula(
        ZSLP,
        zs_lp_logits,
        update=free_step,
        start=lambda backbone, data: {"weights": photo_texts(backbone, data.labels)},
    ),
    "zs_lp-residual": Formula(
        ZSLP,
        partial(taskres_logits, alpha=1.0),
        update=free_step,
        settings={"stores": "residual"},
        start=lambda backbone, data: {"residual": torch.zeros(5, 16)},
    ),
    **{
        f"clip_adapter-{ratio}": Formula(
            CLIPAdapter, partial(adapter_logits, ratio=ratio), settings={"ratio": ratio}, exact=1e-9
        )
        for ratio in (0.2, 0.6)
    },
    **{
        f"graph_adapter-{alpha}": Formula(
            GraphAdapter,
            partial(graph_logits, alpha=alpha, beta=beta),
            update=adam(0.01, coupled=5e-4),
            recipe={"warmup_epochs": 0, "lr": 0.1, "eps": 0.01},
            settings={"alpha": alpha, "beta": beta},
            exact=1e-8,
            step=1e-6,
        )
        for alpha, beta in ((0.7, 0.7), (0.6, 0.3))
    },
}

FORMULAS = {
    "zeroshot": Formula(ZeroShot, zero_shot_logits, exact=1e-7),
    **{
        f"zeroshot_ensemble-{which}": Formula(
            ZeroShotEnsemble,
            partial(ensemble_logits, first=first),
            settings={"templates": which},
            exact=1e-7,
        )
        for which, first in (("all", 0), ("rest", 1))
    },
    "gda": Formula(GDA, gda_logits, exact=1e-6),
    "lfa": Formula(LFA, lfa_logits, exact=1e-7),
    "wise_ft": Formula(WiSEFT, wise_logits, exact=1e-8),
    **STEPS,
}


test_logits_equal_the_formula = logits_test(FORMULAS)
test_the_first_step_follows_the_gradient_of_the_formula = step_test(STEPS)


def test_clap_s_loss_equals_the_formula(
    float64: None, backbone64: Backbone, data64: FewShotData
) -> None:
    """At the first step, w is t and nothing pulls."""
    FORMULAS["clap"].check_loss(backbone64, data64)


def test_clap_s_multipliers_are_zero_shot_probabilities_of_the_truth(
    backbone64: Backbone, labels: Labels, make_data: MakeData
) -> None:
    data = make_data(backbone64, labels, shots=[2, 1, 3, 0, 1])
    found = CLAP().init(backbone64, data, torch.Generator())["multipliers"]
    said = [zero_shot_logits(backbone64, labels, {}, view).softmax(1) for view in data.train.views]
    for c in range(5):
        own = [p[i, c] for p in said for i, y in enumerate(data.train.targets) if y == c]
        expected = torch.stack(own).mean() if own else torch.ones(()).double()
        torch.testing.assert_close(found[c], expected, rtol=1e-5, atol=1e-7)
    assert found.std() > 0.05


@pytest.mark.parametrize("alpha", [0.5, 0.2, 1.0])
def test_wise_ft_s_module_is_alpha_times_one_step_of_fine_tuning(
    float64: None, clip64: Backbone, data64: FewShotData, alpha: float
) -> None:
    recipe = WiSEFT.Config().recipe.model_copy(update={"lr": 0.1, "eps": 0.01})
    method = WiSEFT(WiSEFT.Config(recipe=recipe, max_steps=1, alpha=alpha))
    module = method.fit(clip64, data64, torch.Generator())

    train, start = data64.train, scale_of(clip64) * unit_texts(clip64, data64.labels)
    head, bias = start.clone().requires_grad_(), torch.zeros(5, requires_grad=True)
    loss = cross_entropy(unit(train.views[0]) @ head.T + bias, train.targets)
    slopes = torch.autograd.grad(loss, [head, bias])
    tuned = [-alpha * 0.1 * slope / (slope.abs() + 0.01) for slope in slopes]
    assert tuned[0].abs().max() > 0.01
    torch.testing.assert_close([module["weight"], module["bias"]], tuned, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("absent", [False, True])
def test_graphs_of_eight_classes_of_which_one_may_have_no_image(
    backbone64: Backbone, make_data: MakeData, images64: Tensor, absent: bool
) -> None:
    """Eight classes make four equal graphs, as the authors' code needs.

    Classes 0 and 4 share a graph; without an image node, class 4 changes nothing there.
    """
    names = ("dog", "cat", "tree", "red apple", "boat", "car", "house", "sun")
    shots = [2] * 4 + [0 if absent else 2] + [2] * 3
    data = make_data(backbone64, Labels(names, ("a {}.",), "{}"), shots=shots)
    Formula(GraphAdapter, graph_logits, exact=1e-8).check_logits(backbone64, data, images64)


@pytest.mark.parametrize(("count", "used"), [(None, [0, 1, 2]), (2, [1, 2])])
def test_graph_adapter_s_image_nodes_are_class_means_over_the_last_views(
    clip64: Backbone, labels: Labels, make_data: MakeData, count: int | None, used: list[int]
) -> None:
    data = make_data(clip64, labels, shots=[2, 1, 3, 0, 1], views=3)
    method = GraphAdapter(GraphAdapter.Config(node_views=count))
    nodes = method.init(clip64, data, torch.Generator())["image_nodes"]
    for c in range(5):
        own = [v[i] for v in data.train.views[used] for i in range(7) if data.train.targets[i] == c]
        expected = sum(own) / len(own) if own else torch.zeros(16).double()
        torch.testing.assert_close(nodes[c], expected)


def naive_gaussian(views: Tensor, targets: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """W = μ Σ⁻¹ and b = log(1/C) − ½ μ Σ⁻¹ μᵀ, in the order of the authors' estimate."""
    samples = [
        (image / np.linalg.norm(image), c)
        for view in views.double().numpy()
        for image, c in zip(view, targets, strict=True)
    ]
    classes, size = sorted(set(targets)), views.shape[-1]
    means = {c: np.mean([f for f, y in samples if y == c], axis=0) for c in classes}
    centred = np.array([f - means[c] for f, c in samples])
    covariance = np.cov(centred, rowvar=False)
    shrunk = (len(samples) - 1) * covariance + np.trace(covariance) * np.eye(size)
    precision = size * np.linalg.pinv(shrunk)
    weight = np.array([precision @ means[c] for c in classes])
    bias = [math.log(1 / len(classes)) - 0.5 * means[c] @ precision @ means[c] for c in classes]
    return weight, np.array(bias)


@pytest.mark.parametrize(
    ("shots", "name", "tolerance"),
    [
        ([3, 3, 3, 3, 3], "clip64", 1e-8),
        ([2, 1, 4, 1, 3], "clip64", 1e-8),
        ([1, 1, 1, 1, 1], "clip", 1e-3),  # single precision does not lose the inverse
        ([3, 2, 0, 3, 4], "clip64", 1e-8),
    ],
)
def test_gda_s_classifier_equals_the_formula(
    request: pytest.FixtureRequest,
    labels: Labels,
    make_data: MakeData,
    shots: list[int],
    name: str,
    tolerance: float,
) -> None:
    """A class without shots has the mean of the other means, and its share of the prior."""
    backbone = request.getfixturevalue(name)
    data = make_data(backbone, labels, shots=shots)
    module = GDA().fit(backbone, data, torch.Generator())
    weight, bias = naive_gaussian(data.train.views, data.train.targets.tolist())
    assert np.abs(weight).max() > 1
    seen = [c for c in range(5) if shots[c]]
    bias = bias + math.log(len(seen)) - math.log(5)
    close = partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance)
    close(module["weight"][seen], weight)
    close(module["bias"][seen], bias)
    for c in {*range(5)} - {*seen}:
        close(module["weight"][c], weight.mean(0))


def test_gda_is_zero_shot_where_nothing_can_be_estimated(
    clip: Backbone, labels: Labels, make_data: MakeData
) -> None:
    """One view of one shot: every feature is its class's mean, and the covariance is zero."""
    module = GDA().fit(clip, make_data(clip, labels, shots=1, views=1), torch.Generator())
    assert not module["weight"].any()
    assert len(module["bias"].unique()) == 1


def test_lfa_s_rotation_is_the_procrustes_solution(
    clip64: Backbone, labels: Labels, make_data: MakeData
) -> None:
    data = make_data(clip64, labels, shots=30)
    rotation = LFA().fit(clip64, data, torch.Generator())["rotation"]
    shots = F.normalize(data.train.views, dim=-1).reshape(-1, 16).numpy()
    texts = clip64.zero_shot(labels).numpy()
    wanted = np.concatenate([texts[data.train.targets.numpy()]] * len(data.train.views))

    def distance(matrix: np.ndarray) -> float:
        return float(np.linalg.norm(shots @ matrix - wanted))

    # Five texts span less than the space, so the solution is one of many; its value is not.
    best, _ = scipy.linalg.orthogonal_procrustes(shots, wanted)
    assert distance(rotation.numpy()) == pytest.approx(distance(best), abs=1e-6)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(16, dtype=torch.float64))


def test_directions_that_no_shot_of_lfa_s_has_stay_as_they_are() -> None:
    x = torch.eye(4, dtype=torch.float64)[:2]
    y = torch.tensor([[0.0, 1.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    apart = torch.eye(4, dtype=torch.float64)[2:]
    torch.testing.assert_close(apart @ procrustes(x, y), apart, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("shots", [[3, 3, 3, 3, 3], [2, 1, 3, 1, 1], [2, 3, 0, 3, 2]])
def test_simpleshot_is_the_nearest_mean_of_centred_features(
    clip64: Backbone, labels: Labels, make_data: MakeData, images64: Tensor, shots: list[int]
) -> None:
    """−s · ‖g(f) − m_c‖², g centred and normalised; the mean of no shots is at the centre."""
    data = make_data(clip64, labels, shots=shots)
    module = SimpleShot().fit(clip64, data, torch.Generator())
    logits = SimpleShot().attach(module, clip64, labels)(images64)
    samples = [
        (unit(image), int(c))
        for view in data.train.views
        for image, c in zip(view, data.train.targets, strict=True)
    ]
    centre: Any = sum(f for f, _ in samples) / len(samples)
    for c in range(5):
        own = [unit(f - centre) for f, y in samples if y == c]
        mean = sum(own) / len(own) if own else torch.zeros(16).double()
        for i, image in enumerate(images64):
            distance = (unit(unit(image) - centre) - mean).norm()
            expected = -float(scale_of(clip64)) * float(distance) ** 2
            assert float(logits[i, c]) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_what_zs_lp_stores_decides_the_transfer_and_not_the_source(
    clip64: Backbone, eva64: Backbone, data64: FewShotData, images64: Tensor
) -> None:
    logits = {}
    for stores in ("weights", "residual"):
        method = ZSLP(ZSLP.Config.model_validate({"max_steps": 20, "stores": stores}))
        module: Module = method.fit(clip64, data64, torch.Generator().manual_seed(1))
        for backbone in (clip64, eva64):
            classify = method.attach(module, backbone, data64.labels)
            logits[stores, backbone.name] = classify(images64)
    torch.testing.assert_close(logits["weights", "clip64"], logits["residual", "clip64"])
    assert (logits["weights", "eva64"] - logits["residual", "eva64"]).abs().max() > 0.1
