"""Imports for a task of five classes and a tiny source, of which no card is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compatbench.backbone import Backbone, Labels
from compatbench.method import Module, convert

Importer = Callable[..., Module]


@pytest.fixture
def sources(clip64: Backbone, clip: Backbone, stranger: Backbone) -> dict[str, Backbone]:
    return {"clip64": clip64, "clip": clip, "stranger": stranger}


@pytest.fixture
def import_for_test(
    monkeypatch: pytest.MonkeyPatch, sources: dict[str, Backbone], labels: Labels
) -> Importer:
    """Imports a file for the task of the fixture ``labels``."""
    monkeypatch.setattr(convert, "load_backbone", lambda name, device: sources[name])
    monkeypatch.setattr(convert, "task_labels", lambda name: labels)

    def import_file(kind: str, path: Path, source: str = "clip64", **more: Any) -> Module:
        classes, settings = more.pop("classes", None), more
        return convert.import_checkpoint(kind, path, "things", source, settings, classes)

    return import_file
