"""CLAP: cross-entropy + mean over classes of λ_c ‖w_c − t_c‖²."""

from __future__ import annotations

import torch
from formulas import photo_texts
from tiny_models import MakeData
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import FewShotData, Module
from compatbench.method.trained import Batch
from compatbench.methods.clap import CLAP
from compatbench.methods.zs_lp import ZSLP


def logits_of(backbone: Backbone, weights: Tensor, image: Tensor) -> Tensor:
    scale = backbone.model.logit_scale.exp()  # type: ignore[operator, union-attr]
    cosines = [image.dot(w) / (image.norm() * w.norm()) for w in weights]
    return scale * torch.stack(cosines)


def naive_multipliers(backbone: Backbone, data: FewShotData) -> list[float]:
    texts = photo_texts(backbone, data.labels)
    probabilities: list[list[float]] = [[] for _ in data.labels.names]
    for view in data.train.views:
        for image, c in zip(view, data.train.targets.tolist(), strict=True):
            logits = logits_of(backbone, texts, image)
            probabilities[c].append(float(logits[c].exp() / logits.exp().sum()))
    return [sum(p) / len(p) if p else 1.0 for p in probabilities]


def naive_loss(backbone: Backbone, data: FewShotData, weights: Tensor, images: Tensor) -> Tensor:
    losses = []
    for image, c in zip(images, data.train.targets.tolist(), strict=True):
        logits = logits_of(backbone, weights, image)
        losses.append(logits.logsumexp(0) - logits[c])
    texts, held = photo_texts(backbone, data.labels), torch.zeros(())
    for w, t, multiplier in zip(weights, texts, naive_multipliers(backbone, data), strict=True):
        held = held + multiplier * (w - t).dot(w - t)
    return torch.stack(losses).mean() + held / len(data.labels)


def test_multipliers_are_zero_shot_probabilities_of_the_truth(
    backbone64: Backbone, labels: Labels, make_data: MakeData
) -> None:
    data = make_data(backbone64, labels, shots=[2, 1, 3, 0, 1])
    found = CLAP().init(backbone64, data, torch.Generator())["multipliers"]
    expected = torch.tensor(naive_multipliers(backbone64, data)).double()
    assert expected.std() > 0.05
    assert found[3] == 1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_the_loss_equals_the_formula(
    float64: None, backbone64: Backbone, data64: FewShotData
) -> None:
    method, images = CLAP(), data64.train.plain
    start = method.init(backbone64, data64, torch.Generator())
    weights = start["weights"] + 0.3 * torch.randn(
        5, 16, generator=torch.Generator().manual_seed(1)
    )
    module = Module({"weights": weights}, start.stored)
    classifier = method.attach(module, backbone64, data64.labels)
    batch = Batch(images, data64.train.targets, backbone64, data64.labels)
    expected = naive_loss(backbone64, data64, weights, images)
    torch.testing.assert_close(method.loss(classifier, batch), expected, rtol=1e-9, atol=1e-9)


def test_two_steps_follow_the_gradient_of_the_formula(
    float64: None, clip64: Backbone, data64: FewShotData
) -> None:
    """The constraint pulls from the second step on: at the first, w is t."""
    recipe = CLAP.Config().recipe.model_copy(update={"warmup_lr": 0.05})
    method = CLAP(CLAP.Config(recipe=recipe, max_steps=2))
    found = method.fit(clip64, data64, torch.Generator())["weights"]

    weights, velocity = photo_texts(clip64, data64.labels), torch.zeros(5, 16)
    for view, rate in zip(data64.train.views, (0.05, 0.1), strict=True):
        weights = weights.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(naive_loss(clip64, data64, weights, view), weights)
        velocity = 0.9 * velocity + gradient
        weights = weights - rate * velocity
    free = ZSLP(ZSLP.Config(recipe=recipe, max_steps=2)).fit(clip64, data64, torch.Generator())
    assert (found - free["weights"]).abs().max() > 1e-4
    torch.testing.assert_close(found, weights.detach(), rtol=1e-9, atol=1e-11)


def test_a_trusted_class_stays_nearer_to_its_text(clip: Backbone, data: FewShotData) -> None:
    def moved(method: ZSLP) -> Tensor:
        module = method.fit(clip, data, torch.Generator().manual_seed(1))
        return (module["weights"] - photo_texts(clip, data.labels)).norm(dim=-1)

    ratio = moved(CLAP(CLAP.Config(max_steps=100))) / moved(ZSLP(ZSLP.Config(max_steps=100)))
    trust = CLAP().init(clip, data, torch.Generator())["multipliers"]
    assert ratio[trust.argmax()] < ratio[trust.argmin()] < 1


def test_the_classifier_is_zs_lp_s(
    eva: Backbone, clip: Backbone, data: FewShotData, images: Tensor
) -> None:
    module = CLAP(CLAP.Config(max_steps=2)).fit(clip, data, torch.Generator())
    assert set(module.trained) == {"weights"}
    assert set(module.stored) == {"multipliers"}
    found = CLAP().attach(module, eva, data.labels)(images)
    assert torch.equal(found, ZSLP().attach(module, eva, data.labels)(images))
