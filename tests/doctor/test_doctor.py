"""What is here and what is missing; published figures, and whether a measurement agrees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import compatbench as cb
from compatbench.backbone import Backbone
from compatbench.backbone.load import read_backbone
from compatbench.data.cards import backbone_cards, task_cards
from compatbench.data.labels import Labels
from compatbench.doctor import published
from compatbench.doctor.published import (
    TOLERANCES,
    Comparison,
    Figure,
    compare_zero_shot,
    find_figures,
    published_prompts,
    read_figures,
)
from compatbench.errors import CompatbenchError

CLIP = "vit-b16-openai"


def test_every_figure_is_of_a_task_and_a_release_with_cards() -> None:
    releases = {(c.config, c.tag) for c in map(backbone_cards.read, backbone_cards.names())}
    for figure in read_figures():
        assert figure.task in task_cards.names()
        assert (figure.model, figure.tag) in releases
        assert 0 < figure.value < 100
    kinds = {(f.task, f.model, f.tag, f.metric, f.source) for f in read_figures()}
    assert len(kinds) == len(read_figures())


def test_openai_s_figures_are_those_of_quickgelu() -> None:
    figures = find_figures(read_backbone(CLIP), "imagenet")
    published = {(f.source, f.metric): f.value for f in figures}
    assert published["open_clip", "top1"] == 68.34
    assert published["CLIP_benchmark", "top1"] == 68.35
    assert not find_figures(read_backbone("vit-b16-laion2b"), "ucf101")


@pytest.mark.parametrize("task", sorted({figure.task for figure in read_figures()}))
def test_a_figure_may_be_compared_on_the_same_images_alone(task: str) -> None:
    """Of the sources, only OSTB has the splits of CoOp where these are not the dataset's own."""
    own, figures = task_cards.read(task), find_figures(read_backbone(CLIP), task)
    # A variant has the classes of ImageNet, or 200 of them.
    classes = len(own.classes) or (200 if task in ("imagenet_a", "imagenet_r") else 1000)
    assert figures
    for figure in figures:
        why = figure.why_not_comparable(read_backbone(CLIP), own.counts["test"], classes)
        assert (why == "") == (task in TOLERANCES or figure.source == "OSTB"), why


def test_weights_images_or_classes_of_another_kind_are_compared_with_nothing() -> None:
    card = read_backbone(CLIP)
    [figure, *_] = find_figures(card, "imagenet")
    own = card.model_copy(update={"path": "/x.pt"})
    assert "file of your own" in figure.why_not_comparable(own, 50_000, 1000)
    assert "test images of another split" in figure.why_not_comparable(card, 20, 1000)
    assert "over 1000 classes" in figure.why_not_comparable(card, 50_000, 100)


def test_the_prompts_are_those_of_the_figures() -> None:
    assert len(published_prompts("imagenet_a", ["cat"])) == 80
    texts = published_prompts("stanford_cars", ["2012 Acura TL Sedan"])
    assert len(texts) == 8
    assert texts[0] == ("a photo of a Acura TL Sedan 2012.",)
    assert published_prompts("dtd", ["banded"]) == []
    assert all(published_prompts(task, ["x"]) for task in TOLERANCES)


FIGURE = Figure(
    "imagenet", "ViT-B-16-quickgelu", "openai", 68.34, "top1", 50_000, 1000, "open_clip"
)


@pytest.mark.parametrize(
    ("figure", "measured", "comparable", "agrees", "failed"),
    [
        (FIGURE, 68.6, True, True, False),
        (FIGURE, 66.7, True, False, True),
        (FIGURE, 66.7, False, None, False),
        (replace(FIGURE, source="OSTB"), 66.7, True, False, False),
        (None, 66.7, False, None, False),
    ],
)
def test_only_a_figure_that_decides_can_fail(
    figure: Figure | None, measured: float, comparable: bool, agrees: bool | None, failed: bool
) -> None:
    one = Comparison("imagenet", CLIP, figure, measured, "", comparable)
    assert (one.agrees, one.failed) == (agrees, failed)


def test_zero_shot_is_measured_with_each_figure_s_prompts_and_metric(
    clip: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six images of two classes, in the place of Pets."""
    features = torch.randn(6, 16, generator=torch.Generator().manual_seed(2))
    targets = [0, 0, 0, 0, 1, 1]
    labels = Labels(("red cat", "blue dog"), ("a photo of a {}.",), "a photo of a {}.")
    samples = [SimpleNamespace(label=label) for label in targets]
    task: Any = SimpleNamespace(name="oxford_pets", labels=labels, split=lambda _: samples)
    cache: Any = SimpleNamespace(features=lambda *_: features)
    figure = replace(FIGURE, task="oxford_pets", images=6, classes=2)
    figures = [figure, replace(figure, metric="recall")]
    monkeypatch.setattr(published, "find_figures", lambda *_: figures)
    top1, recall = compare_zero_shot(clip, task, cache)

    names = [f"a photo of a {name}, a type of pet." for name in labels.names]
    texts = torch.stack([clip.text_features((name,))[0] for name in names])
    found = [int(F.cosine_similarity(f[None], texts).argmax()) for f in features]
    right = [one == label for one, label in zip(found, targets, strict=True)]
    assert top1.measured == pytest.approx(100 * sum(right) / 6)
    assert recall.measured == pytest.approx(50 * (sum(right[:4]) / 4 + sum(right[4:]) / 2))


def test_the_mini_suite_can_run_anywhere(tmp_path: Path) -> None:
    looked_at: list[str] = []
    found = cb.diagnose(out=tmp_path, progress=looked_at.append)
    assert found.ready
    assert found.suite == "mini"
    frame = found.to_frame()
    assert frame["name"].tolist() == looked_at
    assert set(frame["kind"]) == {"task", "backbone"}
    assert set(frame["state"]) == {"found"}
    assert found.machine["runs"].startswith(f"{tmp_path / 'runs'} (")


def test_what_is_missing_is_named_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMPATBENCH_DATA", raising=False)
    found = cb.diagnose(tasks="dtd", backbones=["mini-clip"])
    assert not found.ready
    [missing] = found.unusable
    assert (missing.name, missing.state) == ("dtd", "missing")
    assert "--data-root" in missing.fix
    with pytest.raises(CompatbenchError, match="did you mean dtd"):
        cb.diagnose(tasks=["dt"])
