"""Methods that act on features or on class weights, and have no cache."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import scipy.linalg
import torch
from formulas import (
    Case,
    Formula,
    Tensors,
    adam,
    close,
    cosine_logits,
    fill,
    logits_test,
    make,
    scale_of,
    step_test,
    stream_of_features,
    unit,
    unit_texts,
    variants,
)
from tiny_models import MakeData
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import FewShotData
from compatbench.methods.lfa import procrustes


def zero_shot_logits(at: Case) -> Tensor:
    return at.cosines(at.photos)


def ensemble_logits(at: Case) -> Tensor:
    first = {"all": 0, "rest": 1}[at.settings["templates"]]
    each = [unit(at.fill(template)) for template in at.labels.templates[first:]]
    return at.cosines(sum(each) / len(each))  # type: ignore[arg-type]


def taskres_logits(at: Case) -> Tensor:
    """w_c = t_c + α x_c, t not normalised."""
    texts = at.photos + at.settings.get("alpha", 1.0) * at.own["residual"]
    return at.cosines(texts)


def zs_lp_logits(at: Case) -> Tensor:
    return at.cosines(at.own["weights"])


def zero_residual(backbone: Backbone, data: FewShotData) -> Tensors:
    return {"residual": torch.zeros(5, 16)}


def zero_shot_weights(backbone: Backbone, data: FewShotData) -> Tensors:
    return {"weights": fill(backbone, data.labels)}


def free_step(name: str, x: Tensor, gradient: Tensor) -> Tensor:
    """SGD at a rate of 0.1 without weight decay."""
    return x - 0.1 * gradient


def clap_loss(at: Case) -> Tensor:
    """Cross-entropy + mean over classes of λ_c ‖w_c − t_c‖²."""
    entropy = at.entropy(at.cosines(at.own["weights"]))
    distances = (at.own["weights"] - at.photos).square().sum(1)
    return entropy + (at.own["multipliers"] * distances).mean()


def adapter_logits(at: Case) -> Tensor:
    """f' = α ReLU(A_2 ReLU(A_1 f)) + (1 − α) f, f as it leaves the tower."""
    ratio = at.settings["ratio"]
    hidden = [torch.clamp(at.own["down"] @ f, min=0) for f in at.images]
    adapted = [torch.clamp(at.own["up"] @ h, min=0) for h in hidden]
    mixed = [ratio * a + (1 - ratio) * f for a, f in zip(adapted, at.images, strict=True)]
    return at.cosines(at.photos, torch.stack(mixed))


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


def graph_logits(at: Case) -> Tensor:
    """Text weights mixed with graph convolutions over text and image nodes, in four graphs."""
    texts, own = at.fill(at.labels.templates[0]), at.own
    alpha, beta = (at.settings.get(name, 0.7) for name in ("alpha", "beta"))
    rows = []
    for c, t in enumerate(texts):
        refined = {}
        for kind, nodes in (("text", texts), ("image", own["image_nodes"])):
            weight, bias = own[f"{kind}_weight"], own[f"{kind}_bias"][c]
            parts = [naive_graph(t, list(nodes[k::4]), weight, bias) for k in range(4)]
            refined[kind] = sum(parts) / 4
        mixed = alpha * refined["text"] + (1 - alpha) * refined["image"]
        rows.append(beta * t + (1 - beta) * mixed)
    return at.cosines(torch.stack(rows))


def wise_logits(at: Case) -> Tensor:
    """The zero-shot head (s W_0, 0) of this backbone and what is added to it."""
    head = at.scale * at.unit_photos + at.own["weight"]
    return unit(at.images) @ head.T + at.own["bias"]


def gda_logits(at: Case) -> Tensor:
    """z = s f̂ W_0ᵀ + α (f̂ Wᵀ + b)."""
    gaussian = unit(at.images) @ at.own["weight"].T + at.own["bias"]
    return zero_shot_logits(at) + at.own["alpha"] * gaussian


def lfa_logits(at: Case) -> Tensor:
    """Images turned by β R + (1 − β) I."""
    matrix = at.own["beta"] * at.own["rotation"] + (1 - at.own["beta"]) * torch.eye(16).double()
    return at.cosines(at.photos, unit(at.images) @ matrix)


BRISK = {"warmup_epochs": 0, "lr": 0.1, "eps": 0.01}
STEPS = [
    Formula("clap", zs_lp_logits, clap_loss, free_step),
    *variants(  # the decay of zero is zero
        *("taskres", taskres_logits, {"alpha": 0.5}, {"alpha": 1.0}),
        **dict(update=adam(0.01), recipe=BRISK, start=zero_residual),
    ),
    Formula("zs_lp", zs_lp_logits, update=free_step, start=zero_shot_weights),
    *variants(
        *("zs_lp", taskres_logits, {"stores": "residual"}),
        **dict(update=free_step, start=zero_residual),
    ),
    *variants("clip_adapter", adapter_logits, {"ratio": 0.2}, {"ratio": 0.6}),
    *(  # α of the step of fine-tuning is kept
        Formula("wise_ft", wise_logits, update=adam(0.01, 0.1 * kept["alpha"]), settings=kept,
                recipe={"lr": 0.1, "eps": 0.01}, exact=1e-8)
        for kept in ({"alpha": 0.5}, {"alpha": 0.2}, {"alpha": 1.0})
    ),
    *variants(
        *("graph_adapter", graph_logits, {}, {"alpha": 0.6, "beta": 0.3}),
        **dict(update=adam(0.01, coupled=5e-4), recipe=BRISK, exact=1e-8, step=1e-6),
    ),
]  # fmt: skip
FORMULAS = [
    *STEPS,
    Formula("zeroshot", zero_shot_logits, exact=1e-7),
    *variants(
        *("zeroshot_ensemble", ensemble_logits, {"templates": "all"}, {"templates": "rest"}),
        exact=1e-7,
    ),
    Formula("gda", gda_logits, exact=1e-6),
    Formula("lfa", lfa_logits, exact=1e-7),
]


test_logits_equal_the_formula = logits_test(FORMULAS)
test_the_first_step_follows_the_gradient_of_the_formula = step_test(STEPS)


def test_clap_s_multipliers_are_zero_shot_probabilities_of_the_truth(
    clip64: Backbone, few: MakeData
) -> None:
    data = few(shots=[2, 1, 3, 0, 1])
    found = make("clap").init(clip64, data, torch.Generator())["multipliers"]
    texts = fill(clip64, data.labels)
    said = [cosine_logits(clip64, texts, view).softmax(1) for view in data.train.views]
    mean = (sum(said) / len(said)).gather(1, data.train.targets[:, None])[:, 0]  # type: ignore[union-attr]
    for c in range(5):
        own = mean[data.train.targets == c]
        close(found[c], own.mean() if len(own) else torch.ones(()).double(), 1e-5)
    assert found.std() > 0.05


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
    Formula("graph_adapter", graph_logits, exact=1e-8).check_logits(backbone64, data, images64)


@pytest.mark.parametrize("count", [None, 2])
def test_graph_adapter_s_image_nodes_are_class_means_over_the_last_views(
    clip64: Backbone, few: MakeData, count: int | None
) -> None:
    data, method = few(shots=[2, 1, 3, 0, 1], views=3), make("graph_adapter", node_views=count)
    nodes = method.init(clip64, data, torch.Generator())["image_nodes"]
    mean = data.train.views[-(count or 3) :].mean(0)
    for c in range(5):
        own = mean[data.train.targets == c]
        close(nodes[c], own.mean(0) if len(own) else torch.zeros(16).double())


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
    module = make("gda").fit(backbone, data, torch.Generator())
    weight, bias = naive_gaussian(data.train.views, data.train.targets.tolist())
    assert np.abs(weight).max() > 1
    seen = [c for c in range(5) if shots[c]]
    bias = bias + math.log(len(seen)) - math.log(5)
    near = partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance)
    near(module["weight"][seen], weight)
    near(module["bias"][seen], bias)
    for c in {*range(5)} - {*seen}:
        near(module["weight"][c], weight.mean(0))


def test_gda_is_zero_shot_where_nothing_can_be_estimated(clip64: Backbone, few: MakeData) -> None:
    """One view of one shot: every feature is its class's mean, and the covariance is zero."""
    module = make("gda").fit(clip64, few(shots=1, views=1), torch.Generator())
    assert not module["weight"].any()
    assert len(module["bias"].unique()) == 1


def test_lfa_s_rotation_is_the_procrustes_solution(clip64: Backbone, few: MakeData) -> None:
    data = few(shots=30)
    rotation = make("lfa").fit(clip64, data, torch.Generator())["rotation"]
    shots = unit(data.train.views).reshape(-1, 16)
    texts = unit_texts(clip64, data.labels)
    wanted = torch.cat([texts[data.train.targets]] * len(data.train.views))
    # Five texts span less than the space, so the solution is one of many; its value is not.
    best = torch.from_numpy(scipy.linalg.orthogonal_procrustes(shots, wanted)[0])
    found, expected = ((shots @ matrix - wanted).norm() for matrix in (rotation, best))
    close(found, expected, 1e-6)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(16, dtype=torch.float64))


def test_directions_that_no_shot_of_lfa_s_has_stay_as_they_are() -> None:
    x = torch.eye(4, dtype=torch.float64)[:2]
    y = torch.tensor([[0.0, 1.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    apart = torch.eye(4, dtype=torch.float64)[2:]
    close(apart @ procrustes(x, y), apart, 1e-5)


@pytest.mark.parametrize(("penalty", "repel"), [("shots", True), ("total", False)])
@pytest.mark.parametrize("shots", [[3, 3, 3, 3, 3], [2, 3, 0, 3, 1]])
def test_ss_text_adds_the_shots_of_a_class_to_its_text(
    clip64: Backbone,
    backbone64: Backbone,
    few: MakeData,
    images64: Tensor,
    shots: list[int],
    penalty: str,
    repel: bool,
) -> None:
    """w_c = t_c + s Σ f / (N λ_c) with λ_c = 1/n_c or 1/N; a class without shots is its text.

    Less the unit vector along 2 w_c − w̄, the mean of all, where ``repel`` says so.
    """
    data, method = few(shots=shots), make("ss_text", penalty=penalty, repel=repel)
    module = method.fit(clip64, data, torch.Generator())
    features, rows = unit(data.train.plain), []
    for c, text in enumerate(unit_texts(backbone64, data.labels)):
        mine = [f for f, y in zip(features, data.train.targets, strict=True) if y == c]
        per_image = len(mine) / len(features) if penalty == "shots" else 1.0
        rows.append(text + scale_of(backbone64) * per_image * sum(mine))
    weights = torch.stack(rows)
    if repel:
        weights = weights - unit(2 * weights - weights.mean(0))
    found = method.attach(module, backbone64, data.labels)(images64)
    close(found, cosine_logits(backbone64, weights, images64), 1e-6)


@pytest.mark.parametrize("shots", [[3, 3, 3, 3, 3], [2, 1, 3, 1, 1], [2, 3, 0, 3, 2]])
def test_simpleshot_is_the_nearest_mean_of_centred_features(
    clip64: Backbone, few: MakeData, images64: Tensor, shots: list[int]
) -> None:
    """−s · ‖g(f) − m_c‖², g centred and normalised; the mean of no shots is at the centre."""
    data, method = few(shots=shots), make("simpleshot")
    module = method.fit(clip64, data, torch.Generator())
    logits = method.attach(module, clip64, data.labels)(images64)
    features = unit(torch.cat([*data.train.views]))
    owners, centre = data.train.targets.repeat(len(data.train.views)), features.mean(0)
    for c in range(5):
        own = unit(features[owners == c] - centre)
        mean = own.mean(0) if len(own) else torch.zeros(16).double()
        for image, row in zip(images64, logits, strict=True):
            distance = (unit(unit(image) - centre) - mean).norm()
            close(row[c], -scale_of(clip64) * distance**2, 1e-6)


def transclip_logits(backbone: Backbone, labels: Labels, images: Tensor, rounds: int) -> Tensor:
    """TransCLIP's rounds, image by image and class by class."""
    x, texts = unit(images), unit_texts(backbone, labels)
    start = torch.stack([scale_of(backbone) * texts @ f for f in x])
    near = torch.zeros(len(x), len(x)).double()
    for i, f in enumerate(x):
        others = sorted((j for j in range(len(x)) if j != i), key=lambda j: -float(f.dot(x[j])))
        for j in others[:3]:
            near[i, j] = f.dot(x[j])
    z, spread, means, logits = start.softmax(1), torch.full((16,), 1 / 16).double(), [], start
    for c in range(5):
        surest = sorted(range(len(x)), key=lambda i: -float(z[i, c]))[:8]
        means.append(unit(sum(z[i, c] * x[i] for i in surest)))
    for _ in range(rounds):
        gaussians = [[-((f - m) ** 2 / spread).sum() / 2 for m in means] for f in x]
        fixed = start + torch.tensor(gaussians).double() / 50
        for _ in range(5):
            logits = fixed + (near.T @ z + near @ z) / 6
            z = logits.softmax(1)
        means = [unit(sum(z[i, c] * x[i] for i in range(len(x)))) for c in range(5)]
        squares = [z[i, c] * (x[i] - means[c]) ** 2 for i in range(len(x)) for c in range(5)]
        spread = torch.stack(squares).sum(0) / len(x)
    return logits


@pytest.mark.usefixtures("float64")
def test_transclip_s_rounds_give_the_formula_s_logits(
    clip64: Backbone, data64: FewShotData
) -> None:
    method, labels, stream = make("transclip", rounds=4), data64.labels, stream_of_features()
    module = method.fit(clip64, data64, torch.Generator())
    found = method.attach(module, clip64, labels)(stream)
    assert (found - transclip_logits(clip64, labels, stream, rounds=3)).abs().max() > 1e-4
    close(found, transclip_logits(clip64, labels, stream, rounds=4))
