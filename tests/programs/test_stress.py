"""The gauge of a pair, and the stress tests, on synthetic models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from gauge import measure_gauge, principal_angles, scaled_residual
from stress import StressTest, random_rotation
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.backbone.words import WordFeatures, load_words
from compatbench.data.cards import TrainingCard
from compatbench.data.task import load_task
from compatbench.engine.cell import Cell
from compatbench.engine.worker import describe_cell
from compatbench.extras.check.models import EMBED_DIM, rotate_clip, synthetic_models
from compatbench.extras.studies.study import Fit
from compatbench.method import Module
from compatbench.method.registry import builtin_methods
from compatbench.tables.table import records

TASK = load_task("mini-weather")
IMAGES = len(TASK.split("test"))


@pytest.fixture(autouse=True)
def _few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compatbench.backbone.words.load_words", lambda: load_words()[::40])


class FakeCache:
    """Features that stand for the test images, the same for all backbones but rotated."""

    def __init__(self, source: Backbone, rotation: Tensor) -> None:
        generator = torch.Generator().manual_seed(3)
        weights = source.zero_shot(TASK.labels)
        targets = torch.tensor([sample.label for sample in TASK.split("test")])
        noise = 0.01 * torch.randn(IMAGES, EMBED_DIM, generator=generator)
        self._features = 3 * (weights[targets] + noise)
        self._source, self._rotation = source, rotation

    def features(self, backbone: Backbone, *_: object) -> Tensor:
        own = backbone is self._source
        return self._features if own else self._features @ self._rotation.T


def test_a_rotation_is_orthogonal_and_its_largest_angle_is_the_one_asked_for() -> None:
    for angle in (0.0, 30.0, 90.0, 179.0):
        matrix = random_rotation(12, angle, seed=1)
        assert torch.allclose(matrix @ matrix.T, torch.eye(12).double(), atol=1e-12)
        angles = torch.linalg.eigvals(matrix).angle().abs().rad2deg()
        assert float(angles.max()) == pytest.approx(angle, abs=1e-6)
        assert torch.equal(matrix, random_rotation(12, angle, seed=1))


def test_a_rotated_model_is_seen_to_be_rotated_and_nothing_else() -> None:
    source = synthetic_models().source
    rotation = random_rotation(EMBED_DIM, 60.0, seed=4).float()
    target = rotate_clip(source, rotation)
    cache: Any = FakeCache(source, rotation)
    report = measure_gauge(source, target, [TASK], cache, WordFeatures(None))
    maps = report.maps.set_index("map")
    assert list(maps.index) == ["none", "words", "images"]
    angles = torch.linalg.eigvals(rotation).angle().abs().rad2deg()
    assert report.angle == pytest.approx(float(angles.median()), abs=0.1)
    assert report.agreement == pytest.approx(1, abs=1e-3)
    assert report.source_gap == pytest.approx(report.target_gap, abs=1e-4)
    for name in ("words", "images"):
        for figure in ("word_residual", "image_residual", "image_distance"):
            assert maps.loc[name, figure] == pytest.approx(0, abs=1e-3)
        assert maps.loc[name, "word_cosine"] == pytest.approx(1, abs=1e-4)
    assert maps.loc["none", "word_residual"] > 0.1
    assert maps.loc["none", "word_cosine"] < 0.95


def stress_test(*names: str, rotation: Tensor | None = None) -> StressTest:
    """Modules on a target that is its source, rotated.

    Made by hand: a probe whose weights are the source's zero-shot ones, and prompts.
    """
    source = synthetic_models().source
    bias = torch.zeros(len(TASK.labels))
    modules = {
        "linear_probe": Module({"weight": source.zero_shot(TASK.labels), "bias": bias}),
        "coop": Module({"context": source.embed_text("a photo of a")}),
    }
    fits = []
    for name in names:
        backbones, tests = (source.name,), (TASK.name,)
        draw = TASK.name, 1, 1
        cell = Cell(name, name, name, name, {}, *draw, backbones, tests, (), TrainingCard())
        method = builtin_methods().get(name)()
        fits.append(Fit(cell, method, modules[name], describe_cell(cell)))
    rotation = torch.eye(EMBED_DIM) if rotation is None else rotation
    cache: Any = FakeCache(source, rotation)
    return StressTest(source, rotate_clip(source, rotation), fits, cache, WordFeatures(None))


def targets(points: pd.DataFrame, method: str) -> list[float]:
    return points[points["method"] == method]["target"].tolist()


def test_a_copied_probe_falls_with_the_angle_and_through_words_it_does_not() -> None:
    test = stress_test("linear_probe", "coop")
    report = test.report("rotated", test.rotated([0.0, 90.0, None], rotations=3))
    assert b">linear_probe<" in (report.svg() or b"")
    points = report.points
    unrotated, *copied = targets(points, "linear_probe")
    assert unrotated > 90
    assert all(value < unrotated - 20 for value in copied)
    assert all(abs(value - unrotated) <= 0.5 for value in targets(points, "linear_probe (words)"))
    probe = points[points["method"] == "linear_probe (words)"].iloc[-1]
    assert (probe["change"], probe["target"]) == ("random", pytest.approx(unrotated, abs=0.5))
    # No rotation changes zero-shot, nor prompts.
    assert set(points["flipped"]) == {0}
    assert points["zero_shot"].nunique() == len(set(targets(points, "coop"))) == 1
    assert "coop (words)" not in set(points["method"])


TURN = random_rotation(EMBED_DIM, None, seed=5).float()


def test_a_narrowed_target_is_out_of_reach_but_through_words() -> None:
    test = stress_test("linear_probe", rotation=TURN)
    report = test.report("sizes", test.narrowed([EMBED_DIM - 4]))
    copied, words = records(report.points)
    assert copied["target"] is None
    assert f"features of size {EMBED_DIM}, not {EMBED_DIM - 4}" in copied["reason"]
    assert words["target"] > 10 * 100 / len(TASK.labels)
    assert words["change"] == str(EMBED_DIM - 4)
    [table] = report.tables()
    assert table.rows[1][2].text == "–"
    assert "not transferable" in table.notes[0]


def test_leading_directions_are_those_of_most_variance() -> None:
    rng = torch.Generator().manual_seed(1)
    x, y = (torch.randn(500, 6, generator=rng, dtype=torch.float64) for _ in range(2))
    x, y = x * torch.tensor([9, 8, 7, 0.1, 0.1, 0.1]), y * torch.tensor([9, 8, 0.1, 0.1, 0.1, 7])
    assert np.allclose(sorted(principal_angles(x, y, 0.9)), [0, 0, 90], atol=1)
    assert scaled_residual(x, 3 * x + 1) == pytest.approx(0, abs=1e-9)
    assert scaled_residual(x, -x) == 1
