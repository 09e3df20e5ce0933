"""Formulas that many methods share, written out, and what every method's formula is compared to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from image_reference import draw_images, few_shots, run_image_tower, run_text_tower
from open_clip_reference import encode_texts, text_tower
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import FewShotData, Method, Module
from compatbench.method.trained import Batch, TrainedMethod

WORDS = "a photo of a"
Tensors = Mapping[str, Tensor]
Logits = Callable[[Backbone, Labels, Tensors, Tensor], Tensor]
Loss = Callable[[Backbone, Labels, Tensors, Tensor, Tensor], Tensor]
Update = Callable[[str, Tensor, Tensor], Tensor]


def scale_of(backbone: Backbone) -> Tensor:
    return backbone.model.logit_scale.exp()  # type: ignore[operator, union-attr]


def cosine_logits(backbone: Backbone, texts: Tensor, images: Tensor) -> Tensor:
    """z_ic = s · ⟨f_i, t_c⟩ / (‖f_i‖ ‖t_c‖), ``[images, classes]``."""
    scale = scale_of(backbone)
    rows = [[scale * f.dot(t) / (f.norm() * t.norm()) for t in texts] for f in images]
    return torch.stack([torch.stack(row) for row in rows])


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """−(1/N) Σ_i log softmax(z_i)_{y_i}."""
    losses = [row.logsumexp(0) - row[y] for row, y in zip(logits, targets, strict=True)]
    return torch.stack(losses).mean()


def mean_cosine(texts: Tensor, others: Tensor) -> Tensor:
    """(1/C) Σ_c cos(t_c, t'_c)."""
    cosines = [a.dot(b) / (a.norm() * b.norm()) for a, b in zip(texts, others, strict=True)]
    return torch.stack(cosines).mean()


def unit(x: Tensor) -> Tensor:
    """Rows divided by their lengths."""
    return x / x.norm(dim=-1, keepdim=True)


def fill(backbone: Backbone, labels: Labels, template: str) -> Tensor:
    """Features of the class names in a template as open_clip gives them, ``[C, e]``."""
    return encode_texts(backbone, [template.format(name) for name in labels.names])


def photo_texts(backbone: Backbone, labels: Labels) -> Tensor:
    """Features of "a photo of a …." as open_clip gives them, ``[C, e]``, not normalised."""
    return fill(backbone, labels, "a photo of a {}.")


def unit_texts(backbone: Backbone, labels: Labels) -> Tensor:
    """The same normalised."""
    return unit(photo_texts(backbone, labels))


def embed(backbone: Backbone, words: str) -> Tensor:
    """The rows of the token table for words."""
    return text_tower(backbone).token_embedding.weight[backbone.tokenizer.encode(words)]


def noise_like(tensors: Tensors, seed: int = 1, scale: float = 0.3) -> dict[str, Tensor]:
    """Tensors of the same names and shapes, drawn from one normal of this scale."""
    rng = torch.Generator().manual_seed(seed)
    return {
        name: scale * torch.randn(x.shape, generator=rng, dtype=torch.float64)
        for name, x in tensors.items()
    }


def descend(name: str, x: Tensor, gradient: Tensor) -> Tensor:
    """A first step of SGD at a rate of 0.1: momentum has nothing to add yet."""
    return x - 0.1 * (gradient + 5e-4 * x)


def adam(eps: float, rate: float = 0.1, coupled: float = 0.0, decoupled: float = 0.0) -> Update:
    """A first step of Adam: a number moves by the rate times g / (|g| + ε), after its decay."""

    def update(name: str, x: Tensor, gradient: Tensor) -> Tensor:
        gradient = gradient + coupled * x
        return (1 - rate * decoupled) * x - rate * gradient / (gradient.abs() + eps)

    return update


def prompted(
    backbone: Backbone, labels: Labels, own: Tensors, images: Tensor
) -> tuple[Tensor, Tensor]:
    """Features of images and of classes under deep prompts.

    The first text prompts stand in the place of the words; the image's are their own, or linear
    functions of the text's, token by token: F_i(P_i) = W_i P_i + b_i.
    """
    if "coupling_weight" in own:
        layers = zip(own["coupling_weight"], own["coupling_bias"], strict=True)
        pairs = list(zip(own["text_prompts"], layers, strict=True))
        image = [torch.stack([w @ token + b for token in tokens]) for tokens, (w, b) in pairs]
    else:
        image = list(own["image_prompts"])
    features = run_image_tower(backbone.model.visual, images, image)
    return features, run_text_tower(backbone, labels.names, WORDS, list(own["text_prompts"]))


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


@dataclass(frozen=True)
class Formula:
    """A method with some settings, and its formula.

    Attributes:
        logits: of a backbone, labels, the module's tensors, and images.
        loss: of the same and targets; by default the cross-entropy of the logits.
        update: a tensor's name, its value and its gradient → the tensor after one step.
        recipe: changes of the recipe for that step.
        start: what tensors are before it, where they are not drawn.
        exact, step: how far logits, and tensors after a step, may be from the formula.
    """

    method: type[Method]
    logits: Logits
    loss: Loss | None = None
    update: Update = descend
    recipe: Mapping[str, object] = field(default_factory=lambda: {"warmup_epochs": 0, "lr": 0.1})
    settings: Mapping[str, object] = field(default_factory=dict)
    start: Callable[[Backbone, FewShotData], Tensors] | None = None
    exact: float = 1e-10
    step: float = 1e-8

    @property
    def takes_features(self) -> bool:
        return self.method.image_input is Method.image_input

    def build(self, **settings: object) -> Any:
        values = {**self.settings, **settings}
        return self.method(self.method.Config.model_validate(values))

    def draw_module(self, backbone: Backbone, data: FewShotData) -> Module:
        """What the method stores, with noise for what it learns."""
        method = self.build()
        begin = method.init if hasattr(method, "init") else method.fit
        module = begin(backbone, data, torch.Generator().manual_seed(1))
        return Module(noise_like(module.trained), module.stored)

    def check_logits(
        self, backbone: Backbone, data: FewShotData, inputs: Tensor, images: Tensor | None = None
    ) -> None:
        """The classifier of a random module gives the formula's logits.

        Args:
            inputs: what it takes for the images; the images themselves, unless they are given.
        """
        module = self.draw_module(backbone, data)
        found = self.build().attach(module, backbone, data.labels)(inputs)
        images = inputs if images is None else images
        expected = self.logits(backbone, data.labels, module.tensors, images)
        assert expected.std() > 0.1
        torch.testing.assert_close(found, expected, rtol=self.exact, atol=self.exact)

    def naive_loss(
        self, backbone: Backbone, labels: Labels, tensors: Tensors, images: Tensor, targets: Tensor
    ) -> Tensor:
        if self.loss is not None:
            return self.loss(backbone, labels, tensors, images, targets)
        return cross_entropy(self.logits(backbone, labels, tensors, images), targets)

    def check_loss(self, backbone: Backbone, data: FewShotData) -> None:
        """The loss of a random module is the formula's."""
        module, method = self.draw_module(backbone, data), self.build()
        batch = Batch(data.train.plain, data.train.targets, backbone, data.labels)
        found = method.loss(method.attach(module, backbone, data.labels), batch)
        given = backbone, data.labels, module.tensors, batch.features, batch.targets
        torch.testing.assert_close(found, self.naive_loss(*given), rtol=1e-9, atol=1e-9)

    def check_first_step(
        self, backbone: Backbone, data: FewShotData, images: Tensor | None = None
    ) -> None:
        """After one step of a fit, every tensor is where the gradient of the formula takes it.

        Args:
            images: the first view, where it is not features.
        """
        assert issubclass(self.method, TrainedMethod)
        recipe = self.method.Config().recipe.model_copy(update=dict(self.recipe))
        subject = self.build(recipe=recipe, max_steps=1)
        found = subject.fit(backbone, data, torch.Generator().manual_seed(3))

        rng = torch.Generator().manual_seed(3)
        first = subject.init(backbone, data, rng)
        for name, expected in (self.start(backbone, data) if self.start else {}).items():
            torch.testing.assert_close(first[name], expected)
        parameters = {name: x.clone().requires_grad_() for name, x in first.trained.items()}
        chosen = torch.randperm(len(data.train), generator=rng)[: recipe.batch_size]
        view = data.train.views[0] if images is None else images
        batch = view[chosen], data.train.targets[chosen]
        value = self.naive_loss(backbone, data.labels, {**first.stored, **parameters}, *batch)
        gradients = torch.autograd.grad(value, list(parameters.values()))
        assert found.trained.keys() == parameters.keys()
        for (name, x), gradient in zip(parameters.items(), gradients, strict=True):
            assert gradient.abs().max() > 1e-6, name
            expected = self.update(name, x, gradient).detach()
            torch.testing.assert_close(found[name], expected, rtol=self.step, atol=self.step / 100)


def logits_test(formulas: Mapping[str, Formula]) -> Callable[..., None]:
    """A test of the classifier of every method against its formula."""

    @pytest.mark.parametrize("formula", formulas.values(), ids=formulas)
    def test(backbone64: Backbone, data64: FewShotData, images64: Tensor, formula: Formula) -> None:
        if formula.takes_features:
            formula.check_logits(backbone64, data64, images64)
            return
        wanted, images = formula.build().image_input(backbone64), draw_images(backbone64, 4)
        data, _ = few_shots(backbone64, data64.labels, wanted)
        formula.check_logits(backbone64, data, backbone64.encode_images(images, wanted), images)

    return test


def step_test(formulas: Mapping[str, Formula]) -> Callable[..., None]:
    """A test of the first step of every method's fit against the gradient of its formula."""

    @pytest.mark.parametrize("formula", formulas.values(), ids=formulas)
    @pytest.mark.usefixtures("float64")
    def test(clip64: Backbone, data64: FewShotData, formula: Formula) -> None:
        if formula.takes_features:
            formula.check_first_step(clip64, data64)
            return
        data, views = few_shots(clip64, data64.labels, formula.build().image_input(clip64))
        formula.check_first_step(clip64, data, views[0])

    return test
