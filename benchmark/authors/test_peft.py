"""LoRA by PEFT on CLIPModel classifies alike when imported, and PEFT loads what is exported.

The tests are skipped unless the package ``peft`` is installed, with ``accelerate``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import assert_alike, fill, import_file
from torch import Tensor
from whole_fits import Problem, difference, pose

from compatbench.method import convert

peft: Any = pytest.importorskip("peft")

# Names of weights in transformers, by those in OpenAI's checkpoints.
BLOCK = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
AROUND = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
    "logit_scale": "logit_scale",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "visual.proj": "visual_projection.weight",
}


def rename(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of transformers that an OpenAI weight holds."""
    if name in AROUND:
        is_transposed = name in ("text_projection", "visual.proj")
        yield AROUND[name], tensor.T if is_transposed else tensor
        return
    before, _, inner = name.partition("transformer.resblocks.")
    number, _, place = inner.partition(".")
    layer = f"{'vision' if before else 'text'}_model.encoder.layers.{number}"
    part, _, kind = place.rpartition(".")
    if kind.startswith("in_proj_"):
        for letter, own in zip("qkv", tensor.chunk(3), strict=True):
            yield f"{layer}.self_attn.{letter}_proj.{kind.removeprefix('in_proj_')}", own
    else:
        yield f"{layer}.{BLOCK[part]}.{kind}", tensor


def build(problem: Problem) -> Any:
    """Return a CLIPModel of transformers with the problem's weights."""
    from transformers import CLIPConfig, CLIPModel

    sizes: Any = dict(hidden_size=128, intermediate_size=512, num_hidden_layers=3)
    sizes |= dict(num_attention_heads=2, hidden_act="quick_gelu", projection_dim=32)
    image = sizes | dict(image_size=24, patch_size=12)
    text = sizes | dict(vocab_size=49408, max_position_embeddings=77, eos_token_id=49407)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=image, projection_dim=32))
    weights: dict[str, Tensor] = {}
    for name, tensor in problem.weights.items():
        weights.update(rename(name, tensor))
    model.double().load_state_dict(weights)
    return model.eval()


@torch.no_grad()
def classify(model: Any, problem: Problem) -> Tensor:
    """Return the logits of the queries by transformers' model."""
    ids = problem.backbone.tokenizer(list(problem.labels.fill()))
    return model(input_ids=ids, pixel_values=problem.queries).logits_per_image


@pytest.mark.parametrize(
    ("settings", "goes_back"),
    [
        (dict(target_modules=["q_proj", "k_proj", "v_proj"]), True),
        (
            dict(
                target_modules=r".*text_model.*\.(q|v)_proj",
                use_rslora=True,
                rank_pattern={r"layers.2.self_attn.v_proj": 2},
                alpha_pattern={r"layers.2.self_attn.v_proj": 6},
            ),
            True,
        ),
        # Modules of ours cannot be exported to these layers.
        (dict(target_modules="all-linear"), False),
        (dict(target_modules=["out_proj"]), False),
        (
            dict(target_modules=r".*vision_model.*\.(q_proj|fc1|fc2)", rank_pattern={"fc2": 2}),
            False,
        ),
    ],
)
def test_adapters_classify_alike_and_go_back(
    settings: dict[str, Any], goes_back: bool, tmp_path: Path
) -> None:
    problem = pose()
    assert difference({"": classify(build(problem), problem)}, {"": zero_shot(problem)}) < 1e-9
    model = peft.get_peft_model(build(problem), peft.LoraConfig(r=4, lora_alpha=8, **settings))
    fill([p for p in model.parameters() if p.requires_grad], 0.1, 5)
    model.save_pretrained(str(tmp_path / "adapter"))
    module = import_file("auto", tmp_path / "adapter", problem)
    logits = classify(model.eval(), problem)
    assert difference({"": logits}, {"": zero_shot(problem)}) > 1e-3
    assert_alike(module, problem, logits)
    if goes_back:
        convert.export_module("peft", module, tmp_path / "back", dtype="float32")
        again = import_file("peft", tmp_path / "back", problem)
        loaded = peft.PeftModel.from_pretrained(build(problem), str(tmp_path / "back"))
        assert_alike(again, problem, classify(loaded.eval(), problem))


def zero_shot(problem: Problem) -> Tensor:
    """Return the zero-shot logits of the queries."""
    backbone = problem.backbone
    features = torch.nn.functional.normalize(backbone.encode_images(problem.queries), dim=-1)
    return backbone.logit_scale * features @ backbone.zero_shot(problem.labels).T
