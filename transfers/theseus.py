"""Theseus: low-rank updates in the target's coordinates, found from activations of both models."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from pydantic import PositiveInt
from torch import Tensor

from compatbench.backbone import Backbone, BlockUpdates, Labels
from compatbench.backbone.parts.blocks import PROJECTIONS, Part, Update
from compatbench.errors import NotTransferable
from compatbench.method import Method, MethodConfig, Module, Rows
from compatbench.method.transfer import TransferCard, TransferData

from ._shared.weights import WeightTransfer, low_rank_towers, turn_updates

BATCH = 32


class Theseus(WeightTransfer):
    """ΔW becomes T_outᵀ ΔW T_in, with T = U Vᵀ of Xᵀ Y = U S Vᵀ.

    Rinaldi et al., *Transporting Task Vectors across Different Architectures without Training*,
    with the authors' code, merge-and-rebase. X and Y are rows of the source and of the target for
    the same tokens, not centred: inputs of a projection for T_in, its outputs for T_out. The
    image tower reads the first ``images`` of the task's own without labels, in the plain view
    (theirs: ten batches of 32). The text tower reads the task's prompts, in which rows that all
    prompts share count once. Widths may differ. Tokens and depths may not; their code
    interpolates them. They scale an update by the factor that is best on a validation set; here
    it keeps its size.
    """

    card = TransferCard(
        name="theseus",
        title="Theseus",
        paper="arXiv:2602.12952",
        access={"unlabelled", "source weights"},
        summary="Low-rank updates are turned by the activations of both models on the same images.",
        takes={"text-layers", "image-layers"},
    )

    class Config(MethodConfig):
        images: PositiveInt = 320

    def carry(
        self, method: Method, module: Module, target: Backbone, labels: Labels, data: TransferData
    ) -> Module:
        images = data.unlabelled
        old = Side(data.source, images.source, images.old_inputs)  # type: ignore[arg-type]
        new = Side(target, images.target, images.inputs)
        answers = images.old.logits.argmax(-1)
        turns = {}
        for kind in low_rank_towers(module):
            depth = len(module[f"{kind}_a"])
            old_depth = getattr(old.model, kind).depth
            new_depth = getattr(new.model, kind).depth
            if not depth == old_depth == new_depth:
                raise NotTransferable(f"the {kind} towers differ in depth, so no blocks match")
            # Xᵀ Y, summed over batches.
            inputs = torch.zeros(())
            outputs = torch.zeros(())
            rows = torch.arange(min(len(answers), self.config.images), device=answers.device)
            for batch in rows.split(BATCH):
                old_seen = self.observe(kind, old, labels, batch, answers)
                new_seen = self.observe(kind, new, labels, batch, answers)
                inputs = inputs + product(old_seen.inputs, new_seen.inputs)
                outputs = outputs + product(old_seen.outputs, new_seen.outputs)
                if not self.sees_images(kind):
                    break
            turns[kind] = (procrustes(inputs), procrustes(outputs))
        return turn_updates(module, turns)

    def sees_images(self, kind: str) -> bool:
        """Return True if the rows observed in a tower depend on the images."""
        return kind == "image"

    def observe(
        self, kind: str, side: Side, labels: Labels, rows: Tensor, answers: Tensor
    ) -> Activations:
        """Run a model's tower, and return the inputs and outputs of its projections.

        Args:
            kind: ``text`` or ``image``.
            rows: numbers of the images, ``[batch]``.
            answers: the module's answers on the source for all images.
        """
        seen = Activations(getattr(side.model, kind).depth)
        side.run(kind, labels, rows, seen.updates)
        return seen


@dataclass(frozen=True)
class Side:
    """One of the two models, and its features and inputs of the unlabelled images."""

    model: Backbone
    features: Tensor
    inputs: Rows

    def run(self, kind: str, labels: Labels, rows: Tensor, updates: BlockUpdates) -> Tensor:
        """Return features of the task's prompts, or of the images with the numbers ``rows``."""
        if kind == "image":
            return self.model.image.encode(self.inputs[rows], block_updates=updates)
        prompts = self.model.text_prompts(labels.fill())
        return self.model.encode_prompts(prompts, block_updates=updates)


class Activations:
    """Rows that enter and leave a tower's projections while a batch passes through it.

    Attributes:
        inputs, outputs: rows ``[n, d]`` in parts, for q, k and v of each block in turn.
        updates: for the tower's run; they record rows and change nothing.
    """

    def __init__(self, depth: int) -> None:
        self.inputs: list[list[Tensor]] = []
        self.outputs: list[list[Tensor]] = []
        updates: dict[tuple[int, Part], Update] = {}
        for block in range(depth):
            for part in PROJECTIONS:
                updates[block, part] = partial(self.watch, len(self.inputs))
                self.inputs.append([])
                self.outputs.append([])
        self.updates = updates

    def watch(self, number: int, output: Tensor, rows: Tensor) -> Tensor:
        """Record the rows of a projection, counted over blocks and parts; return its output."""
        self.inputs[number].append(rows)
        self.outputs[number].append(output)
        return output


def product(old: list[list[Tensor]], new: list[list[Tensor]]) -> Tensor:
    """Return Xᵀ Y of the rows of both models, ``[blocks, 3, d_s, d_t]``, float64.

    Raises:
        NotTransferable: the models have different numbers of rows.
    """
    products = []
    for old_parts, new_parts in zip(old, new, strict=True):
        x = torch.cat([rows.detach().flatten(0, -2) for rows in old_parts])
        y = torch.cat([rows.detach().flatten(0, -2) for rows in new_parts])
        if len(x) != len(y):
            raise NotTransferable("the towers differ in tokens, so no rows match")
        products.append(x.double().T @ y.double())
    return torch.stack(products).unflatten(0, (-1, len(PROJECTIONS)))


def procrustes(products: Tensor) -> Tensor:
    """Return U Vᵀ of each U S Vᵀ, ``[..., d_s, d_t]``."""
    u, _, v = torch.linalg.svd(products, full_matrices=False)
    return u @ v
