"""The transfer ``words`` where the module is expected to help, and zero-shot where it is not."""

from __future__ import annotations

from dataclasses import replace

from .gated import Gated
from .words import Words


class GatedWords(Gated):
    """As ``gated``, of the module as the transfer ``words`` attaches it."""

    card = replace(
        Gated.card,
        name="gated-words",
        title="Gated, turned by words",
        access=Gated.card.access | {"words"},
        summary="As gated, with the module turned by words.",
        gates="words",
    )
    way = Words
