"""Ways of bringing a fitted module to another backbone.

A new one is a class with a card and ``attach``, named in ``TRANSFERS``.
"""

from __future__ import annotations

from compatbench.data.cards import COPIED
from compatbench.errors import CompatbenchError
from compatbench.transfer.transfer import Access, Copied, Transfer, TransferCard
from compatbench.transfer.words import Words

__all__ = ["COPIED", "TRANSFERS", "Access", "Copied", "Transfer", "TransferCard", "find_transfer"]

TRANSFERS: dict[str, type[Transfer]] = {cls.card.name: cls for cls in (Copied, Words)}


def find_transfer(name: str) -> type[Transfer]:
    """The transfer of this name.

    Raises:
        CompatbenchError: there is none.
    """
    if name not in TRANSFERS:
        raise CompatbenchError(f"no transfer is named '{name}'; there are {', '.join(TRANSFERS)}")
    return TRANSFERS[name]
