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
    """Makes the architectures known to open_clip."""
    folder = tmp_path_factory.mktemp("configs")
    for name, config in CONFIGS.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


@pytest.fixture
def no_weights_here(small_models: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights of this machine, no network, and the made-up releases."""
    for model, tags in RELEASES.items():
        monkeypatch.setitem(pretrained._PRETRAINED, model, tags)
    folders = {"HF_HOME": "hf", "HOME": "home", "COMPATBENCH_CACHE": "cache"}
    for variable, folder in (folders | {"COMPATBENCH_WEIGHTS": "weights"}).items():
        monkeypatch.setenv(variable, str(tmp_path / folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
