"""Methods that train all weights of a tower: each against its formula, on a copy of the model."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import scipy.stats
import torch
from formulas import (
    Formula,
    Tensors,
    adam,
    cosine_logits,
    cross_entropy,
    fill,
    photo_texts,
    scale_of,
    unit,
    unit_texts,
)
from image_reference import draw_images, few_shots, run_image_tower
from open_clip_reference import encode_texts, text_tower
from tiny_models import tiny_clip, wrap
from torch import Tensor

from compatbench.backbone import PIXELS, Backbone, Labels
from compatbench.method import FewShotData, NotTransferable
from compatbench.methods.clipood import CLIPood
from compatbench.methods.flyp import FLYP
from compatbench.methods.wise_ft_weights import WiSEFTWeights

SEED = 3  # of ``check_first_step``


def shift(backbone: Backbone, own: Tensors) -> Backbone:
    """A copy of the model with differences added to its parameters, found without the engine."""
    changed = wrap(copy.deepcopy(backbone.model), "changed")
    towers = {"image": changed.model.visual, "text": text_tower(changed)}
    for name, delta in own.items():
        tower, _, path = name.partition(".")
        if tower in towers:
            owner, _, attribute = path.rpartition(".")
            module = towers[tower].get_submodule(owner)
            frozen = module._parameters.pop(attribute)
            setattr(module, attribute, frozen.data + delta)
    return changed


def encode_images(backbone: Backbone, own: Tensors, images: Tensor) -> Tensor:
    return run_image_tower(shift(backbone, own).model.visual, images, [])


def clipood_logits(backbone: Backbone, labels: Labels, own: Tensors, images: Tensor) -> Tensor:
    features = encode_images(backbone, own, images)
    return cosine_logits(backbone, photo_texts(backbone, labels), features)


def clipood_loss(
    backbone: Backbone, labels: Labels, own: Tensors, images: Tensor, targets: Tensor
) -> Tensor:
    """Up to a constant, a wrong class gains s λ (1 − cos(t_y, t_c))."""
    texts, logits = unit_texts(backbone, labels), clipood_logits(backbone, labels, own, images)
    extra = torch.stack([0.3 * (1 - texts @ texts[y]) for y in targets])
    return cross_entropy(logits + scale_of(backbone) * extra, targets)


def wise_ft_logits(backbone: Backbone, labels: Labels, own: Tensors, images: Tensor) -> Tensor:
    weights = scale_of(backbone) * unit_texts(backbone, labels) + own["weight"]
    return unit(encode_images(backbone, own, images)) @ weights.T + own["bias"]


def flyp_logits(backbone: Backbone, labels: Labels, own: Tensors, images: Tensor) -> Tensor:
    changed = shift(backbone, own)
    texts = torch.stack([unit(fill(changed, labels, t)) for t in labels.templates]).mean(0)
    logits = cosine_logits(backbone, texts, run_image_tower(changed.model.visual, images, []))
    return own["log_scale"].exp() * logits


def flyp_loss(
    backbone: Backbone, labels: Labels, own: Tensors, images: Tensor, targets: Tensor
) -> Tensor:
    """CLIP's own loss of images and their texts, in the templates that the fit draws."""
    rng = torch.Generator().manual_seed(SEED)
    torch.randperm(len(targets), generator=rng)
    drawn = torch.randint(3, (len(targets),), generator=rng)
    changed = shift(backbone, own)
    pairs = zip(drawn.tolist(), targets.tolist(), strict=True)
    texts = encode_texts(changed, [labels.templates[t].format(labels.names[y]) for t, y in pairs])
    features = run_image_tower(changed.model.visual, images, [])
    logits = own["log_scale"].exp() * cosine_logits(backbone, texts, features)
    diagonal = torch.arange(len(targets))
    return (cross_entropy(logits, diagonal) + cross_entropy(logits.T, diagonal)) / 2


SMOOTH = {"eps": 0.1}  # of Adam
STEPS = {
    # Half of a step: the average with the start, and α.
    "clipood": Formula(CLIPood, clipood_logits, clipood_loss, adam(0.1, 2.5e-6), SMOOTH),
    "wise_ft_weights": Formula(WiSEFTWeights, wise_ft_logits, None, adam(0.1, 1.5e-5), SMOOTH),
    "flyp": Formula(FLYP, flyp_logits, flyp_loss, adam(0.1, 1e-5), SMOOTH),
}


@pytest.mark.parametrize("name", STEPS)
def test_logits_and_the_first_step_equal_the_formula(
    float64: None, clip64: Backbone, labels: Labels, name: str
) -> None:
    formula = replace(STEPS[name], exact=1e-9, step=1e-9)
    data, views = few_shots(clip64, labels, PIXELS)
    formula.check_logits(clip64, data, draw_images(clip64, 4))
    formula.check_first_step(clip64, data, views[0])


def test_clipood_averages_the_weights_after_every_step(
    float64: None, clip64: Backbone, labels: Labels
) -> None:
    data, views = few_shots(clip64, labels, PIXELS)
    recipe = CLIPood.Config().recipe.model_copy(update={"lr": 0.01, "eps": 1e-3})
    method = CLIPood(CLIPood.Config(recipe=recipe, max_steps=3))
    found = method.fit(clip64, data, torch.Generator().manual_seed(1)).trained
    own = {name: torch.zeros_like(x).requires_grad_() for name, x in found.items()}
    adamw = torch.optim.AdamW(own.values(), lr=0.01, eps=1e-3, weight_decay=0.1)
    shares = scipy.stats.beta(0.1, 0.1).pdf([(k + 0.5) / 4 for k in range(4)])
    mean = {name: torch.zeros_like(x) for name, x in found.items()}
    for k in range(3):
        adamw.param_groups[0]["lr"] = 0.01 * (1 + math.cos(math.pi * k / 3)) / 2
        adamw.zero_grad()
        clipood_loss(clip64, labels, own, views[k % 2], data.train.targets).backward()
        adamw.step()
        for name, tensor in own.items():
            mean[name] += shares[k + 1] / shares.sum() * tensor.detach()
    assert {*own} == {f"image.{n}" for n, _ in clip64.model.visual.named_parameters()}  # type: ignore[union-attr]
    torch.testing.assert_close(found, mean, rtol=1e-8, atol=1e-9)


def test_differences_are_added_to_the_weights_of_a_tower_of_the_same_sizes(
    clip64: Backbone, eva64: Backbone, labels: Labels, images64: Tensor
) -> None:
    data, _ = few_shots(clip64, labels, PIXELS)
    other, images = wrap(tiny_clip(seed=8).double(), "other"), draw_images(clip64, 4)
    for formula in STEPS.values():
        module = formula.draw_module(clip64, data)
        found = formula.build().attach(module, other, labels)(images)
        expected = formula.logits(other, labels, module.tensors, images)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    # The text towers of the pair are of one size, their image towers are not.
    formula = Formula(FLYP, flyp_logits, settings={"encoder": "text"})
    module = formula.draw_module(clip64, data)
    texts = [unit(fill(shift(eva64, module.tensors), labels, t)) for t in labels.templates]
    expected = cosine_logits(eva64, torch.stack(texts).mean(0), images64)
    found = formula.build().attach(module, eva64, labels)(images64)
    expected = module["log_scale"].exp() * expected
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


DIFFERENCES: Sequence[tuple[str, dict[str, int], str]] = (
    ("clip", {"layers": 4}, r"text tower has a 'transformer.resblocks.3.ln_1.weight', for which"),
    ("clip", {"layers": 2}, r"text tower has no 'transformer.resblocks.2.ln_1.weight'"),
    ("clip", {"embed_dim": 24}, r"'text_projection' of size 32 × 16, not 32 × 24"),
    ("eva", {}, r"a 'class_embedding' of size 32, not 128"),
)


@pytest.mark.parametrize(("target", "sizes", "why"), DIFFERENCES)
def test_the_first_difference_is_named(
    clip: Backbone, eva: Backbone, labels: Labels, target: str, sizes: dict[str, int], why: str
) -> None:
    module = FLYP().init(clip, few_shots(clip, labels, PIXELS)[0], torch.Generator())
    backbone = eva if target == "eva" else wrap(tiny_clip(**sizes), "other")
    with pytest.raises(NotTransferable, match=why):
        FLYP().attach(module, backbone, labels)


def test_flyp_starts_at_the_zero_shot_ensemble(clip: Backbone, data: FewShotData) -> None:
    module, images = FLYP().init(clip, data, torch.Generator()), draw_images(clip, 4)
    features = clip.encode_images(images)
    expected = cosine_logits(clip, clip.zero_shot_ensemble(data.labels), features)
    torch.testing.assert_close(FLYP().attach(module, clip, data.labels)(images), expected)
