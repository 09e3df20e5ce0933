"""Methods that act on features or on class weights, and have no cache."""

from __future__ import annotations

import itertools

import pytest
import scipy.linalg
import torch
from formulas import (
    Case,
    Fit,
    FitInputs,
    Formula,
    Tensors,
    adam,
    class_means,
    close,
    cosine_logits,
    fill,
    fit_test,
    logits_test,
    make,
    naive_gaussian,
    scale_of,
    step_test,
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
    return at.cosines(at.unit_photos)


def taskres_logits(at: Case) -> Tensor:
    """Return logits of w_c = t_c + α x_c, t not normalised."""
    texts = at.photos + at.settings.get("alpha", 1.0) * at.own["residual"]
    return at.cosines(texts)


def zs_lp_logits(at: Case) -> Tensor:
    return at.cosines(at.own["weights"])


def zero_residual(backbone: Backbone, data: FewShotData) -> Tensors:
    return {"residual": torch.zeros(5, 16)}


def zero_shot_weights(backbone: Backbone, data: FewShotData) -> Tensors:
    return {"weights": fill(backbone, data.labels)}


def free_step(name: str, x: Tensor, gradient: Tensor) -> Tensor:
    """Take a step of SGD at a rate of 0.1 without weight decay."""
    return x - 0.1 * gradient


def clap_loss(at: Case) -> Tensor:
    """Return cross-entropy + mean over classes of λ_c ‖w_c − t_c‖²."""
    entropy = at.entropy(at.cosines(at.own["weights"]))
    distances = (at.own["weights"] - at.photos).square().sum(1)
    return entropy + (at.own["multipliers"] * distances).mean()


def adapter_logits(at: Case) -> Tensor:
    """Return logits of f' = α ReLU(A_2 ReLU(A_1 f)) + (1 − α) f, f not normalised."""
    ratio = at.settings["ratio"]
    hidden = (at.images @ at.own["down"].T).clamp(min=0)
    adapted = (hidden @ at.own["up"].T).clamp(min=0)
    return at.cosines(at.photos, ratio * adapted + (1 - ratio) * at.images)


def naive_graph(text: Tensor, group: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return a class's node 0 after a convolution over the whole normalised adjacency matrix."""
    nodes = torch.cat([text[None], group])
    alike = torch.nn.functional.normalize(nodes, dim=-1)  # a class without images is zero
    adjacency = torch.eye(len(nodes)).to(nodes) + (alike @ alike.T).clamp(min=0)
    degree = torch.diag(adjacency.sum(1) ** -0.5)
    return torch.tanh(degree @ adjacency @ degree @ nodes @ weight + bias)[0]


def graph_logits(at: Case) -> Tensor:
    """Return logits of texts mixed with convolutions over text and image nodes in four graphs."""
    texts = at.photos
    own = at.own
    alpha = at.settings.get("alpha", 0.7)
    beta = at.settings.get("beta", 0.7)
    rows = []
    for c, t in enumerate(texts):
        refined = {}
        for kind, nodes in (("text", texts), ("image", own["image_nodes"])):
            weight = own[f"{kind}_weight"]
            bias = own[f"{kind}_bias"][c]
            parts = [naive_graph(t, nodes[graph::4], weight, bias) for graph in range(4)]
            refined[kind] = sum(parts) / 4
        mixed = alpha * refined["text"] + (1 - alpha) * refined["image"]
        rows.append(beta * t + (1 - beta) * mixed)
    return at.cosines(torch.stack(rows))


def wise_logits(at: Case) -> Tensor:
    """Return logits of the zero-shot head (s W_0, 0) of this backbone plus the module's."""
    head = at.scale * at.unit_photos + at.own["weight"]
    return unit(at.images) @ head.T + at.own["bias"]


def gda_logits(at: Case) -> Tensor:
    """Return z = s f̂ W_0ᵀ + α (f̂ Wᵀ + b)."""
    gaussian = unit(at.images) @ at.own["weight"].T + at.own["bias"]
    return zero_shot_logits(at) + at.own["alpha"] * gaussian


def lfa_logits(at: Case) -> Tensor:
    """Return logits of images multiplied by β R + (1 − β) I."""
    matrix = at.own["beta"] * at.own["rotation"] + (1 - at.own["beta"]) * torch.eye(16).double()
    return at.cosines(at.photos, unit(at.images) @ matrix)


def wise_steps() -> list[Formula]:
    """Return WiSE-FT's steps: α scales the step of fine-tuning."""
    formulas = []
    for alpha in (0.5, 0.2, 1.0):
        step = adam(0.01, 0.1 * alpha)
        recipe = {"lr": 0.1, "eps": 0.01}
        settings = {"alpha": alpha}
        formula = Formula(
            "wise_ft", wise_logits, update=step, recipe=recipe, settings=settings, exact=1e-8
        )
        formulas.append(formula)
    return formulas


BRISK = {"warmup_epochs": 0, "lr": 0.1, "eps": 0.01}
STEPS = [
    Formula("clap", zs_lp_logits, clap_loss, free_step),
    *variants(  # the residual starts at zero, which has no decay
        "taskres",
        taskres_logits,
        {"alpha": 0.5},
        {"alpha": 1.0},
        update=adam(0.01),
        recipe=BRISK,
        start=zero_residual,
    ),
    Formula("zs_lp", zs_lp_logits, update=free_step, start=zero_shot_weights),
    Formula(
        "zs_lp",
        taskres_logits,
        settings={"stores": "residual"},
        update=free_step,
        start=zero_residual,
    ),
    *variants("clip_adapter", adapter_logits, {"ratio": 0.2}, {"ratio": 0.6}),
    *wise_steps(),
    *variants(
        "graph_adapter",
        graph_logits,
        {},
        {"alpha": 0.6, "beta": 0.3},
        update=adam(0.01, coupled=5e-4),
        recipe=BRISK,
        exact=1e-8,
        step=1e-6,
    ),
]
FORMULAS = [
    *STEPS,
    Formula("zeroshot", zero_shot_logits, exact=1e-7),
    Formula("zeroshot_ensemble", zero_shot_logits, settings={"templates": "all"}, exact=1e-7),
    Formula("zeroshot_ensemble", zero_shot_logits, settings={"templates": "rest"}, exact=1e-7),
    *variants("taskres", taskres_logits, {"alpha": 0.5, "templates": "all"}),
    Formula("gda", gda_logits, exact=1e-6),
    Formula("lfa", lfa_logits, exact=1e-7),
]


test_logits_equal_the_formula = logits_test(FORMULAS)
test_first_step_follows_the_gradient_of_the_formula = step_test(STEPS)


def clap_multipliers(of: FitInputs) -> Tensors:
    """Return the mean zero-shot probability of the truth for each class."""
    texts = fill(of.source, of.data.labels)
    probabilities = [cosine_logits(of.source, texts, view).softmax(1) for view in of.views()]
    mean = torch.stack(probabilities).mean(0)[torch.arange(len(of.owners)), of.owners]
    return {"multipliers": class_means(mean, of.owners, 1.0)}


def graph_nodes(of: FitInputs) -> Tensors:
    means = of.views(of.settings["node_views"]).mean(0)
    return {"image_nodes": class_means(means, of.owners, 0.0)}


def gda_fit(of: FitInputs) -> Tensors:
    rows = unit(of.views()).flatten(0, 1).double()
    owners = of.owners.repeat(3)
    return naive_gaussian([rows[owners == label] for label in range(5)])


def ss_text_logits(of: FitInputs) -> Tensors:
    """Return logits of w_c = t_c + s Σ f / (N λ_c), λ_c = 1/n_c or 1/N; t_c without shots.

    With ``repel``, the unit vector along 2 w_c − w̄ is subtracted; w̄ is the mean over classes.
    """
    features = unit(of.data.train.plain)
    rows = []
    for c, text in enumerate(unit_texts(of.target, of.data.labels)):
        mine = features[of.owners == c]
        per_image = 1.0
        if of.settings["penalty"] == "shots":
            per_image = len(mine) / len(features)
        rows.append(text + scale_of(of.target) * per_image * mine.sum(0))
    weights = torch.stack(rows)
    if of.settings["repel"]:
        weights = weights - unit(2 * weights - weights.mean(0))
    return {"logits": cosine_logits(of.target, weights, of.images)}


def simpleshot_logits(of: FitInputs) -> Tensors:
    """Return −s · ‖g(f) − m_c‖², g centred and normalised; without shots, m_c is the centre."""
    features = unit(of.views()).flatten(0, 1)
    centre = features.mean(0)
    means = class_means(unit(features - centre), of.owners.repeat(3), 0.0)
    distances = torch.cdist(unit(unit(of.images) - centre), means)
    return {"logits": -scale_of(of.target) * distances.square()}


def transclip_logits(of: FitInputs) -> Tensors:
    """Return the logits of TransCLIP's rounds, image by image and class by class."""
    x = unit(of.images)
    texts = unit_texts(of.target, of.data.labels)
    start = scale_of(of.target) * x @ texts.T
    near = torch.zeros(len(x), len(x))
    for i, f in enumerate(x):
        others = [j for j in range(len(x)) if j != i]
        others.sort(key=lambda j: -float(f.dot(x[j])))
        for j in others[:3]:
            near[i, j] = f.dot(x[j])
    z = start.softmax(1)
    spread = torch.full((16,), 1 / 16)
    means = []
    logits = start
    for c in range(5):
        surest = sorted(range(len(x)), key=lambda i: -float(z[i, c]))[:8]
        means.append(unit(sum(z[i, c] * x[i] for i in surest)))
    for _ in range(of.settings["rounds"]):
        gaussians = torch.zeros(len(x), 5)
        for i, c in itertools.product(range(len(x)), range(5)):
            gaussians[i, c] = -((x[i] - means[c]) ** 2 / spread).sum() / 2
        fixed = start + gaussians / 50
        for _ in range(5):
            logits = fixed + (near.T @ z + near @ z) / 6
            z = logits.softmax(1)
        means = [unit(z[:, c] @ x) for c in range(5)]
        squares = torch.zeros(16)
        for i, c in itertools.product(range(len(x)), range(5)):
            squares += z[i, c] * (x[i] - means[c]) ** 2
        spread = squares / len(x)
    return {"logits": logits}


EQUAL = (3,) * 5
REPEL = {"penalty": "shots", "repel": True}
TOTAL = {"penalty": "total", "repel": False}
FITS = [
    Fit("clap", clap_multipliers, exact=1e-5),
    Fit("graph_adapter", graph_nodes, {"node_views": None}),
    Fit("graph_adapter", graph_nodes, {"node_views": 2}),
    Fit("gda", gda_fit, {}, EQUAL, 1e-8),
    Fit("gda", gda_fit, {}, (2, 1, 4, 1, 3), 1e-8),
    Fit("gda", gda_fit, {}, (3, 2, 0, 3, 4), 1e-8),
    Fit("gda", gda_fit, {}, 1, 1e-3, single=True),  # the inverse exists in single precision, too
    Fit("simpleshot", simpleshot_logits, {}, EQUAL, 1e-6),
    Fit("simpleshot", simpleshot_logits, {}, (2, 1, 3, 1, 1), 1e-6),
    Fit("simpleshot", simpleshot_logits, {}, (2, 3, 0, 3, 2), 1e-6),
    Fit("ss_text", ss_text_logits, REPEL, EQUAL, 1e-6),
    Fit("ss_text", ss_text_logits, REPEL, (2, 3, 0, 3, 1), 1e-6),
    Fit("ss_text", ss_text_logits, TOTAL, EQUAL, 1e-6),
    Fit("ss_text", ss_text_logits, TOTAL, (2, 3, 0, 3, 1), 1e-6),
    Fit("transclip", transclip_logits, {"rounds": 3}),
    Fit("transclip", transclip_logits, {"rounds": 4}),
]


test_fits_equal_their_formulas = fit_test(FITS)


@pytest.mark.parametrize("absent", [False, True])
def test_graph_adapter_with_equal_graphs_and_an_absent_class(
    backbone64: Backbone, make_data: MakeData, images64: Tensor, absent: bool
) -> None:
    """Eight classes form four equal graphs, as the authors' code requires.

    Classes 0 and 4 share a graph; without an image node, class 4 changes nothing there.
    """
    names = ("dog", "cat", "tree", "red apple", "boat", "car", "house", "sun")
    shots = [2] * 4 + [0 if absent else 2] + [2] * 3
    data = make_data(backbone64, Labels(names, ("a {}.",), "{}"), shots=shots)
    Formula("graph_adapter", graph_logits, exact=1e-8).check_logits(backbone64, data, images64)


def test_gda_is_zero_shot_without_a_covariance(clip64: Backbone, few: MakeData) -> None:
    """With one view of one shot, every feature is its class's mean and the covariance is zero."""
    module = make("gda").fit(clip64, few(shots=1, views=1), torch.Generator())
    assert not module["weight"].any()
    assert len(module["bias"].unique()) == 1


def test_lfa_rotation_is_the_procrustes_solution(clip64: Backbone, few: MakeData) -> None:
    data = few(shots=30)
    rotation = make("lfa").fit(clip64, data, torch.Generator())["rotation"]
    shots = unit(data.train.views).reshape(-1, 16)
    texts = unit_texts(clip64, data.labels)
    wanted = torch.cat([texts[data.train.targets]] * len(data.train.views))
    # Five texts do not span the space: there are many solutions, but they have the same value.
    best = torch.from_numpy(scipy.linalg.orthogonal_procrustes(shots, wanted)[0])
    found = (shots @ rotation - wanted).norm()
    expected = (shots @ best - wanted).norm()
    close(found, expected, 1e-6)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(16, dtype=torch.float64))


def test_lfa_leaves_directions_without_shots_unchanged() -> None:
    x = torch.eye(4, dtype=torch.float64)[:2]
    y = torch.tensor([[0.0, 1.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    apart = torch.eye(4, dtype=torch.float64)[2:]
    close(apart @ procrustes(x, y), apart, 1e-5)
