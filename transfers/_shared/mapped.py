"""Transfers whose modules are shown the target's image features in other coordinates."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import Classifier, Method, Module
from compatbench.method.transfer import Transfer, TransferData, attach_rotated

# Normalised features of the target ``[batch, e_t]`` to features of the source ``[batch, e_s]``.
Map = Callable[[Tensor], Tensor]


class MappedTransfer(Transfer):
    """The module sees ‖f‖ · g(f / ‖f‖) for an image with the features f, with a map g.

    Texts are turned by a rotation ``[e_s, e_t]``, which keeps their angles. A map that is no
    rotation would change the target's own zero-shot classifier. So a method that contains
    zero-shot, by its card, has the difference between that of f and that of g(f) added, and at
    zero it is the target's zero-shot.
    """

    def find_map(self, data: TransferData) -> tuple[Tensor, Map]:
        """The rotation, float64, and the map."""
        raise NotImplementedError

    def attach(
        self, method: Method, module: Module, target: Backbone, labels: Labels, data: TransferData
    ) -> Classifier:
        rotation, seen = self.find_map(data)

        def see(features: Tensor) -> Tensor:
            lengths = features.norm(dim=-1, keepdim=True).clamp_min(1e-12)
            return lengths * seen(features / lengths).to(features)

        classify = attach_rotated(method, module, target, labels, rotation, see)
        if not method.card.zero_shot_at:
            return classify
        weights = target.zero_shot(labels)
        turned = F.normalize(weights @ rotation.T.to(weights), dim=-1)

        def with_own_zero_shot(features: Tensor) -> Tensor:
            zero_shot = F.normalize(features, dim=-1) @ weights.T
            replaced = F.normalize(see(features), dim=-1) @ turned.T
            return classify(features) + target.logit_scale * (zero_shot - replaced)

        return with_own_zero_shot


def linear(matrix: Tensor, bias: Tensor | float = 0.0) -> Map:
    """f ↦ f M + b in double precision, for ``M`` ``[e_t, e_s]``."""
    return lambda features: features.to(matrix) @ matrix + bias
