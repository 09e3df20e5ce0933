"""The module attached untouched; the headline of the benchmark."""

from __future__ import annotations

from compatbench.backbone import Backbone, Labels
from compatbench.method import Method, Module
from compatbench.method.transfer import COPIED, Transfer, TransferCard, TransferData


class Copied(Transfer):
    """z = attach(θ, target): θ is not changed, and text features are those of the target."""

    card = TransferCard(
        name=COPIED,
        title="Copied",
        paper="arXiv:2412.20895",
        access=frozenset(),
        summary="The module is attached untouched.",
    )

    def carry(
        self, method: Method, module: Module, target: Backbone, labels: Labels, data: TransferData
    ) -> Module:
        return module
