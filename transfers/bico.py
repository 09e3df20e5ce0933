"""BiCo: as Theseus, with the coordinates of what a projection makes told by gradients."""

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

    Bilinear coordinate alignment, of the repository of Theseus; no paper of it is known. R_out is
    found as T_out is, from rows of ∂L/∂y in place of what a projection makes, y. L is zero-shot's
    cross-entropy on each model. The authors take true labels; here the labels are the module's
    answers on the source, so that none is needed. Images are the first ``images`` (theirs: five
    batches of 32), for the text tower, too.
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
        return True

    @torch.enable_grad()
    def observe(
        self, kind: str, side: Side, labels: Labels, rows: Tensor, answers: Tensor
    ) -> Activations:
        seen = Gradients(getattr(side.model, kind).depth)
        encoded = side.run(kind, labels, rows, seen.updates)
        images = encoded if kind == "image" else side.features[rows]
        texts = encoded if kind == "text" else side.model.zero_shot(labels)
        logits = CosineClassifier(texts, side.model.logit_scale)(images)
        F.cross_entropy(logits, answers[rows]).backward()
        return seen


class Gradients(Activations):
    """Activations with gradients of what projections make in its place."""

    def watch(self, number: int, output: Tensor, rows: Tensor) -> Tensor:
        self.inputs[number].append(rows)
        if not output.requires_grad:
            output = output.clone().requires_grad_()
        output.register_hook(self.outputs[number].append)
        return output
