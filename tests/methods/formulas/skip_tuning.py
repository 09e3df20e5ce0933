"""Skip Tuning: its logits, the classes of its loss and its first step, written out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from image_reference import draw_images, run_image_tower
from tiny_models import tiny_clip, wrap
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.errors import NotTransferable
from compatbench.method import FewShotData, Module
from formulas import (
    Case,
    Formula,
    close,
    cross_entropy,
    fill,
    make,
    seeded,
    shift_weights,
    step_test,
    unit,
    unit_texts,
)


def features(at: Case) -> tuple[Tensor, Tensor]:
    """Return image and text features of the towers with differences added to their weights."""
    changed = shift_weights(at.backbone, at.own)
    images = run_image_tower(changed.model.visual, at.images, [])
    return images, fill(changed, at.labels)


def logits(at: Case) -> Tensor:
    images, texts = features(at)
    return at.cosines(texts, images)


def kept_ranks(share: float) -> list[bool]:
    """Return the ranks of five classes that a first step keeps."""
    first = math.ceil(5 * share)
    kept = [True] * first
    drawn = torch.rand(5 - first, generator=seeded(3)).tolist()
    for j, number in enumerate(drawn):
        x = 5 * j / (5 - first - 1)
        p = (math.exp(-x / 0.3) - math.exp(-5 / 0.3)) / (1 - math.exp(-5 / 0.3))
        kept.append(number < p)
    return kept


def loss(at: Case) -> Tensor:
    """Return the mean over images of the cross-entropy over the classes that each keeps."""
    kept = kept_ranks(at.settings.get("kept_share", 0.5))
    assert False in kept
    images, texts = features(at)
    near = unit(images) @ unit_texts(at.backbone, at.labels).T
    losses = []
    for i, y in enumerate(at.targets.tolist()):
        others = [c for c in range(5) if c != y]
        others.sort(key=lambda c: -near[i, c].item())
        ranked = [y, *others]
        chosen = [c for c, keep in zip(ranked, kept, strict=True) if keep]
        one = at.cosines(texts[chosen], images[i : i + 1])
        losses.append(cross_entropy(one, torch.tensor([0])))
    return torch.stack(losses).mean()


# All images are in one batch, so the order in which they are drawn does not count.
RECIPE = {"lr": 0.1, "batch_size": 64, "drop_last": False}
FORMULAS = [
    Formula("skip_tuning", logits, loss, recipe=RECIPE, settings=settings)
    for settings in ({}, {"kept_share": 0.2})
]
test_first_step_follows_the_gradient_of_the_formula = step_test(FORMULAS)


def test_differences_are_added_to_late_weights_of_towers_of_the_same_sizes(
    clip64: Backbone, eva64: Backbone, data64: FewShotData
) -> None:
    method = make("skip_tuning")
    rng = seeded()
    changes = {}
    for name, tensor in method.init(clip64, data64, rng).trained.items():
        changes[name] = 0.3 * torch.randn(tensor.shape, generator=rng, dtype=torch.float64)
    module = Module(changes)
    images = draw_images(clip64, 4)
    for target in (clip64, wrap(tiny_clip(seed=8).double(), "other")):
        classify = method.attach(module, target, data64.labels)
        found = classify(target.encode_images(images, method.image_input(target)))
        close(found, logits(Case(target, data64.labels, changes, images)))
    with pytest.raises(NotTransferable, match="the module was made for a 'proj' of size"):
        method.attach(module, eva64, data64.labels)


def test_only_the_second_half_of_both_towers_changes(clip64: Backbone, data64: FewShotData) -> None:
    names = set(make("skip_tuning").init(clip64, data64, seeded()).trained)
    halves = [name for name in names if ".resblocks." in name]
    assert {name.split(".")[3] for name in halves} == {"1", "2"}  # of three blocks
    ends = {"ln_final.weight", "ln_final.bias", "text_projection"}
    expected = {f"text.{name}" for name in ends}
    expected |= {f"image.{name}" for name in ("ln_post.weight", "ln_post.bias", "proj")}
    assert names - {*halves} == expected


def test_probability_of_a_rank_falls_from_one_to_zero() -> None:
    method: Any = make("skip_tuning")
    draws = torch.stack([method.draw_ranks(10, seeded(i)) for i in range(400)]).double().mean(0)
    expected = [1.0] * 6 + [math.exp(-5 * j / 4 / 0.3) for j in range(1, 4)] + [0.0]
    torch.testing.assert_close(draws, torch.tensor(expected).to(draws), atol=0.01, rtol=0)
    # At most fifty classes are always kept.
    assert method.draw_ranks(1000, seeded()).sum() < 150
    assert method.draw_ranks(1, seeded()).tolist() == [True]


def test_a_fit_needs_no_text_of_a_class_that_no_image_keeps(
    clip64: Backbone, data64: FewShotData, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    encode = Backbone.encode_prompts

    def count(self: Backbone, prompts: Any, *more: Any) -> Tensor:
        counts.append(len(prompts.lengths))
        return encode(self, prompts, *more)

    monkeypatch.setattr(Backbone, "encode_prompts", count)
    formula = Formula("skip_tuning", logits)
    data, _, _ = formula.see(clip64, data64)
    method = make("skip_tuning", recipe={"batch_size": 1}, max_steps=1)
    method.fit(clip64, data, seeded())
    assert counts == [4]  # ranks 1 to 4 of five classes


def test_start_is_zero_shot(clip64: Backbone, data64: FewShotData) -> None:
    method = make("skip_tuning")
    module = method.init(clip64, data64, seeded())
    images = draw_images(clip64, 4)
    classify = method.attach(module, clip64, data64.labels)
    found = classify(clip64.encode_images(images, method.image_input(clip64)))
    at = Case(clip64, data64.labels, {}, images)
    torch.testing.assert_close(found, logits(at))
