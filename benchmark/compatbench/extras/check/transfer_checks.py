"""The rules that every transfer must keep, tried with some methods on small random models."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from compatbench.backbone import FEATURES
from compatbench.backbone.words import encode_words, load_words
from compatbench.data.cards import select_names
from compatbench.errors import CompatbenchError, NotTransferable
from compatbench.extras.check.checks import (
    CheckFailed,
    Checks,
    Outcome,
    describe_error,
    outcomes_frame,
    require,
)
from compatbench.extras.check.method_under_test import LABELS, MethodUnderTest, unseen_images
from compatbench.messages import one_line
from compatbench.method.registry import builtin_methods
from compatbench.method.transfer import (
    ACCESS,
    OldAnswers,
    Transfer,
    TransferData,
    Unlabelled,
    WordPair,
)
from compatbench.method.transfer_registry import builtin_transfers, find_transfer

WORDS = load_words()[::40]
METHODS = 3  # that a transfer is tried with, of as many different places
SHOTS = 2

CHECKS = Checks()
check = CHECKS.add


class TransferUnderTest:
    """A transfer, and the methods whose modules it is tried with."""

    def __init__(self, label: str) -> None:
        self.label, self.cls = label, builtin_transfers().get(label.partition("+")[0])

    def build(self) -> Transfer:
        """The transfer; with a few labels, if it needs some and the label names no number."""
        numbered = "shots" in self.cls.Config.model_fields and not self.label[-1].isdecimal()
        return find_transfer(f"{self.label}+{SHOTS}" if numbered else self.label)

    def methods(self) -> list[MethodUnderTest]:
        """Methods that it serves, each at other places and without needs of its own."""
        registry, found = builtin_methods(), dict[Any, str]()
        for name in registry.names():
            card = registry.get(name).card
            if card.learns and not card.needs and self.build().serves(card):
                found.setdefault(card.places, name)
        return [fitted(name) for name in list(found.values())[:METHODS]]

    def attached(self) -> Iterator[tuple[MethodUnderTest, Tensor]]:
        """Each method, and logits of unseen images on the target; refused ones are left out."""
        for tested in self.methods():
            try:
                found = self._logits(tested)
            except NotTransferable:
                continue
            yield tested, found  # with gradients as they were

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


@check
def card(tested: TransferUnderTest) -> None:
    """The card has a title, a summary, known access, and settings that can be had."""
    card = tested.cls.card
    require(card.title.strip() and card.summary.strip(), "a title or a summary is empty")
    unknown = ", ".join(sorted(card.access - {*ACCESS}))
    require(not unknown, f"access '{unknown}' is not one of {', '.join(ACCESS)}")
    numbered = "shots" in tested.cls.Config.model_fields
    require(numbered == ("labels" in card.access), "'labels' goes with the setting 'shots'")
    for setting in card.settings:
        TransferUnderTest(f"{tested.label}+{setting}").build()


@check
def access(tested: TransferUnderTest) -> None:
    """It does its work with what its card declares, and reaches for nothing else."""
    require(list(tested.attached()), "it refuses the modules of every method that it serves")


@check
def logits(tested: TransferUnderTest) -> None:
    """Logits are float32 of shape [batch, classes] and finite."""
    for subject, found in tested.attached():
        what, shape = f"logits of '{subject.card.name}'", (len(unseen_images()), len(LABELS))
        require(found.shape == shape, f"{what} have shape {list(found.shape)}, not {list(shape)}")
        require(found.dtype == torch.float32, f"{what} are {found.dtype}, not float32")
        require(found.isfinite().all(), f"{what} are not finite")


@check
def repeatable(tested: TransferUnderTest) -> None:
    """The same module, data and seed give the same logits, bit for bit."""
    for (subject, first), (_, second) in zip(tested.attached(), tested.attached(), strict=True):
        why = f"two attachments of '{subject.card.name}' differ; take 'data.generator()'"
        require(torch.equal(first, second), why)


@check
def backbones_unchanged(tested: TransferUnderTest) -> None:
    """Both backbones are, bit for bit, as they were."""
    for subject, _ in tested.attached():
        for backbone in (subject.source, subject.target):
            changed = subject.models.changed(backbone)
            require(not changed, f"'{backbone.name}' was changed: {', '.join(changed[:3])}")


def check_transfers(
    transfers: str | Sequence[str] = "all",
    only: str | Sequence[str] = "all",
    *,
    progress: Callable[[Outcome], object] = lambda _: None,
) -> pd.DataFrame:
    """Tries the rules of transfers, as ``check_methods`` does those of methods.

    Each is given exactly the access that its card declares, of synthetic images and models. One
    that reaches for more fails the check ``access`` by name.

    Args:
        transfers: names, globs, exclusions, or the path of a file, which is run as code.
    """
    registry = builtin_transfers()
    names = registry.select(transfers if isinstance(transfers, str) else ",".join(transfers))
    outcomes = []
    for name in names:
        tested = TransferUnderTest(name)
        for number in select_names(only, list(CHECKS), "check"):
            start, status, reason = time.perf_counter(), "pass", ""
            try:
                CHECKS[number](tested)
            except Exception as error:
                told = isinstance(error, (CheckFailed, CompatbenchError))
                status, reason = "fail", str(error) if told else describe_error(error)
            for subject in tested.methods()[:1]:
                subject.models.restore()
            seconds, rule = time.perf_counter() - start, CHECKS.rule(number)
            outcome = Outcome(name, number, status, rule, one_line(reason, 600), seconds)  # type: ignore[arg-type]
            outcomes.append(outcome)
            progress(outcome)
    return outcomes_frame(outcomes)
