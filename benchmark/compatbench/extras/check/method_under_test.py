"""A method under test: fitted and attached as the engine does it, on synthetic images."""

from __future__ import annotations

import copy
import io
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.data.labels import Labels
from compatbench.errors import NotTransferable
from compatbench.extras.check.models import IMAGE_SIZE, forget_texts, synthetic_models
from compatbench.extras.check.outcome import BrokenRule, Status, require
from compatbench.files.tensors import fingerprint
from compatbench.method import (
    FEATURES,
    Backbone,
    Classifier,
    FeatureSet,
    FewShotData,
    ImageInput,
    Method,
    Module,
    Teacher,
)
from compatbench.method.mistakes import MethodMistake, author_line, check_logits, check_module

TEMPLATES = ("a photo of a {}.", "a drawing of the {}.", "{} texture")
TEXTS = ("a {} is seen.", "{}, which is old", "the {} of a friend", "a big {}")


def relabel(names: Sequence[str]) -> Labels:
    """Return labels of classes with these names, each with two descriptions or more."""
    descriptions = []
    for name in names:
        # Classes have different numbers of descriptions, as in the files of real tasks.
        texts = TEXTS[: 2 + len(name) % 3]
        descriptions.append(tuple(text.format(name) for text in texts))
    template = "a photo of a {}, a type of thing."
    return Labels(tuple(names), TEMPLATES, template, tuple(descriptions))


# Their names have 1, 7, 2, 4 and 1 tokens.
LABELS = relabel(("dog", "hippopotamus", "red apple", "xylophone", "tree"))

# Optimiser steps. A fit takes well under a second, and no check needs one that converges.
STEPS = 3
FEW_STEPS = 2  # where a check only asks whether a draw can be learned from
MAX_ITERATIONS = 20  # of a solver
MANY = 71  # images, for the rule on the order and the number of images
MOST_SECONDS = 3.0  # of one processor, for seven images on a tiny model

Elsewhere = Callable[[str], dict[str, str]]


class MethodUnderTest:
    """A method, and the modules and classifiers that the checks look at.

    What several checks need is made once, and no check changes it.

    Args:
        method: the class.
        describe_elsewhere: returns what ``describe_fit`` returns for a method of this name in
            another process; without it the rule that compares them is skipped.
    """

    def __init__(self, method: type[Method], describe_elsewhere: Elsewhere | None = None) -> None:
        self.describe_elsewhere = describe_elsewhere
        self.cls = method
        self.card = method.card
        self.needs = set(method.card.needs)  # what its data have besides the shots
        self.verdicts: dict[str, tuple[Status, str]] = {}  # of the rules that others follow from
        self.models = synthetic_models()
        self.source = self.models.source
        self.target = self.models.target
        self.printed: list[str] = []  # by the method, each with its line

    def build(self, steps: int = STEPS) -> Method:
        """Return the method with its published settings, but few optimiser steps."""
        fields = self.cls.Config.model_fields
        limits = {}
        if "max_steps" in fields:
            limits["max_steps"] = steps
        if "max_iterations" in fields:
            limits["max_iterations"] = MAX_ITERATIONS
        return self.cls(self.cls.Config.model_validate(limits))

    def draw(
        self,
        labels: Labels = LABELS,
        shots: int | list[int] = 3,
        val: int = 2,
        seed: int = 0,
        *,
        unlabelled: int = 4,
        teacher: str = "joint space",
    ) -> FewShotData:
        """Return a few-shot draw of synthetic images on the source, grouped by class.

        It has whatever else the card needs.

        Args:
            labels: the classes.
            shots: images of each class, the same number of all or one for each.
            val: validation images of each class.
            seed: which images are drawn.
            unlabelled: images of each class without a label.
            teacher: the name of the teacher among the ``others`` of the models.
        """
        counts = [shots] * len(labels) if isinstance(shots, int) else shots

        def encode_draw(backbone: Backbone) -> FewShotData:
            pool = None
            if "unlabelled" in self.needs:
                pool = self._features(backbone, [unlabelled] * len(labels), 2, 500 + seed)
                pool = replace(pool, targets=torch.full_like(pool.targets, -1))
            train = self._features(backbone, counts, 2, 2 * seed)
            held_out = self._features(backbone, [val] * len(labels), 1, 2 * seed + 1)
            return FewShotData(self._show_labels(labels), max(counts), train, held_out, pool)

        data = encode_draw(self.source)
        if "teacher" not in self.needs:
            return data
        other = self.models.others[teacher]
        return replace(data, teacher=Teacher(other, encode_draw(other)))

    def _show_labels(self, labels: Labels) -> Labels:
        """Return the labels as the method is shown them: without descriptions it does not need."""
        if "descriptions" in self.needs:
            return labels
        return replace(labels, descriptions=())

    def _features(
        self, backbone: Backbone, counts: Sequence[int], views: int, seed: int
    ) -> FeatureSet:
        """Return images of each class, as the method is given them on a backbone.

        The first is the plain image, and ``views`` further ones stand for its random crops.
        """
        image_input = self.build().image_input(backbone)
        key = (backbone.name, tuple(counts), views, seed, image_input)
        seen = self.models.seen
        if key not in seen:
            generator = torch.Generator().manual_seed(1000 + seed)
            targets = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
            plain = draw_images(targets, generator)
            images = [draw_images(targets, generator) for _ in range(views)]
            features = _encode(backbone, plain)
            of_views = torch.stack([_encode(backbone, view) for view in images])
            inputs = None
            if image_input != FEATURES:
                inputs = [_encode(backbone, view, image_input) for view in images]
            seen[key] = FeatureSet(features, of_views, targets, inputs)
        return copy.deepcopy(seen[key])

    def inputs(self, backbone: Backbone) -> Tensor:
        """Return the unseen images as the method's classifiers take them on a backbone."""
        return self._encode_unseen(backbone, unseen_images())

    def many_inputs(self, backbone: Backbone) -> Tensor:
        """Return further unseen images, in the order of their classes, as classifiers take them."""
        return self._encode_unseen(backbone, many_images())

    def _encode_unseen(self, backbone: Backbone, images: Tensor) -> Tensor:
        image_input = self.build().image_input(backbone)
        key = (backbone.name, backbone.weights_key, image_input, len(images))
        seen = self.models.seen
        if key not in seen:
            seen[key] = _encode(backbone, images, image_input)
        return seen[key].clone()

    @torch.enable_grad()
    def fit(self, data: FewShotData | None = None, seed: int = 1, steps: int = STEPS) -> Module:
        """Fit a new instance of the method, by default on three shots. Return its module."""
        rng = torch.Generator().manual_seed(seed)
        method = self.build(steps)
        data = data or self.draw()
        with self.listen():
            module = method.fit(self.source, data, rng)
        check_module(module, method.fit)
        return module.detach()

    @property
    def module(self) -> Module:
        """A copy of the module of three shots and seed 1."""
        return self.fitted.detach()

    @cached_property
    def fitted(self) -> Module:
        """The module of three shots and seed 1, to be looked at only."""
        return self.fit()

    @cached_property
    def first_seconds(self) -> float:
        """Seconds of one processor for the unseen images on the source, by its own classifier."""
        classify = self.attach(self.source)
        inputs = self.inputs(self.source)
        start = time.process_time()
        with torch.no_grad(), self.listen():
            logits = classify(inputs)
        check_logits(logits, len(inputs), len(LABELS), classify, self.cls.attach)
        return time.process_time() - start

    @cached_property
    def fitted_otherwise(self) -> Module:
        """The module of three other shots and another seed, to be looked at only."""
        return self.fit(self.draw(seed=1), seed=2)

    @torch.no_grad()
    def attach(
        self, backbone: Backbone, module: Module | None = None, labels: Labels = LABELS
    ) -> Classifier:
        """Return the classifier that a new instance makes of a copy of a module."""
        copied = (module or self.fitted).detach()
        method = self.build()
        with self.listen():
            return method.attach(copied, backbone, self._show_labels(labels))

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Add what code prints to ``printed``, with the line that prints it."""
        log = _PrintLog(self.printed)
        with redirect_stdout(log), redirect_stderr(log):
            yield

    @torch.no_grad()
    def logits(
        self, backbone: Backbone, module: Module | None = None, labels: Labels = LABELS
    ) -> Tensor:
        """Return the logits of the unseen images, ``[7, classes]``."""
        return self.attach(backbone, module, labels)(self.inputs(backbone))

    def served(self) -> Iterator[tuple[str, Backbone]]:
        """Yield the source, and the target unless the module cannot be attached to it."""
        yield "source", self.source
        try:
            self.attach(self.target)
        except NotTransferable:
            return
        yield "target", self.target

    def describe_fit(self) -> dict[str, str]:
        """Fit a module. Return its fingerprint, and those of its logits by role."""
        # A fit that changes its backbone breaks another rule; here both processes start alike.
        forget_texts(self.source)
        self.inputs(self.source)
        module = self.fit()
        logits = {role: self.logits(backbone, module) for role, backbone in self.served()}
        described = {"module": module.fingerprint}
        for role, values in logits.items():
            described[role] = fingerprint({"logits": values})
        return described


class _PrintLog(io.TextIOBase):
    """A stream that notes who writes to it."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def write(self, text: str) -> int:
        if text.strip():
            frames = reversed([*traceback.walk_stack(sys._getframe())])
            self._lines.append(f"{text.strip()[:50]!r} ({author_line(frames)})")
        return len(text)


def require_logits(logits: Tensor, what: str, labels: Labels = LABELS) -> None:
    """Raise BrokenRule unless each unseen image has a finite logit for every class."""
    try:
        check_logits(logits, len(unseen_images()), len(labels))
    except MethodMistake as mistake:
        raise BrokenRule(f"{what}: {mistake}") from None
    require(logits.isfinite().all(), f"{what} are not finite")


def _encode(backbone: Backbone, images: Tensor, image_input: ImageInput = FEATURES) -> Tensor:
    """Return images as a method takes them; shifted copies stand for the views of an image."""
    # open_clip's towers do not take an empty batch.
    some = images if len(images) else torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE)
    views = []
    for shift in range(1 + image_input.views):
        views.append(backbone.encode_images(some.roll(shift, -1), image_input))
    encoded = torch.stack(views, dim=1) if image_input.views else views[0]
    return encoded[: len(images)]


def draw_images(targets: Tensor, generator: torch.Generator) -> Tensor:
    """Return preprocessed images ``[N, 3, H, W]``: a coarse pattern for each class, and noise."""
    patterns = torch.randn(64, 3, 4, 4, generator=torch.Generator().manual_seed(7))
    noise = torch.randn(len(targets), 3, 4, 4, generator=generator)
    return F.interpolate(patterns[targets] + noise, (IMAGE_SIZE, IMAGE_SIZE))


def many_images() -> Tensor:
    """Return more unseen images than most methods train with at once, ``[71, 3, H, W]``.

    They are sorted by class, as most test sets are.
    """
    generator = torch.Generator().manual_seed(10)
    return draw_images(torch.arange(MANY) * len(LABELS) // MANY, generator)


def unseen_images() -> Tensor:
    """Return seven test images that no fit has seen, ``[7, 3, H, W]``."""
    generator = torch.Generator().manual_seed(9)
    return draw_images(torch.arange(7) % len(LABELS), generator)
