"""The rules that every transfer must keep, tried with some methods on small random models."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from compatbench.backbone import FEATURES
from compatbench.backbone.words import encode_words, load_words
from compatbench.errors import NotTransferable
from compatbench.extras.check.method_under_test import (
    MethodUnderTest,
    require_logits,
    unseen_images,
)
from compatbench.extras.check.models import synthetic_models
from compatbench.extras.check.rules import require
from compatbench.method.registry import builtin_methods, builtin_transfers, find_transfer
from compatbench.method.transfer import (
    ACCESS,
    OldAnswers,
    Transfer,
    TransferData,
    Unlabelled,
    WordPair,
)

WORDS = load_words()[::40]
METHODS = 3  # that a transfer is tried with, of as many different places
SHOTS = 2


class TransferUnderTest:
    """A transfer, attached as the engine does it, with modules of several methods."""

    def __init__(self, label: str) -> None:
        self.label, self.cls = label, builtin_transfers().get(label.partition("+")[0])
        self.models = synthetic_models()

    def build(self) -> Transfer:
        """The transfer; with a few labels, if it needs some and the label names no number."""
        numbered = "shots" in self.cls.Config.model_fields and not self.label[-1].isdecimal()
        return find_transfer(f"{self.label}+{SHOTS}" if numbered else self.label)

    def attached(self) -> Iterator[tuple[MethodUnderTest, Tensor]]:
        """Methods without needs, each at other places, and their logits of unseen images there.

        Those that the transfer refuses are left out.
        """
        registry, by_places = builtin_methods(), dict[Any, str]()
        for name in registry.names():
            card = registry.get(name).card
            if card.learns and not card.needs and self.build().serves(card):
                by_places.setdefault(card.places, name)
        for tested in map(fitted, list(by_places.values())[:METHODS]):
            try:
                logits = self._logits(tested)
            except NotTransferable:
                continue
            yield tested, logits  # with gradients as they were

    @torch.no_grad()
    def _logits(self, tested: MethodUnderTest) -> Tensor:
        transfer, method, target = self.build(), tested.build(), tested.target
        wanted = transfer.image_input(method, target)
        data = _give(transfer, tested)
        classify = transfer.attach(method, tested.module, target, tested.draw().labels, data)
        needed = "old model" in transfer.card.access
        old = [_answers(tested.logits(tested.source))] if needed else []
        return classify(target.encode_images(unseen_images(), wanted), *old)


@lru_cache(maxsize=16)
def fitted(name: str) -> MethodUnderTest:
    """A method with its module, fitted once."""
    return MethodUnderTest(builtin_methods().get(name))


def _answers(logits: Tensor) -> OldAnswers:
    return OldAnswers(logits, torch.zeros_like(logits))


def _give(transfer: Transfer, tested: MethodUnderTest) -> TransferData:
    """What the card declares, of synthetic images."""
    access, data = transfer.card.access, dict[str, Any]()
    on_target = copy.copy(tested)
    on_target.source = tested.target
    if "words" in access:
        data["words"] = WordPair(*(encode_words(b, WORDS) for b in (tested.source, tested.target)))
    if "unlabelled" in access:
        old, new = tested.draw(shots=8).train, on_target.draw(shots=8).train
        wanted = transfer.image_input(tested.build(), tested.target)
        inputs = new.plain if wanted == FEATURES else new.inputs(torch.arange(len(new)))
        old_inputs = old.inputs(torch.arange(len(old)))
        answers = _answers(tested.attach(tested.source)(old_inputs))
        data["unlabelled"] = Unlabelled(old.plain, new.plain, inputs, answers, 1.0, old_inputs)
    if "labels" in access:
        data["labels"] = on_target.draw(shots=transfer.config.shots)
    if "source weights" in access:
        data["source"] = tested.source
    return TransferData(transfer, 1, **data)


def test_card(carried: TransferUnderTest) -> None:
    """The card has a title, a summary, known access, and settings that can be had."""
    card = carried.cls.card
    require(card.title.strip() and card.summary.strip(), "a title or a summary is empty")
    unknown = ", ".join(sorted(card.access - {*ACCESS}))
    require(not unknown, f"access '{unknown}' is not one of {', '.join(ACCESS)}")
    numbered = "shots" in carried.cls.Config.model_fields
    require(numbered == ("labels" in card.access), "'labels' goes with the setting 'shots'")
    for setting in card.settings:
        TransferUnderTest(f"{carried.label}+{setting}").build()


def test_access(carried: TransferUnderTest) -> None:
    """It does its work with what its card declares, and reaches for nothing else."""
    require(list(carried.attached()), "it refuses the modules of every method that it serves")


def test_logits(carried: TransferUnderTest) -> None:
    """Logits are float32 of shape [batch, classes] and finite."""
    for subject, logits in carried.attached():
        what = f"logits of '{subject.card.name}'"
        require_logits(logits, what)
        require(logits.dtype == torch.float32, f"{what} are {logits.dtype}, not float32")


def test_repeatable(carried: TransferUnderTest) -> None:
    """The same module, data and seed give the same logits, bit for bit."""
    for (subject, first), (_, second) in zip(carried.attached(), carried.attached(), strict=True):
        why = f"two attachments of '{subject.card.name}' differ; take 'data.generator()'"
        require(torch.equal(first, second), why)


def test_backbones_unchanged(carried: TransferUnderTest) -> None:
    """Both backbones are, bit for bit, as they were."""
    for subject, _ in carried.attached():
        for backbone in (subject.source, subject.target):
            changed = subject.models.changed(backbone)
            require(not changed, f"'{backbone.name}' was changed: {', '.join(changed[:3])}")
