"""The table of models' sizes is what its program makes of the architectures."""

from __future__ import annotations

import pytest
from model_sizes import measure_architecture

from compatbench.engine.model_size import measure_model


@pytest.mark.parametrize("name", ["mini-clip", "mini-eva-clip", "vit-b16-openai", "eva02-b16"])
def test_the_table_has_the_sizes_of_the_architectures(name: str) -> None:
    config = {"vit-b16-openai": "ViT-B-16", "eva02-b16": "EVA02-B-16"}.get(name, name)
    assert measure_model(name) == measure_architecture(config)
