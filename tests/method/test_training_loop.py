"""Recipes, and the training loop, observed through a toy method that records its batches."""

from __future__ import annotations

import dataclasses
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from tiny_models import MakeData
from torch import Tensor
from toy_method import Recorded, Toy, fit, toy

from compatbench.backbone import Backbone
from compatbench.errors import CompatbenchError
from compatbench.method import Classifier, FewShotData, Labels
from compatbench.method.trained import Batch, Recipe, learning_rate
from compatbench.methods.clip_lora import CLIPLoRA


class Watched(Toy):
    """It keeps its batches."""

    batches: list[Batch]

    def loss(self, classifier: Classifier, batch: Batch) -> Tensor:
        self.batches = [*getattr(self, "batches", []), batch]
        return super().loss(classifier, batch)


watched = partial(toy, Watched, epochs=4)


def which_images(batch: Batch, view: Tensor) -> list[int]:
    """Return the rows of a view that are in a batch; all rows are different."""
    return [int((view == row).all(-1).nonzero()) for row in batch.features]


@pytest.mark.parametrize(
    ("images", "recipe", "sizes"),
    [
        ([3] * 5, {}, [4] * 3),  # 15 images: the last 3 are dropped
        ([3] * 5, {"drop_last": False}, [4, 4, 4, 3]),
        ([3] * 5, {"pool_views": True}, [4] * 3),  # of 30 views
        ([4] * 5, {}, [4] * 5),  # nothing to drop
        ([4] * 5, {"drop_last": False}, [4] * 5),
        ([1, 1, 1, 0, 0], {}, [3]),  # fewer than a batch: the only batch is kept
        ([1, 1, 1, 0, 0], {"pool_views": True}, [4]),
        ([2, 2, 0, 0, 0], {}, [4]),
        ([4, 3, 0, 0, 0], {}, [4]),
        ([3] * 5, {"batch_size": 32}, [15]),
        ([3] * 5, {"batch_size": 32, "drop_last": False}, [15]),
    ],
)
def test_smaller_last_batch_is_dropped_unless_configured_or_alone(
    clip: Backbone,
    labels: Labels,
    make_data: MakeData,
    images: list[int],
    recipe: dict[str, object],
    sizes: list[int],
) -> None:
    method = watched(epochs=2, **recipe)
    data = make_data(clip, labels, shots=images)
    fit(method, clip, data)
    assert [len(batch.targets) for batch in method.batches] == sizes * 2
    assert method.plan_steps(1, len(data.train)) == (2, len(sizes))


@pytest.mark.parametrize(
    ("shots", "cap", "steps"),
    [
        (1, None, 2 * 3),
        (3, None, 2 * 3),
        (4, None, 5 * 5),
        (9, None, 5 * 11),
        (3, 100, 6),
        (3, 6, 6),
        (3, 5, 3),
        (3, 2, 2),
        (3, 1, 1),
        (4, 11, 9),
    ],
)
def test_planned_steps_equal_the_steps_of_a_fit(
    clip: Backbone, labels: Labels, make_data: MakeData, shots: int, cap: int | None, steps: int
) -> None:
    """The epochs grow with the shots; a cap cuts epochs, and is never exceeded."""
    data = make_data(clip, labels, shots=[shots] * 4 + [max(shots, 15 - 4 * shots)])
    method = watched(cap, epochs={1: 2, 4: 5})
    data = dataclasses.replace(data, shots=shots)
    fit(method, clip, data)
    assert len(method.batches) == steps
    assert math.prod(method.plan_steps(shots, len(data.train))) == steps


def test_planned_steps_follow_the_epochs_of_a_method() -> None:
    """CLIP-LoRA: 500 steps for each shot, in whole epochs; ImageNet at 16 shots has 500 of 16."""
    assert CLIPLoRA().plan_steps(16, 16_000) == (16, 500)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_whole_fit_equals_the_formula(
    clip64: Backbone, data64: FewShotData, optimizer: str
) -> None:
    """The formula has order, views, schedule, momentum and decay of two epochs.

    A rate that changes between steps scales the whole velocity, as in PyTorch and Dassl.
    """
    settings = {"optimizer": optimizer, "betas": (0.8, 0.95), "eps": 1e-4}
    method = watched(epochs=2, lr=0.05, weight_decay=0.1, warmup_lr=0.01, **settings)
    found = fit(method, clip64, data64, 3)["weight"]

    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(5, 16, generator=generator)
    shift = torch.rand((), generator=generator)
    velocity = torch.zeros(5, 16)
    square = torch.zeros(5, 16)
    for epoch in range(2):
        rate = 0.01 if epoch == 0 else 0.05
        order = torch.randperm(15, generator=generator)
        for step in range(3):
            rows = order[4 * step : 4 * step + 4]
            features = F.normalize(data64.train.views[epoch][rows], dim=-1)
            probabilities = (features @ (weight + shift).T).softmax(-1)
            wrong = probabilities - F.one_hot(data64.train.targets[rows], 5)
            gradient = wrong.T @ features / 4
            if optimizer == "adamw":  # decoupled: the decay shrinks the parameter itself
                weight = weight - rate * 0.1 * weight
            else:  # coupled: the decay is part of the gradient
                gradient = gradient + 0.1 * weight
            if optimizer == "sgd":
                velocity = gradient if epoch == step == 0 else 0.9 * velocity + gradient
                weight = weight - rate * velocity
                continue
            t = 3 * epoch + step + 1
            velocity = 0.8 * velocity + 0.2 * gradient
            square = 0.95 * square + 0.05 * gradient**2
            root = (square / (1 - 0.95**t)).sqrt()
            weight = weight - rate * velocity / (1 - 0.8**t) / (root + 1e-4)
    torch.testing.assert_close(found, weight, rtol=1e-12, atol=1e-12)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, Tensor]]:
    """Record the rate of every step of SGD, and the first tensor after it."""
    taken: list[tuple[float, Tensor]] = []
    step = torch.optim.SGD.step

    def watch(self: torch.optim.SGD, closure: None = None) -> None:
        step(self, closure)
        [group] = self.param_groups
        taken.append((group["lr"], group["params"][0].detach().clone()))

    monkeypatch.setattr(torch.optim.SGD, "step", watch)
    return taken


def test_capped_recipe_keeps_the_share_of_its_warm_up(
    clip: Backbone, data: FewShotData, steps: list[tuple[float, Tensor]]
) -> None:
    images = len(data.train)
    fit(watched(images, batch_size=1, epochs=20), clip, data)
    per_epoch = math.ceil(images / 10)
    assert [rate for rate, _ in steps].count(Recipe().warmup_lr) == per_epoch
    assert len(steps) == images // per_epoch * per_epoch


def test_modules_of_all_epochs_are_averaged_by_epoch_weights(
    clip: Backbone, data: FewShotData, steps: list[tuple[float, Tensor]], monkeypatch
) -> None:
    shares = [0.2, 0.5, 0.0, 0.3]
    method = watched()
    monkeypatch.setattr(method, "epoch_weights", lambda epochs: shares[:epochs])
    found = fit(method, clip, data)
    assert len(steps) == 12
    ends = [after for _, after in steps[2::3]]
    expected = 0.2 * ends[0] + 0.5 * ends[1] + 0.3 * ends[3]
    torch.testing.assert_close(found["weight"], expected)
    assert not found["weight"].requires_grad


def test_views_cycle_by_epoch_and_batches_have_the_requested_inputs(
    clip: Backbone, labels: Labels, make_data: MakeData
) -> None:
    """They have features, features of the same images in the next view, and tokens if given."""
    data = make_data(clip, labels, views=3)
    tokens = [torch.randn(15, 16) for _ in range(3)]
    for view_inputs in (None, tokens):
        method = watched(epochs=7, batch_size=15)
        train = dataclasses.replace(data.train, view_inputs=view_inputs)
        fit(method, clip, dataclasses.replace(data, train=train))
        assert len(method.batches) == 7
        for epoch, batch in enumerate(method.batches):
            rows = which_images(batch, data.train.views[epoch % 3])
            assert sorted(rows) == list(range(15))
            assert batch.other_view is not None
            assert torch.equal(batch.other_view, data.train.views[(epoch + 1) % 3][rows])
            if view_inputs is None:
                assert batch.inputs is batch.features
            else:
                assert torch.equal(batch.inputs, tokens[epoch % 3][rows])


def test_rows_on_disk_are_prefetched_for_the_next_step(
    clip: Backbone, labels: Labels, make_data: MakeData
) -> None:
    data = make_data(clip, labels, views=1)
    rows = Recorded(torch.randn(15, 16))
    train = dataclasses.replace(data.train, view_inputs=[rows])
    method = watched(epochs=2, batch_size=4)
    fit(method, clip, dataclasses.replace(data, train=train))
    assert len(rows.asked) == 2 * 3
    # Neither the dropped rest of an epoch, nor the next epoch, which is not drawn yet.
    foreseen = [*rows.asked[1:3], *rows.asked[4:6]]
    assert all(map(torch.equal, rows.told, foreseen))
    assert len(rows.told) == 4
    for batch, asked in zip(method.batches, rows.asked, strict=True):
        assert batch.rows is not None
        assert torch.equal(batch.rows, asked)


def test_pooled_views_are_mixed_in_every_batch(
    clip: Backbone, labels: Labels, make_data: MakeData
) -> None:
    """Pooling does not change the steps of an epoch, and an epoch draws no view twice."""
    data = make_data(clip, labels, views=3)
    method = watched(epochs=2, batch_size=15, pool_views=True)
    fit(method, clip, data)
    assert len(method.batches) == 2
    for batch in method.batches:
        drawn = which_images(batch, data.train.views.flatten(0, 1))
        assert len({*drawn}) == 15
        assert {row // 15 for row in drawn} == {0, 1, 2}
        assert batch.targets.tolist() == [int(data.train.targets[row % 15]) for row in drawn]
    tokens = dataclasses.replace(data.train, view_inputs=[torch.zeros(15, 2)] * 3)
    with pytest.raises(CompatbenchError, match="pool_views"):
        fit(method, clip, dataclasses.replace(data, train=tokens))


@pytest.mark.parametrize(
    ("epoch", "rate"), [(0, 1e-5), (1, 2e-3), (2, 1.9995e-3), (98, 4.44e-6), (99, 1.97e-6)]
)
def test_coop_schedule_equals_dassls(epoch: int, rate: float) -> None:
    assert learning_rate(Recipe(), epoch, epochs=100) == pytest.approx(rate, rel=2e-3)


@pytest.mark.parametrize("final", [0.0, 1e-6])
def test_step_cosine_schedule_decreases_at_every_step(final: float) -> None:
    recipe = Recipe(lr=1e-3, schedule="cosine-step", final_lr=final)
    rates = [learning_rate(recipe, step // 4, 20, step, 80) for step in range(80)]
    cosine = [(1 + math.cos(math.pi * step / 80)) / 2 for step in range(80)]
    assert rates == pytest.approx([final + (1e-3 - final) * part for part in cosine])
