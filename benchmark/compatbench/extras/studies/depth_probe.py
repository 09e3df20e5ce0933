"""The depth probe: a method, not ranked, with a small module for any depth of the text tower."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, Field, PositiveFloat, PositiveInt
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from compatbench.backbone.text.text_anatomy import examine_text_tower
from compatbench.extras.studies.tower_states import text_states
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

RATES = (3e-3, 1e-2, 3e-2, 1e-1)
MOST_ROWS = 8192  # of more, what gradients need is computed again, block by block


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
        fitted, right = {}, {}
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
        anatomy, depth, texts = (
            examine_text_tower(backbone.model, backbone.name),
            self.config.depth,
            labels.fill(),
        )
        blocks = anatomy.blocks
        if depth > len(blocks) + 1:
            raise NotTransferable(
                f"the module was made for text towers of {depth - 1} blocks or more, "
                f"not {len(blocks)}"
            )
        if not anatomy.sees_past_only or anatomy.mask is None:
            raise NotTransferable("the text tower sees what comes after the text")
        if (backbone, texts) not in self._frozen:
            self._frozen[backbone, texts] = text_states(backbone, texts)[min(depth, len(blocks))]
        prompts = backbone.text_prompts(texts)
        x = self._frozen[backbone, texts][:, : prompts.longest]
        mask = anatomy.mask[: x.shape[1], : x.shape[1]]
        if depth <= len(blocks):
            x = _shift(module, x)
        for block in blocks[depth:]:
            if x[..., 0].numel() > MOST_ROWS:
                x = checkpoint(block, x, attn_mask=mask, use_reentrant=False)
            else:
                x = block(x, attn_mask=mask)
        last = torch.tensor(prompts.lengths, device=x.device) + prompts.shared - 1
        rows = anatomy.ln_final(x[torch.arange(len(x), device=x.device), last])
        features = anatomy.project(_shift(module, rows) if depth > len(blocks) else rows)
        return CosineClassifier(features.to(prompts.prefix.dtype), backbone.logit_scale)


def _shift(module: Module, x: Tensor) -> Tensor:
    trained = {name: tensor.to(x.dtype) for name, tensor in module.trained.items()}
    if "bias" in trained:
        return x + trained["bias"]
    return x + x @ trained["down"] @ trained["up"]
