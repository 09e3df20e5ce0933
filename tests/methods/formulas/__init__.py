"""Formulas that many methods share, and tests that compare a method with its formula."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from image_reference import draw_images, few_shots, run_image_tower, run_text_tower
from open_clip_reference import encode_texts, text_tower
from tiny_models import wrap
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import FEATURES, FewShotData, Module
from compatbench.method.registry import builtin_methods

WORDS = "a photo of a"
Tensors = Mapping[str, Tensor]
Update = Callable[[str, Tensor, Tensor], Tensor]


def make(name: str, **settings: Any) -> Any:
    """Return a method with its published settings and recipe, except for these settings."""
    cls: Any = builtin_methods().get(name)
    if "recipe" in settings:
        settings["recipe"] = cls.Config().recipe.model_copy(update=settings["recipe"])
    return cls(cls.Config.model_validate(settings))


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def close(found: Any, expected: Any, rtol: float = 1e-9) -> None:
    """Check that numbers equal those of a formula, in double precision."""
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol)


def scale_of(backbone: Backbone) -> Tensor:
    return backbone.model.logit_scale.exp()  # type: ignore[operator, union-attr]


def cosine_logits(backbone: Backbone, texts: Tensor, images: Tensor) -> Tensor:
    """Return z_ic = s · ⟨f_i, t_c⟩ / (‖f_i‖ ‖t_c‖), ``[images, classes]``."""
    return scale_of(backbone) * unit(images) @ unit(texts).T


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return −(1/N) Σ_i log softmax(z_i)_{y_i}."""
    return -logits.log_softmax(1)[torch.arange(len(targets)), targets].mean()


def mean_cosine(texts: Tensor, others: Tensor) -> Tensor:
    """Return (1/C) Σ_c cos(t_c, t'_c)."""
    return (unit(texts) * unit(others)).sum(1).mean()


def unit(x: Tensor) -> Tensor:
    """Return rows divided by their lengths."""
    return x / x.norm(dim=-1, keepdim=True)


def fill(backbone: Backbone, labels: Labels, template: str = "a photo of a {}.") -> Tensor:
    """Return open_clip's features of the class names in a template, ``[C, e]``."""
    return encode_texts(backbone, [template.format(name) for name in labels.names])


def unit_texts(backbone: Backbone, labels: Labels) -> Tensor:
    """Return normalised features of "a photo of a …."."""
    return unit(fill(backbone, labels))


def embed(backbone: Backbone, words: str) -> Tensor:
    """Return the rows of the token table for words."""
    return text_tower(backbone).token_embedding.weight[backbone.tokenizer.encode(words)]


def descend(name: str, x: Tensor, gradient: Tensor) -> Tensor:
    """Take a first step of SGD at a rate of 0.1, in which momentum plays no role."""
    return x - 0.1 * (gradient + 5e-4 * x)


def adam(eps: float, rate: float = 0.1, coupled: float = 0.0, decoupled: float = 0.0) -> Update:
    """Return a first step of Adam: the rate times g / (|g| + ε), after the decay."""

    def update(name: str, x: Tensor, gradient: Tensor) -> Tensor:
        gradient = gradient + coupled * x
        return (1 - rate * decoupled) * x - rate * gradient / (gradient.abs() + eps)

    return update


@dataclass(frozen=True)
class Case:
    """The inputs of a formula.

    Attributes:
        own: the module's tensors.
        images: features; images if the method takes more than features.
        settings: settings of the method that are not the published ones.
    """

    backbone: Backbone
    labels: Labels
    own: Tensors
    images: Tensor
    targets: Tensor = field(default_factory=lambda: torch.empty(0))
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def scale(self) -> Tensor:
        return scale_of(self.backbone)

    def fills(self) -> Tensor:
        """Return features of the class names in the chosen templates, ``[templates, C, e]``."""
        chosen = {"first": slice(1), "rest": slice(1, None), "all": slice(None)}
        templates = self.labels.templates[chosen[self.settings.get("templates", "first")]]
        return torch.stack([self.fill(template) for template in templates])

    @property
    def photos(self) -> Tensor:
        """Features of "a photo of a ….", or means over other templates; not normalised."""
        return self.fills().mean(0)

    @property
    def unit_photos(self) -> Tensor:
        """The class features of zero-shot: normalised before and after the mean."""
        return unit(unit(self.fills()).mean(0))

    def fill(self, *template: str) -> Tensor:
        return fill(self.backbone, self.labels, *template)

    def cosines(self, texts: Tensor, images: Tensor | None = None) -> Tensor:
        """Return the scaled cosines of texts and images, by default those of the case."""
        if images is None:
            images = self.images
        return cosine_logits(self.backbone, texts, images)

    def entropy(self, logits: Tensor) -> Tensor:
        return cross_entropy(logits, self.targets)


def prompted(at: Case) -> tuple[Tensor, Tensor]:
    """Return features of images and of classes under deep prompts.

    The first text prompts replace the words. Image prompts are separate tensors, or linear
    functions of the text prompts, token by token: F_i(P_i) = W_i P_i + b_i.
    """
    own = at.own
    if "coupling_weight" in own:
        layers = own["text_prompts"], own["coupling_weight"], own["coupling_bias"]
        image = []
        for tokens, weight, bias in zip(*layers, strict=True):
            image.append(tokens @ weight.T + bias)
    else:
        image = list(own["image_prompts"])
    features = run_image_tower(at.backbone.model.visual, at.images, image)
    return features, run_text_tower(at.backbone, at.labels.names, WORDS, list(own["text_prompts"]))


def shift_weights(backbone: Backbone, own: Tensors) -> Backbone:
    """Return a copy of the model with differences added to its parameters, without the engine."""
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


@dataclass(frozen=True)
class Formula:
    """A method with some settings, and its formula.

    Attributes:
        loss: by default the cross-entropy of the logits.
        update: a tensor's name, its value and its gradient → the tensor after one step.
        recipe: changes of the recipe for that step.
        start: tensors before the step that are not drawn.
        exact, step: relative tolerances of logits, and of tensors after a step.
    """

    method: str
    logits: Callable[[Case], Tensor]
    loss: Callable[[Case], Tensor] | None = None
    update: Update = descend
    recipe: Mapping[str, object] = field(default_factory=lambda: {"warmup_epochs": 0, "lr": 0.1})
    settings: Mapping[str, object] = field(default_factory=dict)
    start: Callable[[Backbone, FewShotData], Tensors] | None = None
    exact: float = 1e-9
    step: float = 1e-8

    def __str__(self) -> str:
        return "-".join([self.method, *map(str, self.settings.values())])

    def build(self, **settings: object) -> Any:
        return make(self.method, **{**self.settings, **settings})

    def see(
        self, backbone: Backbone, data: FewShotData
    ) -> tuple[FewShotData, list[Tensor], Callable[[Tensor], Tensor]]:
        """Return the method's shots, the formula's views of them, and the encoder of images.

        If a method takes more than features, the formula takes images.
        """
        wanted = self.build().image_input(backbone)
        if wanted == FEATURES:
            return data, [*data.train.views], lambda images: images
        shots, views = few_shots(backbone, data.labels, wanted)
        return shots, views, lambda images: backbone.encode_images(images, wanted)

    def check_logits(
        self, backbone: Backbone, data: FewShotData, images: Tensor, target: Backbone | None = None
    ) -> None:
        """Compare the logits of a random module, on its source or a target, with the formula.

        Args:
            data: features of shots; replaced by drawn images if the method takes more.
            images: features of other images, likewise.
        """
        data, views, encode = self.see(backbone, data)
        if views[0].ndim > 2:
            images = draw_images(backbone, 4)
        method = self.build()
        where = target or backbone
        rng = seeded()
        module = getattr(method, "init", method.fit)(backbone, data, seeded())
        noise = {}
        for name, tensor in module.trained.items():
            noise[name] = 0.3 * torch.randn(tensor.shape, generator=rng, dtype=torch.float64)
        module = Module(noise, module.stored)
        found = method.attach(module, where, data.labels)(encode(images))
        at = Case(where, data.labels, module.tensors, images, settings=self.settings)
        expected = self.logits(at)
        assert expected.std() > 0.1
        close(found, expected, self.exact)

    def check_first_step(self, backbone: Backbone, data: FewShotData) -> None:
        """Compare every tensor after one step of a fit with a step along the formula's gradient."""
        data, views, _ = self.see(backbone, data)
        subject = self.build(recipe=self.recipe, max_steps=1)
        found = subject.fit(backbone, data, seeded(3))
        rng = seeded(3)
        first = subject.init(backbone, data, rng)
        if self.start:
            for name, expected in self.start(backbone, data).items():
                torch.testing.assert_close(first[name], expected)
        parameters = {}
        for name, tensor in first.trained.items():
            parameters[name] = tensor.clone().requires_grad_()
        batch_size = subject.config.recipe.batch_size
        chosen = torch.randperm(len(data.train), generator=rng)[:batch_size]
        batch = views[0][chosen], data.train.targets[chosen]
        own = {**first.stored, **parameters}
        at = Case(backbone, data.labels, own, *batch, settings=self.settings)
        value = self.loss(at) if self.loss else at.entropy(self.logits(at))
        gradients = torch.autograd.grad(value, list(parameters.values()))
        assert found.trained.keys() == parameters.keys()
        for (name, x), gradient in zip(parameters.items(), gradients, strict=True):
            assert gradient.abs().max() > 1e-6, name
            expected = self.update(name, x, gradient).detach()
            torch.testing.assert_close(found[name], expected, rtol=self.step, atol=self.step / 100)


def variants(
    method: str, logits: Callable[[Case], Tensor], *settings: Mapping[str, object], **options: Any
) -> list[Formula]:
    """Return a method's formula for each of these settings."""
    return [Formula(method, logits, settings=each, **options) for each in settings]


def logits_test(formulas: Sequence[Formula]) -> Callable[..., None]:
    """Return a test that compares the logits of every method with its formula."""

    @pytest.mark.parametrize("formula", formulas, ids=str)
    def test(backbone64: Backbone, data64: FewShotData, images64: Tensor, formula: Formula) -> None:
        formula.check_logits(backbone64, data64, images64)

    return test


def step_test(formulas: Sequence[Formula]) -> Callable[..., None]:
    """Return a test that compares the first step of every fit with its formula's gradient."""

    @pytest.mark.parametrize("formula", formulas, ids=str)
    @pytest.mark.usefixtures("float64")
    def test(clip64: Backbone, data64: FewShotData, formula: Formula) -> None:
        formula.check_first_step(clip64, data64)

    return test


@dataclass(frozen=True)
class FitInputs:
    """The inputs of a fit, and images for its classifier on a target."""

    source: Backbone
    data: FewShotData
    target: Backbone
    images: Tensor
    settings: Mapping[str, Any]

    @property
    def owners(self) -> Tensor:
        return self.data.train.targets

    def views(self, count: int | None = None) -> Tensor:
        """Return the last views of the shots, by default all three, ``[views, N, e]``."""
        return self.data.train.views[-(count or 3) :]

    @property
    def texts(self) -> Tensor:
        """The class features of zero-shot on the source."""
        return unit_texts(self.source, self.data.labels)


@dataclass(frozen=True)
class Fit:
    """A method with a formula for its whole fit.

    Attributes:
        naive: returns tensors of the module by their names, or ``logits``.
        steps: compare the module after training; by default the one that training starts from.
        single: fit in single precision.
    """

    method: str
    naive: Callable[[FitInputs], Tensors]
    settings: Mapping[str, Any] = field(default_factory=dict)
    shots: int | Sequence[int] = (2, 1, 3, 0, 1)
    exact: float = 1e-9
    steps: bool = False
    single: bool = False

    def __str__(self) -> str:
        return "-".join([self.method, *map(str, self.settings.values()), str(self.shots)])


def fit_test(fits: Sequence[Fit]) -> Callable[..., None]:
    """Return a test that compares fits, and their logits on a target, with formulas."""

    @pytest.mark.parametrize("fit", fits, ids=str)
    @pytest.mark.usefixtures("float64")
    def test(
        clip: Backbone, clip64: Backbone, eva64: Backbone, labels: Labels, make_data: Any, fit: Fit
    ) -> None:
        source = clip if fit.single else clip64
        shots = fit.shots if isinstance(fit.shots, int) else list(fit.shots)
        data = make_data(source, labels, shots, 0, 3)
        method = make(fit.method, **fit.settings)
        # Images close to each other, so that no probability is close to 1.
        images = 3 * torch.randn(30, 16, generator=seeded(9))
        make_module = method.fit if fit.steps else getattr(method, "init", method.fit)
        module = make_module(source, data, seeded())
        expected = fit.naive(FitInputs(source, data, eva64, images, fit.settings))
        for name, tensor in expected.items():
            if name == "logits":
                close(method.attach(module, eva64, labels)(images), tensor, fit.exact)
            else:
                close(module[name].to(tensor), tensor, fit.exact)

    return test


def class_means(rows: Tensor, owners: Tensor, empty: float) -> Tensor:
    """Return the mean of the rows of each of five classes; ``empty`` for a class without rows."""
    means = []
    for label in range(5):
        own = rows[owners == label]
        means.append(own.mean(0) if len(own) else torch.full_like(rows[0], empty))
    return torch.stack(means)


def naive_gaussian(groups: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return W = μ Σ⁻¹ and b = log(1/C) − ½ μ Σ⁻¹ μᵀ of the rows of each class.

    The mean of a class without rows is that of the other means.
    """
    own_means = [rows.mean(0) for rows in groups if len(rows)]
    centre = torch.stack(own_means).mean(0)
    means = []
    centred = []
    for rows in groups:
        mean = rows.mean(0) if len(rows) else centre
        means.append(mean)
        centred.append(rows - mean)
    means = torch.stack(means)
    centred = torch.cat(centred)
    covariance = centred.T.cov()
    n, e = centred.shape
    shrunk = (n - 1) * covariance + covariance.trace() * torch.eye(e).to(covariance)
    weight = means @ (e * torch.linalg.inv(shrunk))
    return {"weight": weight, "bias": -math.log(len(groups)) - (weight * means).sum(1) / 2}
