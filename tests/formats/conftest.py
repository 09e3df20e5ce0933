"""Imports for a task of five classes and a tiny source, of which no card is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from compatbench.backbone import Backbone, Labels
from compatbench.method import convert

from .files_of_authors import Desk


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
