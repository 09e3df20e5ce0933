"""Cross-modal linear probe: the class texts are training samples beside the shots.

The features of a class's prompts lie in the same space as those of its images, so one linear
classifier is trained on both. It starts at the zero-shot weights.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
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
from compatbench.method.validation import validation_accuracy

from ._shared.texts import Templates, choose_templates


class Trial(NamedTuple):
    """One point of the sweep."""

    lr: float
    weight_decay: float
    batch_size: int


class CrossModal(Method):
    """z = s · f̂ Wᵀ, trained on images and, as if they were images, on texts.

    Lin et al., *Multimodality Helps Unimodality: Cross-Modal Few-Shot Learning with Multimodal
    Models*, section 3.2, the linear form. W starts at the zero-shot weights; its rows are not
    normalised afterwards. Half of each batch are images in the plain view, half are texts of
    several templates. Rate, weight decay, batch size and the number of steps are chosen on the
    few-shot validation images. W belongs to the source's feature space; only s is the current
    model's.

    In detail: ``augment`` adds the suite's training views to the plain one. The authors add a
    mirrored view, and take one template (``templates: first``). The validation set
    is checked at the first step, after every 100 and at the last. The module stores the choice.
    Without validation images, the first value of each setting and the last step are taken.
    """

    card = MethodCard(
        name="cross_modal",
        title="Cross-modal",
        paper="arXiv:2301.06267",
        inserts="classifier",
        summary="linear probe trained on class texts as well",
    )

    class Config(Method.Config):
        lrs: tuple[PositiveFloat, ...] = (1e-3, 1e-4)
        weight_decays: tuple[NonNegativeFloat, ...] = (0.0, 0.01, 1e-4)
        batch_sizes: tuple[PositiveInt, ...] = (8, 32)
        steps: PositiveInt = 12_800
        warmup_steps: int = Field(default=50, ge=0)
        warmup_lr: PositiveFloat = 1e-5
        check_every: PositiveInt = 100
        templates: Templates = "all"
        augment: bool = False
        max_steps: PositiveInt | None = Field(
            None, description="set by the suite: most optimiser steps of a fit"
        )

    config: Config

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        config = self.config
        sweep = itertools.product(config.lrs, config.weight_decays, config.batch_sizes)
        best_accuracy = -1.0
        best_module = Module()
        for lr, weight_decay, batch_size in sweep:
            trial = Trial(lr, weight_decay, batch_size)
            accuracy, module = self._train(trial, backbone, data, rng)
            if accuracy > best_accuracy:
                best_accuracy = accuracy
                best_module = module
            if len(data.val) == 0:
                break
        return best_module

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        weight = require_shape(module, "weight", backbone.embed_dim, "image features of size")
        require_shape(module, "weight", len(labels), "a number of classes of", dim=0)
        scale = backbone.logit_scale

        def classify(features: Tensor) -> Tensor:
            return scale * F.normalize(features, dim=-1) @ weight.T

        return classify

    def _train(
        self, trial: Trial, backbone: Backbone, data: FewShotData, rng: torch.Generator
    ) -> tuple[float, Module]:
        """Train with the settings of a trial.

        Return the accuracy on the few-shot validation set and the module of the best step.
        """
        config = self.config
        features, targets = self._images(data)
        by_template = []
        for template in choose_templates(data.labels, config.templates):
            by_template.append(backbone.text_features(data.labels.fill(template)))
        texts = torch.stack(by_template)
        classes = torch.arange(len(data.labels), device=texts.device).repeat(len(texts))
        weight = F.normalize(texts.mean(0), dim=-1).requires_grad_()
        texts = texts.flatten(0, 1)
        optimizer = torch.optim.AdamW([weight], weight_decay=trial.weight_decay)
        half = trial.batch_size // 2
        device = weight.device
        image_batches = _batches(len(targets), trial.batch_size - half, rng, device)
        text_batches = _batches(len(texts), half, rng, device)
        steps = min(config.steps, config.max_steps or config.steps)
        best_accuracy = -1.0
        best_module = Module()
        for step in range(steps):
            image_rows = next(image_batches)
            text_rows = next(text_batches)
            batch = torch.cat([features[image_rows], texts[text_rows]])
            truth = torch.cat([targets[image_rows], classes[text_rows]])
            classifier = self.attach(Module({"weight": weight}), backbone, data.labels)
            optimizer.param_groups[0]["lr"] = self._rate(trial.lr, step, steps)
            optimizer.zero_grad()
            F.cross_entropy(classifier(batch), truth).backward()
            optimizer.step()
            is_last = step == steps - 1
            is_checked = len(data.val) > 0 and step % config.check_every == 0
            if is_checked or is_last:
                accuracy = float(validation_accuracy(classifier, data))
                if accuracy > best_accuracy:
                    best_accuracy = accuracy
                    best_module = self._record(weight, trial, step + 1)
        return best_accuracy, best_module

    def _images(self, data: FewShotData) -> tuple[Tensor, Tensor]:
        """Return features ``[n, e]`` of the shots in the training views, and labels ``[n]``."""
        views = data.train.plain[None]
        if self.config.augment:
            views = torch.cat([views, data.train.views])
        return views.flatten(0, 1), data.train.targets.repeat(len(views))

    def _rate(self, lr: float, step: int, steps: int) -> float:
        """Return the learning rate of a step, of ``steps`` in all.

        A suite's cap on steps shortens the warm-up in proportion.
        """
        config = self.config
        warmup = round(config.warmup_steps * steps / config.steps)
        if step >= warmup:
            return lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / steps))
        if step == 0:
            return config.warmup_lr
        return lr * step / warmup

    @staticmethod
    def _record(weight: Tensor, trial: Trial, steps: int) -> Module:
        """Return a module of the weights, with the trial's settings and number of steps stored."""
        choice = {**trial._asdict(), "steps": steps}
        stored = {name: torch.tensor(value).to(weight.device) for name, value in choice.items()}
        return Module({"weight": weight}, stored).detach()


def _batches(count: int, size: int, rng: torch.Generator, device: torch.device) -> Iterator[Tensor]:
    """Yield random batches of rows without end. An epoch's last, smaller batch is dropped."""
    size = min(size, count)
    while True:
        order = torch.randperm(count, generator=rng).to(device)
        full_batches = order[: count // size * size]
        yield from full_batches.split(size)
