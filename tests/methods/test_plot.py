"""PLOT: prompts matched to patches by optimal transport."""

from __future__ import annotations

import torch
from formulas import (
    Formula,
    Tensors,
    cosine_logits,
    logits_test,
    naive_plan,
    scale_of,
    step_test,
    unit,
)
from open_clip_reference import encode_contexts
from torch import Tensor

from compatbench.backbone import DENSE, Backbone, Labels
from compatbench.methods.plot import PLOT, transport_plan


def plot_logits(backbone: Backbone, labels: Labels, own: Tensors, images: Tensor) -> Tensor:
    """z_c = s Σ_pn T_pn ⟨f_p, t_cn⟩ with the published constants and the plan T held fixed."""
    texts = [encode_contexts(backbone, labels.names, context) for context in own["contexts"]]
    rows = []
    for image in backbone.encode_images(images, DENSE):
        row = []
        for c in range(len(labels)):
            similarity = unit(image[1:]) @ unit(torch.stack([text[c] for text in texts])).T
            plan = naive_plan(similarity.detach(), 0.1, 100, 1e-2)
            row.append(scale_of(backbone) * (plan * similarity).sum())
        rows.append(torch.stack(row))
    return torch.stack(rows)


def pooled_logits(backbone: Backbone, labels: Labels, own: Tensors, images: Tensor) -> Tensor:
    """Besides, the cosine of the image's own feature."""
    texts = [encode_contexts(backbone, labels.names, context) for context in own["contexts"]]
    cosines = cosine_logits(backbone, torch.stack(texts).mean(0), backbone.encode_images(images))
    return plot_logits(backbone, labels, own, images) + cosines


SIZES = {"context_length": 4, "prompts": 3}
STEPS = {"plot": Formula(PLOT, plot_logits, settings=SIZES, exact=1e-9)}
POOLED = Formula(PLOT, pooled_logits, settings=SIZES | {"pooled": True}, exact=1e-9)
FORMULAS = STEPS | {"plot-pooled": POOLED}


test_logits_equal_the_formula = logits_test(FORMULAS)
test_the_first_step_follows_the_gradient_of_the_formula = step_test(STEPS)


def test_a_plan_moves_all_patches_to_all_prompts() -> None:
    similarity = torch.rand(3, 5, 16, 4, generator=torch.Generator().manual_seed(2)).double()
    plan = transport_plan(similarity, 0.1, 1000, 1e-12)
    rows, columns = torch.full((3, 5, 16), 1 / 16), torch.full((3, 5, 4), 1 / 4)
    torch.testing.assert_close(plan.sum(-1), rows.double(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(plan.sum(-2), columns.double(), rtol=1e-9, atol=1e-12)


def test_a_problem_s_plan_does_not_depend_on_the_others() -> None:
    """One problem is done at once, the other needs many steps."""
    easy, hard = torch.zeros(6, 3), torch.eye(6)[:, :3] * 3
    together = transport_plan(torch.stack([easy, hard]).double(), 0.1, 100, 1e-2)
    for plan, similarity in zip(together, (easy, hard), strict=True):
        expected = naive_plan(similarity, 0.1, 100, 1e-2)
        torch.testing.assert_close(plan, expected, rtol=1e-10, atol=1e-14)


def test_no_cost_is_too_high_for_float32() -> None:
    plan = transport_plan(torch.full((2, 16, 4), -1.0), 0.1, 100, 1e-2)
    torch.testing.assert_close(plan, torch.full((2, 16, 4), 1 / 64))
