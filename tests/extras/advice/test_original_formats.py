"""Advice on models in the files that their authors publish: small ones of the same layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import transformers
from backbone.loading_models import CONFIGS, write_tokenizer
from data.trees import load_again
from formats.files_of_authors import save_coop
from notebooks import write_photos
from safetensors.torch import save_file
from tiny_models import randomise

import compatbench as cb
from compatbench.backbone import load_backbone


def write_siglip(folder: Path) -> None:
    """Write a small model as transformers' ``save_pretrained`` does, with its processor."""
    torch.manual_seed(1)
    sizes = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
    text = sizes | dict(vocab_size=16, max_position_embeddings=20, projection_size=32)
    config = transformers.SiglipConfig(
        text_config=text | dict(pad_token_id=2, eos_token_id=3),
        vision_config=sizes | dict(image_size=64, patch_size=16),
    )
    transformers.SiglipModel(config).save_pretrained(folder)
    write_tokenizer(folder, "siglip")
    processor = dict(size={"height": 64, "width": 64}, do_center_crop=False, resample=3)
    processor |= dict(image_mean=[0.5] * 3, image_std=[0.5] * 3, rescale_factor=1 / 255)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Return a CLIP with the layout of ViT-B/16, and a SigLIP in transformers' format."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMPATBENCH_CARDS", "")
    config: dict[str, Any] = CONFIGS["Small"] | {"quick_gelu": True}
    config["text_cfg"] = config["text_cfg"] | {"width": 32}
    settings = {"model_cfg": config, "preprocess_cfg": {}}
    folder = tmp_path / "clip"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    model = randomise(open_clip.model.CLIP(**config), 1)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors", {"format": "pt"})
    write_siglip(tmp_path / "siglip2")
    load_again()
    return f"local-dir:{folder}", f"hf:{tmp_path / 'siglip2'}"


@pytest.mark.filterwarnings("ignore:.*:compatbench.errors.CompatbenchWarning")
def test_clip_checkpoint_is_judged_on_siglip_2(models: tuple[str, str]) -> None:
    source, target = models
    names = write_photos(Path("photos"))
    save_coop(Path("output"), load_backbone(source), names)
    advice = cb.advise("photos", module="output", source=source, target=target)
    options = advice.options.set_index("option")
    assert options.loc[["old model", "zero-shot", "copied"], "accuracy"].between(0, 100).all()
    assert str(advice).startswith(f"{target}: ")
    assert advice.targets["tokens"].isna().all()  # only the model's own files have it


@pytest.mark.slow
def test_methods_are_trained_on_clip_and_retrained_on_siglip_2(models: tuple[str, str]) -> None:
    source, target = models
    write_photos(Path("photos"))
    advice = cb.advise(
        "photos", source=source, target=target, methods="tip_adapter", labels=1, progress=False
    )
    options = advice.options.set_index("option")
    assert options.loc["copied", "reason"]  # its keys have another width
    assert options.loc["retrained+1", "accuracy"] >= 0
    assert list(Path("photos-modules").glob("tip_adapter*"))
