"""Parts of prompt learning: the position of the name, the start of a context, and a teacher."""

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
    """Return prompts with the class names at a position of a context.

    Args:
        context: vectors ``[M, D]`` that all classes share, or ``[C, M, D]``.
        position: place of the name within the context.
    """
    prompts = backbone.prompts(labels, context)
    if position == "end":
        return prompts
    length = context.shape[-2]
    before = length // 2 if position == "middle" else 0
    _, name_lengths = backbone.name_tokens(labels)
    return move_names(prompts, name_lengths, length, before)


def draw_context(
    backbone: Backbone, length: int, words: str | None, method: str, rng: torch.Generator
) -> Tensor:
    """Return a context ``[length, D]``: the embeddings of words, or draws from N(0, 0.02²).

    Args:
        words: words to start at, or None to draw.
        method: name of the method, for the error message.

    Raises:
        CompatbenchError: the words are not ``length`` tokens.
    """
    if words is None:
        return torch.randn(length, backbone.token_width, generator=rng) * 0.02
    context = backbone.embed_text(words)
    if len(context) != length:
        raise CompatbenchError(
            f"method '{method}': context_words '{words}' are {len(context)} tokens, but "
            f"context_length is {length}"
        )
    return context


def teacher_distance(
    classifier: CosineClassifier, batch: Batch, template: str | None = None
) -> Tensor:
    """Return 1 − the mean cosine between learned and hand-written text features.

    The hand-written texts fill ``template``, by default the task's template for teachers.
    """
    labels = batch.labels
    teacher = batch.backbone.zero_shot(labels, template or labels.teacher_template)
    cosines = (classifier.weights * teacher).sum(-1)
    return 1 - cosines.mean()
