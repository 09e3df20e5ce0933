"""The transfer ``words`` where the module is expected to help, and zero-shot where it is not."""

from __future__ import annotations

from compatbench.method.transfer import TransferCard

from .gated import Gated
from .words import Words


class GatedWords(Gated):
    """As ``gated``, of the module as the transfer ``words`` attaches it."""

    card = TransferCard(
        name="gated-words",
        version=2,
        title="Gated, turned by words",
        paper="",
        access={"unlabelled", "source weights", "words"},
        summary="As gated, with the module turned by words.",
        gates="words",
    )
    way = Words
