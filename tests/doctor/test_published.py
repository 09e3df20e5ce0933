"""Published figures: which may be held against a measurement, and whether it agrees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.backbone.load import read_backbone
from compatbench.data.cards import backbone_cards, task_cards
from compatbench.data.labels import Labels
from compatbench.data.task import Sample
from compatbench.doctor import zero_shot as module
from compatbench.doctor.published import (
    TOLERANCES,
    Figure,
    find_figures,
    published_prompts,
    read_figures,
    why_not_comparable,
)
from compatbench.doctor.zero_shot import Comparison, compare_zero_shot

CLIP = "vit-b16-openai"


def test_every_figure_is_of_a_task_and_a_release_with_cards() -> None:
    releases = {(c.config, c.tag) for c in map(backbone_cards.read, backbone_cards.names())}
    seen = set()
    for figure in read_figures():
        assert figure.task in task_cards.names()
        assert (figure.model, figure.tag) in releases
        assert 0 < figure.value < 100
        seen.add((figure.task, figure.model, figure.tag, figure.metric, figure.source))
    assert len(seen) == len(read_figures())


def test_openai_s_figures_are_those_of_quickgelu() -> None:
    figures = find_figures(read_backbone(CLIP), "imagenet")
    published = {(f.source, f.metric): f.value for f in figures}
    assert published["open_clip", "top1"] == 68.34
    assert published["CLIP_benchmark", "top1"] == 68.35
    assert not find_figures(read_backbone("vit-b16-laion2b"), "ucf101")


@pytest.mark.parametrize("task", ["imagenet", "imagenet_r", "oxford_pets", "fgvc_aircraft"])
def test_a_figure_on_the_same_images_may_be_compared(task: str) -> None:
    card, classes = read_backbone(CLIP), len(task_cards.read(task).classes)
    if task == "imagenet_r":
        classes = 200
    for figure in find_figures(card, task):
        images = task_cards.read(task).counts["test"]
        assert why_not_comparable(figure, card, images, classes) == ""


@pytest.mark.parametrize(
    "task", ["caltech101", "flowers102", "food101", "sun397", "dtd", "eurosat"]
)
def test_a_figure_on_another_split_may_not(task: str) -> None:
    card, own = read_backbone(CLIP), task_cards.read(task)
    for figure in find_figures(card, task):
        why = why_not_comparable(figure, card, own.counts["test"], len(own.classes))
        assert (why == "") == (figure.source == "OSTB")


def test_weights_of_the_user_s_own_are_compared_with_nothing() -> None:
    card = read_backbone(CLIP)
    [figure, *_] = find_figures(card, "imagenet")
    own = card.model_copy(update={"path": "/x.pt"})
    assert "file of your own" in why_not_comparable(figure, own, 50_000, 1000)
    assert why_not_comparable(figure, card, 20, 1000)
    assert why_not_comparable(figure, card, 50_000, 100)


def test_the_prompts_are_those_of_the_figures() -> None:
    assert len(published_prompts("imagenet_a", ["cat"])) == 80
    texts = published_prompts("stanford_cars", ["2012 Acura TL Sedan"])
    assert len(texts) == 8
    assert texts[0] == ("a photo of a Acura TL Sedan 2012.",)
    assert published_prompts("dtd", ["banded"]) == []
    assert all(published_prompts(task, ["x"]) for task in TOLERANCES)


RELEASE = ("ViT-B-16-quickgelu", "openai")
FIGURE = Figure("imagenet", *RELEASE, 68.34, "top1", 50_000, 1000, "open_clip")


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


class FakeTask:
    """Six images of two classes, in the place of Pets."""

    name = "oxford_pets"
    labels = Labels(("red cat", "blue dog"), ("a photo of a {}.",), "a photo of a {}.")

    def split(self, name: str) -> Sequence[Sample]:
        return [Sample(str(i), label) for i, label in enumerate((0, 0, 0, 0, 1, 1))]


def test_zero_shot_is_measured_with_each_figure_s_prompts_and_metric(
    clip: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = torch.randn(6, 16, generator=torch.Generator().manual_seed(2))
    targets = torch.tensor([0, 0, 0, 0, 1, 1])

    class FakeCache:
        def features(self, *_: object) -> Tensor:
            return features

    figures = [
        replace(FIGURE, task="oxford_pets", images=6, classes=2, metric=metric)
        for metric in ("top1", "recall")
    ]
    monkeypatch.setattr(module, "find_figures", lambda *_: figures)
    found = compare_zero_shot(clip, FakeTask(), FakeCache())  # type: ignore[arg-type]

    names = [f"a photo of a {name}, a type of pet." for name in FakeTask.labels.names]
    texts = torch.stack([clip.text_features((name,))[0] for name in names])
    right = [
        bool((F.cosine_similarity(f[None], texts).argmax() == y).item())
        for f, y in zip(features, targets, strict=True)
    ]
    assert found[0].measured == pytest.approx(100 * sum(right) / 6)
    assert found[1].measured == pytest.approx(50 * (sum(right[:4]) / 4 + sum(right[4:]) / 2))
