"""BiCo: Theseus with the coordinates of a projection's outputs found from gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor

from compatbench.backbone import Labels
from compatbench.method import CosineClassifier, MethodConfig
from compatbench.method.transfer import TransferCard

from .theseus import Activations, Side, Theseus


class BiCo(Theseus):
    """ΔW becomes R_outᵀ ΔW R_in, with R_in as T_in of Theseus, and R_out from gradients.

    Bilinear coordinate alignment, from the repository of Theseus; no paper about it is known.
    R_out is found as T_out is, but from rows of ∂L/∂y in place of a projection's outputs y. L is
    the cross-entropy of zero-shot on each model. The authors take true labels; here the labels
    are the module's answers on the source, so no labels are needed. Images are the first
    ``images`` (theirs: five batches of 32), also for the text tower.
    """

    card = TransferCard(
        name="bico",
        title="BiCo",
        paper="",
        access={"unlabelled", "source weights"},
        summary="Low-rank updates are turned by activations and gradients of both models.",
        takes={"text-layers", "image-layers"},
    )

    class Config(MethodConfig):
        images: PositiveInt = 160

    def sees_images(self, kind: str) -> bool:
        # The gradients depend on the images in both towers.
        return True

    @torch.enable_grad()
    def observe(
        self, kind: str, side: Side, labels: Labels, rows: Tensor, answers: Tensor
    ) -> Activations:
        gradients = Gradients(getattr(side.model, kind).depth)
        encoded = side.run(kind, labels, rows, gradients.updates)
        if kind == "image":
            images = encoded
            texts = side.model.zero_shot(labels)
        else:
            images = side.features[rows]
            texts = encoded
        classify = CosineClassifier(texts, side.model.logit_scale)
        F.cross_entropy(classify(images), answers[rows]).backward()
        return gradients


class Gradients(Activations):
    """Rows of the inputs of a tower's projections, and of the gradients of their outputs."""

    def watch(self, number: int, output: Tensor, rows: Tensor) -> Tensor:
        self.inputs[number].append(rows)
        if not output.requires_grad:
            output = output.clone().requires_grad_()
        output.register_hook(self.outputs[number].append)
        return output
