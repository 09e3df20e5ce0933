"""PLOT and PLOT++: prompts matched to patches, or to image prompts, by optimal transport."""

from __future__ import annotations

import math

import torch
from formulas import Case, close, logits_test, scale_of, seeded, step_test, unit, variants
from image_reference import run_image_tower
from open_clip_reference import encode_contexts, encode_texts
from torch import Tensor

from compatbench.backbone import DENSE, Backbone
from compatbench.methods.plot import transport_plan

PHRASES = ("a photo of a", "this is a photo of one", "one image of a")


def plot_texts(at: Case) -> Tensor:
    contexts = at.own["contexts"]
    return torch.stack([encode_contexts(at.backbone, at.labels.names, each) for each in contexts])


def plot_logits(at: Case) -> Tensor:
    patches = at.backbone.encode_images(at.images, DENSE)[:, 1:]
    return transport(at.backbone, patches, plot_texts(at))


def pooled_logits(at: Case) -> Tensor:
    """With the cosine of the image's own feature."""
    features = at.backbone.encode_images(at.images)
    return plot_logits(at) + at.cosines(plot_texts(at).mean(0), features)


def plus_plus_logits(at: Case) -> Tensor:
    visual = at.backbone.model.visual
    features = [run_image_tower(visual, at.images, [tokens]) for tokens in at.own["image_prompts"]]
    texts = torch.stack(
        [
            encode_texts(at.backbone, [f"{phrase} {name}." for name in at.labels.names], context)
            for phrase, context in zip(PHRASES, at.own["contexts"], strict=True)
        ]
    )
    return transport(at.backbone, torch.stack(features, dim=1), texts)


def naive_plan(similarity: Tensor, epsilon: float, steps: int, tolerance: float) -> Tensor:
    """Sinkhorn's algorithm on one matrix ``[P, N]``, number by number."""
    patches, prompts = similarity.shape
    kernel = [[math.exp(-(1 - float(x)) / epsilon) for x in row] for row in similarity]
    r = [1.0] * patches
    c = [1.0] * prompts
    for _ in range(steps):
        old = r
        r = [1 / patches / sum(kernel[p][n] * c[n] for n in range(prompts)) for p in range(patches)]
        c = [1 / prompts / sum(kernel[p][n] * r[p] for p in range(patches)) for n in range(prompts)]
        if sum(abs(a - b) for a, b in zip(r, old, strict=True)) / patches < tolerance:
            break
    plan = [[r[p] * kernel[p][n] * c[n] for n in range(prompts)] for p in range(patches)]
    return torch.tensor(plan, dtype=torch.float64)


def transport(backbone: Backbone, images: Tensor, texts: Tensor) -> Tensor:
    """z_ic = s Σ_pn T_pn cos(f_ip, t_nc), of ``[I, P, e]`` and ``[N, C, e]``.

    With the published constants; the plan T is held fixed.
    """
    similarities = torch.einsum("ipe,nce->icpn", unit(images), unit(texts))
    plans = [naive_plan(each.detach(), 0.1, 100, 1e-2) for each in similarities.flatten(0, 1)]
    moved = torch.stack(plans).view_as(similarities) * similarities
    return scale_of(backbone) * moved.sum((-2, -1))


SIZES = {"context_length": 4, "prompts": 3}
STEPS = variants("plot", plot_logits, SIZES)
FORMULAS = [
    *STEPS,
    *variants("plot", pooled_logits, SIZES | {"pooled": True}),
    *variants("plot_pp", plus_plus_logits, {"phrases": PHRASES, "image_prompts": 2}),
]


test_logits_equal_the_formula = logits_test(FORMULAS)
test_the_first_step_follows_the_gradient_of_the_formula = step_test(STEPS)


def test_a_plan_moves_all_patches_to_all_prompts_and_no_cost_is_too_high_for_float32() -> None:
    plan = transport_plan(torch.rand(3, 5, 16, 4, generator=seeded(2)).double(), 0.1, 1000, 1e-12)
    close(plan.sum(-1), torch.full((3, 5, 16), 1 / 16).double())
    close(plan.sum(-2), torch.full((3, 5, 4), 1 / 4).double())
    plan = transport_plan(torch.full((2, 16, 4), -1.0), 0.1, 100, 1e-2)
    torch.testing.assert_close(plan, torch.full((2, 16, 4), 1 / 64))


def test_a_problem_s_plan_does_not_depend_on_the_others() -> None:
    """One problem is done at once, the other needs many steps."""
    easy = torch.zeros(6, 3)
    hard = torch.eye(6)[:, :3] * 3
    together = transport_plan(torch.stack([easy, hard]).double(), 0.1, 100, 1e-2)
    for plan, similarity in zip(together, (easy, hard), strict=True):
        close(plan, naive_plan(similarity, 0.1, 100, 1e-2), 1e-10)
