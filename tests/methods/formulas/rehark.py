"""ReHARK: its logits and its fit, written out from the paper, without the harness."""

from __future__ import annotations

from typing import Any

import torch
from open_clip_reference import encode_texts
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import FewShotData
from formulas import Case, Formula, Tensors, close, fill, logits_test, make, seeded, unit


def power(rows: Tensor, own: Tensors) -> Tensor:
    """Return sign(v) |v|^p of unit rows, as unit rows."""
    rows = unit(rows)
    return unit(torch.where(rows < 0, -((-rows) ** own["power"]), rows.abs() ** own["power"]))


def prior_of(backbone: Backbone, labels: Labels, means: Tensor, own: Tensors) -> Tensor:
    """Return P, class by class."""
    names = unit(fill(backbone, labels))
    rows = []
    for c, texts in enumerate(labels.descriptions):
        described = unit(unit(encode_texts(backbone, list(texts))).mean(0))
        a = own["text_mix"]
        r = own["image_mix"]
        mixed = unit((1 - a) * power(names[c], own) + a * power(described, own))
        rows.append(unit((1 - r) * mixed + r * means[c]))
    return torch.stack(rows)


def nearness(a: Tensor, b: Tensor, own: Tensors) -> Tensor:
    """Return both kernels of all pairs of rows, mixed."""
    squares = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    k = own["kernel_mix"]
    return k * torch.exp(-own["narrow"] * squares) + (1 - k) * torch.exp(-own["wide"] * squares)


def logits(at: Case) -> Tensor:
    """Return σ x Pᵀ + κ(x, A) α, ``[images, classes]``."""
    prior = prior_of(at.backbone, at.labels, at.own["prototypes"], at.own)
    rows = power(at.images, at.own)
    errors = nearness(rows, at.own["support"], at.own) @ at.own["alpha"]
    return at.own["scale"] * rows @ prior.T + errors


test_logits_equal_the_formula = logits_test([Formula("rehark", logits, settings={"trials": 3})])


def solve(backbone: Backbone, data: FewShotData, own: Tensors) -> tuple[Tensor, Tensor, Tensor]:
    """Return A, v and α for settings; the weights α by the inverse of the matrix."""
    rows = power(data.train.views.flatten(0, 1), own)
    owners = data.train.targets.repeat(len(data.train.views))
    means = torch.stack([unit(rows[owners == c].sum(0)) for c in range(5)])
    prior = prior_of(backbone, data.labels, means, own)
    bridges = unit(rows + own["bridge"] * prior[owners])
    support = torch.cat([rows, bridges])
    truth = torch.eye(5).to(rows)[torch.cat([owners, owners])]
    matrix = nearness(support, support, own) + own["penalty"] * torch.eye(len(support)).to(rows)
    return support, means, torch.linalg.inv(matrix) @ (truth - own["scale"] * support @ prior.T)


def test_a_fit_keeps_the_first_best_of_its_trials(
    clip64: Backbone, labels: Labels, make_data: Any
) -> None:
    data = make_data(clip64, labels, 2, 2, 3)
    module = make("rehark", trials=6).fit(clip64, data, seeded())
    draws = torch.rand(6, 9, generator=seeded(), dtype=torch.float64)
    low = torch.tensor([0.5, 0, 0, 0, 1, 0.001, 0.1, 0.01, 0], dtype=torch.float64)
    high = torch.tensor([1, 1, 1, 2, 20, 5, 30, 5, 1], dtype=torch.float64)
    tried = low + draws * (high - low)
    tried[:, 5] = (low[5].log() + draws[:, 5] * (high[5] / low[5]).log()).exp()
    names = ["power", "text_mix", "image_mix", "bridge", "scale", "penalty"]
    names += ["narrow", "wide", "kernel_mix"]
    accuracies = []
    modules = []
    for settings in tried:
        own = dict(zip(names, settings, strict=True))
        own["support"], own["prototypes"], own["alpha"] = solve(clip64, data, own)
        at = Case(clip64, labels, own, data.val.plain)
        hits = logits(at).argmax(1) == data.val.targets
        accuracies.append(hits.double().mean())
        modules.append(own)
    assert len(set(map(float, accuracies))) > 1
    for name, expected in modules[int(torch.stack(accuracies).argmax())].items():
        close(module[name], expected, 1e-6)
