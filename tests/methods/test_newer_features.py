"""ProKeR against its formula."""

from __future__ import annotations

import itertools

import pytest
import torch
from formulas import Tensors, noise_like, scale_of, unit, unit_texts
from tiny_models import MakeData
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import FewShotData, Module
from compatbench.methods.proker import ProKeR


def proker_logits(backbone: Backbone, labels: Labels, own: Tensors, images: Tensor) -> Tensor:
    """z_c = s · (⟨f, t_c⟩ + Σ_j exp(−β (1 − ⟨f, g_j⟩)) α_jc), ``[images, C]``."""
    rows = []
    for f in unit(images):
        row = list(unit_texts(backbone, labels) @ f)
        for key, weights in zip(own["keys"], own["alpha"], strict=True):
            near = torch.exp(-own["beta"] * (1 - f.dot(key)))
            row = [z + near * a for z, a in zip(row, weights, strict=True)]
        rows.append(scale_of(backbone) * torch.stack(row))
    return torch.stack(rows)


def solve_naively(backbone: Backbone, data: FewShotData, beta: float, penalty: float) -> Tensors:
    """α = (κ/λ + I)⁻¹ (Y − G W_0ᵀ) by the inverse, over all views."""
    keys = unit(torch.cat(list(data.train.views)))
    kernel = torch.tensor([[float(-beta * (1 - a.dot(b))) for b in keys] for a in keys]).exp()
    errors = -keys @ unit_texts(backbone, data.labels).T
    for row, owner in zip(errors, data.train.targets.tolist() * len(data.train.views), strict=True):
        row[owner] += 1
    alpha = torch.linalg.inv(kernel.to(keys) / penalty + torch.eye(len(keys)).to(keys)) @ errors
    return {"keys": keys, "alpha": alpha, "beta": torch.tensor(beta).to(keys)}


def test_proker_s_logits_equal_the_formula(
    backbone64: Backbone, data64: FewShotData, images64: Tensor
) -> None:
    fitted = ProKeR().fit(backbone64, data64, torch.Generator())
    module = Module(noise_like(fitted.trained), fitted.stored)
    found = ProKeR().attach(module, backbone64, data64.labels)(images64)
    expected = proker_logits(backbone64, data64.labels, module.tensors, images64)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", [0, 3])
def test_proker_takes_the_first_best_pair_of_its_grid(
    clip64: Backbone, labels: Labels, make_data: MakeData, float64: None, seed: int
) -> None:
    data = make_data(clip64, labels, val=4, seed=seed)
    config = ProKeR.Config(beta_steps=4, penalty_steps=3)
    module = ProKeR(config).fit(clip64, data, torch.Generator())
    scores = {}
    betas = [0.5, 4 / 3, 13 / 6, 3.0]
    for beta, penalty in itertools.product(betas, [0.001, 0.5005, 1.0]):
        own = solve_naively(clip64, data, beta, penalty)
        logits = proker_logits(clip64, labels, own, data.val.plain)
        scores[beta, penalty] = int((logits.argmax(-1) == data.val.targets).sum())
    assert len(set(scores.values())) > 1  # or any choice would do
    best = max(scores, key=lambda pair: scores[pair])
    assert (float(module["beta"]), float(module["penalty"])) == pytest.approx(best)
    expected = solve_naively(clip64, data, *best)["alpha"]
    torch.testing.assert_close(module["alpha"], expected, rtol=1e-9, atol=1e-9)


def test_proker_without_validation_images_has_the_settings_and_the_last_views(
    clip64: Backbone, labels: Labels, make_data: MakeData
) -> None:
    data = make_data(clip64, labels, val=0, views=3)
    module = ProKeR(ProKeR.Config(cache_views=2)).fit(clip64, data, torch.Generator())
    assert [float(module[name]) for name in ("beta", "penalty")] == pytest.approx([1.7, 0.1])
    torch.testing.assert_close(module["keys"], unit(torch.cat(list(data.train.views[1:]))))
