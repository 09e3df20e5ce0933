"""Whether a checkpoint is of these classes and this source: its own token embeddings tell.

Prompt learners save the embeddings of what stands behind their context: the class name, the words
around it, the full stop and end-of-text. They are compared with the prompts that the method makes
of the imported module on the source.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.backbone.text.prompts import Prompts
from compatbench.method import Method, Module
from compatbench.method.format import Import


class _Prompted(Exception):
    """Carries the prompts that a method was about to encode."""


class _Recorder:
    """A backbone that encodes no prompts."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def encode_prompts(self, prompts: Prompts, *_: Any, **__: Any) -> Tensor:
        raise _Prompted(prompts)


# By which share of its length a row may differ after a weighted mean over epochs, in units of the
# file's precision: measured are 0.5 to 1.6 over 20 and 50 epochs of any weights. Rows of another
# word differ by about 1.4 lengths.
MEAN_ERROR = 2


def check_class_names(
    imported: Import, key: str, method: Method, module: Module, averaged: bool = False
) -> bool:
    """Compares the rows ``[C, S, D]`` under a key; False if the file has none.

    Names that a few classes spell differently are noted.

    Args:
        averaged: they went through a mean over epochs, whose sums were rounded; others are equal
            bit by bit.

    Raises:
        CompatbenchError: the rows are of another source, other classes or another order of them.
    """
    rows = imported.file.tensors.get(key)
    if rows is None:
        return False
    width, most = imported.backbone.token_width, imported.backbone.text.context_length
    imported.take(key, "C S D")
    behind = _behind_context(imported, method, module, most - rows.shape[1])
    # The file may hold them in half precision.
    wanted = [each.to(rows.dtype) for each in behind]
    allowed = MEAN_ERROR * torch.finfo(rows.dtype).eps * averaged

    def is_of(label: int, each: Tensor) -> bool:
        error = (rows[label, : len(each)].float() - each.float()).norm(dim=-1)
        return bool((error <= allowed * each.float().norm(dim=-1)).all())

    wrong = [label for label, each in enumerate(wanted) if not is_of(label, each)]
    if not wrong:
        return True
    names, end = imported.labels.names, wanted[0][-1].float()
    errors = (rows.reshape(-1, width).float() - end).norm(dim=-1)
    if not bool((errors <= allowed * end.norm()).any()):
        raise imported.error(
            f"holds in '{key}' no token embeddings of '{imported.backbone.name}'; give the source "
            "that it was trained on"
        )
    for label in wrong:
        for other, each in enumerate(wanted):
            if is_of(label, each):
                raise imported.error(
                    f"has '{names[other]}' as class {label} in '{key}', where the task has "
                    f"'{names[label]}': give the task, or the classes, in the order of the file"
                )
    if 2 * len(wrong) > len(names):
        raise imported.error(
            f"has other words behind the context in '{key}' than '{names[wrong[0]]}': give the "
            "task that it was trained for, or the words that are not learned, such as --set "
            "context_words='a photo of a', --set template='person doing {}.' or --set teacher="
        )
    listed = ", ".join(f"'{names[label]}'" for label in wrong[:5])
    imported.notes.append(f"the file has other words for {len(wrong)} classes: {listed}")
    return True


def _behind_context(imported: Import, method: Method, module: Module, before: int) -> list[Tensor]:
    """What the method puts behind start-of-text and context, of each class ``[n, D]``.

    Args:
        before: rows that the file leaves to start-of-text and context.
    """
    backbone, labels = imported.backbone, imported.labels
    fields = type(method.config).model_fields
    if "position" in fields:  # the file has the name behind the context, wherever it is put
        method = type(method)(method.config.model_copy(update={"position": "end"}))
    prompts = _prompts_of(method, module, backbone, labels)
    prefix = prompts.prefixes[0]
    wholes = [
        torch.cat([prefix, rows[:length]])
        for rows, length in zip(prompts.suffix, prompts.lengths, strict=True)
    ]
    context = _context_rows(method, module, imported)
    if before != prompts.start + context:
        raise imported.error(
            f"leaves {before} tokens to start-of-text and context, and the context has {context}; "
            f"'{backbone.name}' reads {backbone.text.context_length}: give the source that it was "
            "trained on"
        )
    return [whole[before:] for whole in wholes]


def _context_rows(method: Method, module: Module, imported: Import) -> int:
    rows = method.contexts(module, imported.backbone, imported.labels)
    rows = (
        module.trained.get("context", module.trained.get("text_prompts")) if rows is None else rows
    )
    assert rows is not None
    return rows.shape[-2]


def _prompts_of(method: Method, module: Module, backbone: Backbone, labels: Labels) -> Prompts:
    recorder: Any = _Recorder(backbone)
    try:
        classifier = method.attach(module, recorder, labels)
        # Prompts of its own for every image.
        classifier(torch.ones(1, backbone.embed_dim, device=backbone.device, dtype=backbone.dtype))
    except _Prompted as stopped:
        return stopped.args[0]
    raise AssertionError(f"method '{method.card.name}' encodes no prompts")
