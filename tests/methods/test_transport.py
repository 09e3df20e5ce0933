"""PLOT and PLOT++: prompts matched to patches, or to image prompts, by optimal transport."""

from __future__ import annotations

import torch
from formulas import Case, close, logits_test, scale_of, seeded, step_test, unit, variants
from image_reference import run_image_tower
from open_clip_reference import encode_contexts, encode_texts
from torch import Tensor

from compatbench.backbone import DENSE, Backbone
from compatbench.methods.plot import transport_plan

PHRASES = ("a photo of a", "this is a photo of one", "one image of a")


def plot_texts(at: Case) -> Tensor:
    texts = []
    for context in at.own["contexts"]:
        texts.append(encode_contexts(at.backbone, at.labels.names, context))
    return torch.stack(texts)


def plot_logits(at: Case) -> Tensor:
    patches = at.backbone.encode_images(at.images, DENSE)[:, 1:]
    return transport(at.backbone, patches, plot_texts(at))


def pooled_logits(at: Case) -> Tensor:
    """Return PLOT's logits plus the cosines of the image's feature."""
    features = at.backbone.encode_images(at.images)
    return plot_logits(at) + at.cosines(plot_texts(at).mean(0), features)


def plus_plus_logits(at: Case) -> Tensor:
    visual = at.backbone.model.visual
    features = []
    for tokens in at.own["image_prompts"]:
        features.append(run_image_tower(visual, at.images, [tokens]))
    texts = []
    for phrase, context in zip(PHRASES, at.own["contexts"], strict=True):
        prompts = [f"{phrase} {name}." for name in at.labels.names]
        texts.append(encode_texts(at.backbone, prompts, context))
    return transport(at.backbone, torch.stack(features, dim=1), torch.stack(texts))


def naive_plan(similarity: Tensor, epsilon: float, steps: int, tolerance: float) -> Tensor:
    """Run Sinkhorn's algorithm on one matrix ``[P, N]``, row by row."""
    patches, prompts = similarity.shape
    kernel = torch.exp(-(1 - similarity.double()) / epsilon)
    r = torch.ones(patches, dtype=torch.float64)
    c = torch.ones(prompts, dtype=torch.float64)
    for _ in range(steps):
        old = r.clone()
        for p in range(patches):
            r[p] = 1 / patches / kernel[p].dot(c)
        for n in range(prompts):
            c[n] = 1 / prompts / kernel[:, n].dot(r)
        if (r - old).abs().mean() < tolerance:
            break
    return r[:, None] * kernel * c


def transport(backbone: Backbone, images: Tensor, texts: Tensor) -> Tensor:
    """Return z_ic = s Σ_pn T_pn cos(f_ip, t_nc), of ``[I, P, e]`` and ``[N, C, e]``.

    The constants are the published ones, and the plan T has no gradient.
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
test_first_step_follows_the_gradient_of_the_formula = step_test(STEPS)


def test_transport_plan_moves_everything_at_any_cost() -> None:
    plan = transport_plan(torch.rand(3, 5, 16, 4, generator=seeded(2)).double(), 0.1, 1000, 1e-12)
    close(plan.sum(-1), torch.full((3, 5, 16), 1 / 16).double())
    close(plan.sum(-2), torch.full((3, 5, 4), 1 / 4).double())
    plan = transport_plan(torch.full((2, 16, 4), -1.0), 0.1, 100, 1e-2)
    torch.testing.assert_close(plan, torch.full((2, 16, 4), 1 / 64))


def test_transport_plan_does_not_depend_on_other_problems() -> None:
    """One problem needs one step, the other many."""
    easy = torch.zeros(6, 3)
    hard = torch.eye(6)[:, :3] * 3
    together = transport_plan(torch.stack([easy, hard]).double(), 0.1, 100, 1e-2)
    for plan, similarity in zip(together, (easy, hard), strict=True):
        close(plan, naive_plan(similarity, 0.1, 100, 1e-2), 1e-10)
