"""A transfer under test: attached as the engine does it, with modules of several methods."""

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
from compatbench.extras.check.method_under_test import MethodUnderTest, unseen_images
from compatbench.extras.check.models import SyntheticModels, synthetic_models
from compatbench.method.registry import builtin_methods, builtin_transfers, find_transfer
from compatbench.method.transfer import (
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
    """A transfer, and the methods whose modules it is tried with."""

    def __init__(self, label: str) -> None:
        self.label, self.cls = label, builtin_transfers().get(label.partition("+")[0])
        self.models: SyntheticModels = synthetic_models()

    def build(self) -> Transfer:
        """The transfer; with a few labels, if it needs some and the label names no number."""
        numbered = "shots" in self.cls.Config.model_fields and not self.label[-1].isdecimal()
        return find_transfer(f"{self.label}+{SHOTS}" if numbered else self.label)

    def methods(self) -> list[MethodUnderTest]:
        """Methods that it serves, each at other places and without needs of its own."""
        registry, by_places = builtin_methods(), dict[Any, str]()
        for name in registry.names():
            card = registry.get(name).card
            if card.learns and not card.needs and self.build().serves(card):
                by_places.setdefault(card.places, name)
        return [fitted(name) for name in list(by_places.values())[:METHODS]]

    def attached(self) -> Iterator[tuple[MethodUnderTest, Tensor]]:
        """Each method, and logits of unseen images on the target; refused ones are left out."""
        for tested in self.methods():
            try:
                logits = self._logits(tested)
            except NotTransferable:
                continue
            yield tested, logits  # with gradients as they were

    @torch.no_grad()
    def _logits(self, tested: MethodUnderTest) -> Tensor:
        transfer, method = self.build(), tested.build()
        given = _give(transfer, tested)
        target, labels = tested.target, tested.draw().labels
        wanted = transfer.image_input(method, target)
        classify = transfer.attach(method, tested.module, target, labels, given)
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
    access, given = transfer.card.access, dict[str, Any]()
    on_target = copy.copy(tested)
    on_target.source = tested.target
    if "words" in access:
        given["words"] = WordPair(*(encode_words(b, WORDS) for b in (tested.source, tested.target)))
    if "unlabelled" in access:
        old, new = tested.draw(shots=8).train, on_target.draw(shots=8).train
        wanted = transfer.image_input(tested.build(), tested.target)
        inputs = new.plain if wanted == FEATURES else new.inputs(torch.arange(len(new)))
        logits = tested.attach(tested.source)(old.inputs(torch.arange(len(old))))
        given["unlabelled"] = Unlabelled(old.plain, new.plain, inputs, _answers(logits))
    if "labels" in access:
        given["labels"] = on_target.draw(shots=transfer.config.shots)
    if "source weights" in access:
        given["source"] = tested.source
    return TransferData(transfer, 1, **given)
