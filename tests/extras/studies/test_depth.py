"""The depth probe against other ways to compute the same, and what is read from its cells."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from synthetic_results import make_row
from tiny_models import MakeData, tiny_clip, wrap
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.data.cards import TrainingCard
from compatbench.data.labels import Labels
from compatbench.engine.cell import Cell, describe_cell
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError, NotTransferable
from compatbench.extras.studies import depth_probe
from compatbench.extras.studies.depth import KINDS, DepthReport, count_depths, read_depth
from compatbench.extras.studies.depth_probe import DepthProbe
from compatbench.extras.studies.study import Fit, Study
from compatbench.method import FewShotData, Module
from compatbench.method.registry import builtin_methods
from compatbench.tables.table import records

DEPTHS = range(5)  # of a tower of three blocks


def probe(kind: str, depth: int, **settings: Any) -> DepthProbe:
    return DepthProbe(DepthProbe.Config(kind=kind, depth=depth, **settings))


def module(kind: str, width: int, seed: int = 0) -> Module:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return 0.3 * torch.randn(*shape, generator=generator)

    if kind == "bias":
        return Module({"bias": draw(width)})
    return Module({"down": draw(width, 2), "up": draw(2, width)})


def weights(kind: str, depth: int, backbone: Backbone, labels: Labels) -> Tensor:
    return probe(kind, depth).attach(module(kind, backbone.text.width), backbone, labels).weights


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_probe_is_zero_shot_at_first_then_what_hooks_in_the_models_own_forward_make_of_it(
    kind: str, depth: int, backbone: Backbone, data: FewShotData, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, method = data.labels, probe(kind, depth)
    untrained = method.init(backbone, data, torch.Generator().manual_seed(1))
    found = method.attach(untrained, backbone, labels).weights
    torch.testing.assert_close(found, backbone.zero_shot(labels))
    model: Any = backbone.model
    tower = getattr(model, "text", model)
    own = module(kind, backbone.text.width)

    def change(x: Tensor) -> Tensor:
        return x + (own["bias"] if kind == "bias" else x @ (own["down"] @ own["up"]))

    blocks = tower.transformer.resblocks
    if depth == 0:
        hook = blocks[0].register_forward_pre_hook(lambda _, given: (change(given[0]), *given[1:]))
    else:
        part = tower.ln_final if depth > len(blocks) else blocks[depth - 1]
        hook = part.register_forward_hook(lambda _, __, out: change(out))
    features = model.encode_text(backbone.tokenizer(list(labels.fill())))
    hook.remove()
    expected = F.normalize(features, dim=-1)
    for most_rows in (depth_probe.MOST_ROWS, 1):  # of many rows, gradients are checkpointed
        monkeypatch.setattr(depth_probe, "MOST_ROWS", most_rows)
        found = weights(kind, depth, backbone, labels)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_the_rate_is_the_best_on_the_validation_images_and_the_smallest_of_equals(
    clip: Backbone, labels: Labels, data: FewShotData, make_data: MakeData
) -> None:
    rates = (1e-6, 1e-2, 3e-2, 10.0)

    def right(one: float) -> int:
        fitted = fit((one,))
        with torch.no_grad():
            logits = probe("bias", 1).attach(fitted, clip, labels)(data.val.plain)
        return int((logits.argmax(-1) == data.val.targets).sum())

    def fit(of: tuple[float, ...], on: FewShotData = data) -> Module:
        method = probe("bias", 1, max_steps=20, rates=of)
        return method.fit(clip, on, torch.Generator().manual_seed(1))

    scores = {rate: right(rate) for rate in rates}
    expected = min(rate for rate in rates if scores[rate] == max(scores.values()))
    assert len(set(scores.values())) > 1
    chosen = fit(rates)
    assert float(chosen["rate"]) == expected
    # The others leave no trace: the draws of every rate are the same.
    assert torch.equal(chosen["bias"], fit((expected,))["bias"])
    # Without validation images there is no choice, and the first of the rates is taken.
    assert float(fit((0.5, 0.1), make_data(clip, labels, val=0))["rate"]) == 0.5


def test_a_shallower_tower_refuses_a_deep_probe(clip: Backbone, labels: Labels) -> None:
    with pytest.raises(NotTransferable, match="5 blocks or more, not 3"):
        probe("bias", 6).attach(module("bias", 32), clip, labels)


PAIR = ("mini-clip", "mini-eva-clip")
TWO, SIX = ("mini-weather", "mini-food"), tuple("abcdef")


def report(correct: dict[str, list[int]], *seeds: int, tasks: tuple[str, ...] = TWO) -> DepthReport:
    """Of fits of 100 images, zero-shot 40 and 50; ``correct`` is by backbone and depth."""
    places = product(KINDS, range(4), tasks, seeds)
    return read_depth([fit(*place, correct) for place in places])


def fit(kind: str, depth: int, task: str, seed: int, correct: dict[str, list[int]]) -> Fit:
    config, name = {"kind": kind, "depth": depth}, DepthProbe.card.name
    cell = Cell("", "", name, name, config, task, 4, seed, PAIR, (task,), (), TrainingCard())
    rows = tuple(
        make_row(
            task=task,
            source=cell.source,
            backbone=name,
            correct=correct[name][depth] + seed,
            parameters=3,
        )
        for name in PAIR
        if name in correct
    )
    module = Module({"bias": torch.zeros(3)}, {"rate": torch.tensor(0.01 * (1 + depth))})
    return Fit(cell, DepthProbe(), module, rows)


def test_the_report_has_the_means_of_the_cells_and_trends_from_six_tasks_on() -> None:
    found = report({"mini-clip": [60, 61, 62, 63], "mini-eva-clip": [58, 56, 54, 52]}, 1, 2)
    points = records(found.points)
    assert [one["place"] for one in points] == 2 * ["input", "block 1", "block 2", "output"]
    first = points[0]
    # Seeds 1 and 2 add 1 and 2 images.
    assert (first["source"], first["source_std"]) == (61.5, pytest.approx(math.sqrt(0.5)))
    assert (first["source_gain"], first["target_gain"]) == (21.5, 9.5)
    assert first["h"] == pytest.approx((2 * 61 * 59 / 120 + 2 * 62 * 60 / 122) / 2)
    assert points[3]["rates"] == pytest.approx((0.04,))
    # Six curves of two tasks are two independent things.
    of_two = report({"mini-clip": [60] * 4, "mini-eva-clip": [58, 57, 55, 54]}, 1, 2, 3)
    few = "bias, gain on the target: 6 tasks are needed to tell; ρ = -1.00"
    assert of_two.tables()[0].notes[1] == few
    svg = found.svg() or b""
    assert b"bias, 3 parameters" in svg
    assert b'"#000"' not in svg  # which would stay black on a dark ground
    found = report({"mini-clip": [60] * 4, "mini-eva-clip": [58, 57, 55, 54]}, 1, tasks=SIX)
    trends = found.trends.set_index(["kind", "measure"])
    assert set(trends["tasks"]) == {6}
    assert trends.loc[("map", "target_gain"), "trend"] == "falls with depth"
    flat = trends.loc[("map", "source_gain")]
    assert (flat["correlation"], flat["trend"]) == (0, "no clear trend")
    with pytest.raises(CompatbenchError, match="was not measured on mini-eva-clip"):
        report({"mini-clip": [60] * 4}, 1)


def test_towers_of_two_sizes_are_refused(clip: Backbone, wider_text: Backbone) -> None:
    assert count_depths(clip, clip) == len(DEPTHS)
    deeper = wrap(tiny_clip(seed=4, layers=6), "deeper")
    for other, what in ((wider_text, "3 of width 48"), (deeper, "6 of width 32")):
        with pytest.raises(CompatbenchError, match=what):
            count_depths(clip, other)


def test_a_fit_that_failed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compatbench.extras.studies.study.run_plan", lambda *_: None)
    study, store = Study(*PAIR), RunStore(tmp_path)
    matrix = study.matrix(builtin_methods(), "coop", "mini-food", 1, [1])
    [cell] = matrix.cells()
    with pytest.raises(CompatbenchError, match=r"the fit of coop.* failed: it was not run"):
        study.fit(matrix, [cell], store)
    store.write(describe_cell(cell, error="ValueError: no"))
    with pytest.raises(CompatbenchError, match=r"the fit of coop.* failed: ValueError: no"):
        study.fit(matrix, [cell], store)
