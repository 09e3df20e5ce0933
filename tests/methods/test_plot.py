"""PLOT: prompts matched to patches by optimal transport."""

from __future__ import annotations

import math

import pytest
import torch
from formulas import check_first_step, cosine_logits, cross_entropy
from image_reference import draw_images
from open_clip_reference import encode_contexts
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from compatbench.backbone import DENSE, Backbone, Labels
from compatbench.method import FeatureSet, FewShotData, Module, NotTransferable
from compatbench.methods.plot import PLOT, transport_plan

LENGTH = 4


def settings(**changes: object) -> PLOT:
    return PLOT(PLOT.Config.model_validate({"context_length": LENGTH, "prompts": 3, **changes}))


def random_contexts(count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, LENGTH, 32, generator=generator, dtype=torch.float64)


def dense_images(backbone: Backbone, count: int, seed: int = 0) -> Tensor:
    return backbone.encode_images(draw_images(backbone, count, seed), DENSE)


def naive_plan(similarity: Tensor, epsilon: float, steps: int, tolerance: float) -> Tensor:
    """Sinkhorn's algorithm on one matrix ``[P, N]``, number by number."""
    patches, prompts = similarity.shape
    kernel = [[math.exp(-(1 - float(x)) / epsilon) for x in row] for row in similarity]
    r, c = [1.0] * patches, [1.0] * prompts
    for _ in range(steps):
        old = r
        r = [1 / patches / sum(kernel[p][n] * c[n] for n in range(prompts)) for p in range(patches)]
        c = [1 / prompts / sum(kernel[p][n] * r[p] for p in range(patches)) for n in range(prompts)]
        if sum(abs(a - b) for a, b in zip(r, old, strict=True)) / patches < tolerance:
            break
    plan = [[r[p] * kernel[p][n] * c[n] for n in range(prompts)] for p in range(patches)]
    return torch.tensor(plan, dtype=torch.float64)


def naive_logits(backbone: Backbone, names: tuple[str, ...], contexts: Tensor, dense: Tensor):
    """z_c = s Σ_pn T_pn ⟨f_p, t_cn⟩ with the published constants."""
    scale = backbone.model.logit_scale.exp()  # type: ignore[operator, union-attr]
    texts = torch.stack([encode_contexts(backbone, names, context) for context in contexts])
    texts = texts / texts.norm(dim=-1, keepdim=True)
    rows = []
    for image in dense:
        patches = image[1:] / image[1:].norm(dim=-1, keepdim=True)
        row = []
        for c in range(len(names)):
            similarity = patches @ texts[:, c].T
            plan = naive_plan(similarity.detach(), 0.1, 100, 1e-2)
            row.append(scale * (plan * similarity).sum())
        rows.append(torch.stack(row))
    return torch.stack(rows)


def test_the_logits_equal_the_formula(backbone64: Backbone, labels: Labels) -> None:
    contexts, dense = random_contexts(), dense_images(backbone64, 4)
    found = settings().attach(Module({"contexts": contexts}), backbone64, labels)(dense)
    expected = naive_logits(backbone64, labels.names, contexts, dense)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_pooled_adds_the_cosine_of_the_image_s_own_feature(
    backbone64: Backbone, labels: Labels
) -> None:
    contexts, dense = random_contexts(), dense_images(backbone64, 4)
    module = Module({"contexts": contexts})
    found = settings(pooled=True).attach(module, backbone64, labels)(dense)
    texts = torch.stack([encode_contexts(backbone64, labels.names, c) for c in contexts])
    expected = naive_logits(backbone64, labels.names, contexts, dense)
    expected = expected + cosine_logits(backbone64, texts.mean(0), dense[:, 0])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_the_first_step_follows_the_gradient_with_the_plan_held_fixed(
    float64: None, clip64: Backbone, labels: Labels
) -> None:
    views = [dense_images(clip64, 10, seed) for seed in range(2)]
    targets = torch.arange(5).repeat_interleave(2)
    features = torch.stack([view[:, 0] for view in views])
    train = FeatureSet(features[0], features, targets, views)

    def loss(parameters: dict[str, Tensor], images: Tensor, targets: Tensor) -> Tensor:
        logits = naive_logits(clip64, labels.names, parameters["contexts"], images)
        return cross_entropy(logits, targets)

    generator = torch.Generator().manual_seed(3)
    start = {"contexts": torch.randn(3, LENGTH, 32, generator=generator) * 0.02}
    data, sizes = FewShotData(labels, 2, train, train), {"context_length": LENGTH, "prompts": 3}
    check_first_step(PLOT, clip64, data, loss, images=views[0], start=start, **sizes)


def test_a_small_entropy_moves_at_the_least_cost() -> None:
    """With as many patches as prompts, the best plan without entropy is a permutation."""
    epsilon = 5e-3
    similarity = torch.rand(6, 4, 4, generator=torch.Generator().manual_seed(2)).double()
    plans = transport_plan(similarity, epsilon, 5000, 0.0)
    for plan, gains in zip(plans, similarity, strict=True):
        best = float(gains[linear_sum_assignment(gains, maximize=True)].mean())
        gain = float((plan * gains).sum())
        # A plan's entropy lies between those of a permutation, log 4, and of no choice, log 16.
        assert best - epsilon * math.log(4) <= gain <= best + 1e-6


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


def test_one_prompt_is_the_mean_cosine_over_patches(backbone64: Backbone, labels: Labels) -> None:
    contexts, dense = random_contexts(1), dense_images(backbone64, 4)
    found = settings(prompts=1).attach(Module({"contexts": contexts}), backbone64, labels)(dense)
    texts = encode_contexts(backbone64, labels.names, contexts[0])
    patches = range(1, dense.shape[1])
    expected = sum(cosine_logits(backbone64, texts, dense[:, p]) for p in patches) / len(patches)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_another_token_width_is_refused(wider_text: Backbone, labels: Labels) -> None:
    module = Module({"contexts": torch.zeros(3, LENGTH, 32)})
    with pytest.raises(NotTransferable, match="text tokens of width 32, not 48"):
        settings().attach(module, wider_text, labels)
