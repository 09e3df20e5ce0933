"""APE-T: one residual per class moves its text and its keys in chosen channels."""

from __future__ import annotations

import pytest
import torch
from formulas import check_first_step, cross_entropy, unit, unit_texts
from tiny_models import MakeData
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import FewShotData, Module
from compatbench.methods._shared.cache import choose_channels
from compatbench.methods.ape_t import APET


def naive_logits(backbone: Backbone, labels: Labels, module: Module, images: Tensor) -> Tensor:
    scale = backbone.model.logit_scale.exp()  # type: ignore[operator, union-attr]
    where = [k for k, chosen in enumerate(module["channels"].tolist()) if chosen]
    columns = []
    for c, text in enumerate(unit_texts(backbone, labels)):
        shift = torch.zeros_like(text)
        for j, k in enumerate(where):
            shift[k] = module["residual"][c, j]
        column = [scale * f.dot(text + shift) for f in unit(images)]
        for key, value, u in zip(
            module["keys"], module["values"], module["value_weights"], strict=True
        ):
            if value[c]:
                for i, f in enumerate(unit(images)):
                    nearness = torch.exp(-module["beta"] * (1 - f.dot(key + shift)))
                    column[i] = column[i] + module["alpha"] * u * nearness
        columns.append(torch.stack(column))
    return torch.stack(columns, dim=1)


def disturbed(method: APET, backbone: Backbone, data: FewShotData) -> Module:
    module = method.init(backbone, data, torch.Generator())
    generator = torch.Generator().manual_seed(1)
    residual = 0.3 * torch.randn(module["residual"].shape, generator=generator)
    weights = 1 + 0.3 * torch.randn(len(data.train), generator=generator)
    trained = {"residual": residual, "value_weights": weights}
    return Module({name: t.to(module["keys"]) for name, t in trained.items()}, module.stored)


def test_logits_equal_the_formula(
    backbone64: Backbone, data64: FewShotData, images64: Tensor
) -> None:
    module = disturbed(APET(), backbone64, data64)
    logits = APET().attach(module, backbone64, data64.labels)(images64)
    expected = naive_logits(backbone64, data64.labels, module, images64)
    torch.testing.assert_close(logits, expected, rtol=1e-6, atol=1e-6)


def test_the_first_step_follows_the_gradient_of_the_formula(
    float64: None, clip64: Backbone, data64: FewShotData
) -> None:
    """AdamW: a parameter shrinks by lr · wd, then moves by lr · g / (|g| + ε)."""
    stored = APET().init(clip64, data64, torch.Generator()).stored

    def loss(parameters: dict[str, Tensor], images: Tensor, targets: Tensor) -> Tensor:
        module = Module(parameters, stored)
        return cross_entropy(naive_logits(clip64, data64.labels, module, images), targets)

    def update(x: Tensor, gradient: Tensor) -> Tensor:
        return (1 - 0.1 * 0.1) * x - 0.1 * gradient / (gradient.abs() + 1e-3)

    check_first_step(APET, clip64, data64, loss, update, recipe={"lr": 0.1}, rtol=1e-6)


def test_it_starts_as_a_cache_with_whole_features(clip64: Backbone, data64: FewShotData) -> None:
    module = APET().init(clip64, data64, torch.Generator())
    torch.testing.assert_close(module["keys"], unit(data64.train.views.mean(0)))
    assert module["values"].argmax(-1).tolist() == data64.train.targets.tolist()
    assert not module["residual"].any()
    assert torch.equal(module["value_weights"], torch.ones(15).double())
    assert module["residual"].shape == (5, int(module["channels"].sum()))
    assert torch.equal(
        module["channels"], choose_channels(APET.Config(), unit_texts(clip64, data64.labels))
    )


def test_the_weights_are_searched_after_training(
    eva: Backbone, labels: Labels, make_data: MakeData
) -> None:
    data = make_data(eva, labels, val=4)
    method = APET(APET.Config(max_steps=3, most_alpha=30, alpha_steps=5, beta_steps=6))
    module = method.fit(eva, data, torch.Generator())
    scores = {}
    for i in range(6):
        for j in range(5):
            beta, alpha = 0.1 + i * (7 - 0.1) / 6, 0.1 + j * (30 - 0.1) / 5
            weights = {"alpha": torch.tensor(alpha), "beta": torch.tensor(beta)}
            changed = Module(module.trained, module.stored | weights)
            logits = method.attach(changed, eva, labels)(data.val.plain)
            scores[alpha, beta] = int((logits.argmax(-1) == data.val.targets).sum())
    assert len(set(scores.values())) > 1
    # A dictionary keeps its order: the first best of the authors' loop.
    assert (float(module["alpha"]), float(module["beta"])) == pytest.approx(
        max(scores, key=lambda pair: scores[pair])
    )


def test_without_validation_images_the_initial_weights_stay(
    clip: Backbone, labels: Labels, make_data: MakeData
) -> None:
    method = APET(APET.Config(max_steps=1))
    module = method.fit(clip, make_data(clip, labels, val=0), torch.Generator())
    assert (float(module["alpha"]), float(module["beta"])) == (2.0, 1.0)
