"""Steps ``target`` and ``anew``: make the upgraded models the way EVA-CLIP was made.

First the image tower learns to predict the source's patch features at masked
patches. Then both towers train contrastively on more data, the text tower from the
source's weights and at half the learning rate. Further targets (``upgrades.py``) may come from
another source, or be trained to stay compatible with their source.
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
from .training import Ahead, OldTexts, Recipe, contrast, draw_images, step_rng

DISTILLATION = Recipe(seed=1, steps=350, rate=1.5e-3)
#: The contrastive training of each kind of target.
CONTRASTIVE = {
    towers.TARGET: Recipe(seed=1, steps=1400, text_factor=0.5),
    towers.ANEW: Recipe(seed=4, steps=1600, text_factor=0.5),
}
MASKED_SHARE = 0.4


@dataclass(frozen=True)
class Plan:
    """The training of a target: its source, its recipes, and where its files go.

    Attributes:
        kind: The target of this kind that ships; decides the sets and how the target starts.
        source: Name of the source; decides the target's widths.
        source_weights: The file of its weights.
        distilled: Folder of the distillation's checkpoint, which targets of both kinds share.
        checkpoints: Folder of the checkpoint of the contrastive training.
        weights: Where the target's weights go.
        facts: Where steps, losses and times go.
        distillation: The recipe of the distillation.
        contrastive: The recipe of the contrastive training.
        anchoring: As of ``OldTexts``, with the source as the old model.
        compatible: As of ``OldTexts``.
    """

    kind: str
    source: str
    source_weights: Path
    distilled: Path
    checkpoints: Path
    weights: Path
    facts: Path
    distillation: Recipe
    contrastive: Recipe
    anchoring: float = 0.0
    compatible: bool = False

    def with_old_texts(self, teacher: towers.Model) -> OldTexts | None:
        """Return what the source adds to the loss of the contrastive training, if anything."""
        if not self.anchoring and not self.compatible:
            return None
        return OldTexts(teacher, self.anchoring, self.compatible)


class MaskedPredictor(nn.Module):
    """Predict a teacher's patch features where a student's patches are masked.

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
        """Predict patch features.

        Args:
            images: Normalised, float [B, 3, 48, 48].
            masked: bool [B, patches], True where the student sees nothing.

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
    """Train the target model: distillation of the source, then contrastive training."""
    train(work, _plan_shipped(work, towers.TARGET))


def train_anew(work: Path) -> None:
    """Train a second target, with a new embedding space.

    The distilled image tower and the source's text tower are the same as the target's,
    but the text projection starts from random weights, as the image projection does.
    """
    train(work, _plan_shipped(work, towers.ANEW))


def _plan_shipped(work: Path, kind: str) -> Plan:
    return Plan(
        kind,
        towers.SOURCE,
        source_weights=towers.trained_path(work, towers.SOURCE),
        distilled=work / "distilled",
        checkpoints=work / kind,
        weights=towers.trained_path(work, kind),
        facts=towers.facts_path(work, kind),
        distillation=DISTILLATION,
        contrastive=CONTRASTIVE[kind],
    )


def train(work: Path, plan: Plan) -> None:
    """Train a target unless its weights are there; resume from checkpoints."""
    if plan.weights.exists():
        return
    teacher = towers.load(plan.source, plan.source_weights)
    # Both targets are distilled from the same start, so the second finds it done.
    torch.manual_seed(plan.distillation.seed)
    model = towers.create(towers.TARGET_CONFIGS[plan.source]).train()
    corpus = load_corpus(work, *towers.PRETRAINING[plan.kind])
    inherit_text_tower(model, teacher)
    distillation = distil(plan.distilled, model, teacher, corpus, plan.distillation)
    if plan.kind == towers.ANEW:
        forget_projections(model, plan.contrastive.seed)
    old = plan.with_old_texts(teacher)
    contrastive = contrast(plan.checkpoints, "contrastive", model, corpus, plan.contrastive, old)
    write_facts(plan.facts, distillation=distillation, contrastive=contrastive)
    # Weights come last, because their presence means that the training has ended.
    towers.save(model, plan.weights)


def inherit_text_tower(model: towers.Model, teacher: towers.Model) -> None:
    """Copy the source's text tower, projection and temperature into the target."""
    own, other = text_tower(model), text_tower(teacher)
    for part in ("token_embedding", "transformer", "ln_final"):
        getattr(own, part).load_state_dict(getattr(other, part).state_dict())
    with torch.no_grad():
        own.positional_embedding.copy_(other.positional_embedding)
        own.text_projection.copy_(other.text_projection)
        model.logit_scale.copy_(teacher.logit_scale)


def forget_projections(model: towers.Model, seed: int) -> None:
    """Set both projections into the embedding space to random weights."""
    torch.manual_seed(seed)
    projection = text_tower(model).text_projection
    nn.init.normal_(projection, std=projection.shape[0] ** -0.5)
    model.visual.trunk.head.reset_parameters()


def distil(
    folder: Path, model: towers.Model, teacher: towers.Model, corpus: Corpus, recipe: Recipe
) -> Stage:
    """Train the model's image tower to predict the teacher's features of masked patches."""
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
