"""Parts of prompt learning: where the name stands, and a teacher."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from compatbench.backbone.text.prompts import Prompts, move_names
from compatbench.errors import CompatbenchError
from compatbench.method import Backbone, CosineClassifier, Labels
from compatbench.method.trained import Batch

Position = Literal["end", "middle", "front"]


def arrange(backbone: Backbone, labels: Labels, context: Tensor, position: Position) -> Prompts:
    """Prompts with the names at a position of a context ``[M, D]`` or ``[C, M, D]``."""
    prompts = backbone.prompts(labels, context)
    if position == "end":
        return prompts
    length = context.shape[-2]
    before = length // 2 if position == "middle" else 0
    return move_names(prompts, backbone.name_tokens(labels)[1], length, before)


def draw_context(
    backbone: Backbone, length: int, words: str | None, whose: str, rng: torch.Generator
) -> Tensor:
    """A context ``[N, D]``: the embeddings of N words, or without words N(0, 0.02²).

    Raises:
        CompatbenchError: the words are not N tokens.
    """
    if words is None:
        return torch.randn(length, backbone.token_width, generator=rng) * 0.02
    context = backbone.embed_text(words)
    if len(context) != length:
        raise CompatbenchError(
            f"method '{whose}': context_words '{words}' are {len(context)} tokens, but "
            f"context_length is {length}"
        )
    return context


def teacher_distance(
    classifier: CosineClassifier, batch: Batch, template: str | None = None
) -> Tensor:
    """1 − mean cosine between learned and hand-written text features.

    The template of these is by default the task's for teachers.
    """
    labels = batch.labels
    teacher = batch.backbone.zero_shot(labels, template or labels.teacher_template)
    return 1 - (classifier.weights * teacher).sum(-1).mean()
