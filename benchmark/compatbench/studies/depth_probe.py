"""The depth probe: a method, not ranked, with a small module for any depth of the text tower."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from compatbench.backbone.text.anatomy import Anatomy, examine
from compatbench.backbone.text.tower import PlainTower
from compatbench.method import (
    Backbone,
    CosineClassifier,
    FewShotData,
    Labels,
    MethodCard,
    Module,
    NotTransferable,
    require_shape,
)
from compatbench.method.trained import Recipe, TrainedMethod
from compatbench.studies.tower_states import text_states

Shift = Callable[[Tensor], Tensor]  # of rows ``[..., D]``
RATES = (3e-3, 1e-2, 3e-2, 1e-1)
MOST_ROWS = 8192  # that go through the blocks at once, with all that their gradient needs


class DepthProbe(TrainedMethod):
    """x ← x + b, or x ← x + xAB, of every row x, at one place of the text tower.

    Depth 0 is what enters the first block, depth i what leaves block i, and depth L + 1, of
    L blocks, what leaves the last norm, before the projection. All places have the tower's
    width D, so the module has the same number of parameters at each: D for the bias b, 2rD
    for the map, A ``[D, r]`` drawn from U(±1/√D), B ``[r, D]`` from zero. At zero the
    classifier is zero-shot, with the task's first template.

    States grow with depth, so that one learning rate is not the same step everywhere: each
    of ``rates`` is tried with the same draws, and the one with the highest accuracy on the
    few-shot validation images is kept; the smallest one if several are equal. Recipe: AdamW
    without weight decay, batch 32, a cosine over steps.
    """

    card = MethodCard(
        name="depth_probe",
        title="Depth probe",
        paper="arXiv:2412.20895",
        inserts="text-layers",
        summary="a bias or a low-rank map at one depth of the text tower",
        zero_shot_at={"bias": 0.0},
        excused={
            "place": "it runs the blocks of the text tower itself, which the check cannot see",
            "turned-space": "the same: what it computes there is not in the turned space",
        },
    )

    class Config(TrainedMethod.Config):
        recipe: Recipe = Recipe(
            optimizer="adamw", weight_decay=0.0, warmup_epochs=0, schedule="cosine-step"
        )
        kind: Literal["bias", "map"] = "bias"
        depth: Annotated[int, Field(ge=0)] = 0
        rank: PositiveInt = 2
        rates: tuple[PositiveFloat, ...] = Field(RATES, min_length=1)

    config: Config

    def __init__(self, config: BaseModel | None = None) -> None:
        super().__init__(config)
        # What the frozen tower computes before the module's place; the same at every step.
        self._frozen: dict[tuple[Backbone, tuple[str, ...]], Tensor] = {}

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        width = backbone.text.width
        if self.config.kind == "bias":
            return Module(trained={"bias": torch.zeros(width, device=backbone.device)})
        down = (2 * torch.rand(width, self.config.rank, generator=rng) - 1) / math.sqrt(width)
        up = torch.zeros(self.config.rank, width)
        return Module(trained={"down": down.to(backbone.device), "up": up.to(backbone.device)})

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        """Fits at every rate and keeps the one that does best on the validation images.

        The module has the ``rate``. Without validation images, the first is taken.
        """
        state = rng.get_state()
        fitted: dict[float, Module] = {}
        right: dict[float, int] = {}
        rates = sorted(self.config.rates if len(data.val) else self.config.rates[:1])
        for rate in rates:
            rng.set_state(state)
            recipe = self.config.recipe.model_copy(update={"lr": rate})
            probe = DepthProbe(self.config.model_copy(update={"recipe": recipe}))
            probe._frozen = self._frozen
            module = super(DepthProbe, probe).fit(backbone, data, rng)
            fixed = {"rate": torch.tensor(rate, dtype=torch.float64)}
            fitted[rate] = Module(module.trained, fixed)
            if len(rates) > 1:
                with torch.no_grad():
                    logits = self.attach(module, backbone, data.labels)(data.val.plain)
                right[rate] = int((logits.argmax(-1) == data.val.targets).sum())
        return fitted[max(rates, key=lambda rate: right.get(rate, 0))]

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> CosineClassifier:
        for name in ("bias", "down"):
            if name in module.trained:
                dim = -1 if name == "bias" else 0
                require_shape(module, name, backbone.text.width, "text tokens of width", dim=dim)
        anatomy = examine(backbone.model, backbone.name)
        if self.config.depth > len(anatomy.blocks) + 1:
            raise NotTransferable(
                f"the module was made for text towers of {self.config.depth - 1} blocks or more, "
                f"not {len(anatomy.blocks)}"
            )
        features = self._encode(anatomy, backbone, labels, partial(_shift, module.trained))
        return CosineClassifier(features, backbone.logit_scale)

    def _encode(self, anatomy: Anatomy, backbone: Backbone, labels: Labels, shift: Shift) -> Tensor:
        """Text features with the module in its place, not normalised, ``[C, e]``."""
        texts, depth, blocks = labels.fill(), self.config.depth, anatomy.blocks
        prompts = backbone.text_prompts(texts)
        prompts.check_fits(backbone.text.context_length, backbone.text.depth)
        if not anatomy.sees_past_only or len(texts) * prompts.longest > MOST_ROWS:
            # PlainTower knows every kind of tower, and keeps within the memory budget.
            tower = PlainTower(insert(anatomy, depth, shift), learned=torch.is_grad_enabled())
            return tower.encode(prompts.to(anatomy.positions.dtype)).to(prompts.prefix.dtype)
        if (backbone, texts) not in self._frozen:
            self._frozen[backbone, texts] = text_states(backbone, texts)[min(depth, len(blocks))]
        x = self._frozen[backbone, texts][:, : prompts.longest]
        assert anatomy.mask is not None
        mask = anatomy.mask[: x.shape[1], : x.shape[1]]
        x = shift(x) if depth <= len(blocks) else x
        for block in blocks[depth:]:
            x = block(x, attn_mask=mask)
        last = torch.tensor(prompts.lengths, device=x.device) + prompts.shared - 1
        rows = anatomy.ln_final(x[torch.arange(len(x), device=x.device), last])
        features = anatomy.project(shift(rows) if depth > len(blocks) else rows)
        return features.to(prompts.prefix.dtype)


def _shift(trained: Mapping[str, Tensor], x: Tensor) -> Tensor:
    trained = {name: tensor.to(x.dtype) for name, tensor in trained.items()}
    if "bias" in trained:
        return x + trained["bias"]
    return x + x @ trained["down"] @ trained["up"]


class _Shifted(nn.Module):
    """A block, or norm, with a function of the rows that enter it, or else of those that leave."""

    def __init__(self, block: nn.Module, shift: Shift, *, first: bool) -> None:
        super().__init__()
        self._block, self._shift, self._first = block, shift, first

    def forward(self, x: Tensor, **options: Tensor | None) -> Tensor:
        if self._first:
            return self._block(self._shift(x), **options)
        return self._shift(self._block(x, **options))


def insert(anatomy: Anatomy, depth: int, shift: Shift) -> Anatomy:
    """The same tower with a function of its rows ``[..., D]`` inserted at a depth."""
    parts = [*anatomy.blocks, anatomy.ln_final]
    place = max(depth - 1, 0)
    parts[place] = _Shifted(parts[place], shift, first=depth == 0)
    return dataclasses.replace(anatomy, blocks=tuple(parts[:-1]), ln_final=parts[-1])
