"""Geometry of a backbone that has not moved, and losses that a figure tells or does not tell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from synthetic_results import COOP, PROBE, TWO_BY_TWO, ZEROSHOT, by_task, make_page

from compatbench.backbone import Backbone, load_backbone
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.labels import Labels
from compatbench.data.task import load_task
from compatbench.engine.predict import predict_zero_shot
from compatbench.engine.task_images import label_tensor
from compatbench.extras.studies.embeddings import (
    PREDICTORS,
    EmbeddingsReport,
    encode_task,
    mean_tokens,
    measure_geometry,
    predict_losses,
    summarize_predictions,
)
from compatbench.extras.studies.tower_states import inherited_share
from compatbench.results.expected import Expected

TASKS = tuple(f"t{i}" for i in range(6))
EXPECTED = Expected(tasks=TASKS, shots=(4,), seeds=(1, 2), upgrades=(("old", "new"),))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    return FeatureCache(tmp_path_factory.mktemp("cache"))


def measure(kept: FeatureCache, *models: Backbone) -> dict[str, float | None]:
    task = load_task("mini-food")
    both = [encode_task(model, task, kept) for model in models]
    return measure_geometry(*both, label_tensor(task.split("test")))


def test_a_backbone_has_not_moved_from_itself(clip: Backbone, kept: FeatureCache) -> None:
    found = measure(kept, clip, clip)
    same = [name for name in found if name.endswith(("_cosine", "_cka", "_neighbours"))]
    assert {name: found[name] for name in same} == pytest.approx(dict.fromkeys(same, 1))
    nothing = ["text_procrustes", "image_procrustes", "gap_change"]
    assert [found[name] for name in nothing] == pytest.approx([0, 0, 0], abs=1e-9)


def test_figures_are_those_of_the_features_and_spaces_of_two_sizes_have_no_cosine(
    clip: Backbone, eva: Backbone, stranger: Backbone, kept: FeatureCache
) -> None:
    task = load_task("mini-food")
    found = measure(kept, clip, eva)
    old, new = (b.zero_shot(task.labels).double() for b in (clip, eva))
    assert found["text_cosine"] == pytest.approx(float((old * new).sum(1).mean()))
    images = F.normalize(kept.features(clip, task, list(task.split("test"))), dim=-1).double()
    assert found["source_gap"] == pytest.approx(float((images.mean(0) - old.mean(0)).norm()))
    assert found["gap_change"] == pytest.approx(found["target_gap"] - found["source_gap"])
    tests = (predict_zero_shot(each, task, kept).classes for each in (clip, eva))
    targets = label_tensor(task.split("test"))
    before, after = (float((each == targets).double().mean()) for each in tests)
    assert found["zero_shot_gain"] == pytest.approx(100 * (after - before))
    found = measure(kept, clip, stranger)
    assert (found["token_cosine"], found["text_cosine"]) == (None, None)
    assert None not in (found["text_procrustes"], found["text_cka"])


def test_inherited_are_the_tensors_that_point_where_the_sources_do(clip: Backbone) -> None:
    assert inherited_share(clip, clip) == 1
    names = ("mini-clip", "mini-clip-next", "mini-clip-other", "mini-eva-clip")
    source, after, other, eva = map(load_backbone, names)
    assert inherited_share(source, after) > 0.95
    assert inherited_share(source, other) < 0.05
    # Of EVA-CLIP the text tower alone.
    parameters = {name: each.numel() for name, each in eva.model.named_parameters()}
    of_text = sum(count for name, count in parameters.items() if not name.startswith("visual."))
    share = of_text / sum(parameters.values())
    assert inherited_share(source, eva) == pytest.approx(share, abs=0.01)


def test_class_tokens_are_the_mean_of_a_names_own(clip: Backbone, labels: Labels) -> None:
    for row, name in zip(mean_tokens(clip, labels), labels.names, strict=True):
        torch.testing.assert_close(row, clip.embed_text(name).mean(0))


# Only the text cosine varies from task to task.
GEOMETRY = pd.DataFrame(
    {"task": TASKS, **dict.fromkeys(PREDICTORS, 0.5), "source_gap": 1.0, "target_gap": 1.0}
).assign(text_cosine=[0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
TOLD, UNTOLD = [1, 2, 3, 4, 5, 6], [4, 1, 6, 2, 5, 3]


def page(losses: dict[str, list[int]]):
    """Methods with these losses: 60 right on the source, and ever fewer on the target."""
    methods = []
    for name, values in losses.items():
        figures = {task: (60, 80 - loss) for task, loss in zip(TASKS, values, strict=True)}
        methods.append(by_task(name, PROBE if name == "probe" else COOP, figures))
    floor = by_task("zeroshot", ZEROSHOT, dict.fromkeys(TASKS, (40, 60)))
    return make_page(*methods, floor, expected=EXPECTED)


def test_a_figure_that_orders_the_losses_is_found() -> None:
    predictions = predict_losses(page({"coop": TOLD, "probe": UNTOLD}), GEOMETRY, ("old", "new"))
    found = predictions.set_index(["measure", "method"])
    cosine = found.loc["text_cosine"]
    assert set(cosine.index) == {"", "coop", "probe"}  # zero-shot has no module to lose
    coop = cosine.loc["coop"]
    assert (coop["correlation"], coop["correlation_high"]) == pytest.approx((-1, -1))
    assert coop["loss"] == cosine.loc[""]["loss"] == pytest.approx(3.5)
    probe = cosine.loc["probe"]
    assert probe["correlation_low"] < 0 < probe["correlation_high"]
    # A figure that is the same for all tasks tells nothing, and no number pretends it does.
    assert found.loc["token_cosine"]["correlation"].isna().all()

    # The summary counts the methods that are clear.
    summary = summarize_predictions(predictions).set_index("measure")
    assert list(summary.index) == list(PREDICTORS)
    assert (summary["clear"]["text_cosine"], summary["methods"]["text_cosine"]) == (1, 2)
    assert summary["clear"]["image_cka"] == 0
    report = EmbeddingsReport(GEOMETRY, predictions, inherited=0.5)
    assert "| text cosine " in report.markdown()
    assert "1 of 2" in report.markdown()
    assert "of the target's parameters, 50% lie in tensors of the source" in report.markdown()
    assert "none of these figures was shown to predict it" in report.markdown()
    laws = Path(__file__).parents[3] / "docs" / "laws.md"  # which that sentence is of
    assert "No property was shown to predict the loss of a lineage" in laws.read_text()
    assert b"mean loss" in (report.svg() or b"")


def test_incomplete_methods_and_other_upgrades_predict_nothing() -> None:
    whole = page({"coop": TOLD})
    partial = replace(EXPECTED, seeds=(1, 2, 3))
    assert predict_losses(replace(whole, expected=partial), GEOMETRY, ("old", "new")).empty
    assert predict_losses(whole, GEOMETRY, ("new", "old")).empty
    assert predict_losses(make_page(expected=TWO_BY_TWO), GEOMETRY, ("old", "new")).empty
    assert EmbeddingsReport(GEOMETRY, pd.DataFrame(), 0.5).picture() is None
