"""The architectures and made-up releases of ``loading_models``, and a machine without weights."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
from loading_models import CONFIGS, RELEASES
from open_clip import pretrained


@pytest.fixture(scope="session")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Add the architectures to those of open_clip."""
    folder = tmp_path_factory.mktemp("configs")
    for name, config in CONFIGS.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


@pytest.fixture
def no_weights_here(small_models: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the weights of this machine and the network, and add the made-up releases."""
    for model, tags in RELEASES.items():
        monkeypatch.setitem(pretrained._PRETRAINED, model, tags)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COMPATBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COMPATBENCH_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
