"""The transfer ``copied``: the module is attached untouched; the headline of the benchmark."""

from __future__ import annotations

from compatbench.backbone import Backbone, Labels
from compatbench.data.cards.suite import COPIED
from compatbench.method import Classifier, Method, Module
from compatbench.transfer.transfer import Transfer, TransferCard


class Copied(Transfer):
    """Attaches the module as it is."""

    card = TransferCard(COPIED, access="none", summary="The module is attached untouched.")

    def attach(
        self,
        method: Method,
        module: Module,
        source: Backbone | None,
        target: Backbone,
        labels: Labels,
    ) -> Classifier:
        return method.attach(module, target, labels)
