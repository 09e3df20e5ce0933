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

from compatbench.backbone.parts.products import fast_products
from compatbench.data.labels import Labels
from compatbench.errors import NotTransferable
from compatbench.extras.check.models import IMAGE_SIZE, forget_texts, synthetic_models
from compatbench.extras.check.outcome import BrokenRule, require
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
    """Labels of classes of these names, each with two descriptions or more."""
    texts = tuple(tuple(text.format(name) for text in TEXTS[: 2 + len(name) % 3]) for name in names)
    return Labels(tuple(names), TEMPLATES, "a photo of a {}, a type of thing.", texts)


# Their names have 1, 7, 2, 4 and 1 tokens.
LABELS = relabel(("dog", "hippopotamus", "red apple", "xylophone", "tree"))

# Of optimiser steps, so that a fit takes well under a second; what the checks look at does not
# need one to converge. Fewer where they only look whether a draw can be learned from.
STEPS, FEW_STEPS = 3, 2
MAX_ITERATIONS = 20  # of a solver
MOST_SECONDS = 3.0  # of one processor, for seven images on a tiny model

Elsewhere = Callable[[str], dict[str, str]]


class MethodUnderTest:
    """A method, and the modules and classifiers that the checks look at.

    What several checks need is made once, and no check changes it.

    Args:
        method: the class.
        describe_elsewhere: gives what ``describe_fit`` gives for a method of this name in another
            process; without it the rule that compares them is skipped.
    """

    def __init__(self, method: type[Method], describe_elsewhere: Elsewhere | None = None) -> None:
        self.describe_elsewhere = describe_elsewhere
        self.cls = method
        self.card = method.card
        self.models = synthetic_models()
        self.source, self.target = self.models.source, self.models.target
        self.printed: list[str] = []  # by the method, each with its line

    def build(self, steps: int = STEPS) -> Method:
        """The method with its published settings, but few optimiser steps."""
        fields = self.cls.Config.model_fields
        limits = {"max_steps": steps, "max_iterations": MAX_ITERATIONS}
        limits = {name: limit for name, limit in limits.items() if name in fields}
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
        """A few-shot draw of synthetic images on the source, grouped by class as a draw is.

        With what else the card needs: so many ``unlabelled`` images of each class, and as a
        teacher the model of this name among the ``others``.
        """
        counts = [shots] * len(labels) if isinstance(shots, int) else shots

        def see(backbone: Backbone) -> FewShotData:
            pool, numbers = None, [unlabelled] * len(labels)
            if "unlabelled" in self.card.needs:
                pool = self._features(backbone, numbers, 2, 500 + seed)
                pool = replace(pool, targets=torch.full_like(pool.targets, -1))
            train = self._features(backbone, counts, 2, 2 * seed)
            held_out = self._features(backbone, [val] * len(labels), 1, 2 * seed + 1)
            return FewShotData(self._known(labels), max(counts), train, held_out, pool)

        data = see(self.source)
        if "teacher" not in self.card.needs:
            return data
        other = self.models.others[teacher]
        return replace(data, teacher=Teacher(other, see(other)))

    def _known(self, labels: Labels) -> Labels:
        return labels if "descriptions" in self.card.needs else replace(labels, descriptions=())

    def _features(
        self, backbone: Backbone, counts: Sequence[int], views: int, seed: int
    ) -> FeatureSet:
        """So many images of each class, as the method is given them on a backbone."""
        wanted = self.build().image_input(backbone)
        key, seen = (backbone.name, tuple(counts), views, seed, wanted), self.models.seen
        if key not in seen:
            generator = torch.Generator().manual_seed(1000 + seed)
            targets = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
            plain, *images = (draw_images(targets, generator) for _ in range(1 + views))
            seen[key] = FeatureSet(
                _encode(backbone, plain),
                torch.stack([_encode(backbone, view) for view in images]),
                targets,
                None if wanted == FEATURES else [_encode(backbone, v, wanted) for v in images],
            )
        return copy.deepcopy(seen[key])

    @fast_products()
    def inputs(self, backbone: Backbone) -> Tensor:
        """What the method's classifiers take for the unseen images on a backbone."""
        wanted = self.build().image_input(backbone)
        key, seen = (backbone.name, backbone.weights_key, wanted), self.models.seen
        if key not in seen:
            seen[key] = _encode(backbone, unseen_images(), wanted)
        return seen[key].clone()

    @fast_products()
    @torch.enable_grad()
    def fit(self, data: FewShotData | None = None, seed: int = 1, steps: int = STEPS) -> Module:
        """A module from a new instance of the method, by default of three shots."""
        rng = torch.Generator().manual_seed(seed)
        method, data = self.build(steps), data or self.draw()
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
        classify, inputs = self.attach(self.source), self.inputs(self.source)
        start = time.process_time()
        with torch.no_grad(), self.listen():
            logits = classify(inputs)
        check_logits(logits, len(inputs), len(LABELS), classify, self.cls.attach)
        return time.process_time() - start

    @cached_property
    def has_module(self) -> bool:
        """Whether the method could be fitted."""
        try:
            _ = self.fitted
        except (Exception, SystemExit):
            return False
        return True

    @cached_property
    def classifies(self) -> bool:
        """Whether the module has a classifier on its source that can be looked at."""
        try:
            return self.first_seconds < MOST_SECONDS
        except (Exception, SystemExit):
            return False

    @cached_property
    def fitted_otherwise(self) -> Module:
        """The module of three other shots and another seed, to be looked at only."""
        return self.fit(self.draw(seed=1), seed=2)

    @fast_products()
    @torch.no_grad()
    def attach(
        self, backbone: Backbone, module: Module | None = None, labels: Labels = LABELS
    ) -> Classifier:
        """The classifier that a new instance makes of a copy of a module."""
        module, method = (module or self.fitted).detach(), self.build()
        with self.listen():
            return method.attach(module, backbone, self._known(labels))

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Keeps what code prints, and where it does so, in ``printed``."""
        log = _PrintLog(self.printed)
        with redirect_stdout(log), redirect_stderr(log):
            yield

    @fast_products()
    @torch.no_grad()
    def logits(
        self, backbone: Backbone, module: Module | None = None, labels: Labels = LABELS
    ) -> Tensor:
        """Logits of the unseen images, ``[7, classes]``."""
        return self.attach(backbone, module, labels)(self.inputs(backbone))

    def served(self) -> Iterator[tuple[str, Backbone]]:
        """The source, and the target unless the module cannot be attached to it."""
        yield "source", self.source
        try:
            self.attach(self.target)
        except NotTransferable:
            return
        yield "target", self.target

    def describe_fit(self) -> dict[str, str]:
        """Fingerprints of a module that is fitted now, and of its logits by role."""
        # A fit that changes its backbone breaks another rule; here both processes start alike.
        forget_texts(self.source)
        self.inputs(self.source)
        module = self.fit()
        logits = {role: self.logits(backbone, module) for role, backbone in self.served()}
        prints = {role: fingerprint({"logits": values}) for role, values in logits.items()}
        return {"module": module.fingerprint, **prints}


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
    """Fails the check unless there is a finite logit of every unseen image for every class."""
    try:
        check_logits(logits, len(unseen_images()), len(labels))
    except MethodMistake as mistake:
        raise BrokenRule(f"{what}: {mistake}") from None
    require(logits.isfinite().all(), f"{what} are not finite")


def _encode(backbone: Backbone, images: Tensor, wanted: ImageInput = FEATURES) -> Tensor:
    # open_clip's towers do not take an empty batch.
    some = images if len(images) else torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE)
    views = [backbone.encode_images(some.roll(i, -1), wanted) for i in range(1 + wanted.views)]
    return (torch.stack(views, dim=1) if wanted.views else views[0])[: len(images)]


def draw_images(targets: Tensor, generator: torch.Generator) -> Tensor:
    """Preprocessed images ``[N, 3, H, W]``: coarse patterns, one for each class, and noise."""
    patterns = torch.randn(64, 3, 4, 4, generator=torch.Generator().manual_seed(7))
    noise = torch.randn(len(targets), 3, 4, 4, generator=generator)
    return F.interpolate(patterns[targets] + noise, (IMAGE_SIZE, IMAGE_SIZE))


def unseen_images() -> Tensor:
    """Seven test images that no fit has seen, ``[7, 3, H, W]``."""
    generator = torch.Generator().manual_seed(9)
    return draw_images(torch.arange(7) % len(LABELS), generator)
