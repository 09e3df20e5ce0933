"""Layers that have moved, and only those, show it; shapes that differ are said so."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from tiny_models import tiny_clip, wrap
from torch import nn

from compatbench.backbone import Backbone
from compatbench.data.task import load_task
from compatbench.errors import CompatbenchError
from compatbench.pages.figures.svg import render_svg, svg_style
from compatbench.studies.layers import LayersReport, compare_layers, draw_images
from compatbench.studies.study_report import records

TASKS = [load_task("mini-weather"), load_task("mini-food")]


def analyze(source: Backbone, target: Backbone) -> LayersReport:
    return compare_layers(source, target, TASKS, images=12)


def by_layer(report: LayersReport, tower: str, field: str) -> dict[str, Any]:
    return {one["layer"]: one[field] for one in records(report.changes) if one["tower"] == tower}


def moved(source: Backbone, name: str, by: float = 0.1) -> Backbone:
    """A copy with one parameter moved by the same amount everywhere."""
    model = copy.deepcopy(source.model)
    with torch.no_grad():
        model.get_parameter(name).add_(by)
    return wrap(model, "moved")


def test_a_backbone_has_not_moved_from_itself(backbone: Backbone) -> None:
    report = analyze(backbone, backbone)
    assert report.notes == ()
    assert report.changes["compared"].equals(report.changes["parameters"])
    assert not report.changes[["parameter_change", "feature_change"]].any(axis=None)
    assert all(value == pytest.approx(1) for value in report.changes["cka"].dropna())
    assert report.texts == sum(len(task.labels) for task in TASKS)
    assert report.images == 12
    with svg_style():
        assert b"text tower" in render_svg(report.draw())


def test_what_moves_is_seen_where_it_is_and_its_effect_from_there_on(clip: Backbone) -> None:
    name = "transformer.resblocks.1.mlp.c_proj.bias"
    report = analyze(clip, moved(clip, name))
    changes = by_layer(report, "text", "parameter_change")
    layer = clip.model.transformer.resblocks[1]  # type: ignore[union-attr, index]
    size, count = clip.text.width, sum(p.numel() for p in layer.parameters())
    assert changes == pytest.approx(dict.fromkeys(changes, 0) | {"block 2": 0.1 * size / count})
    relative = by_layer(report, "text", "parameter_relative")["block 2"]
    old = torch.cat([p.flatten() for p in layer.parameters()]).abs().sum()
    assert relative == pytest.approx(0.1 * size / float(old), rel=1e-4)
    features = by_layer(report, "text", "feature_change")
    assert features["input"] == features["block 1"] == 0
    assert features["block 2"] == pytest.approx(0.1, rel=1e-4)
    assert features["block 3"] > 0
    assert features["output"] > 0
    # A shift of all rows is none to CKA, until what follows is not linear.
    ckas = by_layer(report, "text", "cka")
    assert ckas["block 2"] == pytest.approx(1, abs=1e-5)
    assert ckas["output"] < 1
    assert set(by_layer(report, "image", "feature_change").values()) == {0}


def test_towers_of_two_kinds_have_no_parameters_in_common(clip: Backbone, eva: Backbone) -> None:
    report = analyze(clip, eva)
    assert set(by_layer(report, "image", "parameter_change").values()) == {None}
    assert all(value is not None for value in by_layer(report, "text", "parameter_change").values())
    notes = "\n".join(report.notes)
    assert "image towers: no parameters of the same name and shape in input, blocks 1 to 2" in notes
    assert "image towers have 2 and 6 blocks" in notes
    pairs = by_layer(report, "image", "target_layer")
    assert [*pairs.values()] == ["input", "block 3", "block 6", "output"]


def test_other_widths_leave_cka_alone(clip: Backbone, wider_text: Backbone) -> None:
    report = analyze(clip, wider_text)
    *inner, output = by_layer(report, "text", "feature_change").values()
    assert set(inner) == {None}
    assert output is not None  # the joint space is as large as before
    assert None not in by_layer(report, "text", "cka").values()
    assert any("other shapes, in input, blocks 1 to 3" in note for note in report.notes)


def test_other_depths_are_compared_at_the_same_share_of_the_depth(clip: Backbone) -> None:
    deeper = wrap(tiny_clip(seed=4, layers=6), "deeper")
    report = analyze(clip, deeper)
    pairs = by_layer(report, "text", "target_layer")
    assert [*pairs.values()] == ["input", "block 2", "block 4", "block 6", "output"]
    changes = by_layer(report, "text", "parameter_change")
    assert changes["block 2"] is None
    assert changes["input"] is not None
    assert any("3 and 6 blocks" in note for note in report.notes)


def test_an_image_tower_that_cannot_be_opened_is_left_out_with_a_line(clip: Backbone) -> None:
    odd = wrap(copy.deepcopy(clip.model), "odd")
    odd.model.visual = nn.Identity()
    odd.model.visual.preprocess_cfg = clip.preprocess_settings  # type: ignore[assignment]
    report = analyze(clip, odd)
    assert set(report.changes["tower"]) == {"text"}
    assert report.images == 0
    assert "'Identity' is neither CLIP's nor EVA's transformer" in report.notes[-1]


def test_too_few_prompts_are_refused(clip: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    task = copy.copy(TASKS[0])
    monkeypatch.setattr(task, "labels", type(task.labels)(("a", "b"), ("{}.",), "{}."))
    with pytest.raises(CompatbenchError, match="four prompts or more; the tasks have 2"):
        compare_layers(clip, clip, [task])


def test_the_same_images_are_drawn_evenly_for_both(clip: Backbone) -> None:
    first, again = (draw_images(TASKS, 5, seed=1)(clip) for _ in range(2))
    other = draw_images(TASKS, 5, seed=2)(clip)
    assert len(first) == len(other) == 5
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    everything = draw_images(TASKS, 100_000, seed=1)(clip)
    assert len(everything) == sum(len(task.split("test")) for task in TASKS)


@pytest.mark.slow
def test_the_real_architectures_are_opened_layer_by_layer() -> None:
    """ViT-B/16 and EVA02-B/16 as open_clip builds them, with random weights."""
    import open_clip

    logging.disable(logging.WARNING)
    try:
        models = [
            open_clip.create_model(name, pretrained=None)
            for name in ("ViT-B-16-quickgelu", "EVA02-B-16")
        ]
    finally:
        logging.disable(logging.NOTSET)
    source, target = (
        wrap(model.eval().requires_grad_(False), f"b16-{i}") for i, model in enumerate(models)
    )
    report = compare_layers(source, target, TASKS[:1], images=4)
    layers = ["input", *[f"block {i}" for i in range(1, 13)], "output"]
    for tower in ("text", "image"):
        assert list(by_layer(report, tower, "cka")) == layers
        # The pair has towers of one width and one number of tokens.
        assert None not in by_layer(report, tower, "feature_change").values()
    sizes = by_layer(report, "text", "parameters")
    assert by_layer(report, "text", "compared") == sizes
    assert sum(sizes.values()) == pytest.approx(63.43e6, rel=1e-3)
    assert set(by_layer(report, "image", "compared").values()) == {0}
    assert report.notes == (
        "image towers: no parameters of the same name and shape in input, blocks 1 to 12, output",
    )
