"""Steps ``target`` and ``anew``: make the upgraded models the way EVA-CLIP was made.

First the image tower learns to predict the source's patch features at masked
patches. Then both towers train contrastively on more data, the text tower from the
source's weights and at half the learning rate. Further targets (``upgrades.py``) may inherit
nothing, or be held near the source's text features.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from compatbench.backbone.text.text_anatomy import text_tower

from . import towers
from .corpus import Corpus, load_corpus
from .stage import BATCH, Stage, write_facts
from .training import Ahead, Recipe, contrast, draw_images, step_rng

DISTILLATION = Recipe(seed=1, steps=350, rate=1.5e-3)
#: The contrastive training of each kind of target.
CONTRASTIVE = {
    towers.TARGET: Recipe(seed=1, steps=1400, text_factor=0.5),
    towers.ANEW: Recipe(seed=4, steps=1600, text_factor=0.5),
    towers.APART: Recipe(seed=5, steps=1600),
}
MASKED_SHARE = 0.4


@dataclass(frozen=True)
class Plan:
    """What a target is trained from, and where its files go.

    Attributes:
        kind: The target of this kind that ships; decides sizes, sets and how it starts.
        source: Weights of the source.
        distilled: Folder of the distillation's checkpoint, which targets of both kinds share.
        checkpoints: Folder of the checkpoint of what follows.
        weights: Where the target's weights go.
        facts: Where steps, losses and times go.
        distillation: Its recipe; None if nothing is inherited, the text tower neither.
        contrastive: The recipe of what follows.
        anchoring: Weight of a penalty in what follows: the mean squared distance of a caption's
            unit features from those that the source gives it.
    """

    kind: str
    source: Path
    distilled: Path
    checkpoints: Path
    weights: Path
    facts: Path
    distillation: Recipe | None
    contrastive: Recipe
    anchoring: float = 0.0


class MaskedPredictor(nn.Module):
    """Predicts a teacher's patch features where a student's patches are masked.

    Args:
        model: The student; only its image tower is used.
        width: Width of the teacher's patch features.
    """

    def __init__(self, model: towers.Model, width: int) -> None:
        super().__init__()
        self.trunk = model.visual.trunk
        own_width = self.trunk.embed_dim
        self.mask_token = nn.Parameter(torch.randn(1, 1, own_width) * 0.02)
        self.head = nn.Linear(own_width, width)

    def forward(self, images: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        """Predicts patch features.

        Args:
            images: Normalised, float [B, 3, 48, 48].
            masked: bool [B, patches], True where the student must not see.

        Returns:
            float [B, patches, width].
        """

        def hide(_: nn.Module, __: object, patches: torch.Tensor) -> torch.Tensor:
            return torch.where(masked[..., None], self.mask_token.to(patches.dtype), patches)

        hook = self.trunk.patch_embed.register_forward_hook(hide)
        try:
            features = self.trunk.forward_features(images)
        finally:
            hook.remove()
        return self.head(features[:, self.trunk.num_prefix_tokens :])


def train_target(work: Path) -> None:
    """Trains the target model: distillation of the source, then contrastive training."""
    train(work, _plan_shipped(work, towers.TARGET))


def train_anew(work: Path) -> None:
    """Trains a second target whose joint space is its own.

    The distilled image tower and the source's text tower are the same as the target's,
    but the text projection starts from random weights, as the image projection does.
    """
    train(work, _plan_shipped(work, towers.ANEW))


def _plan_shipped(work: Path, kind: str) -> Plan:
    return Plan(
        kind,
        source=towers.trained_path(work, towers.SOURCE),
        distilled=work / "distilled",
        checkpoints=work / kind,
        weights=towers.trained_path(work, kind),
        facts=towers.facts_path(work, kind),
        distillation=DISTILLATION,
        contrastive=CONTRASTIVE[kind],
    )


def train(work: Path, plan: Plan) -> None:
    """Trains a target, unless its weights are there; goes on from checkpoints."""
    if plan.weights.exists():
        return
    teacher = towers.load(towers.SOURCE, plan.source)
    first = plan.distillation or plan.contrastive
    # Both targets are distilled from the same start, so the second finds it done.
    torch.manual_seed(first.seed)
    model = towers.create(plan.kind).train()
    corpus = load_corpus(work, *towers.PRETRAINING[plan.kind])
    stages: dict[str, Stage] = {}
    if plan.distillation is not None:
        inherit_text_tower(model, teacher)
        recipe = plan.distillation
        stages["distillation"] = distil(plan.distilled, model, teacher, corpus, recipe)
    if plan.kind == towers.ANEW:
        forget_projections(model, plan.contrastive.seed)
    anchor = (teacher, plan.anchoring) if plan.anchoring else None
    stages["contrastive"] = contrast(
        plan.checkpoints, "contrastive", model, corpus, plan.contrastive, anchor
    )
    plan.weights.parent.mkdir(parents=True, exist_ok=True)
    towers.save(model, plan.weights)
    write_facts(plan.facts, **stages)


def inherit_text_tower(model: towers.Model, teacher: towers.Model) -> None:
    """Copies the source's text tower, projection and temperature into the target."""
    own, other = text_tower(model), text_tower(teacher)
    for part in ("token_embedding", "transformer", "ln_final"):
        getattr(own, part).load_state_dict(getattr(other, part).state_dict())
    with torch.no_grad():
        own.positional_embedding.copy_(other.positional_embedding)
        own.text_projection.copy_(other.text_projection)
        model.logit_scale.copy_(teacher.logit_scale)


def forget_projections(model: towers.Model, seed: int) -> None:
    """Sets both projections into the joint space to random weights."""
    torch.manual_seed(seed)
    projection = text_tower(model).text_projection
    nn.init.normal_(projection, std=projection.shape[0] ** -0.5)
    model.visual.trunk.head.reset_parameters()


def distil(
    folder: Path, model: towers.Model, teacher: towers.Model, corpus: Corpus, recipe: Recipe
) -> Stage:
    """Masked distillation of the teacher's patch features into the model's image tower."""
    teacher.visual.output_tokens = True
    predictor = MaskedPredictor(model, teacher.visual.ln_post.normalized_shape[0])
    parameters = [p for p in predictor.parameters() if p.requires_grad]
    group = {"params": parameters, "peak": recipe.rate}
    optimiser = torch.optim.AdamW([group], betas=(0.9, 0.98), weight_decay=0.05)
    trained = {"predictor": predictor}
    stage = Stage("distillation", folder, recipe.steps, trained, [optimiser])
    patches = model.visual.trunk.patch_embed.num_patches

    def draw(step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rng = step_rng(recipe.seed, 0, step)
        images, *_ = draw_images(corpus, recipe, rng)
        masked = torch.from_numpy(rng.random((BATCH, patches)) < MASKED_SHARE)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return images, masked, teacher.visual(images)[1].float()

    drawn = Ahead(draw)

    def take_step(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        images, masked, wanted = drawn(step)
        with torch.autocast("cpu", torch.bfloat16):
            found = predictor(images, masked).float()
        similarity = F.cosine_similarity(found, wanted, dim=-1)[masked].mean()
        (1 - similarity).backward()
        return 1 - similarity.detach(), similarity.detach()

    stage.run(take_step)
    teacher.visual.output_tokens = False
    return stage
