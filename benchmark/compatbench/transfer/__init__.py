"""Ways of bringing a fitted module to another backbone.

A new one is a file here: a class with a card and ``attach``; nothing else names it.
"""

from __future__ import annotations

from compatbench.data.cards import COPIED
from compatbench.transfer.transfer import (
    JOINT_SPACE,
    OldAnswers,
    Transfer,
    TransferCard,
    TransferData,
    UndeclaredAccess,
    Unlabelled,
    WordPair,
)

__all__ = [
    "COPIED", "JOINT_SPACE", "OldAnswers", "Transfer", "TransferCard", "TransferData",
    "UndeclaredAccess", "Unlabelled", "WordPair",
]  # fmt: skip
