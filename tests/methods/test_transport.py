"""PLOT and PLOT++: prompts matched to patches, or to image prompts, by optimal transport."""

from __future__ import annotations

import pytest
import torch
from formulas import (
    Case,
    Formula,
    close,
    cross_entropy,
    descend,
    embed,
    logits_test,
    make,
    naive_plan,
    seeded,
    step_test,
    transport,
)
from image_reference import few_shots, run_image_tower
from open_clip_reference import encode_contexts, encode_texts
from torch import Tensor

from compatbench.backbone import DENSE, Backbone, Labels
from compatbench.errors import CompatbenchError
from compatbench.method import FewShotData
from compatbench.methods.plot import transport_plan

PHRASES = ("a photo of a", "this is a photo of one", "one image of a")


def plot_texts(at: Case) -> Tensor:
    contexts = at.own["contexts"]
    return torch.stack([encode_contexts(at.backbone, at.labels.names, each) for each in contexts])


def plot_logits(at: Case) -> Tensor:
    texts = [
        encode_contexts(at.backbone, at.labels.names, context) for context in at.own["contexts"]
    ]
    patches = at.backbone.encode_images(at.images, DENSE)[:, 1:]
    return transport(at.backbone, patches, torch.stack(texts))


def pooled_logits(at: Case) -> Tensor:
    """With the cosine of the image's own feature."""
    texts = [
        encode_contexts(at.backbone, at.labels.names, context) for context in at.own["contexts"]
    ]
    cosines = at.cosines(torch.stack(texts).mean(0), at.backbone.encode_images(at.images))
    return plot_logits(at) + cosines


def plus_plus_logits(at: Case, pooled: bool = False) -> Tensor:
    """In the first stage with the cosine of mean features."""
    visual = at.backbone.model.visual
    features = [run_image_tower(visual, at.images, [tokens]) for tokens in at.own["image_prompts"]]
    texts = torch.stack(
        [
            encode_texts(at.backbone, [f"{phrase} {name}." for name in at.labels.names], context)
            for phrase, context in zip(PHRASES, at.own["contexts"], strict=True)
        ]
    )
    logits = transport(at.backbone, torch.stack(features, dim=1), texts)
    means = at.cosines(texts.mean(0), torch.stack(features).mean(0))
    return logits + means if pooled else logits


SIZES = {"context_length": 4, "prompts": 3}
PLUS_PLUS = Formula(
    "plot_pp", plus_plus_logits, settings={"phrases": PHRASES, "image_prompts": 2}, exact=1e-9
)
STEPS = {"plot": Formula("plot", plot_logits, settings=SIZES)}
FORMULAS = STEPS | {
    "plot-pooled": Formula("plot", pooled_logits, settings=SIZES | {"pooled": True}),
    "plot_pp": PLUS_PLUS,
}


test_logits_equal_the_formula = logits_test(FORMULAS)
test_the_first_step_follows_the_gradient_of_the_formula = step_test(STEPS)


def test_a_plan_moves_all_patches_to_all_prompts() -> None:
    plan = transport_plan(torch.rand(3, 5, 16, 4, generator=seeded(2)).double(), 0.1, 1000, 1e-12)
    close(plan.sum(-1), torch.full((3, 5, 16), 1 / 16).double())
    close(plan.sum(-2), torch.full((3, 5, 4), 1 / 4).double())


def test_a_problem_s_plan_does_not_depend_on_the_others() -> None:
    """One problem is done at once, the other needs many steps."""
    easy, hard = torch.zeros(6, 3), torch.eye(6)[:, :3] * 3
    together = transport_plan(torch.stack([easy, hard]).double(), 0.1, 100, 1e-2)
    for plan, similarity in zip(together, (easy, hard), strict=True):
        close(plan, naive_plan(similarity, 0.1, 100, 1e-2), 1e-10)


def test_no_cost_is_too_high_for_float32() -> None:
    plan = transport_plan(torch.full((2, 16, 4), -1.0), 0.1, 100, 1e-2)
    torch.testing.assert_close(plan, torch.full((2, 16, 4), 1 / 64))


@pytest.mark.usefixtures("float64")
def test_plot_pp_trains_image_prompts_by_both_logits_and_then_all_by_transport(
    clip64: Backbone, labels: Labels
) -> None:
    """A step of each stage, over all images, from the rates and gradients of the formulas."""
    method = PLUS_PLUS.build(recipe=dict(PLUS_PLUS.recipe, batch_size=32), max_steps=2)
    data, views = few_shots(clip64, labels, method.image_input(clip64))
    own = method.init(clip64, data, seeded(3)).trained
    assert torch.equal(own["contexts"][1], embed(clip64, "this is a photo of one")[:4])
    for pooled, names in ((True, ["image_prompts"]), (False, ["contexts", "image_prompts"])):
        parts = [own[name].requires_grad_() for name in names]
        logits = plus_plus_logits(Case(clip64, labels, own, views[0]), pooled)
        gradients = torch.autograd.grad(cross_entropy(logits, data.train.targets), parts)
        assert all(gradient.abs().max() > 1e-6 for gradient in gradients)
        for name, gradient in zip(names, gradients, strict=True):
            own[name] = descend(name, own[name], gradient).detach()
    found = method.fit(clip64, data, seeded(3)).trained
    close(found, {name: expected.detach() for name, expected in own.items()})


def test_plot_pp_refuses_a_phrase_shorter_than_the_first(clip: Backbone, data: FewShotData) -> None:
    method = make("plot_pp", phrases=("a photo of a", "this is a"))
    with pytest.raises(CompatbenchError, match="'this is a' is 3 tokens, fewer than the first"):
        method.init(clip, data, torch.Generator())
