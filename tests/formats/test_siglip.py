"""Adapters that PEFT trained on transformers' SiglipModel give the logits of the adapted model."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from backbone.loading_models import write_tokenizer
from safetensors.torch import save_file

from compatbench.backbone import Backbone, Labels, load_backbone
from compatbench.method import convert
from compatbench.method.registry import builtin_methods

transformers = pytest.importorskip("transformers")
LABELS = Labels(("dog", "red apple", "tree"), ("a photo of a {}.",), "a photo of a {}.")
SIZES = dict(hidden_size=32, intermediate_size=48, num_attention_heads=2)
TEXT = SIZES | dict(vocab_size=16, num_hidden_layers=3, max_position_embeddings=20)
TEXT |= dict(projection_size=32, pad_token_id=2, eos_token_id=3)
VISION = SIZES | dict(num_hidden_layers=2, image_size=64, patch_size=16)
PROCESSOR = dict(size={"height": 64, "width": 64}, do_center_crop=False, resample=3)
PROCESSOR |= dict(image_mean=[0.5] * 3, image_std=[0.5] * 3, rescale_factor=1 / 255)
PLACES = {
    "peft": ["text_model.encoder.layers.1.self_attn.q_proj",
             "vision_model.encoder.layers.0.self_attn.v_proj"],
    "peft_layers": ["text_model.encoder.layers.2.mlp.fc1",
                    "vision_model.encoder.layers.1.self_attn.out_proj"],
}  # fmt: skip


def write_siglip(folder: Path) -> Any:
    torch.manual_seed(1)
    model = transformers.SiglipModel(
        transformers.SiglipConfig(text_config=TEXT, vision_config=VISION)
    )
    model.save_pretrained(folder)
    write_tokenizer(folder, "siglip")
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return model.eval()


@pytest.mark.parametrize("kind", PLACES)
def test_peft_adapter_of_siglip_gives_its_own_logits(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_siglip(tmp_path / "siglip")
    tuned = copy.deepcopy(model)
    tensors = {}
    for path in PLACES[kind]:
        weight = tuned.get_submodule(path).weight
        a = 0.3 * torch.randn(4, weight.shape[1])
        b = 0.3 * torch.randn(len(weight), 4)
        weight.data += 2 * b @ a
        for letter, factor in (("A", a), ("B", b)):
            tensors[f"base_model.model.{path}.lora_{letter}.weight"] = factor
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_file(tensors, adapter / "adapter_model.safetensors", {"format": "pt"})
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "lora_alpha": 8}')
    monkeypatch.setattr(convert, "task_labels", lambda name: LABELS)
    source = f"hf:{tmp_path / 'siglip'}"
    module = convert.import_module("auto", adapter, "things", source, device="cpu")
    assert module.about["imported"]["format"] == kind
    backbone: Backbone = load_backbone(source)
    method_class: Any = builtin_methods().get(module.about["method"])
    method = method_class(method_class.Config.model_validate(module.about["config"]))
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        tokens = method.image_input(backbone)
        classifier = method.attach(module, backbone, LABELS)
        logits = classifier(backbone.encode_images(images, tokens))
        ids = backbone.tokenizer(list(LABELS.fill()))
        texts = tuned.get_text_features(input_ids=ids).pooler_output
        features = tuned.get_image_features(pixel_values=images).pooler_output
        cosines = F.normalize(features, dim=-1) @ F.normalize(texts, dim=-1).T
    expected = backbone.logit_scale * cosines
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)
