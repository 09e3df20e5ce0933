"""Transfers that map the target's image features into the source's space for the module."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import Classifier, Method, Module
from compatbench.method.transfer import Transfer, TransferData, attach_rotated

# From normalised features of the target ``[batch, e_t]`` to the source's ``[batch, e_s]``.
Map = Callable[[Tensor], Tensor]


class MappedTransfer(Transfer):
    """The module sees ‖f‖ · g(f / ‖f‖) for an image with the features f, with a map g.

    A rotation ``[e_s, e_t]``, which keeps angles, turns the texts. If the map is no rotation, it
    would change the target's own zero-shot classifier. Therefore, if a method contains zero-shot
    by its card, its logits are corrected by the difference between zero-shot on f and on g(f). At
    its zero point the method is then the target's zero-shot.
    """

    def find_map(self, data: TransferData) -> tuple[Tensor, Map]:
        """Return the rotation ``[e_s, e_t]`` in float64, and the map."""
        raise NotImplementedError

    def attach(
        self, method: Method, module: Module, target: Backbone, labels: Labels, data: TransferData
    ) -> Classifier:
        rotation, map_features = self.find_map(data)

        def map_with_length(features: Tensor) -> Tensor:
            lengths = features.norm(dim=-1, keepdim=True).clamp_min(1e-12)
            return lengths * map_features(features / lengths).to(features)

        classify = attach_rotated(method, module, target, labels, rotation, map_with_length)
        if not method.card.zero_shot_at:
            return classify
        weights = target.zero_shot(labels)
        rotated_weights = F.normalize(weights @ rotation.T.to(weights), dim=-1)

        def with_own_zero_shot(features: Tensor) -> Tensor:
            zero_shot = F.normalize(features, dim=-1) @ weights.T
            mapped = F.normalize(map_with_length(features), dim=-1)
            mapped_zero_shot = mapped @ rotated_weights.T
            return classify(features) + target.logit_scale * (zero_shot - mapped_zero_shot)

        return with_own_zero_shot


def linear(matrix: Tensor, bias: Tensor | float = 0.0) -> Map:
    """Return the map f ↦ f M + b in the precision of M ``[e_t, e_s]``."""
    return lambda features: features.to(matrix) @ matrix + bias
