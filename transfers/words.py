"""The transfer ``words``: words show how the target's embedding space is rotated."""

from __future__ import annotations

from compatbench.backbone import Backbone, Labels
from compatbench.backbone.joint_maps import find_rotation
from compatbench.method import Classifier, Method, MethodCard, MethodConfig, Module
from compatbench.method.transfer import (
    JOINT_SPACE,
    Transfer,
    TransferCard,
    TransferData,
    attach_rotated,
)


class Words(Transfer):
    """Attaches a module in the coordinates of its source.

    The module and the method stay as they are. The target is rotated instead: with R found from
    the features of one list of words on both backbones, the method gets text and image features
    times Rᵀ; see ``RotatedBackbone``. Neither images nor anything else of the task is used.

    R is found from centred features, and with ``raw`` from features as they are; means are not
    moved.
    """

    card = TransferCard(
        name="words",
        title="Turned by words",
        paper="",
        access={"words"},
        summary="The target's embedding space is rotated into the source's, as words show.",
        settings={"raw": {"centred": False}},
    )

    class Config(MethodConfig):
        centred: bool = True

    def serves(self, method: MethodCard) -> bool:
        """Return True if part of the module is written in the coordinates of the embedding space.

        A method that reads words itself turns it on its own.
        """
        return not JOINT_SPACE.isdisjoint(method.places) and "words" not in method.needs

    def attach(
        self, method: Method, module: Module, target: Backbone, labels: Labels, data: TransferData
    ) -> Classifier:
        rotation = find_rotation(*data.words, centred=self.config.centred)
        if rotation is None:
            return method.attach(module, target, labels)
        return attach_rotated(method, module, target, labels, rotation.rotation)
