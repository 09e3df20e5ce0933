"""The rules that every transfer must keep, tried with some methods on small random models."""

from __future__ import annotations

import torch

from compatbench.extras.check.method_under_test import LABELS, unseen_images
from compatbench.extras.check.outcome import require
from compatbench.extras.check.transfer_under_test import TransferUnderTest
from compatbench.method.transfer import ACCESS


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
    for subject, found in carried.attached():
        what, shape = f"logits of '{subject.card.name}'", (len(unseen_images()), len(LABELS))
        require(found.shape == shape, f"{what} have shape {list(found.shape)}, not {list(shape)}")
        require(found.dtype == torch.float32, f"{what} are {found.dtype}, not float32")
        require(found.isfinite().all(), f"{what} are not finite")


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
