"""CLIP-Adapter and TaskRes: trainers of Dassl that save what acts on features."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from compatbench.method import Module
from compatbench.method.format import Converted, Import

from ._shared.dassl import Dassl, Part

LIKE = 0.99  # cosine of text features that are the same but for half precision


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

    The text features beside the residuals tell classes, source and templates.
    """

    name = method = "taskres"
    parts: ClassVar = {"residual": Part("text_feature_residuals", "C e")}
    needs: ClassVar = {"alpha": "RESIDUAL_SCALE of the training, mostly 0.5"}
    base: ClassVar = "base_text_features"

    def read(self, imported: Import) -> Converted:
        converted = super().read(imported)
        if self.base not in imported.file.tensors:
            return converted
        theirs = F.normalize(imported.take(self.base, "C e"), dim=-1)
        best, cosines, chosen = -2.0, theirs, "first"
        for which, templates in _choices(imported.labels.templates).items():
            filled = [imported.labels.fill(template) for template in templates]
            texts = [imported.backbone.text_features(each) for each in filled]
            ours = F.normalize(torch.stack(texts).mean(0), dim=-1)
            if (least := float((theirs * ours).sum(-1).min())) > best:
                best, cosines, chosen = least, theirs @ ours.T, which
        likest, names = cosines.argmax(-1), imported.labels.names
        wrong = likest != torch.arange(len(names), device=likest.device)
        if best < LIKE or bool(wrong.any()):
            label = int(cosines.diagonal().argmin() if not wrong.any() else wrong.int().argmax())
            raise imported.error(
                f"has in '{self.base}' another text than ours for class {label}, '{names[label]}' "
                f"(cosine {float(cosines[label, label]):.3f}; most like '{names[likest[label]]}'): "
                "give the source and the task, in their order, that it was trained for; an "
                "enhanced base is not imported"
            )
        return converted._replace(config={"templates": chosen}, confirmed=True)


def _choices(templates: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The templates that the method's setting ``templates`` can mean."""
    if len(templates) == 1:
        return {"first": templates}
    return {"first": templates[:1], "all": templates, "rest": templates[1:]}
