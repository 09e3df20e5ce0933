"""A method under test: fitted and attached as the harness does it, on synthetic data."""

from __future__ import annotations

import copy
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.conformance.models import IMAGE_SIZE, Bench, build_bench
from compatbench.data.labels import Labels
from compatbench.method import (
    FEATURES,
    Backbone,
    Classifier,
    FeatureSet,
    FewShotData,
    ImageInput,
    Method,
    Module,
)

# Their names have 1, 7, 2, 4 and 1 tokens.
LABELS = Labels(
    names=("dog", "hippopotamus", "red apple", "xylophone", "tree"),
    templates=("a photo of a {}.", "a drawing of the {}.", "{} texture"),
    teacher_template="a photo of a {}, a type of thing.",
)

# What a method may call the cap on its steps, lowered so that a fit takes well under a
# second; what the checks look at does not need a fit to converge.
CAPS = {"max_steps": 3, "max_iterations": 20}


class NoModule(Exception):
    """The method's fit does not give a module, so that nothing else can be tried."""


class Subject:
    """A method, and the modules and classifiers that the checks look at.

    What several checks need is made once, and no check changes it.
    """

    def __init__(self, method: type[Method]) -> None:
        self.cls = method
        self.card = method.card
        self.bench: Bench = build_bench()
        self.source = self.bench.source
        self.target = self.bench.target
        self.labels = LABELS

    def build(self) -> Method:
        """The method with its published settings, but few optimiser steps."""
        short = {name: cap for name, cap in CAPS.items() if name in self.cls.Config.model_fields}
        return self.cls(self.cls.Config.model_validate(short))

    def draw(
        self, labels: Labels = LABELS, shots: int | list[int] = 3, val: int = 2, seed: int = 0
    ) -> FewShotData:
        """A few-shot draw of synthetic images on the source, grouped by class as a draw is.

        Args:
            shots: of every class, or of each.
            val: validation images of every class.
            seed: another draw of other images.
        """
        counts = (shots,) * len(labels) if isinstance(shots, int) else tuple(shots)
        return FewShotData(
            labels,
            max(counts),
            self._look(counts, 2, 2 * seed),
            self._look((val,) * len(labels), 1, 2 * seed + 1),
        )

    def _look(self, counts: tuple[int, ...], views: int, seed: int) -> FeatureSet:
        """So many images of each class, as this method is given them on the source."""
        wanted = self.build().image_input(self.source)
        key, seen = (counts, views, seed, wanted), self.bench.seen
        if key not in seen:
            generator = torch.Generator().manual_seed(1000 + seed)
            targets = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
            plain, *images = (paint(targets, generator) for _ in range(1 + views))
            seen[key] = FeatureSet(
                _encode(self.source, plain),
                torch.stack([_encode(self.source, view) for view in images]),
                targets,
                None if wanted == FEATURES else [_encode(self.source, v, wanted) for v in images],
            )
        return copy.deepcopy(seen[key])

    def inputs(self, backbone: Backbone, images: Tensor) -> Tensor:
        """What the method's classifiers take for images ``[N, 3, H, W]`` on a backbone."""
        return _encode(backbone, images, self.build().image_input(backbone))

    @torch.enable_grad()
    def fit(self, data: FewShotData | None = None, seed: int = 1) -> Module:
        """A module from a fresh instance of the method, by default of three shots."""
        rng = torch.Generator().manual_seed(seed)
        return self.build().fit(self.source, data or self.draw(), rng).detach()

    @property
    def module(self) -> Module:
        """A copy of the module of three shots and seed 1.

        Raises:
            NoModule: the fit fails; the check ``fit`` tells how.
        """
        return self._module.detach()

    @cached_property
    def _module(self) -> Module:
        try:
            return self.fit()
        except Exception as error:
            raise NoModule from error

    @torch.no_grad()
    def attach(
        self, backbone: Backbone, module: Module | None = None, labels: Labels = LABELS
    ) -> Classifier:
        """The classifier that a fresh instance makes of a copy of a module."""
        own = self.module if module is None else module.detach()
        return self.build().attach(own, backbone, labels)

    @torch.no_grad()
    def logits(
        self,
        backbone: Backbone,
        module: Module | None = None,
        labels: Labels = LABELS,
        images: Tensor | None = None,
    ) -> Tensor:
        """Logits of the test images, or of others ``[N, 3, H, W]``."""
        images = unseen_images() if images is None else images
        return self.attach(backbone, module, labels)(self.inputs(backbone, images))


def _encode(backbone: Backbone, images: Tensor, wanted: ImageInput = FEATURES) -> Tensor:
    # open_clip's towers do not take an empty batch.
    some = images if len(images) else torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE)
    return backbone.encode_images(some, wanted)[: len(images)]


def paint(targets: Tensor, generator: torch.Generator) -> Tensor:
    """Preprocessed images ``[N, 3, H, W]``: coarse patterns, one for each class, and noise."""
    patterns = torch.randn(64, 3, 4, 4, generator=torch.Generator().manual_seed(7))
    noise = torch.randn(len(targets), 3, 4, 4, generator=generator)
    return F.interpolate(patterns[targets] + noise, (IMAGE_SIZE, IMAGE_SIZE))


def unseen_images() -> Tensor:
    """Seven images of which no method has seen any, ``[7, 3, H, W]``."""
    generator = torch.Generator().manual_seed(9)
    return paint(torch.arange(7) % len(LABELS), generator)
