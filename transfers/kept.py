"""The old model is kept, and the new one is not used."""

from __future__ import annotations

from torch import Tensor

from compatbench.backbone import FEATURES, Backbone, ImageInput, Labels
from compatbench.method import Classifier, Method, Module
from compatbench.method.transfer import OldAnswers, Transfer, TransferCard, TransferData


class Kept(Transfer):
    """z = z_s(θ): no upgrade at all.

    Every image passes through the old model. The accuracy is that of the source, with which every
    other option must be compared.
    """

    card = TransferCard(
        name="kept",
        title="Old model kept",
        paper="",
        access={"old model"},
        summary="The old model answers; the new one does nothing.",
    )

    def image_input(self, method: Method, target: Backbone) -> ImageInput:
        """Return features for every method, because none is attached to the target."""
        return FEATURES

    def attach(
        self, method: Method, module: Module, target: Backbone, labels: Labels, data: TransferData
    ) -> Classifier:
        def classify(_: Tensor, old: OldAnswers) -> Tensor:
            return old.logits

        return classify  # type: ignore[return-value]
