"""Ways of bringing a fitted module to another backbone.

A new one is a file here: a class with a card and ``attach``, named in ``TRANSFERS``.
"""

from __future__ import annotations

from compatbench.data.cards import COPIED
from compatbench.errors import CompatbenchError
from compatbench.transfer.transfer import Copied, Transfer, TransferCard
from compatbench.transfer.words import Words

__all__ = ["COPIED", "TRANSFERS", "Copied", "Transfer", "TransferCard", "Words", "find_transfer"]

TRANSFERS: dict[str, type[Transfer]] = {cls.card.name: cls for cls in (Copied, Words)}


def find_transfer(name: str) -> type[Transfer]:
    """The transfer of this name; an unknown one is an error that lists those there are."""
    if name not in TRANSFERS:
        raise CompatbenchError(f"no transfer is named '{name}'; there are {', '.join(TRANSFERS)}")
    return TRANSFERS[name]
