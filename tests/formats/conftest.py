"""Imports for a task of five classes and a tiny source, of which no card is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from image_reference import draw_images
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import Module, convert
from compatbench.method.registry import builtin_methods


@dataclass(frozen=True)
class Desk:
    """A folder, and a source and a task for the files in it."""

    folder: Path
    backbone: Backbone
    labels: Labels

    @property
    def images(self) -> Tensor:
        """Three random images, ``[3, channels, h, w]``."""
        return draw_images(self.backbone, 3)

    def import_file(
        self, kind: str, path: Path, source: str = "clip64", classes: Any = None, **settings: Any
    ) -> Module:
        """The module of a file."""
        how = {"settings": settings, "classes": classes}
        return convert.import_module(kind, path, "things", source, **how)

    def logits(self, module: Module) -> Tensor:
        """Of the images, by the method of the module on its source."""
        cls: Any = builtin_methods().get(module.about["method"])
        method = cls(cls.Config.model_validate(module.about["config"]))
        inputs = self.backbone.encode_images(self.images, method.image_input(self.backbone))
        with torch.no_grad():
            return method.attach(module, self.backbone, self.labels)(inputs)


@pytest.fixture
def desk(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    clip64: Backbone,
    eva64: Backbone,
    stranger: Backbone,
    labels: Labels,
) -> Desk:
    sources = {"clip64": clip64, "eva64": eva64, "stranger": stranger}
    monkeypatch.setattr(convert, "load_backbone", lambda name, device: sources[name])
    monkeypatch.setattr(convert, "task_labels", lambda name: labels)
    return Desk(tmp_path, clip64, labels)
