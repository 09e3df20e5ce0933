"""Tip-Adapter-F: Tip-Adapter's logits with keys trained by AdamW."""

from __future__ import annotations

import torch
from formulas import check_first_step, cross_entropy, unit
from open_clip_reference import encode_texts
from tiny_models import MakeData
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import FewShotData
from compatbench.methods.tip_adapter import TipAdapter
from compatbench.methods.tip_adapter_f import TipAdapterF


def naive_logits(
    backbone: Backbone, labels: Labels, keys: Tensor, owners: Tensor, images: Tensor
) -> Tensor:
    """With α = 1.17 and β = 1, the weights before the search."""
    scale = backbone.model.logit_scale.exp()  # type: ignore[operator, union-attr]
    columns = []
    for c, name in enumerate(labels.names):
        text = encode_texts(backbone, [f"a photo of a {name}."])[0]
        column = []
        for image in images:
            f = image / image.norm()
            z = scale * f.dot(text) / text.norm()
            for key, owner in zip(keys, owners.tolist(), strict=True):
                if owner == c:
                    z = z + 1.17 * torch.exp(-1.0 * (1 - f.dot(key)))
            column.append(z)
        columns.append(torch.stack(column))
    return torch.stack(columns, dim=1)


def test_logits_before_training_equal_the_formula(
    float64: None, backbone64: Backbone, data64: FewShotData, images64: Tensor
) -> None:
    method, labels, train = TipAdapterF(), data64.labels, data64.train
    module = method.init(backbone64, data64, torch.Generator())
    logits = method.attach(module, backbone64, labels)(images64)
    expected = naive_logits(backbone64, labels, module["keys"], train.targets, images64)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)


def test_the_first_step_follows_the_gradient_of_the_formula(
    float64: None, clip64: Backbone, data64: FewShotData
) -> None:
    """AdamW: the keys shrink by lr · wd, then move by lr · g / (|g| + ε)."""
    owners = data64.train.targets

    def loss(parameters: dict[str, Tensor], images: Tensor, targets: Tensor) -> Tensor:
        logits = naive_logits(clip64, data64.labels, parameters["keys"], owners, images)
        return cross_entropy(logits, targets)

    def update(x: Tensor, gradient: Tensor) -> Tensor:
        return (1 - 0.1 * 0.01) * x - 0.1 * gradient / (gradient.abs() + 1e-4)

    start = {"keys": unit(data64.train.views.mean(0))}
    recipe = {"lr": 0.1}
    check_first_step(TipAdapterF, clip64, data64, loss, update, recipe=recipe, start=start)


def test_keys_start_as_those_of_tip_adapter(clip: Backbone, data: FewShotData) -> None:
    started = TipAdapterF().init(clip, data, torch.Generator())
    cache = TipAdapter().fit(clip, data, torch.Generator())
    assert torch.equal(started["keys"], cache["keys"])
    assert torch.equal(started["values"], cache["values"])


def test_the_weights_are_searched_after_training_with_the_trained_keys(
    eva: Backbone, labels: Labels, make_data: MakeData
) -> None:
    data = make_data(eva, labels, val=4)
    config = TipAdapterF.Config(max_steps=3, most_alpha=30.0)
    module = TipAdapterF(config).fit(eva, data, torch.Generator())

    def accuracy(alpha: float, beta: float) -> float:
        weights = {"alpha": torch.tensor(alpha), "beta": torch.tensor(beta)}
        changed = type(module)(module.trained, module.stored | weights)
        logits = TipAdapterF().attach(changed, eva, labels)(data.val.plain)
        return float((logits.argmax(-1) == data.val.targets).float().mean())

    grid = [
        accuracy(0.1 + j * (30 - 0.1) / 20, 0.1 + i * (7 - 0.1) / 200)
        for i in range(0, 200, 10)
        for j in range(20)
    ]
    assert len(set(grid)) > 1
    assert accuracy(float(module["alpha"]), float(module["beta"])) >= max(grid)
