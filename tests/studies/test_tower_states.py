"""What lies between the layers equals what the models' own blocks compute, and nothing is lost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from open_clip.model import CLIP
from tiny_models import image_config, randomise, text_config, wrap
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.errors import CompatbenchError
from compatbench.studies.tower_states import image_layers, text_layers

TEXTS = ("a photo of a dog.", "a photo of a red apple.", "a photo of a hippopotamus.")


def test_text_layers_go_from_input_to_the_text_feature(backbone: Backbone) -> None:
    layers = text_layers(backbone, TEXTS)
    blocks = [f"block {i + 1}" for i in range(backbone.text.depth)]
    assert [layer.name for layer in layers] == ["input", *blocks, "output"]
    assert torch.equal(layers[-1].rows, backbone.text_features(TEXTS))
    # Padding counts nowhere, and hooks are gone afterwards.
    assert len(layers[1].rows) == sum(backbone.text_prompts(TEXTS).lengths)
    assert not any(module._forward_hooks for module in backbone.model.modules())
    assert not any(module._forward_pre_hooks for module in backbone.model.modules())


def test_text_states_are_those_of_one_text_run_block_by_block(backbone: Backbone) -> None:
    model: Any = backbone.model
    tower = getattr(model, "text", model)
    layers = text_layers(backbone, TEXTS)
    shared = backbone.text_prompts(TEXTS).shared
    for i, text in enumerate(TEXTS):
        ids = [
            backbone.tokenizer.sot_token_id,
            *backbone.tokens(text),
            backbone.tokenizer.eot_token_id,
        ]
        x = tower.token_embedding(torch.tensor([ids])) + tower.positional_embedding[: len(ids)]
        mask = torch.full((len(ids), len(ids)), -torch.inf).triu(1)
        for layer, block in zip(layers, [None, *tower.transformer.resblocks], strict=False):
            x = x if block is None else block(x, attn_mask=mask)
            own = layer.states[i, : layer.counts[i]]
            torch.testing.assert_close(own, x[0, shared:], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(layer.means[i], own.mean(0))


def test_image_states_are_what_the_models_own_blocks_give(backbone: Backbone) -> None:
    visual: Any = backbone.model.visual
    size = backbone.preprocess_settings["size"]
    images = torch.randn(35, 3, size, size, generator=torch.Generator().manual_seed(1))
    blocks = visual.trunk.blocks if hasattr(visual, "trunk") else visual.transformer.resblocks
    seen: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda _, __, out: seen.append(out)) for block in blocks]
    features = visual(images)
    for hook in hooks:
        hook.remove()
    layers = image_layers(backbone, list(images))
    for layer, own in zip(layers[1:], [*seen, features[:, None]], strict=True):
        torch.testing.assert_close(layer.states, own, atol=1e-4, rtol=1e-4)


def test_every_parameter_belongs_to_one_layer(backbone: Backbone) -> None:
    model: Any = backbone.model
    size = backbone.preprocess_settings["size"]
    images = image_layers(backbone, [torch.zeros(3, size, size)])
    texts = text_layers(backbone, TEXTS)
    total = sum(p.numel() for name, p in model.named_parameters() if name != "logit_scale")
    found = [t.numel() for layer in (*texts, *images) for t in layer.weights.values()]
    assert sum(found) == total
    assert {"token_embedding", "positional_embedding"} == set(texts[0].weights)
    assert "ln_final.weight" in texts[-1].weights
    assert any("norm" in name or "ln_post" in name for name in images[-1].weights)
    assert not any("norm.weight" in name for name in images[0].weights)


def test_a_text_that_is_too_long_is_refused(clip: Backbone) -> None:
    with pytest.raises(CompatbenchError, match="does not fit"):
        text_layers(clip, (*TEXTS, "a photo of " + "many " * 40))


def test_a_bidirectional_tower_is_opened_too() -> None:
    text = text_config(no_causal_mask=True, pool_type="last")
    odd = wrap(randomise(CLIP(16, image_config(), text), 1), "last-pooled")  # type: ignore[arg-type]
    odd.model.visual.preprocess_cfg = dict(size=24, mean=(0.5,) * 3, std=(0.25,) * 3)  # type: ignore[assignment, union-attr]
    layers = text_layers(odd, TEXTS)
    torch.testing.assert_close(layers[-1].rows, odd.text_features(TEXTS))
    assert len(layers) == odd.text.depth + 2
