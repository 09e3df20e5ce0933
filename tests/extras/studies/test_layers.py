"""The states of layers equal those of the models' own blocks, and only moved layers differ."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tiny_models import tiny_clip, wrap
from torch import Tensor, nn

from compatbench.backbone import Backbone
from compatbench.data.task import load_task
from compatbench.errors import CompatbenchError
from compatbench.extras.studies.layers import LayersReport, compare_layers, draw_images
from compatbench.extras.studies.tower_states import image_layers, text_layers
from compatbench.tables.table import records

TASKS = [load_task("mini-weather"), load_task("mini-food")]
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

    # The states are those of one text run block by block.
    model: Any = backbone.model
    tower = getattr(model, "text", model)
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
            own = layer.rows.split(layer.counts.tolist())[i]
            torch.testing.assert_close(own, x[0, shared:], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(layer.means[i], own.mean(0))


def test_image_states_equal_those_of_the_models_own_blocks(backbone: Backbone) -> None:
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
        torch.testing.assert_close(layer.rows, own.flatten(0, 1), atol=1e-4, rtol=1e-4)


def test_every_parameter_belongs_to_one_layer(backbone: Backbone) -> None:
    model: Any = backbone.model
    size = backbone.preprocess_settings["size"]
    images = image_layers(backbone, [torch.zeros(3, size, size)])
    texts = text_layers(backbone, TEXTS)
    total = sum(p.numel() for name, p in model.named_parameters() if name != "logit_scale")
    found = 0
    for layer in (*texts, *images):
        found += sum(tensor.numel() for tensor in layer.weights.values())
    assert found == total
    assert {"token_embedding", "positional_embedding"} == set(texts[0].weights)
    assert "ln_final.weight" in texts[-1].weights
    assert any("norm" in name or "ln_post" in name for name in images[-1].weights)
    assert not any("norm.weight" in name for name in images[0].weights)


def analyze(source: Backbone, target: Backbone) -> LayersReport:
    return compare_layers(source, target, TASKS, images=12)


def by_layer(report: LayersReport, tower: str, field: str) -> dict[str, Any]:
    return {one["layer"]: one[field] for one in records(report.changes) if one["tower"] == tower}


def test_a_backbone_has_not_moved_from_itself(backbone: Backbone) -> None:
    report = analyze(backbone, backbone)
    assert report.notes == ()
    assert report.changes["compared"].equals(report.changes["parameters"])
    assert not report.changes[["parameter_change", "feature_change"]].any(axis=None)
    assert all(value == pytest.approx(1) for value in report.changes["cka"].dropna())
    assert report.texts == sum(len(task.labels) for task in TASKS)
    assert report.images == 12
    assert b"text tower" in (report.svg() or b"")


def test_a_moved_layer_changes_its_parameters_and_all_features_after_it(clip: Backbone) -> None:
    name = "transformer.resblocks.1.mlp.c_proj.bias"
    model = copy.deepcopy(clip.model)
    with torch.no_grad():
        model.get_parameter(name).add_(0.1)
    report = analyze(clip, wrap(model, "moved"))
    changes = by_layer(report, "text", "parameter_change")
    layer = clip.model.transformer.resblocks[1]  # type: ignore[union-attr, index]
    size = clip.text.width
    count = sum(p.numel() for p in layer.parameters())
    assert changes == pytest.approx(dict.fromkeys(changes, 0) | {"block 2": 0.1 * size / count})
    relative = by_layer(report, "text", "parameter_relative")["block 2"]
    old = torch.cat([p.flatten() for p in layer.parameters()]).abs().sum()
    assert relative == pytest.approx(0.1 * size / float(old), rel=1e-4)
    features = by_layer(report, "text", "feature_change")
    assert features["input"] == features["block 1"] == 0
    assert features["block 2"] == pytest.approx(0.1, rel=1e-4)
    assert features["block 3"] > 0
    assert features["output"] > 0
    # CKA ignores a shift of all rows until a layer that is not linear follows.
    ckas = by_layer(report, "text", "cka")
    assert ckas["block 2"] == pytest.approx(1, abs=1e-5)
    assert ckas["output"] < 1
    assert set(by_layer(report, "image", "feature_change").values()) == {0}


def test_towers_of_two_kinds_have_no_parameters_in_common(clip: Backbone, eva: Backbone) -> None:
    report = analyze(clip, eva)
    assert set(by_layer(report, "image", "parameter_change").values()) == {None}
    assert all(value is not None for value in by_layer(report, "text", "parameter_change").values())
    notes = report.markdown()
    assert "image towers: no parameters of the same name and shape in input, blocks 1 to 2" in notes
    assert "image towers have 2 and 6 blocks" in notes
    pairs = by_layer(report, "image", "target_layer")
    assert [*pairs.values()] == ["input", "block 3", "block 6", "output"]


def test_towers_of_other_widths_and_depths_are_compared_by_features_or_cka(
    clip: Backbone, wider_text: Backbone
) -> None:
    report = analyze(clip, wider_text)
    *inner, output = by_layer(report, "text", "feature_change").values()
    assert set(inner) == {None}
    assert output is not None  # the joint space is as large as before
    assert None not in by_layer(report, "text", "cka").values()
    assert any("other shapes, in input, blocks 1 to 3" in note for note in report.notes)
    report = analyze(clip, wrap(tiny_clip(seed=4, layers=6), "deeper"))
    pairs = by_layer(report, "text", "target_layer")
    assert [*pairs.values()] == ["input", "block 2", "block 4", "block 6", "output"]
    changes = by_layer(report, "text", "parameter_change")
    assert changes["block 2"] is None
    assert changes["input"] is not None
    assert any("3 and 6 blocks" in note for note in report.notes)


def test_an_unknown_image_tower_is_left_out_with_a_note(clip: Backbone) -> None:
    odd = wrap(copy.deepcopy(clip.model), "odd")
    odd.model.visual = nn.Identity()
    odd.model.visual.preprocess_cfg = clip.preprocess_settings  # type: ignore[assignment]
    report = analyze(clip, odd)
    assert set(report.changes["tower"]) == {"text"}
    assert report.images == 0
    assert "'Identity' is not a transformer of CLIP's" in report.notes[-1]


def test_too_few_or_too_long_prompts_are_refused(
    clip: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = copy.copy(TASKS[0])
    monkeypatch.setattr(task, "labels", type(task.labels)(("a", "b"), ("{}.",), "{}."))
    with pytest.raises(CompatbenchError, match="four prompts or more; the tasks have 2"):
        compare_layers(clip, clip, [task])
    with pytest.raises(CompatbenchError, match="does not fit"):
        text_layers(clip, (*TEXTS, "a photo of " + "many " * 40))


def test_both_backbones_get_the_same_images_drawn_evenly(clip: Backbone) -> None:
    first = torch.stack(draw_images(TASKS, 5, seed=1)(clip))
    again = torch.stack(draw_images(TASKS, 5, seed=1)(clip))
    other = torch.stack(draw_images(TASKS, 5, seed=2)(clip))
    assert len(first) == len(other) == 5
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    everything = draw_images(TASKS, 100_000, seed=1)(clip)
    assert len(everything) == sum(len(task.split("test")) for task in TASKS)
