"""Geometry of a backbone that has not moved, and losses that a figure tells or does not tell."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from synthetic_results import COOP, PROBE, TWO_BY_TWO, ZEROSHOT, make_method, make_page, make_pairs

from compatbench.backbone import Backbone
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.labels import Labels
from compatbench.data.task import load_task
from compatbench.pages.figures.svg import render_svg, svg_style
from compatbench.results.measures import Expected
from compatbench.studies.drawings import draw_predictions
from compatbench.studies.embeddings import (
    PREDICTORS,
    Geometry,
    class_cosines,
    mean_tokens,
    measure_geometry,
    predict_losses,
    summarize_predictions,
)

TASKS = tuple(f"t{i}" for i in range(6))
EXPECTED = Expected(tasks=TASKS, shots=(4,), seeds=(1, 2), upgrades=(("old", "new"),))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    return FeatureCache(tmp_path_factory.mktemp("cache"))


def test_a_backbone_has_not_moved_from_itself(clip: Backbone, cache: FeatureCache) -> None:
    found = measure_geometry(clip, clip, load_task("mini-food"), cache)
    assert found.token_cosine == pytest.approx(1)
    assert found.text_cosine == pytest.approx(1)
    assert found.text_procrustes == pytest.approx(0, abs=1e-9)
    assert found.image_procrustes == pytest.approx(0, abs=1e-9)
    assert (found.text_neighbours, found.image_neighbours) == (1, 1)
    assert found.text_cka == pytest.approx(1)
    assert found.source_gap == found.target_gap
    assert found.gap_change == 0


def test_figures_are_those_of_the_features(
    clip: Backbone, eva: Backbone, cache: FeatureCache
) -> None:
    task = load_task("mini-food")
    found = measure_geometry(clip, eva, task, cache)
    old, new = (b.zero_shot(task.labels).double() for b in (clip, eva))
    assert found.text_cosine == pytest.approx(float((old * new).sum(1).mean()))
    images = F.normalize(cache.features(clip, task, list(task.split("test"))), dim=-1).double()
    assert found.source_gap == pytest.approx(float((images.mean(0) - old.mean(0)).norm()))
    assert found.gap_change == pytest.approx(found.target_gap - found.source_gap)
    cosines = [one for one in class_cosines(clip, eva, task.labels) if one is not None]
    assert sum(cosines) / len(cosines) == pytest.approx(found.text_cosine)


def test_joint_spaces_of_two_sizes_have_no_cosine(
    clip: Backbone, stranger: Backbone, cache: FeatureCache
) -> None:
    task = load_task("mini-food")
    found = measure_geometry(clip, stranger, task, cache)
    assert (found.token_cosine, found.text_cosine) == (None, None)
    assert found.text_procrustes is not None
    assert found.text_cka is not None
    assert set(class_cosines(clip, stranger, task.labels)) == {None}


def test_class_tokens_are_the_mean_of_a_names_own(clip: Backbone, labels: Labels) -> None:
    found = mean_tokens(clip, labels)
    for row, name in zip(found, labels.names, strict=True):
        torch.testing.assert_close(row, clip.embed_text(name).mean(0))


def geometry(cosines: list[float]) -> list[Geometry]:
    """Tasks of which only the text cosine tells anything; other figures do not vary."""
    flat = Geometry("", 9, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 1.0, 1.0, 0.0)
    return [
        replace(flat, task=task, text_cosine=cosine)
        for task, cosine in zip(TASKS, cosines, strict=True)
    ]


def page(losses: dict[str, list[int]]):
    """Methods with these losses: 60 right on the source, and ever fewer on the target."""
    methods = []
    for name, values in losses.items():
        info = replace(PROBE if name == "probe" else COOP, name=name)
        figures = {
            (task, seed): (60, 80 - loss)
            for task, loss in zip(TASKS, values, strict=True)
            for seed in (1, 2)
        }
        methods.append(make_method(info, make_pairs(figures, method=name)))
    floor = make_method(ZEROSHOT, make_pairs({(t, 1): (40, 60) for t in TASKS}, method="zeroshot"))
    return make_page(*methods, floor, expected=EXPECTED)


def test_a_figure_that_orders_the_losses_is_found() -> None:
    told, untold = [1, 2, 3, 4, 5, 6], [4, 1, 6, 2, 5, 3]
    predictions = predict_losses(
        page({"coop": told, "probe": untold}),
        geometry([0.9, 0.8, 0.7, 0.6, 0.5, 0.4]),
        ("old", "new"),
    )
    by_method = {one.method: one for one in predictions if one.measure == "text_cosine"}
    assert set(by_method) == {"", "coop", "probe"}  # zero-shot has no module to lose
    coop = by_method["coop"]
    assert coop.correlation is not None
    assert (coop.correlation.value, coop.correlation.high) == pytest.approx((-1, -1))
    assert coop.loss == pytest.approx(3.5)
    assert by_method[""].loss == pytest.approx(3.5)
    probe = by_method["probe"].correlation
    assert probe is not None
    assert probe.sign == 0
    # A figure that is the same for all tasks tells nothing, and no number pretends it does.
    assert {p.correlation for p in predictions if p.measure == "token_cosine"} == {None}


def test_the_summary_counts_the_methods_that_are_clear() -> None:
    losses = {"coop": [1, 2, 3, 4, 5, 6], "probe": [4, 1, 6, 2, 5, 3]}
    predictions = predict_losses(
        page(losses), geometry([0.9, 0.8, 0.7, 0.6, 0.5, 0.4]), ("old", "new")
    )
    summary = {one.measure: one for one in summarize_predictions(predictions)}
    assert list(summary) == list(PREDICTORS)
    assert (summary["text_cosine"].clear, summary["text_cosine"].methods) == (1, 2)
    assert (summary["image_cka"].clear, summary["image_cka"].mean) == (0, None)
    with svg_style():
        assert render_svg(draw_predictions(predictions)) == render_svg(
            draw_predictions(predictions)
        )


def test_incomplete_methods_and_other_upgrades_predict_nothing() -> None:
    whole = page({"coop": [1, 2, 3, 4, 5, 6]})
    partial = replace(EXPECTED, seeds=(1, 2, 3))
    figures = geometry([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    assert predict_losses(replace(whole, expected=partial), figures, ("old", "new")) == []
    assert predict_losses(whole, figures, ("new", "old")) == []
    assert predict_losses(make_page(expected=TWO_BY_TWO), figures, ("old", "new")) == []
