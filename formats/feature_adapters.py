"""CLIP-Adapter and TaskRes: trainers of Dassl that save modules which act on features."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.method import Module
from compatbench.method.format import Converted, Import, OtherOrder

from ._shared.dassl import Dassl, Part

# The least cosine of text features that differ only by half precision.
LIKE = 0.99


class CLIPAdapter(Dassl):
    """gaopengcuhk/CLIP-Adapter, clip_adapter.py; its code has the ``ratio`` 0.2."""

    name = method = "clip_adapter"
    parts: ClassVar = {"down": Part("fc.0.weight", "h e"), "up": Part("fc.2.weight", "e h")}
    unlike = ("adapter_", "prompt_learner.")

    def config(self, module: Module) -> dict[str, Any]:
        hidden, size = module["down"].shape
        return {"reduction": max(1, size // hidden)}


class TaskRes(Dassl):
    """geekyutao/TaskRes, trainers/taskres.py; not its enhanced base, which is another classifier.

    The text features beside the residuals identify the classes, the source and the templates.
    """

    name = method = "taskres"
    parts: ClassVar = {"residual": Part("text_feature_residuals", "C e")}
    needs: ClassVar = {"alpha": "RESIDUAL_SCALE of the training, mostly 0.5"}
    base: ClassVar = "base_text_features"

    def read(self, imported: Import) -> Converted:
        converted = super().read(imported)
        if self.base not in imported.file.tensors:
            return converted
        names = imported.labels.names
        theirs = F.normalize(imported.take(self.base, "C e"), dim=-1)
        # The file does not name its templates: those are chosen whose texts are most like its own.
        best_least = -2.0
        cosines = theirs
        chosen = "first"
        for choice, templates in _choices(imported.labels.templates).items():
            ours = _mean_texts(imported, templates)
            least = float((theirs @ ours.T).amax(-1).min())
            if least > best_least:
                best_least = least
                cosines = theirs @ ours.T
                chosen = choice
        nearest = cosines.argmax(-1)
        wrong = nearest != torch.arange(len(names), device=nearest.device)
        has_wrong = bool(wrong.any())
        if best_least < LIKE or has_wrong:
            # The first wrong class, or else the one whose text is least like ours.
            label = int(cosines.diagonal().argmin())
            if has_wrong:
                label = int(wrong.int().argmax())
            cosine = float(cosines[label, label])
            nearest_name = names[nearest[label]]
            error = imported.error(
                f"has in '{self.base}' another text than ours for class {label}, '{names[label]}' "
                f"(cosine {cosine:.3f}; most like '{nearest_name}'): "
                "give the source and the task, in their order, that it was trained for; an "
                "enhanced base is not imported"
            )
            order = nearest.tolist()
            if best_least >= LIKE and len(set(order)) == len(names):
                raise OtherOrder(str(error), order)
            raise error
        return converted._replace(config={"templates": chosen}, confirmed=True)


def _mean_texts(imported: Import, templates: tuple[str, ...]) -> Tensor:
    """Return text features averaged over templates, normalised afterwards, ``[C, e]``."""
    texts = []
    for template in templates:
        texts.append(imported.backbone.text_features(imported.labels.fill(template)))
    return F.normalize(torch.stack(texts).mean(0), dim=-1)


def _choices(templates: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Return a task's templates under each value of the method's setting ``templates``."""
    if len(templates) == 1:
        return {"first": templates}
    return {"first": templates[:1], "all": templates, "rest": templates[1:]}
