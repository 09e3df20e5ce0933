"""The paper's pair, with random weights, from the files that people have of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from loading_models import alone, same_weights, small_models  # noqa: F401
from test_formats import eva_names, half, save_torchscript

from compatbench.backbone import load_backbone
from compatbench.backbone.backbone_report import inspect_backbone


@pytest.mark.slow
def test_openais_archive_and_evas_own_file_give_the_papers_pair(tmp_path: Path) -> None:
    """ViT-B/16 from float16 TorchScript, EVA02-B/16 from its authors' names."""
    weights = tmp_path / "weights"
    weights.mkdir()
    for name, config, file in (
        ("vit-b16-openai", "ViT-B-16-quickgelu", "ViT-B-16.pt"),
        ("eva02-b16", "EVA02-B-16", "EVA02_CLIP_B_psz16_s8B.pt"),
    ):
        torch.manual_seed(3)
        model: Any = open_clip.create_model(config).eval()
        if config.startswith("EVA"):
            torch.save(eva_names(model.state_dict()), weights / file)
        else:
            state = half(model.state_dict())
            model.load_state_dict(state)
            # Not the published file: its hash would be held against OpenAI's.
            save_torchscript(state, weights / f"{name}.pt")
        backbone = load_backbone(name)
        assert same_weights(backbone.model, model)
        image = torch.randn(1, 3, 224, 224)
        with torch.no_grad():
            text = model.encode_text(backbone.tokenizer(["a photo of a dog."]))
            torch.testing.assert_close(backbone.encode_images(image), model.encode_image(image))
        found = backbone.text_features(("a photo of a dog.",))
        torch.testing.assert_close(found, text, rtol=1e-4, atol=1e-5)
        report = inspect_backbone(name)
        assert (report.state, report.token_width, report.embed_dim) == ("found", 512, 512)
        del model, backbone
