"""A check of a checkpoint's classes and source by the token embeddings that it holds.

Prompt learners save the token embeddings behind their context: the class name, the words around
it, the full stop and end-of-text. They are compared with the prompts that the method makes from
the imported module on the source.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.backbone.text.prompts import Prompts
from compatbench.method import Method, Module
from compatbench.method.format import Import, OtherOrder


class _Prompted(Exception):
    """Carries the prompts that a method was about to encode."""


class _Recorder:
    """A backbone that raises ``_Prompted`` instead of encoding prompts."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def encode_prompts(self, prompts: Prompts, *_: Any, **__: Any) -> Tensor:
        raise _Prompted(prompts)


# The error of a row after a weighted mean over epochs, as a share of the row's length and in units
# of the file's precision. Measured errors are 0.5 to 1.6, over 20 and 50 epochs with any weights.
# Rows of another word differ by about 1.4 lengths.
MEAN_ERROR = 2


def check_class_names(
    imported: Import, key: str, method: Method, module: Module, averaged: bool = False
) -> bool:
    """Compare the rows ``[C, S, D]`` under a key with the method's prompts for the classes.

    Return True if they agree, and False if the file has no such rows. Classes whose names differ
    are noted, if they are at most half of all.

    Args:
        averaged: the rows went through a mean over epochs, whose sums were rounded. Other rows
            must be equal bit by bit.

    Raises:
        OtherOrder: the rows are of the same classes in another order.
        CompatbenchError: the rows are of another source or of other classes.
    """
    rows = imported.file.tensors.get(key)
    if rows is None:
        return False
    imported.take(key, "C S D")  # refuses other sizes
    before = imported.backbone.text.context_length - rows.shape[1]
    # The file may hold the rows in half precision.
    expected = [
        class_rows.to(rows.dtype)
        for class_rows in _behind_context(imported, method, module, before)
    ]
    tolerance = MEAN_ERROR * torch.finfo(rows.dtype).eps if averaged else 0.0

    def matches(label: int, class_rows: Tensor) -> bool:
        errors = (rows[label, : len(class_rows)].float() - class_rows.float()).norm(dim=-1)
        return bool((errors <= tolerance * class_rows.float().norm(dim=-1)).all())

    wrong = [label for label, class_rows in enumerate(expected) if not matches(label, class_rows)]
    if not wrong:
        return True
    # End-of-text is in the rows of every class. If it is nowhere, the source is another.
    names = imported.labels.names
    end = expected[0][-1].float()
    errors = (rows.flatten(0, 1).float() - end).norm(dim=-1)
    if not bool((errors <= tolerance * end.norm()).any()):
        raise imported.error(
            f"holds in '{key}' no token embeddings of '{imported.backbone.name}'; give the source "
            "that it was trained on"
        )
    for label in wrong:
        for other, class_rows in enumerate(expected):
            if matches(label, class_rows):
                error = imported.error(
                    f"has '{names[other]}' as class {label} in '{key}', where the task has "
                    f"'{names[label]}': give the task, or the classes, in the order of the file"
                )
                order = _find_order(expected, matches)
                if len(order) == len(names):
                    raise OtherOrder(str(error), order)
                raise error
    if 2 * len(wrong) > len(names):
        raise imported.error(
            f"has other words behind the context in '{key}' than '{names[wrong[0]]}': give the "
            "task that it was trained for, or the words that are not learned, such as --set "
            "context_words='a photo of a', --set template='person doing {}.' or --set teacher="
        )
    listed = ", ".join(f"'{names[label]}'" for label in wrong[:5])
    imported.notes.append(f"the file has other words for {len(wrong)} classes: {listed}")
    return True


def _find_order(expected: Sequence[Tensor], matches: Callable[[int, Tensor], bool]) -> list[int]:
    """Return the class of each label of a file; fewer numbers if a label has none."""
    order: list[int] = []
    for label in range(len(expected)):
        for other, class_rows in enumerate(expected):
            if other not in order and matches(label, class_rows):
                order.append(other)
                break
    return order


def _behind_context(imported: Import, method: Method, module: Module, before: int) -> list[Tensor]:
    """Return the method's rows behind start-of-text and context, ``[n, D]`` for each class.

    Args:
        before: the number of rows that the file leaves to start-of-text and context.

    Raises:
        CompatbenchError: start-of-text and context are another number of rows.
    """
    backbone = imported.backbone
    if "position" in type(method.config).model_fields:
        # The file has the name behind the context, whatever the position in training was.
        method = type(method)(method.config.model_copy(update={"position": "end"}))
    prompts = _record_prompts(method, module, backbone, imported.labels)
    prefix = prompts.prefixes[0]
    wholes = []
    for rows, length in zip(prompts.suffix, prompts.lengths, strict=True):
        wholes.append(torch.cat([prefix, rows[:length]]))
    context = _count_context_rows(method, module, imported)
    if before != prompts.start + context:
        raise imported.error(
            f"leaves {before} tokens to start-of-text and context, and the context has {context}; "
            f"'{backbone.name}' reads {backbone.text.context_length}: give the source that it was "
            "trained on"
        )
    return [whole[before:] for whole in wholes]


def _count_context_rows(method: Method, module: Module, imported: Import) -> int:
    """Return the number of rows of the module's context."""
    rows = method.contexts(module, imported.backbone, imported.labels)
    if rows is None:
        rows = module.trained.get("context", module.trained.get("text_prompts"))
    assert rows is not None
    return rows.shape[-2]


def _record_prompts(method: Method, module: Module, backbone: Backbone, labels: Labels) -> Prompts:
    """Return the prompts that the method encodes when it attaches or classifies."""
    recorder: Any = _Recorder(backbone)
    try:
        classifier = method.attach(module, recorder, labels)
        # Some methods encode prompts only when they see an image.
        classifier(torch.ones(1, backbone.embed_dim, device=backbone.device, dtype=backbone.dtype))
    except _Prompted as stopped:
        return stopped.args[0]
    raise AssertionError(f"method '{method.card.name}' encodes no prompts")
