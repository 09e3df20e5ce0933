"""A diagnosis names what is missing, and compares zero-shot accuracy with published figures."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from command_line import invoke, output_of

import compatbench as cb
from compatbench.backbone import Backbone
from compatbench.backbone.load import read_backbone
from compatbench.data.cards import task_cards
from compatbench.data.labels import Labels
from compatbench.errors import CompatbenchError
from compatbench.extras.doctor import published_zero_shot as published
from compatbench.results.published import read_published

CLIP = read_backbone("vit-b16-openai")


def test_a_release_has_the_same_published_accuracies_under_each_of_its_names() -> None:
    # OpenAI's figures are those with QuickGELU.
    figures = published.find_figures(CLIP, "imagenet")
    top1 = {
        figure["source"]: figure["accuracy"] for figure in figures if figure["metric"] == "top1"
    }
    assert (top1["open_clip"], top1["CLIP_benchmark"]) == (68.34, 68.35)
    named = published.find_figures(read_backbone("ViT-B-16-quickgelu/openai"), "imagenet")
    assert len(named) == len(figures)
    assert not published.find_figures(read_backbone("vit-b16-laion2b"), "ucf101")


@pytest.mark.parametrize(
    "task", sorted({*read_published().query("protocol == 'own prompts'")["test_set"]})
)
def test_published_accuracies_are_compared_only_on_the_same_images(task: str) -> None:
    """Only the source OSTB has the splits of CoOp where these are not the dataset's own."""
    own = task_cards.read(task)
    figures = published.find_figures(CLIP, task)
    classes = len(own.classes)
    if not classes:  # a variant, which has the classes of ImageNet or 200 of them
        classes = 200 if task in ("imagenet_a", "imagenet_r") else 1000
    assert figures
    for figure in figures:
        why = published.why_not_comparable(figure, CLIP, own.counts["test"], classes)
        assert (why == "") == (task in published.TOLERANCES or figure["source"] == "OSTB"), why


def test_figures_of_another_kind_are_not_compared_and_loose_ones_decide_nothing() -> None:
    [figure, *_] = published.find_figures(CLIP, "imagenet")
    own = CLIP.model_copy(update={"path": "/x.pt"})
    assert "file of your own" in published.why_not_comparable(figure, own, 50_000, 1000)
    assert "test images of another split" in published.why_not_comparable(figure, CLIP, 20, 1000)
    assert "over 1000 classes" in published.why_not_comparable(figure, CLIP, 50_000, 100)
    # Only a figure that decides can fail.
    assert published.judge({"accuracy": 68.34, "source": "open_clip"}, 68.6, 0.3) == "agrees"
    assert published.judge({"accuracy": 68.34, "source": "open_clip"}, 66.7, 0.3) == "disagrees"
    assert published.judge({"accuracy": 68.34, "source": "OSTB"}, 66.7, 1.0) == "differs"


def test_figures_are_measured_with_their_own_prompts() -> None:
    assert len(published.published_labels("imagenet_a", ["cat"]).templates) == 80
    cars = published.published_labels("stanford_cars", ["2012 Acura TL Sedan"])
    assert len(cars.templates) == 8
    assert cars.fill() == ("a photo of a Acura TL Sedan 2012.",)
    assert published.published_labels("dtd", ["banded"]).templates == ()
    assert all(published.published_labels(task, ["x"]).templates for task in published.TOLERANCES)


def test_zero_shot_is_measured_with_each_figure_s_prompts_and_metric(
    clip: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pets is replaced by six images of two classes."""
    features = torch.randn(6, 16, generator=torch.Generator().manual_seed(2))
    targets = [0, 0, 0, 0, 1, 1]
    labels = Labels(("red cat", "blue dog"), ("a photo of a {}.",), "a photo of a {}.")
    samples = [SimpleNamespace(label=label) for label in targets]
    task: Any = SimpleNamespace(name="oxford_pets", labels=labels, split=lambda _: samples)
    cache: Any = SimpleNamespace(features=lambda *_: features)
    figure = dict(test_set="oxford_pets", accuracy=50.0, images=6, classes=2, source="open_clip")
    figures = [figure | {"metric": metric} for metric in ("top1", "recall")]
    monkeypatch.setattr(published, "find_figures", lambda *_: figures)
    top1, recall = published.compare_zero_shot(clip, task, cache)

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
    assert found.frame["name"].tolist() == looked_at
    assert set(found.frame["kind"]) == {"task", "backbone"}
    assert set(found.frame["state"]) == {"found"}
    assert found.machine["runs"].startswith(f"{tmp_path / 'runs'} (")


def test_a_missing_task_is_named_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMPATBENCH_DATA", raising=False)
    found = cb.diagnose(tasks="dtd", backbones=["mini-clip"])
    assert not found.ready
    [missing] = found.unusable
    assert (missing.name, missing.state) == ("dtd", "missing")
    assert "--data-root" in missing.fix
    with pytest.raises(CompatbenchError, match="did you mean dtd"):
        cb.diagnose(tasks=["dt"])


def test_missing_parts_of_a_suite_are_shown_and_the_rest_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COMPATBENCH_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("extends: mini\nname: mine\ntasks: [mini-food, dtd]\n")
    shown = invoke("store doctor --suite mine.yaml")
    lines = shown.output.splitlines()
    assert (shown.exit_code, lines[0].strip()) == (1, "missing dtd")
    assert any(line.startswith("found 1 task and ") for line in lines)
    named = invoke("store doctor", "--tasks", "mini-food,dtd").output
    assert named.index("missing dtd") < named.index("found mini-food") < named.index("train 471")


def test_zero_shot_accuracy_is_shown_with_the_published_figure() -> None:
    shown = output_of("store doctor --tasks mini-weather --backbones mini-clip --verify")
    assert re.search(r"mini-weather +mini-clip +top1 +\d+\.\d+ .*nothing is published", shown)
