"""Theseus: low-rank updates in the target's coordinates, which activations of both models tell."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from pydantic import PositiveInt
from torch import Tensor

from compatbench.backbone import Backbone, BlockUpdates, Labels
from compatbench.backbone.parts.blocks import PROJECTIONS, Part
from compatbench.errors import NotTransferable
from compatbench.method import Method, MethodConfig, Module, Rows
from compatbench.method.transfer import TransferCard, TransferData

from ._shared.weights import WeightTransfer, low_rank_towers, turn_updates

BATCH = 32


class Theseus(WeightTransfer):
    """ΔW becomes T_outᵀ ΔW T_in, with T = U Vᵀ of Xᵀ Y = U S Vᵀ.

    Rinaldi et al., *Transporting Task Vectors across Different Architectures without Training*,
    with the authors' code, merge-and-rebase. X and Y are rows of the source and of the target for
    the same tokens, not centred: for T_in what a projection is given, for T_out what it makes.
    Images are the first ``images`` of the task's own without labels, in the plain view (theirs:
    ten batches of 32); for the text tower they are the task's prompts, where rows that all share
    count once. Widths may differ; tokens and depths, which their code interpolates, may not. They
    scale an update by what is best on a validation set; here it keeps its size.
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
            if {depth} != {getattr(side.model, kind).depth for side in (old, new)}:
                raise NotTransferable(f"the {kind} towers differ in depth, so no blocks match")
            inputs, outputs = torch.zeros(()), torch.zeros(())
            rows = torch.arange(min(len(answers), self.config.images), device=answers.device)
            for batch in rows.split(BATCH):
                a, b = (self.observe(kind, side, labels, batch, answers) for side in (old, new))
                inputs, outputs = (
                    inputs + product(a.inputs, b.inputs),
                    outputs + product(a.outputs, b.outputs),
                )
                if not self.sees_images(kind):
                    break
            turns[kind] = procrustes(inputs), procrustes(outputs)
        return turn_updates(module, turns)

    def sees_images(self, kind: str) -> bool:
        """Whether what is observed in a tower depends on the images."""
        return kind == "image"

    def observe(
        self, kind: str, side: Side, labels: Labels, rows: Tensor, answers: Tensor
    ) -> Activations:
        """What the projections of a model's tower are given and make."""
        seen = Activations(getattr(side.model, kind).depth)
        side.run(kind, labels, rows, seen.updates)
        return seen


@dataclass(frozen=True)
class Side:
    """One of both models, and the unlabelled images as it sees them: features and tokens."""

    model: Backbone
    features: Tensor
    inputs: Rows

    def run(self, kind: str, labels: Labels, rows: Tensor, updates: BlockUpdates) -> Tensor:
        """Features of the task's prompts, or of some of the images."""
        if kind == "image":
            return self.model.image.encode(self.inputs[rows], block_updates=updates)
        prompts = self.model.text_prompts(labels.fill())
        return self.model.encode_prompts(prompts, block_updates=updates)


class Activations:
    """Rows that a tower's projections are given and make, as a batch passes it.

    Attributes:
        inputs, outputs: rows ``[n, d]`` in parts, for q, k and v of each block in turn.
        updates: for the tower's run; they change nothing.
    """

    def __init__(self, depth: int) -> None:
        places: list[tuple[int, Part]] = [(i, part) for i in range(depth) for part in PROJECTIONS]
        self.inputs: list[list[Tensor]] = [[] for _ in places]
        self.outputs: list[list[Tensor]] = [[] for _ in places]
        self.updates: BlockUpdates = {
            place: partial(self.watch, number) for number, place in enumerate(places)
        }

    def watch(self, number: int, output: Tensor, rows: Tensor) -> Tensor:
        self.inputs[number].append(rows)
        self.outputs[number].append(output)
        return output


def product(old: list[list[Tensor]], new: list[list[Tensor]]) -> Tensor:
    """Xᵀ Y of the rows of both models, ``[blocks, 3, d_s, d_t]``, float64.

    Raises:
        NotTransferable: there are not as many of each.
    """
    products = []
    for parts in zip(old, new, strict=True):
        x, y = (torch.cat([rows.detach().flatten(0, -2) for rows in part]) for part in parts)
        if len(x) != len(y):
            raise NotTransferable("the towers differ in tokens, so no rows match")
        products.append(x.double().T @ y.double())
    return torch.stack(products).unflatten(0, (-1, len(PROJECTIONS)))


def procrustes(products: Tensor) -> Tensor:
    """U Vᵀ of each U S Vᵀ, ``[..., d_s, d_t]``."""
    u, _, v = torch.linalg.svd(products, full_matrices=False)
    return u @ v
