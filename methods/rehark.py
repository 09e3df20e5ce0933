"""ReHARK: ProKeR with a prior of texts and images, bridging rows, and two kernels.

A kernel regression learns the errors of a classifier on the shots and on rows between the shots and
their classes. The classifier mixes class names, descriptions and mean images.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor

from compatbench.method import (
    Backbone,
    Classifier,
    FewShotData,
    Labels,
    Method,
    MethodCard,
    Module,
    require_shape,
)

from ._shared.cache import last_views, store
from ._shared.texts import Templates, zero_shot

# The ranges of the authors' search.
RANGES = {
    "power": (0.5, 1.0),
    "text_mix": (0.0, 1.0),
    "image_mix": (0.0, 1.0),
    "bridge": (0.0, 2.0),
    "scale": (1.0, 20.0),
    "penalty": (0.001, 5.0),
    "narrow": (0.1, 30.0),
    "wide": (0.01, 5.0),
    "kernel_mix": (0.0, 1.0),
}
# Without validation images: class names alone, no bridging rows and one kernel, as in ProKeR.
DEFAULTS = {
    "power": 1.0,
    "text_mix": 0.0,
    "image_mix": 0.0,
    "bridge": 0.0,
    "scale": 1.0,
    "penalty": 0.1,
    "narrow": 0.85,
    "wide": 0.85,
    "kernel_mix": 1.0,
}


class ReHARK(Method):
    """z = σ x Pᵀ + κ(x, A) α with α = (κ(A, A) + λ I)⁻¹ (Y − σ A Pᵀ), in closed form.

    Islam, *ReHARK: Refined Hybrid Adaptive RBF Kernels for Robust One-Shot Vision-Language
    Adaptation*, section 3. Every feature v becomes x = sign(v) |v|^p, normalised.

    * Prior: P_c = norm((1 − r) norm((1 − a) t_c + a g_c) + r v_c), with t_c the text feature of
      the class name, g_c the mean feature of the class's descriptions, and v_c that of its shots.
    * Bridging: the rows of A are the shots' features x_i, one for each training view, followed by
      norm(x_i + b P_y). Y has the one-hot labels of both.
    * Kernels: κ(x, x') = k exp(−β_1 ‖x − x'‖²) + (1 − k) exp(−β_2 ‖x − x'‖²).

    p, a, r, b, σ, λ, β_1, β_2 and k are those of ``trials`` random settings, within the authors'
    ranges, that classify the few-shot validation set best. The authors search with Optuna on the
    whole set. Their rectifier is left out: it reads statistics of all test images at once.

    The module holds A, α and v. The texts of P are those of the model that it is attached to. A
    class without shots has no v_c.
    """

    card = MethodCard(
        name="rehark",
        title="ReHARK",
        paper="arXiv:2603.11542",
        inserts="classifier",
        summary="ProKeR with descriptions, mean images and bridging rows in its prior",
        needs={"descriptions"},
    )

    class Config(Method.Config):
        templates: Templates = "first"
        # The number of training views used, counted from the last; by default all. A trial solves
        # a system of 2 · views · shots rows.
        cache_views: PositiveInt | None = None
        trials: PositiveInt = 1000

    config: Config

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        dtype = data.train.views.dtype
        views = last_views(data, self.config.cache_views).double()
        rows = views.flatten(0, 1)
        targets = data.train.targets.repeat(len(views))
        val = data.val.plain.double()
        names = zero_shot(backbone, data.labels, self.config.templates).double()
        described = mean_descriptions(backbone, data.labels).double()
        settings: Mapping[str, float] = DEFAULTS
        most_hits = -1
        trials = self.config.trials if len(val) else 0
        for _ in range(trials):
            tried = draw_settings(rng)
            prototypes = mean_rows(rows, targets, len(names), tried)
            prior = mix_prior(names, described, prototypes, tried)
            support, alpha = regress(rows, targets, prior, tried)
            logits = predict(transform(val, tried), prior, support, alpha, tried)
            hits = int((logits.argmax(-1) == data.val.targets).sum())
            if hits > most_hits:
                most_hits = hits
                settings = tried
        prototypes = mean_rows(rows, targets, len(names), settings)
        prior = mix_prior(names, described, prototypes, settings)
        support, alpha = regress(rows, targets, prior, settings)
        stored = {"support": support.to(dtype), "prototypes": prototypes.to(dtype)}
        return store(Module({"alpha": alpha.to(dtype)}, stored), **settings)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        support = require_shape(module, "support", backbone.embed_dim, "image features of size")
        alpha = require_shape(module, "alpha", len(labels), "a number of classes of")
        settings = {name: float(module[name]) for name in DEFAULTS}
        names = zero_shot(backbone, labels, self.config.templates).double()
        described = mean_descriptions(backbone, labels).double()
        prior = mix_prior(names, described, module["prototypes"].double(), settings)
        # If λ is small, the sum over A is a small difference of large numbers.
        support = support.double()
        alpha = alpha.double()

        def classify(features: Tensor) -> Tensor:
            rows = transform(features.double(), settings)
            return predict(rows, prior, support, alpha, settings).to(features)

        return classify


def draw_settings(rng: torch.Generator) -> dict[str, float]:
    """Return one random number for each setting; λ is uniform on a logarithmic scale."""
    draws = torch.rand(len(RANGES), generator=rng, dtype=torch.float64).tolist()
    settings = {}
    for (name, (least, most)), draw in zip(RANGES.items(), draws, strict=True):
        if name == "penalty":
            settings[name] = least * (most / least) ** draw
        else:
            settings[name] = least + (most - least) * draw
    return settings


def mean_descriptions(backbone: Backbone, labels: Labels) -> Tensor:
    """Return the normalised mean feature of each class's descriptions, ``[C, e]``."""
    means = [features.mean(0) for features in backbone.describe(labels)]
    return F.normalize(torch.stack(means), dim=-1)


def transform(features: Tensor, settings: Mapping[str, float]) -> Tensor:
    """Return sign(v) |v|^p of normalised features, normalised again, ``[n, e]``."""
    features = F.normalize(features, dim=-1)
    powers = features.sign() * features.abs() ** settings["power"]
    return F.normalize(powers, dim=-1)


def mean_rows(rows: Tensor, targets: Tensor, classes: int, settings: Mapping[str, float]) -> Tensor:
    """Return the normalised mean of each class's rows, ``[C, e]``; zeros where it has none."""
    one_hot = F.one_hot(targets, classes).to(rows)
    return F.normalize(one_hot.T @ transform(rows, settings), dim=-1)


def mix_prior(
    names: Tensor, described: Tensor, prototypes: Tensor, settings: Mapping[str, float]
) -> Tensor:
    """Return P ``[C, e]`` of features of class names, of descriptions, and of images."""
    text_mix = settings["text_mix"]
    image_mix = settings["image_mix"]
    named = transform(names, settings)
    texts = (1 - text_mix) * named + text_mix * transform(described, settings)
    prior = (1 - image_mix) * F.normalize(texts, dim=-1) + image_mix * prototypes
    return F.normalize(prior, dim=-1)


def kernel(a: Tensor, b: Tensor, settings: Mapping[str, float]) -> Tensor:
    """Return κ ``[n, m]`` of normalised rows ``[n, e]`` and ``[m, e]``."""
    distances = 2 - 2 * a @ b.T  # of normalised rows, squared
    mix = settings["kernel_mix"]
    narrow = torch.exp(-settings["narrow"] * distances)
    wide = torch.exp(-settings["wide"] * distances)
    return mix * narrow + (1 - mix) * wide


def regress(
    rows: Tensor, targets: Tensor, prior: Tensor, settings: Mapping[str, float]
) -> tuple[Tensor, Tensor]:
    """Return the rows A ``[2n, e]``, half of them bridging, and their weights α ``[2n, C]``."""
    rows = transform(rows, settings)
    bridges = F.normalize(rows + settings["bridge"] * prior[targets], dim=-1)
    support = torch.cat([rows, bridges])
    labels = F.one_hot(targets.repeat(2), len(prior)).to(support)
    errors = labels - settings["scale"] * support @ prior.T
    identity = torch.eye(len(support)).to(support)
    matrix = kernel(support, support, settings) + settings["penalty"] * identity
    return support, torch.linalg.solve(matrix, errors)


def predict(
    features: Tensor,
    prior: Tensor,
    support: Tensor,
    alpha: Tensor,
    settings: Mapping[str, float],
) -> Tensor:
    """Return the logits ``[n, C]`` of transformed features ``[n, e]``."""
    return settings["scale"] * features @ prior.T + kernel(features, support, settings) @ alpha
