"""DePT: z = (1 − λ) p + λ q, p of CoOp, q a linear head on γ ⊙ x + β."""

from __future__ import annotations

import pytest
import torch
from formulas import cosine_logits, cross_entropy
from open_clip_reference import encode_contexts
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.errors import NotTransferable
from compatbench.method import FewShotData, Module
from compatbench.method.trained import Batch
from compatbench.methods.coop import CoOp
from compatbench.methods.dept import HEAD, DePT

SHAPES = {
    "context": (16, 32),
    "image_gain": (16,),
    "image_shift": (16,),
    "text_gain": (16,),
    "text_shift": (16,),
    "head": (5, 16),
    "head_bias": (5,),
}


def random_module() -> Module:
    generator = torch.Generator().manual_seed(1)
    return Module(
        {n: 0.3 * torch.randn(s, generator=generator).double() for n, s in SHAPES.items()}
    )


def head_logits(parameters: dict[str, Tensor], kind: str, rows: Tensor) -> Tensor:
    found = []
    for x in rows:
        moved = parameters[f"{kind}_gain"] * x + parameters[f"{kind}_shift"]
        found.append(parameters["head"] @ moved + parameters["head_bias"])
    return torch.stack(found)


def naive_loss(
    backbone: Backbone,
    labels: Labels,
    parameters: dict[str, Tensor],
    images: Tensor,
    targets: Tensor,
) -> Tensor:
    texts = encode_contexts(backbone, labels.names, parameters["context"])
    entropy = cross_entropy(cosine_logits(backbone, texts, images), targets)
    of_images = cross_entropy(head_logits(parameters, "image", images), targets)
    of_texts = cross_entropy(head_logits(parameters, "text", texts[targets]), targets)
    return 0.3 * entropy + 0.7 * (of_images + of_texts) / 2


def test_logits_equal_the_formula(backbone64: Backbone, labels: Labels, images64: Tensor) -> None:
    module = random_module()
    logits = DePT().attach(module, backbone64, labels)(images64)
    texts = encode_contexts(backbone64, labels.names, module["context"])
    similarities = cosine_logits(backbone64, texts, images64)
    expected = 0.3 * similarities + 0.7 * head_logits(module.trained, "image", images64)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)


def test_the_loss_equals_the_formula(
    float64: None, backbone64: Backbone, data64: FewShotData
) -> None:
    module, features, targets = random_module(), data64.train.plain, data64.train.targets
    classifier = DePT().attach(module, backbone64, data64.labels)
    found = DePT().loss(classifier, Batch(features, targets, backbone64, data64.labels))
    expected = naive_loss(backbone64, data64.labels, module.trained, features, targets)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("warmup", [0, 1])
def test_the_first_step_is_larger_for_all_but_the_prompts(
    float64: None, clip64: Backbone, data64: FewShotData, warmup: int
) -> None:
    recipe = DePT.Config().recipe.model_copy(update={"warmup_epochs": warmup})
    method = DePT(DePT.Config(recipe=recipe, max_steps=1))
    found = method.fit(clip64, data64, torch.Generator().manual_seed(3))

    rng = torch.Generator().manual_seed(3)
    start = method.init(clip64, data64, rng)
    parameters = {name: t.clone().requires_grad_() for name, t in start.trained.items()}
    chosen = torch.randperm(len(data64.train), generator=rng)[:4]
    images, targets = data64.train.views[0][chosen], data64.train.targets[chosen]
    loss = naive_loss(clip64, data64.labels, parameters, images, targets)
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    for (name, x), gradient in zip(parameters.items(), gradients, strict=True):
        rate = 1e-5 if warmup else 3.5e-3 * (1 if name == "context" else 6.5)
        expected = (x - rate * (gradient + 5e-4 * x)).detach()
        assert gradient.abs().max() > 1e-5, name
        torch.testing.assert_close(found[name], expected, rtol=1e-10, atol=1e-12)


def test_without_the_head_it_is_coop(clip64: Backbone, labels: Labels, images64: Tensor) -> None:
    module = random_module()
    logits = DePT(DePT.Config(weight=0)).attach(module, clip64, labels)(images64)
    coop = CoOp().attach(Module({"context": module["context"]}), clip64, labels)(images64)
    assert torch.equal(logits, coop)


def test_the_head_starts_as_a_linear_layer_behind_the_identity(
    b16_sized: Backbone, data: FewShotData
) -> None:
    module = DePT().init(b16_sized, data, torch.Generator().manual_seed(0))
    assert module.parameters == 16 * 512 + 2_048 + 5 * 513
    assert set(module.trained) == {"context", *HEAD}
    for kind in ("image", "text"):
        assert (module[f"{kind}_gain"] == 1).all()
        assert (module[f"{kind}_shift"] == 0).all()
    assert module["head"].abs().max() <= 512**-0.5
    assert module["head"].std() == pytest.approx(512**-0.5 / 3**0.5, rel=0.05)
    assert module["head_bias"].abs().max() <= 512**-0.5


def test_other_classes_are_refused(clip64: Backbone) -> None:
    with pytest.raises(NotTransferable, match="number of classes of 5, not 2"):
        DePT().attach(random_module(), clip64, Labels(("boat", "cat"), ("{}",), "{}"))
