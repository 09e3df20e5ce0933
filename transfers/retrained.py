"""The method is fitted anew on the new model."""

from __future__ import annotations

import torch
from pydantic import PositiveInt

from compatbench.backbone import Backbone, Labels
from compatbench.method import Method, MethodCard, MethodConfig, Module
from compatbench.method.transfer import Transfer, TransferCard, TransferData


class Retrained(Transfer):
    """The method's own recipe on the target with k labelled images per class; θ is discarded.

    It measures the value of a module in labels. The k images are the first k of each class of
    the 16-shot draw, so that those of a smaller k are among those of a larger one. As in every
    fit, methods choose their settings on up to min(k, 4) more images per class.
    """

    card = TransferCard(
        name="retrained",
        title="Retrained",
        paper="",
        access={"labels"},
        summary="The method is fitted anew on the new model.",
    )

    class Config(MethodConfig):
        shots: PositiveInt

    def serves(self, method: MethodCard) -> bool:
        """Return True if the method learns from images."""
        return super().serves(method) and method.learns

    @torch.enable_grad()
    def carry(
        self, method: Method, module: Module, target: Backbone, labels: Labels, data: TransferData
    ) -> Module:
        return method.fit(target, data.labels, data.generator()).detach()
