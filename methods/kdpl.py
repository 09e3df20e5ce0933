"""KDPL: CoOp that learns a larger model's answers instead of labels.

A larger CLIP classifies the few training images zero-shot. CoOp's context is trained to give the
same probabilities, and the labels of the images are not used.
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor

from compatbench.method import CosineClassifier, MethodCard
from compatbench.method.trained import Batch, Recipe

from .coop import CoOp


class KDPL(CoOp):
    """L = ½ KL(p_T ‖ p_S) + ½ KL(p_S ‖ p_T): CoOp's context learns a teacher's probabilities.

    Mistretta et al., *Improving Zero-shot Generalization of Learned Prompts via Unsupervised
    Knowledge Distillation*, section 3.2. p_S is the prompted student's softmax and p_T that of
    the zero-shot teacher, z_T = s · cos(f_T, t_T), with the task's first template and the
    student's own factor s. The context starts at "a photo of a"; the teacher is ViT-H/14 of
    DFN-5B.
    """

    card = MethodCard(
        name="kdpl",
        title="KDPL (CoOp)",
        paper="arXiv:2407.03056",
        inserts="text-input",
        summary="CoOp taught by a larger model, without labels",
        needs={"teacher"},
        zero_shot_at={"context": "a photo of a"},
    )

    class Config(CoOp.Config):
        recipe: Recipe = Recipe(epochs=50)
        context_length: PositiveInt = 4
        context_words: str | None = "a photo of a"
        teacher: str = "vit-h14-dfn5b"

    config: Config

    def loss(self, classifier: CosineClassifier, batch: Batch) -> Tensor:
        assert batch.teacher is not None
        texts = batch.teacher.backbone.zero_shot(batch.labels)
        teacher = CosineClassifier(texts, classifier.scale)
        p = teacher(batch.teacher.features).log_softmax(-1)
        q = classifier(batch.inputs).log_softmax(-1)
        # kl_div(a, b) is KL(b ‖ a).
        divergence = partial(F.kl_div, reduction="batchmean", log_target=True)
        return (divergence(q, p) + divergence(p, q)) / 2
